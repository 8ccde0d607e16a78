//! Attributes: tags nested in the document, one list a place.

use serde_json::json;
use trace_model::query::{CompareOp, Literal, Place};

use super::query::{Query, exists, range, term};
use super::{EXACT_MAX, Pushed, Shape, Test, text};
use crate::elasticsearch::document::is_term;

const SERVICE: &str = "service.name";

/// Translates a question about an attribute.
pub(super) fn translate(
    place: Place,
    key: &str,
    test: Test<'_>,
    shape: Shape,
    room: &mut usize,
) -> Pushed {
    let paths = paths(place);
    let Some(left) = room.checked_sub(paths.len()) else { return Pushed::inexact(Query::All) };
    *room = left;
    match shape {
        Shape::Ours => ours(place, paths, key, test),
        Shape::Jaegers { tags_are_nested: false } => Pushed::inexact(Query::All),
        Shape::Jaegers { tags_are_nested: true } => jaegers(place, paths, key, test),
    }
}

const fn paths(place: Place) -> &'static [&'static str] {
    match place {
        Place::Span => &["tags"],
        Place::Resource => &["process.tags"],
        Place::Scope => &["scopeTags"],
        Place::Event => &["logs.fields"],
        Place::Link => &["references.tags"],
        Place::Any => &["tags", "process.tags", "scopeTags", "logs.fields", "references.tags"],
    }
}

const fn is_of_resource(place: Place) -> bool {
    matches!(place, Place::Any | Place::Resource)
}

fn ours(place: Place, paths: &[&str], key: &str, test: Test<'_>) -> Pushed {
    // A document with a long key is irregular: no regular one has it.
    if !is_term(key) {
        return Pushed::exact(Query::None);
    }
    let mut parts: Vec<Pushed> = paths.iter().map(|path| within(path, key, test)).collect();
    if key == SERVICE && is_of_resource(place) {
        let is_sent =
            Pushed::exact(Query::Some(json!({ "term": { "farspan.unnamed": true } }))).not();
        parts.push(Pushed::all_of(vec![text("process.serviceName", test), is_sent]));
    }
    Pushed::any_of(parts)
}

/// A tag of this key within the list whose value fulfils the test.
fn within(path: &str, key: &str, test: Test<'_>) -> Pushed {
    let Pushed { query, is_exact } = value(path, test);
    if query == Query::None {
        return Pushed { query, is_exact };
    }
    let tag = Query::all_of(vec![term(&format!("{path}.key"), key), query]).into_json();
    let query = Query::Some(json!({ "nested": { "path": path, "query": tag } }));
    Pushed { query, is_exact }
}

/// What a tag's value must be.
fn value(path: &str, test: Test<'_>) -> Pushed {
    let field = |name: &str| format!("{path}.{name}");
    // No field of the span in a tag's clothes, and no value that has no text.
    let readable = || exists(&field("farspan")).not();
    let (op, literal) = match test {
        Test::Exists => return Pushed::exact(term(&field("farspan"), "field").not()),
        Test::Matches(_) => return Pushed::inexact(readable()),
        Test::Compare(op, literal) => (op, literal),
    };
    match literal {
        Literal::Text(wanted) => untyped(path, op, wanted, readable()),
        Literal::Str(wanted) => {
            let is_string = Query::all_of(vec![term(&field("type"), "string"), readable()]);
            string(path, op, wanted, is_string)
        }
        Literal::Bool(wanted) => {
            let holding = [false, true].into_iter().filter(|found| op.holds(found.cmp(wanted)));
            let values =
                holding.map(|found| term(&field("value"), if found { "true" } else { "false" }));
            let is_bool =
                vec![term(&field("type"), "bool"), readable(), Query::any_of(values.collect())];
            Pushed::exact(Query::all_of(is_bool))
        }
        Literal::Int(wanted) => number(path, op, as_double(*wanted)),
        Literal::Double(wanted) if wanted.is_nan() => Pushed::exact(Query::None),
        Literal::Double(wanted) if wanted.abs() >= f64::MAX => {
            Pushed::inexact(exists(&field("number")))
        }
        Literal::Double(wanted) => Pushed::exact(range(&field("number"), op, &json!(wanted + 0.0))),
    }
}

#[expect(clippy::cast_precision_loss, reason = "the caller knows that large ones are rounded")]
const fn as_double(value: i64) -> f64 {
    value as f64
}

/// A whole number against the numbers as doubles. Beyond 2^53 neighbours become one.
fn number(path: &str, op: CompareOp, wanted: f64) -> Pushed {
    let field = format!("{path}.number");
    if wanted.abs() < EXACT_MAX {
        return Pushed::exact(range(&field, op, &json!(wanted)));
    }
    let loose = match op {
        CompareOp::Ne => return Pushed::inexact(exists(&field)),
        CompareOp::Eq => CompareOp::Eq,
        CompareOp::Lt | CompareOp::Le => CompareOp::Le,
        CompareOp::Gt | CompareOp::Ge => CompareOp::Ge,
    };
    Pushed::inexact(range(&field, loose, &json!(wanted)))
}

/// Equality of texts; orderings are left to the judge.
fn string(path: &str, op: CompareOp, wanted: &str, candidates: Query) -> Pushed {
    let field = format!("{path}.value");
    let with = |query: Query| Query::all_of(vec![candidates.clone(), query]);
    match op {
        CompareOp::Eq if is_term(wanted) => Pushed::exact(with(term(&field, wanted))),
        CompareOp::Ne if is_term(wanted) => Pushed::exact(with(term(&field, wanted).not())),
        CompareOp::Eq => Pushed::inexact(with(exists(&field).not())),
        CompareOp::Ne | CompareOp::Lt | CompareOp::Le | CompareOp::Gt | CompareOp::Ge => {
            Pushed::inexact(candidates)
        }
    }
}

/// Text without a type: equal as text, ordered as numbers where both are.
fn untyped(path: &str, op: CompareOp, wanted: &str, readable: Query) -> Pushed {
    let is_ordering = !matches!(op, CompareOp::Eq | CompareOp::Ne);
    let Some(limit) = wanted.parse::<f64>().ok().filter(|_| is_ordering) else {
        return string(path, op, wanted, readable);
    };
    let is_number = json!({ "terms": { (format!("{path}.type")): ["int64", "float64"] } });
    let is_other = Query::Some(is_number).not();
    let numbers = if limit.is_nan() {
        Query::None
    } else {
        let loose =
            if matches!(op, CompareOp::Lt | CompareOp::Le) { CompareOp::Le } else { CompareOp::Ge };
        range(&format!("{path}.number"), loose, &json!(limit.clamp(f64::MIN, f64::MAX) + 0.0))
    };
    Pushed::inexact(Query::all_of(vec![readable, Query::any_of(vec![numbers, is_other])]))
}

/// Tags as a Jaeger writes them.
fn jaegers(place: Place, paths: &[&str], key: &str, test: Test<'_>) -> Pushed {
    if !is_term(key) {
        return Pushed::inexact(Query::All);
    }
    let wanted = match test {
        Test::Compare(CompareOp::Eq, Literal::Text(text) | Literal::Str(text)) => Some(text),
        Test::Compare(..) | Test::Matches(_) | Test::Exists => None,
    };
    let wanted = wanted.filter(|text| is_term(text) && is_printed_alike(text));
    let mut parts: Vec<Query> = paths
        .iter()
        .map(|path| {
            let mut tag = vec![term(&format!("{path}.key"), key)];
            tag.extend(wanted.map(|text| term(&format!("{path}.value"), text)));
            let tag = Query::all_of(tag).into_json();
            Query::Some(json!({ "nested": { "path": path, "query": tag } }))
        })
        .collect();
    if key == SERVICE && is_of_resource(place) {
        parts.push(wanted.map_or(Query::All, |text| term("process.serviceName", text)));
    }
    Pushed::inexact(Query::any_of(parts))
}

/// Whether Go prints a double of this text as we do.
fn is_printed_alike(text: &str) -> bool {
    text.parse::<f64>()
        .map_or(true, |number| number == 0.0 && text == "0" || (1e-5..1e15).contains(&number.abs()))
}
