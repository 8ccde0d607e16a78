//! The JSON of our own lists: regions, summaries, matches. 64-bit numbers that may exceed what
//! JavaScript holds are strings.

use std::time::Duration;

use serde::Serialize;
use trace_model::query::SearchStats;
use trace_model::{Region, TimeRange, TraceEntry, TraceId, TraceMatch};

use crate::catalog::RegionHealth;

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
#[expect(clippy::struct_excessive_bools, reason = "the fields of a JSON object")]
pub(super) struct RegionJson<'a> {
    region: &'a str,
    is_configured: bool,
    is_healthy: bool,
    reason: Option<String>,
    elapsed_millis: u64,
    is_index_connected: bool,
    is_index_refused: bool,
    watermark_unix_nano: Option<String>,
    watermark_age_millis: Option<u64>,
    has_hole: bool,
    index_lag_millis: Option<u64>,
    index_lag_records: Option<u64>,
    silent_millis: Option<u64>,
    index_retention_millis: Option<u64>,
    index_kept_millis: Option<u64>,
    index_expired_until_unix_nano: Option<String>,
    index_evicted_until_unix_nano: Option<String>,
    index_rows_without_detail: Option<u64>,
    groups: Vec<GroupJson<'a>>,
    /// By number, where each collector has a log of its own.
    #[serde(skip_serializing_if = "<[u32]>::is_empty")]
    away_collectors: &'a [u32],
    #[serde(skip_serializing_if = "<[u32]>::is_empty")]
    retired_collectors: &'a [u32],
    spans_stored: Option<u64>,
    bytes_stored: Option<u64>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct GroupJson<'a> {
    group: &'a str,
    lag_records: u64,
    lag_millis: u64,
    dead_letters: u64,
    failing_millis: u64,
}

pub(super) fn region_json(health: &RegionHealth, now_millis: u64) -> RegionJson<'_> {
    let index = health.index.as_ref();
    let cell = health.cell.as_ref().ok();
    let watermark = index.and_then(|state| state.watermark.as_ref());
    let age = |as_of: trace_model::UnixNanos| now_millis.saturating_sub(as_of.millis());
    let groups = cell.map_or(&[][..], |cell| &cell.groups);
    let forgotten = index.map(|state| state.forgotten).unwrap_or_default();
    RegionJson {
        region: health.region.as_str(),
        is_configured: health.is_configured,
        is_healthy: cell.is_some(),
        reason: health.cell.as_ref().err().map(ToString::to_string),
        elapsed_millis: health.elapsed_millis,
        is_index_connected: index.is_some_and(|state| state.is_connected),
        is_index_refused: index.is_some_and(|state| state.is_refused),
        watermark_unix_nano: watermark.map(|watermark| watermark.as_of.0.to_string()),
        watermark_age_millis: watermark.map(|watermark| age(watermark.as_of)),
        has_hole: watermark.is_some_and(|watermark| !watermark.holes.is_empty()),
        index_lag_millis: index.map(|state| millis(state.lag)),
        index_lag_records: index.map(|state| state.lag_records),
        silent_millis: index.map(|state| millis(state.silent)),
        index_retention_millis: index.and_then(|state| state.retention).map(millis),
        index_kept_millis: index.map(|state| millis(state.kept_for)),
        index_expired_until_unix_nano: forgotten.expired_until.map(|until| until.0.to_string()),
        index_evicted_until_unix_nano: forgotten.evicted_until.map(|until| until.0.to_string()),
        index_rows_without_detail: index.map(|state| state.rows_without_detail),
        groups: groups
            .iter()
            .map(|lag| GroupJson {
                group: &lag.group,
                lag_records: lag.records,
                lag_millis: lag.age_millis,
                dead_letters: lag.dead_letters,
                failing_millis: lag.failing_millis,
            })
            .collect(),
        away_collectors: cell.map_or(&[], |cell| &cell.away_collectors),
        retired_collectors: cell.map_or(&[], |cell| &cell.retired_collectors),
        spans_stored: cell.map(|cell| cell.spans_stored),
        bytes_stored: cell.map(|cell| cell.bytes_stored),
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct SummaryJson {
    trace_id: String,
    regions: Vec<String>,
    root_service: Option<String>,
    root_operation: Option<String>,
    start_unix_nano: Option<String>,
    duration_nanos: String,
    span_count: u64,
    error_count: u64,
    /// The counts are at least these.
    is_lower_bound: bool,
    services: Vec<ServiceCountJson>,
}

#[derive(Serialize)]
struct ServiceCountJson {
    service: String,
    spans: u64,
    errors: u64,
}

pub(super) fn summary_json((trace_id, entry): &(TraceId, TraceEntry)) -> SummaryJson {
    let summary = entry.summary();
    SummaryJson {
        trace_id: trace_id.to_string(),
        regions: summary.regions.iter().map(|region| region.as_str().to_owned()).collect(),
        root_service: summary.root.as_ref().map(|root| (*root.service).to_owned()),
        root_operation: summary.root.as_ref().map(|root| (*root.operation).to_owned()),
        start_unix_nano: summary.min_start.map(|start| start.0.to_string()),
        duration_nanos: summary.duration_nanos().to_string(),
        span_count: summary.span_count,
        error_count: summary.error_count,
        is_lower_bound: summary.is_lower_bound,
        services: summary
            .services
            .iter()
            .map(|(service, (spans, errors))| ServiceCountJson {
                service: (**service).to_owned(),
                spans: *spans,
                errors: *errors,
            })
            .collect(),
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct MatchJson<'a> {
    trace_id: String,
    newest_match_unix_nano: String,
    matched_spans: u32,
    services: Vec<&'a str>,
    regions: Vec<&'a str>,
}

pub(super) fn match_json(found: &TraceMatch) -> MatchJson<'_> {
    MatchJson {
        trace_id: found.trace_id.to_string(),
        newest_match_unix_nano: found.newest_match.0.to_string(),
        matched_spans: found.matched_spans,
        services: found.services.iter().map(AsRef::as_ref).collect(),
        regions: found.regions.iter().map(Region::as_str).collect(),
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct RangeJson {
    start_unix_nano: String,
    end_unix_nano: String,
}

impl RangeJson {
    pub(super) fn new(range: TimeRange) -> Self {
        Self { start_unix_nano: range.start.0.to_string(), end_unix_nano: range.end.0.to_string() }
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct StatsJson {
    blocks_total: u64,
    blocks_opened: u64,
    blocks_without_match: u64,
    buckets_checked: u64,
    buckets_opened: u64,
    spans_scanned: u64,
    bytes_read: u64,
}

impl StatsJson {
    pub(super) const fn new(stats: &SearchStats) -> Self {
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
