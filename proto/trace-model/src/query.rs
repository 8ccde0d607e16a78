//! A search: a filter tree over spans, a time range and a limit, and what is found.

use std::collections::BTreeSet;
use std::sync::Arc;

use regex::Regex;

use crate::attribute::{AnyValue, Attribute};
use crate::ids::TraceId;
use crate::names::{Region, TenantId};
use crate::span::{Span, SpanKind, StatusCode};
use crate::time::{TimeRange, UnixNanos};

/// Which spans are meant. A trace is found when one of its spans matches the whole tree.
#[derive(Clone, Debug)]
pub enum Filter {
    /// Every span.
    All,
    /// Spans that match all of these (all, where there are none).
    And(Vec<Filter>),
    /// Spans that match one of these (none, where there are none).
    Or(Vec<Filter>),
    /// Spans that do not match.
    Not(Box<Filter>),
    /// Spans whose field compares so with the literal. A field with several values (an attribute
    /// looked for in any place, events) matches when one of its values does.
    Compare {
        /// The field.
        field: Field,
        /// How to compare.
        op: CompareOp,
        /// With what.
        literal: Literal,
    },
    /// Spans whose field matches the pattern somewhere (unanchored).
    Matches {
        /// The field.
        field: Field,
        /// The pattern.
        pattern: Pattern,
    },
    /// Spans that have the field.
    Exists(Field),
}

/// A field of a span.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Field {
    /// `service.name` of the resource.
    Service,
    /// The span's name.
    Operation,
    /// The kind, as its number or word.
    Kind,
    /// The status code, as its number or word.
    Status,
    /// The status message.
    StatusMessage,
    /// Nanoseconds from start to end.
    Duration,
    /// An attribute.
    Attribute {
        /// Where it stands.
        place: Place,
        /// Its key.
        key: String,
    },
}

/// Where an attribute stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Place {
    /// Anywhere of the below.
    Any,
    /// On the span.
    Span,
    /// On the resource.
    Resource,
    /// On the instrumentation scope.
    Scope,
    /// On an event of the span.
    Event,
    /// On a link of the span.
    Link,
}

/// How to compare.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum CompareOp {
    /// Equal.
    Eq,
    /// Not equal (and present).
    Ne,
    /// Less.
    Lt,
    /// Less or equal.
    Le,
    /// Greater.
    Gt,
    /// Greater or equal.
    Ge,
}

/// What to compare with.
#[derive(Clone, Debug, PartialEq)]
pub enum Literal {
    /// Text without a type, as Jaeger's tags: equals a string, or a number or boolean that prints
    /// so; ordered as numbers when both sides are numbers.
    Text(String),
    /// A string and nothing else.
    Str(String),
    /// An integer (a double compares by value).
    Int(i64),
    /// A double (an integer compares by value).
    Double(f64),
    /// A boolean.
    Bool(bool),
}

/// A compiled regular expression, bounded in size.
#[derive(Clone, Debug)]
pub struct Pattern(Arc<Regex>);

/// A query that cannot be asked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidQuery {
    /// Not a regular expression, or too large.
    #[error("not a usable regular expression: {0}")]
    Pattern(String),
    /// The tree is too deep or too wide.
    #[error("a filter of more than {0} parts or deeper than {1}")]
    TooLarge(usize, usize),
}

/// Most nodes of a filter tree.
pub const FILTER_NODES_MAX: usize = 256;
/// Deepest filter tree.
pub const FILTER_DEPTH_MAX: usize = 32;
/// Largest compiled pattern, in bytes.
const PATTERN_BYTES_MAX: usize = 1 << 20;

impl Pattern {
    /// Compiles a pattern; one whose automaton is too large is refused.
    pub fn new(text: &str) -> Result<Self, InvalidQuery> {
        regex::RegexBuilder::new(text)
            .size_limit(PATTERN_BYTES_MAX)
            .build()
            .map(|regex| Self(Arc::new(regex)))
            .map_err(|error| InvalidQuery::Pattern(error.to_string()))
    }

    /// Whether the text matches somewhere.
    #[must_use]
    pub fn is_match(&self, text: &str) -> bool {
        self.0.is_match(text)
    }

    /// The pattern as written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        self.0.as_str()
    }
}

impl Filter {
    /// Refuses trees that are too deep or too wide to evaluate per span.
    pub fn check_size(&self) -> Result<(), InvalidQuery> {
        let mut nodes = 0;
        if self.fits(0, &mut nodes) {
            return Ok(());
        }
        Err(InvalidQuery::TooLarge(FILTER_NODES_MAX, FILTER_DEPTH_MAX))
    }

    fn fits(&self, depth: usize, nodes: &mut usize) -> bool {
        *nodes = nodes.saturating_add(1);
        if depth > FILTER_DEPTH_MAX || *nodes > FILTER_NODES_MAX {
            return false;
        }
        let deeper = depth.saturating_add(1);
        match self {
            Self::And(parts) | Self::Or(parts) => parts.iter().all(|part| part.fits(deeper, nodes)),
            Self::Not(part) => part.fits(deeper, nodes),
            Self::All | Self::Compare { .. } | Self::Matches { .. } | Self::Exists(_) => true,
        }
    }

    /// Whether the span matches: the definition that every store must agree with.
    #[must_use]
    pub fn matches(&self, span: &Span) -> bool {
        match self {
            Self::All => true,
            Self::And(parts) => parts.iter().all(|part| part.matches(span)),
            Self::Or(parts) => parts.iter().any(|part| part.matches(span)),
            Self::Not(part) => !part.matches(span),
            Self::Compare { field, op, literal } => {
                field.any_value(span, |value| literal.compares(*op, value))
            }
            Self::Matches { field, pattern } => field.any_value(span, |value| {
                value.as_search_text().is_some_and(|text| pattern.is_match(&text))
            }),
            Self::Exists(field) => field.any_value(span, |_| true),
        }
    }
}

impl Field {
    /// Whether one of the field's values fulfils the predicate.
    fn any_value(&self, span: &Span, mut holds: impl FnMut(&AnyValue) -> bool) -> bool {
        let text = |text: &str| AnyValue::Str(text.to_owned());
        match self {
            Self::Service => holds(&text(&span.resource.service)),
            Self::Operation => holds(&text(&span.name)),
            Self::Kind => holds(&AnyValue::Int(span.kind as i64)) || holds(&text(span.kind.word())),
            Self::Status => {
                holds(&AnyValue::Int(span.status as i64)) || holds(&text(span.status.word()))
            }
            Self::StatusMessage => {
                !span.status_message.is_empty() && holds(&text(&span.status_message))
            }
            Self::Duration => {
                holds(&AnyValue::Int(i64::try_from(span.duration_nanos()).unwrap_or(i64::MAX)))
            }
            Self::Attribute { place, key } => any_attribute(span, *place, key, &mut holds),
        }
    }
}

fn any_attribute(
    span: &Span,
    place: Place,
    key: &str,
    holds: &mut impl FnMut(&AnyValue) -> bool,
) -> bool {
    let mut in_list = |attributes: &[Attribute]| {
        attributes.iter().any(|attribute| attribute.key == key && holds(&attribute.value))
    };
    let any = place == Place::Any;
    ((any || place == Place::Span) && in_list(&span.attributes))
        || ((any || place == Place::Resource) && in_list(&span.resource.attributes))
        || ((any || place == Place::Scope) && in_list(&span.scope.attributes))
        || ((any || place == Place::Event)
            && span.events.iter().any(|event| in_list(&event.attributes)))
        || ((any || place == Place::Link)
            && span.links.iter().any(|link| in_list(&link.attributes)))
}

impl Literal {
    /// Whether `value op self` holds. Values of other types never compare, not even as `Ne`.
    #[must_use]
    pub fn compares(&self, op: CompareOp, value: &AnyValue) -> bool {
        use std::cmp::Ordering;
        let ordering = match (self, value) {
            (Self::Text(text), value) => return text_compares(text, op, value),
            (Self::Str(text), AnyValue::Str(found)) => Some(found.as_str().cmp(text.as_str())),
            (Self::Bool(wanted), AnyValue::Bool(found)) => Some(found.cmp(wanted)),
            (Self::Int(wanted), AnyValue::Int(found)) => Some(found.cmp(wanted)),
            (Self::Int(wanted), AnyValue::Double(found)) => found.partial_cmp(&as_double(*wanted)),
            (Self::Double(wanted), AnyValue::Double(found)) => found.partial_cmp(wanted),
            (Self::Double(wanted), AnyValue::Int(found)) => as_double(*found).partial_cmp(wanted),
            _ => None,
        };
        ordering.is_some_and(|ordering: Ordering| op.holds(ordering))
    }
}

#[expect(clippy::cast_precision_loss, reason = "comparison by value, as IEEE 754 rounds")]
const fn as_double(value: i64) -> f64 {
    value as f64
}

fn text_compares(text: &str, op: CompareOp, value: &AnyValue) -> bool {
    let Some(found) = value.as_search_text() else { return false };
    let numbers = (found.parse::<f64>(), text.parse::<f64>());
    let is_number = matches!(value, AnyValue::Int(_) | AnyValue::Double(_));
    match (op, numbers) {
        (CompareOp::Eq, _) => found == text,
        (CompareOp::Ne, _) => found != text,
        (_, (Ok(found), Ok(wanted))) if is_number => {
            found.partial_cmp(&wanted).is_some_and(|ordering| op.holds(ordering))
        }
        _ => op.holds(found.as_ref().cmp(text)),
    }
}

impl CompareOp {
    /// Whether an ordering fulfils the operator.
    #[must_use]
    pub const fn holds(self, ordering: std::cmp::Ordering) -> bool {
        match self {
            Self::Eq => ordering.is_eq(),
            Self::Ne => ordering.is_ne(),
            Self::Lt => ordering.is_lt(),
            Self::Le => ordering.is_le(),
            Self::Gt => ordering.is_gt(),
            Self::Ge => ordering.is_ge(),
        }
    }
}

/// A search in one tenant.
#[derive(Clone, Debug)]
pub struct SearchQuery {
    /// The tenant.
    pub tenant: TenantId,
    /// Which spans; a trace is found by one of them.
    pub filter: Filter,
    /// Placement times of the matching spans.
    pub range: TimeRange,
    /// Most traces to return, newest first.
    pub limit: usize,
    /// Only matches older than this one (cursor): a trace's `newest_match` and id.
    pub before: Option<(UnixNanos, TraceId)>,
}

/// A trace that a search found, ordered newest first by `(newest_match, trace_id)`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TraceMatch {
    /// The trace.
    pub trace_id: TraceId,
    /// Placement time of its newest matching span: the order of results.
    pub newest_match: UnixNanos,
    /// Matching spans seen (at least).
    pub matched_spans: u32,
    /// Services of the matching spans.
    pub services: BTreeSet<Arc<str>>,
    /// Regions in which it was found.
    pub regions: BTreeSet<Region>,
}

impl TraceMatch {
    /// The order of results: newest first, ties by id.
    #[must_use]
    pub fn order_key(&self) -> (std::cmp::Reverse<UnixNanos>, TraceId) {
        (std::cmp::Reverse(self.newest_match), self.trace_id)
    }

    /// Joins what another store or region found of the same trace.
    pub fn join(&mut self, other: Self) {
        self.newest_match = self.newest_match.max(other.newest_match);
        self.matched_spans = self.matched_spans.saturating_add(other.matched_spans);
        self.services.extend(other.services);
        self.regions.extend(other.regions);
    }
}

/// What a search cost, shown with its answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SearchStats {
    /// Blocks in the time range.
    pub blocks_total: u64,
    /// Blocks that the filters could not rule out and that were opened.
    pub blocks_opened: u64,
    /// Blocks opened that held no match: the filters' false positives.
    pub blocks_without_match: u64,
    /// (service, bucket) filters asked.
    pub buckets_checked: u64,
    /// Buckets that could not be ruled out.
    pub buckets_opened: u64,
    /// Spans looked at in opened blocks.
    pub spans_scanned: u64,
    /// Bytes read from disk or page cache.
    pub bytes_read: u64,
}

impl SearchStats {
    /// Adds another store's cost.
    pub const fn add(&mut self, other: &Self) {
        self.blocks_total = self.blocks_total.saturating_add(other.blocks_total);
        self.blocks_opened = self.blocks_opened.saturating_add(other.blocks_opened);
        self.blocks_without_match =
            self.blocks_without_match.saturating_add(other.blocks_without_match);
        self.buckets_checked = self.buckets_checked.saturating_add(other.buckets_checked);
        self.buckets_opened = self.buckets_opened.saturating_add(other.buckets_opened);
        self.spans_scanned = self.spans_scanned.saturating_add(other.spans_scanned);
        self.bytes_read = self.bytes_read.saturating_add(other.bytes_read);
    }
}

/// The kind that a filter's word or number names.
#[must_use]
pub fn kind_of_word(word: &str) -> Option<SpanKind> {
    (0..=5).map(SpanKind::from_number).find(|kind| kind.word() == word)
}

/// The status that a filter's word names.
#[must_use]
pub fn status_of_word(word: &str) -> Option<StatusCode> {
    (0..=2).map(StatusCode::from_number).find(|status| status.word() == word)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn untyped_text_finds_strings_numbers_and_booleans_that_print_so() {
        let text = Literal::Text("500".to_owned());
        assert!(text.compares(CompareOp::Eq, &AnyValue::Int(500)));
        assert!(text.compares(CompareOp::Eq, &AnyValue::Str("500".to_owned())));
        assert!(!text.compares(CompareOp::Eq, &AnyValue::Int(50)));
        assert!(text.compares(CompareOp::Gt, &AnyValue::Int(1_000)));
        assert!(Literal::Text("true".to_owned()).compares(CompareOp::Eq, &AnyValue::Bool(true)));
    }

    #[test]
    fn typed_literals_find_their_type_alone() {
        assert!(!Literal::Str("500".to_owned()).compares(CompareOp::Eq, &AnyValue::Int(500)));
        assert!(Literal::Int(500).compares(CompareOp::Eq, &AnyValue::Double(500.0)));
        assert!(!Literal::Int(500).compares(CompareOp::Ne, &AnyValue::Str("x".to_owned())));
        assert!(!Literal::Double(f64::NAN).compares(CompareOp::Eq, &AnyValue::Double(f64::NAN)));
    }

    #[test]
    fn trees_too_deep_are_refused() {
        let mut filter = Filter::All;
        for _ in 0..=FILTER_DEPTH_MAX {
            filter = Filter::Not(Box::new(filter));
        }
        assert!(filter.check_size().is_err());
        assert!(Filter::And(vec![Filter::All; 10]).check_size().is_ok());
    }
}
