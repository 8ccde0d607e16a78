//! Messages of `metadata_replication.proto`, from and to `trace_model::location`.
//!
//! Everything that comes in is judged here once: ids, names, numbers and counts; what is inside
//! afterwards cannot be wrong. Services travel as ids of a [`ServiceDictionary`].

mod dictionary;
mod question;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use trace_model::ids::InvalidId;
use trace_model::location::{
    Cursor, Detail, ENTRY_SPANS_MAX, EntrySpan, Epoch, Keep, RootSpan, ServiceCount,
};
use trace_model::names::InvalidName;
use trace_model::{
    Contribution, Region, SpanId, TenantId, TimeRange, TraceId, UnixNanos, Watermark, WriterId,
};

pub use dictionary::{OTHER_SERVICE, ServiceDictionary};
pub use question::{
    look_up_entry_from_wire, look_up_entry_to_wire, region_state_from_wire, region_state_to_wire,
    summary_query_from_wire, summary_query_to_wire, terms_from_wire, terms_to_wire,
};

use crate::v1;

/// Most services in one contribution, and most partitions in one watermark.
pub const PARTS_MAX: usize = 4096;
/// Longest service or operation name, in bytes.
pub const NAME_BYTES_MAX: usize = 4096;

/// A name as the index knows it: as much of it, in whole characters, as [`NAME_BYTES_MAX`] bytes hold.
#[must_use]
pub fn index_name(name: &str) -> &str {
    name.get(..name.floor_char_boundary(NAME_BYTES_MAX)).unwrap_or(name)
}

/// Why a message of the index is not what it claims to be. None of these passes by waiting.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidIndexMessage {
    /// An id is not one.
    #[error("`{field}` is not an id")]
    Id {
        /// The field.
        field: &'static str,
        /// What is wrong with it.
        #[source]
        source: InvalidId,
    },
    /// A tenant or region is not one.
    #[error("`{field}` is not a name")]
    Name {
        /// The field.
        field: &'static str,
        /// What is wrong with it.
        #[source]
        source: InvalidName,
    },
    /// A message within the message is not there.
    #[error("`{0}` is missing")]
    Missing(&'static str),
    /// A number has no meaning.
    #[error("`{field}` cannot be {value}")]
    Value {
        /// The field.
        field: &'static str,
        /// What was sent.
        value: u64,
    },
    /// A list or text is longer than anyone would send.
    #[error("`{field}` has {found} items or bytes; at most {max} are taken")]
    TooLong {
        /// The field.
        field: &'static str,
        /// What was sent.
        found: usize,
        /// The limit.
        max: usize,
    },
    /// A service id that the dictionary does not have.
    #[error("service id {0} is not in the dictionary")]
    UnknownService(u32),
    /// A service id that stands for another name already.
    #[error("service id {0} was given a second name")]
    Redefined(u32),
    /// A contribution about another trace than the entry that it is in.
    #[error("a contribution about another trace than its entry")]
    OtherTrace,
}

fn id_error(field: &'static str) -> impl Fn(InvalidId) -> InvalidIndexMessage {
    move |source| InvalidIndexMessage::Id { field, source }
}

pub(super) fn name_error(field: &'static str) -> impl Fn(InvalidName) -> InvalidIndexMessage {
    move |source| InvalidIndexMessage::Name { field, source }
}

const fn within(field: &'static str, found: usize, max: usize) -> Result<(), InvalidIndexMessage> {
    if found > max {
        return Err(InvalidIndexMessage::TooLong { field, found, max });
    }
    Ok(())
}

impl From<Cursor> for v1::Cursor {
    fn from(cursor: Cursor) -> Self {
        Self {
            epoch_millis: cursor.epoch.millis,
            epoch_random: cursor.epoch.random,
            sequence: cursor.sequence,
        }
    }
}

impl From<v1::Cursor> for Cursor {
    fn from(cursor: v1::Cursor) -> Self {
        Self {
            epoch: Epoch { millis: cursor.epoch_millis, random: cursor.epoch_random },
            sequence: cursor.sequence,
        }
    }
}

/// Writes a contribution. Its region is not in it: a log has one. `id_of` gives the dictionary id
/// of a service.
pub fn contribution_to_wire(
    contribution: &Contribution,
    id_of: &mut dyn FnMut(&Arc<str>) -> u32,
) -> v1::Contribution {
    v1::Contribution {
        tenant: contribution.tenant.as_str().to_owned(),
        trace_id: Bytes::copy_from_slice(contribution.trace_id.as_bytes()),
        incarnation: contribution.writer.incarnation,
        partition: contribution.writer.partition,
        version: contribution.version,
        last_append_unix_nano: contribution.last_append.0,
        keep: contribution.keep as u32,
        is_erased: contribution.is_erased,
        detail: contribution.detail.as_ref().map(|detail| detail_to_wire(detail, id_of)),
    }
}

fn detail_to_wire(detail: &Detail, id_of: &mut dyn FnMut(&Arc<str>) -> u32) -> v1::Detail {
    let mut services: Vec<v1::ServiceCount> = Vec::with_capacity(detail.services.len());
    for ServiceCount { service, spans, errors } in &detail.services {
        let service = id_of(service);
        // Several may share the id of what has none of its own.
        match services.iter_mut().find(|count| count.service == service) {
            Some(count) => {
                count.spans = count.spans.saturating_add(*spans);
                count.errors = count.errors.saturating_add(*errors);
            }
            None => services.push(v1::ServiceCount { service, spans: *spans, errors: *errors }),
        }
    }
    let root = detail.root.as_ref().map(|root| v1::RootSpan {
        span_id: Bytes::copy_from_slice(root.span_id.as_bytes()),
        service: id_of(&root.service),
        operation: root.operation.as_ref().to_owned(),
        start_unix_nano: root.start.0,
        duration_nanos: root.duration_nanos,
        is_error: root.is_error,
    });
    let entries = detail.entries.iter().map(|entry| v1::EntrySpan {
        span_id: Bytes::copy_from_slice(entry.span_id.as_bytes()),
        parent_span_id: Bytes::copy_from_slice(entry.parent_span_id.as_bytes()),
        service: id_of(&entry.service),
        start_unix_nano: entry.start.0,
        duration_nanos: entry.duration_nanos,
        is_error: entry.is_error,
    });
    v1::Detail {
        min_start_unix_nano: detail.min_start.0,
        max_end_unix_nano: detail.max_end.0,
        span_count: detail.span_count,
        error_count: detail.error_count,
        is_lower_bound: detail.is_lower_bound,
        services,
        root,
        entries: entries.collect(),
    }
}

/// Reads a contribution of a region's log with the dictionary of its epoch.
pub fn contribution_from_wire(
    wire: v1::Contribution,
    region: &Region,
    services: &ServiceDictionary,
) -> Result<Contribution, InvalidIndexMessage> {
    let keep = match wire.keep {
        0 => Keep::Pending,
        1 => Keep::SampledOut,
        2 => Keep::Keep,
        other => {
            return Err(InvalidIndexMessage::Value { field: "keep", value: u64::from(other) });
        }
    };
    let detail = wire.detail.map(|detail| detail_from_wire(detail, services)).transpose()?;
    Ok(Contribution {
        version: wire.version,
        tenant: TenantId::new(&wire.tenant).map_err(name_error("tenant"))?,
        trace_id: trace_id_from_wire(&wire.trace_id)?,
        writer: WriterId {
            region: region.clone(),
            incarnation: wire.incarnation,
            partition: wire.partition,
        },
        last_append: UnixNanos(wire.last_append_unix_nano),
        keep,
        is_erased: wire.is_erased,
        detail,
    })
}

/// Reads a trace id.
pub fn trace_id_from_wire(bytes: &[u8]) -> Result<TraceId, InvalidIndexMessage> {
    TraceId::try_from(bytes).map_err(id_error("trace_id"))
}

fn detail_from_wire(
    wire: v1::Detail,
    services: &ServiceDictionary,
) -> Result<Detail, InvalidIndexMessage> {
    within("services", wire.services.len(), PARTS_MAX)?;
    within("entries", wire.entries.len(), ENTRY_SPANS_MAX)?;
    if wire.max_end_unix_nano < wire.min_start_unix_nano {
        let value = wire.max_end_unix_nano;
        return Err(InvalidIndexMessage::Value { field: "max_end_unix_nano", value });
    }
    let mut counts = Vec::with_capacity(wire.services.len());
    for count in wire.services {
        let service = services.name_of(count.service)?;
        counts.push(ServiceCount { service, spans: count.spans, errors: count.errors });
    }
    counts.sort_unstable();
    let mut entries = Vec::with_capacity(wire.entries.len());
    for entry in wire.entries {
        entries.push(entry_from_wire(&entry, services)?);
    }
    entries.sort_unstable();
    Ok(Detail {
        min_start: UnixNanos(wire.min_start_unix_nano),
        max_end: UnixNanos(wire.max_end_unix_nano),
        span_count: wire.span_count,
        error_count: wire.error_count,
        is_lower_bound: wire.is_lower_bound,
        services: counts,
        root: wire.root.map(|root| root_from_wire(&root, services)).transpose()?,
        entries,
    })
}

fn root_from_wire(
    wire: &v1::RootSpan,
    services: &ServiceDictionary,
) -> Result<RootSpan, InvalidIndexMessage> {
    within("operation", wire.operation.len(), NAME_BYTES_MAX)?;
    Ok(RootSpan {
        service: services.name_of(wire.service)?,
        operation: wire.operation.as_str().into(),
        start: UnixNanos(wire.start_unix_nano),
        span_id: SpanId::try_from(&*wire.span_id).map_err(id_error("root.span_id"))?,
        duration_nanos: wire.duration_nanos,
        is_error: wire.is_error,
    })
}

fn entry_from_wire(
    wire: &v1::EntrySpan,
    services: &ServiceDictionary,
) -> Result<EntrySpan, InvalidIndexMessage> {
    let parent = SpanId::try_from(&*wire.parent_span_id);
    Ok(EntrySpan {
        span_id: SpanId::try_from(&*wire.span_id).map_err(id_error("entry.span_id"))?,
        parent_span_id: parent.map_err(id_error("entry.parent_span_id"))?,
        service: services.name_of(wire.service)?,
        start: UnixNanos(wire.start_unix_nano),
        duration_nanos: wire.duration_nanos,
        is_error: wire.is_error,
    })
}

/// Writes a watermark; its region is not in it.
#[must_use]
pub fn watermark_to_wire(watermark: &Watermark) -> v1::Watermark {
    let next = watermark.next.iter();
    let holes = watermark.holes.iter();
    v1::Watermark {
        incarnation: watermark.incarnation,
        as_of_unix_nano: watermark.as_of.0,
        next: next
            .map(|(partition, offset)| v1::PublishedOffset {
                partition: *partition,
                offset: *offset,
            })
            .collect(),
        holes: holes
            .map(|hole| v1::Hole { start_unix_nano: hole.start.0, end_unix_nano: hole.end.0 })
            .collect(),
    }
}

/// Reads a watermark of a region's log. Its holes are not counted: of a log that is damaged in many
/// places there may be many, and whoever shows them joins them (`trace_model::join_holes`).
pub fn watermark_from_wire(
    wire: &v1::Watermark,
    region: &Region,
) -> Result<Watermark, InvalidIndexMessage> {
    within("next", wire.next.len(), PARTS_MAX)?;
    let mut holes = Vec::with_capacity(wire.holes.len());
    for hole in &wire.holes {
        if hole.end_unix_nano < hole.start_unix_nano {
            let value = hole.end_unix_nano;
            return Err(InvalidIndexMessage::Value { field: "hole.end_unix_nano", value });
        }
        holes.push(TimeRange {
            start: UnixNanos(hole.start_unix_nano),
            end: UnixNanos(hole.end_unix_nano),
        });
    }
    let next: BTreeMap<u32, u64> =
        wire.next.iter().map(|part| (part.partition, part.offset)).collect();
    Ok(Watermark {
        region: region.clone(),
        incarnation: wire.incarnation,
        as_of: UnixNanos(wire.as_of_unix_nano),
        next,
        holes,
    })
}
