//! Where a row's parent is, and the entries of rows that have no columns of their own.

use std::sync::Arc;

use rustc_hash::FxHashMap;
use trace_model::SpanId;

use super::Row;
use crate::embedded::hash::{entry_hash, value_hash};
use crate::embedded::index_build::{AttributeEntry, IndexBuilder, RowGroup, attribute_entry};
use crate::embedded::numbers::zigzag;

/// Traces with more rows than this look parents up in a map.
const LINEAR_LOOKUP_ROWS_MAX: usize = 48;

/// Entries of a span that is kept whole: it is read in full. One that cannot be read never matches.
pub(super) fn index_whole(bytes: &[u8], group: RowGroup, index: &mut IndexBuilder) {
    let context = proto::decode::ReadContext { resource: Arc::default(), scope: Arc::default() };
    let Ok(span) = proto::decode::read_span(bytes, &context) else { return };
    let operation = index.keys.operation;
    let entry = entry_hash(operation, value_hash(span.name.as_bytes()));
    index.add(group.group, operation, entry);
    index.add_to_block(entry);
    index.add_operation(group, span.name.as_bytes(), span.kind as u8);
    let events = span.events.iter().flat_map(|event| &event.attributes);
    let links = span.links.iter().flat_map(|link| &link.attributes);
    let entries: Vec<AttributeEntry> = span
        .attributes
        .iter()
        .chain(events)
        .chain(links)
        .map(|attribute| attribute_entry(&attribute.key, &attribute.value))
        .collect();
    for entry in entries {
        index.add_attribute(group.group, &entry);
    }
}

/// A span that was sent without a name has the name "".
pub(super) fn index_nameless(row: &Row<'_>, group: RowGroup, index: &mut IndexBuilder) {
    let entry = entry_hash(index.keys.operation, value_hash(b""));
    index.add(group.group, index.keys.operation, entry);
    index.add_to_block(entry);
    index.add_operation(group, b"", row.kind);
}

/// Finds parents within the rows of a trace.
pub(super) struct ParentPlaces {
    ids: Vec<SpanId>,
    map: FxHashMap<SpanId, usize>,
}

impl ParentPlaces {
    pub(super) fn new(rows: &[Row<'_>]) -> Self {
        let ids: Vec<SpanId> = rows.iter().map(|row| row.facts.span_id).collect();
        let mut map = FxHashMap::default();
        if ids.len() > LINEAR_LOOKUP_ROWS_MAX {
            map = ids.iter().enumerate().map(|(place, id)| (*id, place)).collect();
        }
        Self { ids, map }
    }

    /// 0 where the parent is not among the rows, else 1 + the (signed) distance to it.
    pub(super) fn distance(&self, place: usize, parent: &[u8]) -> u64 {
        let Ok(parent) = SpanId::try_from(parent) else { return 0 };
        let found = if self.map.is_empty() {
            self.ids.iter().position(|id| *id == parent)
        } else {
            self.map.get(&parent).copied()
        };
        let signed = |place: usize| i64::try_from(place).unwrap_or(i64::MAX);
        found.map_or(0, |found| 1 + zigzag(signed(place) - signed(found)))
    }
}
