//! Messages of `cell_query.proto` from and to the words of `trace-model`.
//!
//! Whatever comes from the wire is checked here, once: what passes is a word that cannot be wrong.

mod filter;
mod frames;

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use trace_model::ids::InvalidId;
use trace_model::names::InvalidName;
use trace_model::position::EARLIER_MAX;
use trace_model::query::{InvalidQuery, SearchStats};
use trace_model::{
    Coverage, Region, RegionOutcome, SearchQuery, TenantId, TimeRange, TraceId, TraceMatch,
    UnixNanos,
};

pub use frames::{FRAME_BYTES_TARGET, FramePacker, InvalidFrame, unpack_frame};

use crate::v1;

/// The group that fills the search index, as `missed_by` names it.
pub const SEARCH_INDEXER: &str = "search-indexer";
/// The group that counts, as `missed_by` names it.
pub const METRICS_AGGREGATOR: &str = "metrics-aggregator";

/// What an answer lacks whose region says that a group has missed records; `None` where none has. The
/// words are ours, whatever the region calls the group.
#[must_use]
pub fn missed_reason(missed_by: &str) -> Option<String> {
    let group = match missed_by {
        "" => return None,
        SEARCH_INDEXER => SEARCH_INDEXER,
        METRICS_AGGREGATOR => METRICS_AGGREGATOR,
        _ => "a consumer group",
    };
    Some(format!("records were gone from its log before {group} had read them, or set aside by it"))
}

/// Why a message is not what its schema promises. None of these passes by asking again.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidMessage {
    /// A field that must be there is not.
    #[error("the field {0} is missing")]
    Missing(&'static str),
    /// A number that names nothing.
    #[error("the field {0} holds a number that names nothing")]
    Unknown(&'static str),
    /// An id is not one.
    #[error("the message holds an invalid id")]
    Id(#[from] InvalidId),
    /// A tenant or region is not one.
    #[error("the message holds an invalid name")]
    Name(#[from] InvalidName),
    /// The filter cannot be evaluated.
    #[error("the filter cannot be used")]
    Query(#[from] InvalidQuery),
}

impl From<&Coverage> for v1::Coverage {
    fn from(coverage: &Coverage) -> Self {
        let of = |incarnation: u64, next: &BTreeMap<u32, u64>| Self {
            incarnation,
            next: next
                .iter()
                .map(|(partition, offset)| v1::PartitionOffset {
                    partition: *partition,
                    offset: *offset,
                })
                .collect(),
            earlier: Vec::new(),
        };
        let earlier = coverage.earlier.iter();
        Self {
            earlier: earlier.map(|(incarnation, next)| of(*incarnation, next)).collect(),
            ..of(coverage.incarnation, &coverage.next)
        }
    }
}

/// A partition that is named twice is covered as far as its least offset: no cover is made up. Of an
/// incarnation that is named twice the last counts, and none counts that is not earlier.
impl From<v1::Coverage> for Coverage {
    fn from(message: v1::Coverage) -> Self {
        let incarnation = message.incarnation;
        let mut coverage = Self { next: least_offsets(message.next), ..Self::none(incarnation) };
        for earlier in message.earlier {
            if earlier.incarnation >= incarnation {
                continue;
            }
            coverage.earlier.insert(earlier.incarnation, least_offsets(earlier.next));
            while coverage.earlier.len() > EARLIER_MAX {
                coverage.earlier.pop_first();
            }
        }
        coverage
    }
}

fn least_offsets(places: Vec<v1::PartitionOffset>) -> BTreeMap<u32, u64> {
    let mut next: BTreeMap<u32, u64> = BTreeMap::new();
    for place in places {
        let slot = next.entry(place.partition).or_insert(place.offset);
        *slot = place.offset.min(*slot);
    }
    next
}

impl From<TimeRange> for v1::TimeRange {
    fn from(range: TimeRange) -> Self {
        Self { start_unix_nano: range.start.0, end_unix_nano: range.end.0 }
    }
}

impl From<v1::TimeRange> for TimeRange {
    fn from(message: v1::TimeRange) -> Self {
        Self { start: UnixNanos(message.start_unix_nano), end: UnixNanos(message.end_unix_nano) }
    }
}

/// A time range that a question must carry.
pub fn required_range(message: Option<v1::TimeRange>) -> Result<TimeRange, InvalidMessage> {
    message.map(TimeRange::from).ok_or(InvalidMessage::Missing("range"))
}

impl From<SearchStats> for v1::SearchStats {
    fn from(stats: SearchStats) -> Self {
        Self {
            blocks_total: stats.blocks_total,
            blocks_opened: stats.blocks_opened,
            blocks_without_match: stats.blocks_without_match,
            buckets_checked: stats.buckets_checked,
            buckets_opened: stats.buckets_opened,
            spans_scanned: stats.spans_scanned,
            bytes_read: stats.bytes_read,
        }
    }
}

impl From<v1::SearchStats> for SearchStats {
    fn from(message: v1::SearchStats) -> Self {
        Self {
            blocks_total: message.blocks_total,
            blocks_opened: message.blocks_opened,
            blocks_without_match: message.blocks_without_match,
            buckets_checked: message.buckets_checked,
            buckets_opened: message.buckets_opened,
            spans_scanned: message.spans_scanned,
            bytes_read: message.bytes_read,
        }
    }
}

/// The region of a match is that of the cell that answers: it is not in the message.
impl From<&TraceMatch> for v1::TraceMatch {
    fn from(found: &TraceMatch) -> Self {
        Self {
            trace_id: id_bytes(found.trace_id),
            newest_match_unix_nano: found.newest_match.0,
            matched_spans: found.matched_spans,
            services: found.services.iter().map(|service| (**service).to_owned()).collect(),
        }
    }
}

/// A match as this region reported it.
pub fn trace_match(message: v1::TraceMatch, region: &Region) -> Result<TraceMatch, InvalidMessage> {
    Ok(TraceMatch {
        trace_id: TraceId::try_from(message.trace_id.as_ref())?,
        newest_match: UnixNanos(message.newest_match_unix_nano),
        matched_spans: message.matched_spans,
        services: message.services.into_iter().map(Into::into).collect(),
        regions: BTreeSet::from([region.clone()]),
    })
}

/// A search as it is sent.
#[must_use]
pub fn search_request(query: &SearchQuery, caller: v1::Caller) -> v1::SearchTracesRequest {
    v1::SearchTracesRequest {
        caller: Some(caller),
        filter: v1::Filter::from_model(&query.filter),
        range: Some(query.range.into()),
        limit: u32::try_from(query.limit).unwrap_or(u32::MAX),
        before: query.before.map(|(time, trace_id)| v1::SearchCursor {
            newest_match_unix_nano: time.0,
            trace_id: id_bytes(trace_id),
        }),
    }
}

/// A search as it was received, for the tenant of its caller.
pub fn search_query(
    message: v1::SearchTracesRequest,
    tenant: TenantId,
) -> Result<SearchQuery, InvalidMessage> {
    let before = match message.before {
        Some(cursor) => Some((
            UnixNanos(cursor.newest_match_unix_nano),
            TraceId::try_from(cursor.trace_id.as_ref())?,
        )),
        None => None,
    };
    Ok(SearchQuery {
        tenant,
        filter: v1::Filter::to_model(message.filter)?,
        range: required_range(message.range)?,
        limit: usize::try_from(message.limit).unwrap_or(usize::MAX),
        before,
    })
}

/// What a cell's outcome means in a certificate.
pub fn region_outcome(outcome: v1::CellOutcome) -> Result<RegionOutcome, InvalidMessage> {
    match outcome {
        v1::CellOutcome::Unspecified => Err(InvalidMessage::Unknown("outcome")),
        v1::CellOutcome::Answered => Ok(RegionOutcome::Answered),
        v1::CellOutcome::Forbidden => Ok(RegionOutcome::Forbidden),
        v1::CellOutcome::Redacted => Ok(RegionOutcome::Redacted),
        v1::CellOutcome::Expired => Ok(RegionOutcome::Expired),
        v1::CellOutcome::Erased => Ok(RegionOutcome::Erased),
    }
}

/// A time that may be absent: 0 stands for that.
#[must_use]
pub fn optional_time(unix_nano: u64) -> Option<UnixNanos> {
    Some(UnixNanos(unix_nano)).filter(|time| time.0 > 0)
}

/// An id as it stands in messages.
#[must_use]
pub fn id_bytes(trace_id: TraceId) -> Bytes {
    Bytes::copy_from_slice(trace_id.as_bytes())
}

impl From<&v1::RedPoint> for v1::RedPlace {
    fn from(point: &v1::RedPoint) -> Self {
        Self {
            minute_unix_nano: point.minute_unix_nano,
            service: point.service.clone(),
            operation: point.operation.clone(),
            kind: point.kind,
            status: point.status,
        }
    }
}

impl From<&v1::Edge> for v1::EdgePlace {
    fn from(edge: &v1::Edge) -> Self {
        Self { caller: edge.caller.clone(), callee: edge.callee.clone() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_partition_named_twice_is_covered_to_its_least_offset() {
        let place = |offset| v1::PartitionOffset { partition: 3, offset };
        let next = vec![place(9), place(4)];
        let message = v1::Coverage { incarnation: 7, next, earlier: Vec::new() };
        let coverage = Coverage::from(message);
        assert_eq!(coverage.next.get(&3), Some(&4));
        assert_eq!(Coverage::from(v1::Coverage::from(&coverage)), coverage);
    }

    #[test]
    fn the_newest_covers_of_earlier_incarnations_travel_and_no_later_ones() {
        let cover = |incarnation, earlier| v1::Coverage {
            incarnation,
            next: vec![v1::PartitionOffset { partition: 0, offset: incarnation }],
            earlier,
        };
        let earlier = (1..=11).rev().map(|incarnation| cover(incarnation, Vec::new())).collect();
        let coverage = Coverage::from(cover(10, earlier));
        assert_eq!(coverage.earlier.keys().copied().collect::<Vec<_>>(), [2, 3, 4, 5, 6, 7, 8, 9]);
        assert_eq!((coverage.next_in(9, 0), coverage.next_in(10, 0)), (9, 10));
        assert_eq!(Coverage::from(v1::Coverage::from(&coverage)), coverage);
    }

    #[test]
    fn a_search_without_a_range_or_with_a_cursor_of_no_id_is_refused() {
        let missing = search_query(v1::SearchTracesRequest::default(), TenantId::default());
        assert_eq!(missing.unwrap_err(), InvalidMessage::Missing("range"));
        let message = v1::SearchTracesRequest {
            range: Some(TimeRange::ALL.into()),
            before: Some(v1::SearchCursor::default()),
            ..v1::SearchTracesRequest::default()
        };
        let refused = search_query(message, TenantId::default());
        assert!(matches!(refused, Err(InvalidMessage::Id(_))));
    }

    #[test]
    fn an_outcome_that_names_nothing_is_refused() {
        assert!(region_outcome(v1::CellOutcome::Unspecified).is_err());
        assert_eq!(region_outcome(v1::CellOutcome::Forbidden), Ok(RegionOutcome::Forbidden));
    }
}
