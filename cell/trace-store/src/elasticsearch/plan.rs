//! What a search asks the engine for, worked out once.

use serde_json::{Value, json};
use trace_model::query::{Field, Place};
use trace_model::{Filter, SearchQuery, TenantId, TimeRange, UnixNanos};

use super::push_down::{Pushed, Query, Shape, push_down};

/// See the module.
#[derive(Debug)]
pub(super) struct Plan<'a> {
    pub(super) tenant: &'a TenantId,
    pub(super) filter: &'a Filter,
    pub(super) ours: Pushed,
    pub(super) jaegers_shape: Shape,
    jaegers: Pushed,
    /// Parts of a document that the filter looks at.
    pub(super) includes: Vec<&'static str>,
}

impl<'a> Plan<'a> {
    pub(super) fn new(query: &'a SearchQuery, tags_are_nested: bool) -> Self {
        let jaegers_shape = Shape::Jaegers { tags_are_nested };
        let mut includes =
            vec!["operationName", "process", "startTime", "duration", "farspan", "tags", "tag"];
        for (place, part) in
            [(Place::Scope, "scopeTags"), (Place::Event, "logs"), (Place::Link, "references")]
        {
            if looks_at(&query.filter, place) {
                includes.push(part);
            }
        }
        Self {
            tenant: &query.tenant,
            filter: &query.filter,
            ours: push_down(&query.filter, Shape::Ours),
            jaegers: push_down(&query.filter, jaegers_shape),
            jaegers_shape,
            includes,
        }
    }

    /// The conditions on a document of ours, or of a Jaeger's, that is placed in the range.
    pub(super) fn question(&self, range: TimeRange, is_ours: bool) -> Vec<Value> {
        if is_ours {
            let irregular = Query::Some(json!({ "term": { "farspan.irregular": true } }));
            let candidates = Query::any_of(vec![self.ours.query.clone(), irregular]);
            return vec![
                json!({ "term": { "farspan.tenant": self.tenant.as_str() } }),
                within("farspan.placed", range.start.0, range.end.0),
                candidates.into_json(),
            ];
        }
        let micros = |time: UnixNanos| time.0.div_ceil(1_000);
        vec![
            json!({ "bool": { "must_not": [{ "exists": { "field": "farspan.placed" } }] } }),
            within("startTime", micros(range.start), micros(range.end)),
            self.jaegers.query.clone().into_json(),
        ]
    }
}

/// A field from `start` on and below `end`; the engine's numbers are signed.
fn within(field: &str, start: u64, end: u64) -> Value {
    let mut bounds = json!({ "gte": i64::try_from(start).unwrap_or(i64::MAX) });
    if let (Ok(end), Some(bounds)) = (i64::try_from(end), bounds.as_object_mut()) {
        bounds.insert("lt".to_owned(), json!(end));
    }
    json!({ "range": { (field): bounds } })
}

/// Whether a filter asks for attributes of a place.
fn looks_at(filter: &Filter, wanted: Place) -> bool {
    match filter {
        Filter::All => false,
        Filter::And(parts) | Filter::Or(parts) => parts.iter().any(|part| looks_at(part, wanted)),
        Filter::Not(part) => looks_at(part, wanted),
        Filter::Compare { field, .. } | Filter::Matches { field, .. } | Filter::Exists(field) => {
            matches!(field, Field::Attribute { place, .. } if *place == wanted || *place == Place::Any)
        }
    }
}
