//! What a filter demands of filters: a necessary condition for a match, in terms of entries. What
//! cannot be put so demands nothing, and its blocks are opened.

use trace_model::query::{CompareOp, Field, Filter, Literal};
use trace_model::{AnyValue, StatusCode};

use super::hash::{OPERATION_KEY, STATUS_KEY, entry_hash, key_hash, presence_hash, value_hash};
use super::leaf::{Test, leaf_of};

/// Integers beyond are not told apart by a double: 2^53.
const EXACT_INTEGER_MAX: u64 = 1 << 53;

/// A necessary condition for a span to match.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Probe {
    /// Nothing is demanded.
    Anything,
    /// The service is this one.
    Service(String),
    /// The key has one of these entries.
    Entries { key: u64, entries: Vec<u64> },
    /// The key is present.
    Present(u64),
    /// All of these.
    All(Vec<Probe>),
    /// One of these.
    Any(Vec<Probe>),
}

impl Probe {
    /// The condition of a filter.
    pub(crate) fn of(filter: &Filter) -> Self {
        match filter {
            Filter::All | Filter::Not(_) => Self::Anything,
            Filter::And(parts) => Self::All(parts.iter().map(Self::of).collect()),
            Filter::Or(parts) => Self::Any(parts.iter().map(Self::of).collect()),
            Filter::Compare { .. } | Filter::Matches { .. } | Filter::Exists(_) => {
                leaf_of(filter).map_or(Self::Anything, |(field, test)| of_leaf(field, test))
            }
        }
    }

    /// Judges the condition by a judge of its leaves.
    pub(crate) fn holds<E>(
        &self,
        leaf: &mut dyn FnMut(&Self) -> Result<bool, E>,
    ) -> Result<bool, E> {
        match self {
            Self::Anything => Ok(true),
            Self::Service(_) | Self::Entries { .. } | Self::Present(_) => leaf(self),
            Self::All(parts) => {
                for part in parts {
                    if !part.holds(leaf)? {
                        return Ok(false);
                    }
                }
                Ok(true)
            }
            Self::Any(parts) => {
                for part in parts {
                    if part.holds(leaf)? {
                        return Ok(true);
                    }
                }
                Ok(false)
            }
        }
    }
}

fn of_leaf(field: &Field, test: Test<'_>) -> Probe {
    match field {
        Field::Service => match text_of(test) {
            Some(text) => Probe::Service(text.to_owned()),
            None => Probe::Anything,
        },
        Field::Operation => match text_of(test) {
            Some(text) => of_texts(key_hash(OPERATION_KEY), &[text]),
            None => Probe::Anything,
        },
        Field::Status => of_status(test),
        Field::Kind | Field::StatusMessage | Field::Duration => Probe::Anything,
        Field::Attribute { key, .. } => of_attribute(key_hash(key.as_bytes()), test),
    }
}

/// The text that a field has to equal.
const fn text_of<'a>(test: Test<'a>) -> Option<&'a str> {
    match test {
        Test::Compare(CompareOp::Eq, Literal::Text(text) | Literal::Str(text)) => {
            Some(text.as_str())
        }
        Test::Compare(..) | Test::Matches(_) | Test::Exists => None,
    }
}

fn of_texts(key: u64, texts: &[&str]) -> Probe {
    let entries = texts.iter().map(|text| entry_hash(key, value_hash(text.as_bytes())));
    Probe::Entries { key, entries: entries.collect() }
}

fn of_status(test: Test<'_>) -> Probe {
    let codes = ["0", "1", "2"];
    let statuses = (0..).map(StatusCode::from_number);
    let texts: Vec<&str> = codes
        .into_iter()
        .zip(statuses)
        .filter(|(_, status)| test.word(*status as i64, status.word()))
        .map(|(code, _)| code)
        .collect();
    of_texts(key_hash(STATUS_KEY), &texts)
}

/// Every test on an attribute demands that it be there; an equality demands one of the texts in
/// which an equal value can print.
fn of_attribute(key: u64, test: Test<'_>) -> Probe {
    let Test::Compare(CompareOp::Eq, literal) = test else { return Probe::Present(key) };
    match literal {
        Literal::Text(text) | Literal::Str(text) => of_texts(key, &[text]),
        Literal::Bool(value) => of_texts(key, &[if *value { "true" } else { "false" }]),
        Literal::Int(0) => of_texts(key, &["0", "-0"]),
        Literal::Int(value) if value.unsigned_abs() < EXACT_INTEGER_MAX => {
            of_texts(key, &[&value.to_string()])
        }
        Literal::Double(value) if *value == 0.0 => of_texts(key, &["0", "-0"]),
        Literal::Double(value) if value.abs() < 9_007_199_254_740_992.0 => {
            let text = AnyValue::Double(*value);
            of_texts(key, &[&text.as_search_text().unwrap_or_default()])
        }
        Literal::Int(_) | Literal::Double(_) => Probe::Present(key),
    }
}

/// The entry that says that a key is there.
pub(crate) const fn presence(key: u64) -> u64 {
    presence_hash(key)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::embedded::index_build::attribute_entry;

    fn values() -> Vec<AnyValue> {
        let integers = [0, 1, -1, 500, i64::MAX, i64::MIN, (1 << 53) - 1, 1 << 53, (1 << 53) + 1];
        let doubles =
            [0.0, -0.0, 1.0, 0.5, 500.0, 1e300, f64::NAN, f64::INFINITY, 9_007_199_254_740_992.0];
        let texts = ["0", "-0", "1", "0.5", "500", "true", "NaN", "inf", ""];
        let mut values: Vec<AnyValue> = integers.map(AnyValue::Int).to_vec();
        values.extend(doubles.map(AnyValue::Double));
        values.extend(texts.map(|text| AnyValue::Str(text.to_owned())));
        values.extend([AnyValue::Bool(true), AnyValue::Bool(false), AnyValue::Empty]);
        values
    }

    fn literals() -> Vec<Literal> {
        let literal = |value: AnyValue| match value {
            AnyValue::Int(value) => vec![Literal::Int(value)],
            AnyValue::Double(value) => vec![Literal::Double(value)],
            AnyValue::Bool(value) => vec![Literal::Bool(value)],
            AnyValue::Str(text) => vec![Literal::Text(text.clone()), Literal::Str(text)],
            AnyValue::Empty | AnyValue::Bytes(_) | AnyValue::Array(_) | AnyValue::KvList(_) => {
                vec![]
            }
        };
        values().into_iter().flat_map(literal).collect()
    }

    #[test]
    fn whatever_a_literal_equals_is_among_the_entries_that_it_demands() {
        let key = key_hash(b"k");
        let mut equal = 0;
        for literal in literals() {
            for value in values() {
                let probe = of_attribute(key, Test::Compare(CompareOp::Eq, &literal));
                let entry = attribute_entry("k", &value).entry;
                if !literal.compares(CompareOp::Eq, &value) {
                    continue;
                }
                equal += 1;
                let has_entry = matches!(
                    &probe,
                    Probe::Entries { entries, .. } if entries.contains(&entry)
                );
                let demands_little = probe == Probe::Present(key);
                assert!(has_entry || demands_little, "{literal:?} equals {value:?}");
            }
        }
        assert!(equal > 50, "{equal}");
    }

    #[test]
    fn a_status_demands_its_code_however_it_is_said() {
        let error = of_texts(key_hash(STATUS_KEY), &["2"]);
        for literal in [
            Literal::Text("error".to_owned()),
            Literal::Text("2".to_owned()),
            Literal::Str("error".to_owned()),
            Literal::Int(2),
            Literal::Double(2.0),
        ] {
            assert_eq!(of_status(Test::Compare(CompareOp::Eq, &literal)), error, "{literal:?}");
        }
    }
}
