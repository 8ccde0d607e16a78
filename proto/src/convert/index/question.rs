//! Messages of the `MetadataIndex` service.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use trace_model::location::{Cursor, RegionState, SummaryQuery};
use trace_model::{
    Contribution, Forgotten, Region, TenantId, TimeRange, TraceEntry, TraceId, UnixNanos,
};

use super::{
    InvalidIndexMessage, PARTS_MAX, ServiceDictionary, contribution_from_wire,
    contribution_to_wire, name_error, trace_id_from_wire, watermark_from_wire, watermark_to_wire,
    within,
};
use crate::v1;

/// Writes what the index holds of a trace.
#[must_use]
pub fn look_up_entry_to_wire(trace_id: TraceId, entry: &TraceEntry) -> v1::LookUpEntry {
    v1::LookUpEntry {
        trace_id: Bytes::copy_from_slice(trace_id.as_bytes()),
        contributions: entry.contributions.values().map(spelled_out).collect(),
    }
}

/// A contribution with its region and a dictionary of its own.
fn spelled_out(contribution: &Contribution) -> v1::RegionContribution {
    let mut dictionary = ServiceDictionary::default();
    let wire = contribution_to_wire(contribution, &mut |service| dictionary.intern(service).0);
    v1::RegionContribution {
        region: contribution.writer.region.as_str().to_owned(),
        contribution: Some(wire),
        services: dictionary.names_from(0).collect(),
    }
}

/// Reads what the index holds of a trace.
pub fn look_up_entry_from_wire(
    wire: v1::LookUpEntry,
) -> Result<(TraceId, TraceEntry), InvalidIndexMessage> {
    let trace_id = trace_id_from_wire(&wire.trace_id)?;
    within("contributions", wire.contributions.len(), PARTS_MAX)?;
    let mut entry = TraceEntry::default();
    for part in wire.contributions {
        let region = Region::new(&part.region).map_err(name_error("region"))?;
        let mut dictionary = ServiceDictionary::default();
        for name in &part.services {
            dictionary.define(name.id, &name.name)?;
        }
        let wire = part.contribution.ok_or(InvalidIndexMessage::Missing("contribution"))?;
        let contribution = contribution_from_wire(wire, &region, &dictionary)?;
        if contribution.trace_id != trace_id {
            return Err(InvalidIndexMessage::OtherTrace);
        }
        entry.join(contribution);
    }
    Ok((trace_id, entry))
}

/// Writes how a region's log stands.
#[must_use]
pub fn region_state_to_wire(state: &RegionState) -> v1::RegionState {
    v1::RegionState {
        region: state.region.as_str().to_owned(),
        cursor: state.cursor.map(v1::Cursor::from),
        watermark: state.watermark.as_ref().map(watermark_to_wire),
        silent_millis: millis(state.silent),
        is_connected: state.is_connected,
        lag_records: state.lag_records,
        lag_millis: millis(state.lag),
        terms: Some(terms_to_wire(state.retention, state.forgotten)),
        kept_millis: millis(state.kept_for),
        rows_without_detail: state.rows_without_detail,
        is_refused: state.is_refused,
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// Writes on what terms a holder keeps an origin's rows.
#[must_use]
pub fn terms_to_wire(retention: Option<Duration>, forgotten: Forgotten) -> v1::Terms {
    v1::Terms {
        retention_millis: retention.map_or(0, millis),
        expired_until_unix_nano: forgotten.expired_until.map(|until| until.0),
        evicted_until_unix_nano: forgotten.evicted_until.map(|until| until.0),
    }
}

/// Reads on what terms a holder keeps an origin's rows: the origin's retention, where the sender
/// knows it, and which rows it has let go of.
#[must_use]
pub fn terms_from_wire(wire: &v1::Terms) -> (Option<Duration>, Forgotten) {
    let retention = Some(wire.retention_millis).filter(|millis| *millis > 0);
    let forgotten = Forgotten {
        expired_until: wire.expired_until_unix_nano.map(UnixNanos),
        evicted_until: wire.evicted_until_unix_nano.map(UnixNanos),
    };
    (retention.map(Duration::from_millis), forgotten)
}

/// Reads how a region's log stands.
pub fn region_state_from_wire(wire: &v1::RegionState) -> Result<RegionState, InvalidIndexMessage> {
    let region = Region::new(&wire.region).map_err(name_error("region"))?;
    let watermark = wire.watermark.as_ref();
    let watermark = watermark.map(|watermark| watermark_from_wire(watermark, &region));
    let (retention, forgotten) = wire.terms.as_ref().map(terms_from_wire).unwrap_or_default();
    Ok(RegionState {
        watermark: watermark.transpose()?,
        region,
        cursor: wire.cursor.map(Cursor::from),
        silent: Duration::from_millis(wire.silent_millis),
        is_connected: wire.is_connected,
        lag_records: wire.lag_records,
        lag: Duration::from_millis(wire.lag_millis),
        retention,
        kept_for: Duration::from_millis(wire.kept_millis),
        forgotten,
        rows_without_detail: wire.rows_without_detail,
        is_refused: wire.is_refused,
    })
}

/// Writes a question for summaries.
#[must_use]
pub fn summary_query_to_wire(query: &SummaryQuery) -> v1::ListSummariesRequest {
    let text = |name: &Option<Arc<str>>| name.as_deref().unwrap_or_default().to_owned();
    v1::ListSummariesRequest {
        tenant: query.tenant.as_str().to_owned(),
        start_unix_nano: query.range.start.0,
        end_unix_nano: query.range.end.0,
        service: text(&query.service),
        root_service: text(&query.root_service),
        root_operation: text(&query.root_operation),
        min_duration_nanos: query.duration_nanos_min,
        max_duration_nanos: query.duration_nanos_max.unwrap_or(0),
        only_errors: query.only_errors,
        limit: u32::try_from(query.limit).unwrap_or(u32::MAX),
    }
}

/// Reads a question for summaries. A time range that ends before it starts is refused.
pub fn summary_query_from_wire(
    wire: &v1::ListSummariesRequest,
) -> Result<SummaryQuery, InvalidIndexMessage> {
    if wire.end_unix_nano < wire.start_unix_nano {
        let value = wire.end_unix_nano;
        return Err(InvalidIndexMessage::Value { field: "end_unix_nano", value });
    }
    let name = |text: &str| Some(Arc::<str>::from(text)).filter(|name| !name.is_empty());
    Ok(SummaryQuery {
        tenant: TenantId::new(&wire.tenant).map_err(name_error("tenant"))?,
        range: TimeRange {
            start: UnixNanos(wire.start_unix_nano),
            end: UnixNanos(wire.end_unix_nano),
        },
        service: name(&wire.service),
        root_service: name(&wire.root_service),
        root_operation: name(&wire.root_operation),
        duration_nanos_min: wire.min_duration_nanos,
        duration_nanos_max: Some(wire.max_duration_nanos).filter(|max| *max > 0),
        only_errors: wire.only_errors,
        limit: usize::try_from(wire.limit).unwrap_or(usize::MAX),
    })
}
