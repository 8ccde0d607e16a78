//! A filter as a question to the engine that finds at least what matches, and whether it finds
//! exactly that. What is not exact is judged by [`Filter::matches`] afterwards.
//!
//! For documents of ours it is exact as long as they are regular (see `document.rs`); irregular ones
//! are candidates of every search.

mod attribute;
mod query;

use std::ops::RangeInclusive;

use serde_json::json;
use trace_model::query::{CompareOp, Field, Literal, Pattern};
use trace_model::{AnyValue, Filter, SpanKind, StatusCode};

pub(super) use self::query::Query;
use self::query::{exists, range, term};
use super::document::is_term;

/// Whose documents are asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Shape {
    /// Ours.
    Ours,
    /// Those that a Jaeger wrote.
    Jaegers {
        /// Whether its tags can be asked for.
        tags_are_nested: bool,
    },
}

/// A question.
#[derive(Debug, PartialEq)]
pub(super) struct Pushed {
    pub(super) query: Query,
    /// It finds nothing that the filter does not match.
    pub(super) is_exact: bool,
}

impl Pushed {
    const fn exact(query: Query) -> Self {
        Self { query, is_exact: true }
    }

    const fn inexact(query: Query) -> Self {
        Self { query, is_exact: false }
    }

    /// What an exact answer leaves over. Of an inexact one nothing can be said.
    fn not(self) -> Self {
        if self.is_exact { Self::exact(self.query.not()) } else { Self::inexact(Query::All) }
    }

    fn all_of(parts: Vec<Self>) -> Self {
        let is_exact = parts.iter().all(|part| part.is_exact);
        let query = Query::all_of(parts.into_iter().map(|part| part.query).collect());
        Self { query, is_exact }
    }

    fn any_of(parts: Vec<Self>) -> Self {
        let is_exact = parts.iter().all(|part| part.is_exact);
        let query = Query::any_of(parts.into_iter().map(|part| part.query).collect());
        Self { query, is_exact }
    }
}

/// What a leaf asks of its field's values.
#[derive(Clone, Copy, Debug)]
enum Test<'a> {
    Compare(CompareOp, &'a Literal),
    Matches(&'a Pattern),
    Exists,
}

impl Test<'_> {
    fn holds(self, value: &AnyValue) -> bool {
        match self {
            Self::Compare(op, literal) => literal.compares(op, value),
            Self::Matches(pattern) => {
                value.as_search_text().is_some_and(|text| pattern.is_match(&text))
            }
            Self::Exists => true,
        }
    }
}

/// Most nested questions within one; an engine refuses a question of more than 1,024 clauses.
const NESTED_MAX: usize = 200;

/// Translates a filter.
pub(super) fn push_down(filter: &Filter, shape: Shape) -> Pushed {
    let mut room = NESTED_MAX;
    translate(filter, false, shape, &mut room)
}

/// `is_negated`: what does not match is asked for. Negations are moved to the leaves, so that an
/// inexact leaf takes no more with it than needs be.
fn translate(filter: &Filter, is_negated: bool, shape: Shape, room: &mut usize) -> Pushed {
    let mut parts = |parts: &[Filter]| -> Vec<Pushed> {
        parts.iter().map(|part| translate(part, is_negated, shape, room)).collect()
    };
    let pushed = match (filter, is_negated) {
        (Filter::Not(part), _) => return translate(part, !is_negated, shape, room),
        (Filter::And(list), false) | (Filter::Or(list), true) => {
            return Pushed::all_of(parts(list));
        }
        (Filter::Or(list), false) | (Filter::And(list), true) => {
            return Pushed::any_of(parts(list));
        }
        (Filter::All, _) => Pushed::exact(Query::All),
        (Filter::Compare { field, op, literal }, _) => {
            leaf(field, Test::Compare(*op, literal), shape, room)
        }
        (Filter::Matches { field, pattern }, _) => leaf(field, Test::Matches(pattern), shape, room),
        (Filter::Exists(field), _) => leaf(field, Test::Exists, shape, room),
    };
    if is_negated { pushed.not() } else { pushed }
}

fn leaf(field: &Field, test: Test<'_>, shape: Shape, room: &mut usize) -> Pushed {
    let pushed = match field {
        Field::Service => text("process.serviceName", test),
        Field::Operation => text("operationName", test),
        Field::Attribute { place, key } => {
            return attribute::translate(*place, key, test, shape, room);
        }
        Field::Kind | Field::Status | Field::StatusMessage | Field::Duration
            if shape != Shape::Ours =>
        {
            Pushed::inexact(Query::All)
        }
        Field::Kind => {
            numbered("farspan.kind", 0..=5, test, |number| SpanKind::from_number(number).word())
        }
        Field::Status => {
            numbered("farspan.status", 0..=2, test, |number| StatusCode::from_number(number).word())
        }
        Field::StatusMessage => message(test),
        Field::Duration => duration(test),
    };
    // A Jaeger's document is always looked at.
    Pushed { is_exact: pushed.is_exact && shape == Shape::Ours, ..pushed }
}

/// A field that always holds one text; the engine does not look for long ones.
fn text(field: &str, test: Test<'_>) -> Pushed {
    let (op, wanted) = match test {
        Test::Exists => return Pushed::exact(Query::All),
        Test::Matches(_) => return Pushed::inexact(Query::All),
        Test::Compare(op, Literal::Text(wanted) | Literal::Str(wanted)) => (op, wanted),
        Test::Compare(_, Literal::Int(_) | Literal::Double(_) | Literal::Bool(_)) => {
            return Pushed::exact(Query::None);
        }
    };
    match op {
        CompareOp::Eq if is_term(wanted) => Pushed::exact(term(field, wanted)),
        CompareOp::Eq => Pushed::inexact(exists(field).not()),
        CompareOp::Ne if is_term(wanted) => Pushed::exact(term(field, wanted).not()),
        CompareOp::Ne | CompareOp::Lt | CompareOp::Le | CompareOp::Gt | CompareOp::Ge => {
            Pushed::inexact(Query::All)
        }
    }
}

/// A number that stands for a word: each of them is tried.
fn numbered(
    field: &str,
    numbers: RangeInclusive<i32>,
    test: Test<'_>,
    word: impl Fn(i32) -> &'static str,
) -> Pushed {
    let holds = |number: &i32| {
        test.holds(&AnyValue::Int(i64::from(*number)))
            || test.holds(&AnyValue::Str(word(*number).to_owned()))
    };
    let count = numbers.clone().count();
    let holding: Vec<i32> = numbers.filter(holds).collect();
    if holding.is_empty() {
        return Pushed::exact(Query::None);
    }
    if holding.len() == count {
        return Pushed::exact(Query::All);
    }
    Pushed::exact(Query::Some(json!({ "terms": { (field): holding } })))
}

/// The status message: absent where it is empty, not looked for where it is long.
fn message(test: Test<'_>) -> Pushed {
    const FIELD: &str = "farspan.message";
    let present = || Query::any_of(vec![exists(FIELD), term("_ignored", FIELD)]);
    let (op, wanted) = match test {
        Test::Exists => return Pushed::exact(present()),
        Test::Matches(_) => return Pushed::inexact(present()),
        Test::Compare(op, Literal::Text(wanted) | Literal::Str(wanted)) => (op, wanted),
        Test::Compare(_, Literal::Int(_) | Literal::Double(_) | Literal::Bool(_)) => {
            return Pushed::exact(Query::None);
        }
    };
    match op {
        CompareOp::Eq if wanted.is_empty() => Pushed::exact(Query::None),
        CompareOp::Eq if is_term(wanted) => Pushed::exact(term(FIELD, wanted)),
        CompareOp::Ne if is_term(wanted) => {
            Pushed::exact(Query::all_of(vec![present(), term(FIELD, wanted).not()]))
        }
        CompareOp::Eq
        | CompareOp::Ne
        | CompareOp::Lt
        | CompareOp::Le
        | CompareOp::Gt
        | CompareOp::Ge => Pushed::inexact(present()),
    }
}

/// Nanoseconds as a whole number.
fn duration(test: Test<'_>) -> Pushed {
    const FIELD: &str = "farspan.duration";
    let (op, literal) = match test {
        Test::Exists => return Pushed::exact(Query::All),
        Test::Matches(_) => return Pushed::inexact(Query::All),
        Test::Compare(op, literal) => (op, literal),
    };
    match literal {
        Literal::Int(wanted) => Pushed::exact(range(FIELD, op, &json!(wanted))),
        Literal::Double(wanted) => whole(FIELD, op, *wanted),
        Literal::Text(text) => match (op, text.parse::<i64>()) {
            (CompareOp::Eq | CompareOp::Ne, Ok(wanted)) if wanted.to_string() == *text => {
                Pushed::exact(range(FIELD, op, &json!(wanted)))
            }
            (CompareOp::Eq, _) => Pushed::exact(Query::None),
            (CompareOp::Ne, _) => Pushed::exact(Query::All),
            _ => {
                text.parse().map_or(Pushed::inexact(Query::All), |wanted| whole(FIELD, op, wanted))
            }
        },
        Literal::Str(_) | Literal::Bool(_) => Pushed::exact(Query::None),
    }
}

/// Whole numbers up to here are doubles without loss.
const EXACT_MAX: f64 = 9_007_199_254_740_992.0;

/// A whole number, not negative, against a double.
fn whole(field: &str, op: CompareOp, wanted: f64) -> Pushed {
    if wanted.is_nan() {
        return Pushed::exact(Query::None);
    }
    if wanted.abs() >= EXACT_MAX {
        return Pushed::inexact(Query::All);
    }
    let is_whole = wanted.fract() == 0.0;
    let (op, wanted) = match op {
        CompareOp::Eq if !is_whole => return Pushed::exact(Query::None),
        CompareOp::Ne if !is_whole => return Pushed::exact(Query::All),
        CompareOp::Eq | CompareOp::Ne => (op, wanted),
        CompareOp::Lt | CompareOp::Ge => (op, wanted.ceil()),
        CompareOp::Le | CompareOp::Gt => (op, wanted.floor()),
    };
    #[expect(clippy::cast_possible_truncation, reason = "whole and below 2^53")]
    let wanted = wanted as i64;
    Pushed::exact(range(field, op, &json!(wanted)))
}

#[cfg(test)]
mod tests;
