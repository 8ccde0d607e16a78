//! One comparison of a filter, as a test on single values, where [`trace_model::Filter::matches`] has
//! it on spans.

use trace_model::AnyValue;
use trace_model::query::{CompareOp, Field, Filter, Literal, Pattern};

/// A test on a value.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Test<'a> {
    Compare(CompareOp, &'a Literal),
    Matches(&'a Pattern),
    Exists,
}

impl Test<'_> {
    pub(crate) fn value(&self, value: &AnyValue) -> bool {
        match self {
            Self::Compare(op, literal) => literal.compares(*op, value),
            Self::Matches(pattern) => {
                value.as_search_text().is_some_and(|text| pattern.is_match(&text))
            }
            Self::Exists => true,
        }
    }

    /// As [`Self::value`] of a text, without making one of the common case.
    pub(crate) fn text(&self, text: &str) -> bool {
        match self {
            Self::Compare(CompareOp::Eq, Literal::Text(wanted) | Literal::Str(wanted)) => {
                wanted == text
            }
            Self::Matches(pattern) => pattern.is_match(text),
            Self::Exists => true,
            Self::Compare(..) => self.value(&AnyValue::Str(text.to_owned())),
        }
    }

    /// A number or a word that says the same, as of kind and status.
    pub(crate) fn word(&self, number: i64, word: &str) -> bool {
        self.value(&AnyValue::Int(number)) || self.text(word)
    }
}

/// The field and the test of a leaf; `None` for what is no leaf.
pub(crate) const fn leaf_of(filter: &Filter) -> Option<(&Field, Test<'_>)> {
    match filter {
        Filter::Compare { field, op, literal } => Some((field, Test::Compare(*op, literal))),
        Filter::Matches { field, pattern } => Some((field, Test::Matches(pattern))),
        Filter::Exists(field) => Some((field, Test::Exists)),
        Filter::All | Filter::And(_) | Filter::Or(_) | Filter::Not(_) => None,
    }
}

/// Whether a field of the filter may stand on events or links.
pub(crate) fn looks_at_events(filter: &Filter) -> bool {
    use trace_model::query::Place;
    match filter {
        Filter::And(parts) | Filter::Or(parts) => parts.iter().any(looks_at_events),
        Filter::Not(part) => looks_at_events(part),
        Filter::All | Filter::Compare { .. } | Filter::Matches { .. } | Filter::Exists(_) => {
            leaf_of(filter).is_some_and(|(field, _)| match field {
                Field::Attribute { place, .. } => {
                    matches!(place, Place::Any | Place::Event | Place::Link)
                }
                Field::Service
                | Field::Operation
                | Field::Kind
                | Field::Status
                | Field::StatusMessage
                | Field::Duration => false,
            })
        }
    }
}
