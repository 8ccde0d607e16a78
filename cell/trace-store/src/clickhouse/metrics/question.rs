//! Questions about the counts. Every one names its tenant and its time, by which the engine prunes
//! partitions and then the primary key.

use std::collections::BTreeMap;
use std::sync::Arc;

use clickhouse::Row;
use clickhouse::query::Query;
use proto::DurationSketch;
use proto::sketch::SketchParts;
use serde::Deserialize;
use trace_model::{SpanKind, StatusCode, TenantId, TimeRange, TraceId, UnixNanos};

use super::encode::{Edges, SECONDS_MAX, edge_hash, time_of};
use crate::clickhouse::client::{Engine, parameter};
use crate::memory_metrics::{BUCKET_NANOS, MINUTE_NANOS, TRACES_PER_EDGE_MAX, TraceList, touching};
use crate::port::{
    EdgeKey, EdgeRow, EdgeTraceQuery, EdgeTraces, RedKey, RedQuery, RedRow, StoreError,
};

const SECOND_NANOS: u64 = 1_000_000_000;
/// Edges whose lists are asked for at once: their hashes fit into one parameter.
const HASHES_MAX: usize = 4_000;

/// The sums of a series or an edge.
const SUMS: &str = "sum(seen) AS spans, sum(estimated) AS estimate, sumMap(buckets) AS sketch, \
     sum(zeros) AS zero, min(shortest) AS least, max(longest) AS most, sum(total) AS whole";

/// Binds a range of whole steps: `{from:Int64}` included, `{to:Int64}` not.
fn bind_time(query: Query, range: TimeRange) -> Query {
    let to = i64::try_from(range.end.0.div_ceil(SECOND_NANOS)).unwrap_or(i64::MAX);
    query.param("from", time_of(range.start)).param("to", to.min(SECONDS_MAX.saturating_add(1)))
}

fn time_condition(column: &str) -> String {
    format!(
        "{column} >= toDateTime64({{from:Int64}}, 0, 'UTC') \
         AND {column} < toDateTime64({{to:Int64}}, 0, 'UTC')"
    )
}

#[derive(Debug, Deserialize, Row)]
struct SeriesRow {
    minute: i64,
    service: String,
    operation: String,
    kind: i8,
    status: i8,
    spans: u64,
    estimate: f64,
    sketch: Vec<(i16, u64)>,
    zero: u64,
    least: f64,
    most: f64,
    whole: f64,
    slowest: (u64, [u8; 16]),
}

/// The table of a question for series.
pub(super) const fn table_of(query: &RedQuery) -> &'static str {
    if query.by_operation { "red_operations" } else { "red_services" }
}

/// Which rows a question for series asks for.
pub(super) fn red_condition(query: &RedQuery) -> String {
    let service = if query.service.is_some() { "AND service = {service:String}" } else { "" };
    format!("tenant = {{tenant:String}} {service} AND {}", time_condition("minute"))
}

/// The statement of a question for series, of rows for which `also` is true as well.
pub(super) fn red_sql(query: &RedQuery, also: &str) -> String {
    let operation = if query.by_operation { "operation" } else { "''" };
    let by = if query.by_operation { ", operation" } else { "" };
    format!(
        "SELECT minute, service, CAST({operation}, 'String') AS operation, kind, status, {SUMS}, \
         CAST(max(exemplar), 'Tuple(UInt64, FixedString(16))') AS slowest FROM {} \
         WHERE {} {also} GROUP BY minute, service{by}, kind, status",
        table_of(query),
        red_condition(query),
    )
}

/// A question for series, with what it asks for.
pub(super) fn ask_red(engine: &Engine, sql: &str, query: &RedQuery) -> Result<Query, StoreError> {
    let question = engine.question(sql).param("tenant", query.tenant.as_str());
    let question = bind_time(question, touching(query.range, MINUTE_NANOS));
    Ok(match &query.service {
        Some(service) => question.param("service", parameter(service, "service")?),
        None => question,
    })
}

/// Series of the minutes that touch the range, by key.
pub(super) async fn red(
    engine: &Engine,
    query: &RedQuery,
) -> Result<Vec<(RedKey, RedRow)>, StoreError> {
    red_rows(engine, ask_red(engine, &red_sql(query, ""), query)?, query).await
}

/// The series that a question gives, by key.
pub(super) async fn red_rows(
    engine: &Engine,
    question: Query,
    query: &RedQuery,
) -> Result<Vec<(RedKey, RedRow)>, StoreError> {
    let mut found = Vec::new();
    for row in engine.rows::<SeriesRow>(question).await? {
        found.push(series(row, query)?);
    }
    found.sort_by(|(left, _), (right, _)| left.cmp(right));
    Ok(found)
}

fn series(row: SeriesRow, query: &RedQuery) -> Result<(RedKey, RedRow), StoreError> {
    let key = RedKey {
        tenant: query.tenant.clone(),
        minute: nanos(row.minute),
        service: row.service.into(),
        operation: query.by_operation.then(|| row.operation.into()),
        kind: SpanKind::from_number(i32::from(row.kind)),
        status: StatusCode::from_number(i32::from(row.status)),
    };
    let (slowest, trace_id) = row.slowest;
    let durations = sketch(row.sketch, row.zero, (row.least, row.most, row.whole))?;
    let row = RedRow {
        seen: row.spans,
        estimated: row.estimate,
        durations,
        exemplar: TraceId::from_bytes(trace_id).ok().map(|trace_id| (slowest, trace_id)),
    };
    Ok((key, row))
}

fn nanos(seconds: i64) -> UnixNanos {
    UnixNanos(u64::try_from(seconds).unwrap_or(0).saturating_mul(SECOND_NANOS))
}

fn sketch(
    buckets: Vec<(i16, u64)>,
    zeros: u64,
    (shortest, longest, total): (f64, f64, f64),
) -> Result<DurationSketch, StoreError> {
    let buckets = buckets.into_iter().map(|(bucket, count)| (i32::from(bucket), count)).collect();
    let parts = SketchParts { zeros, buckets, shortest, longest, total };
    DurationSketch::from_parts(&parts).map_err(|error| StoreError::Damaged(error.to_string()))
}

#[derive(Debug, Deserialize, Row)]
struct EdgeSums {
    caller: String,
    callee: String,
    is_error: bool,
    spans: u64,
    estimate: f64,
    sketch: Vec<(i16, u64)>,
    zero: u64,
    least: f64,
    most: f64,
    whole: f64,
}

#[derive(Debug, Deserialize, Row)]
struct EdgeList {
    caller: String,
    callee: String,
    is_error: bool,
    newest: Vec<[u8; 16]>,
}

/// Which rows a question for edges asks for.
pub(super) fn edge_condition() -> String {
    format!("tenant = {{tenant:String}} AND {}", time_condition("bucket"))
}

/// A question for edges of the buckets that touch the range.
pub(super) fn ask_edges(engine: &Engine, sql: &str, tenant: &TenantId, range: TimeRange) -> Query {
    bind_time(engine.question(sql).param("tenant", tenant.as_str()), touching(range, BUCKET_NANOS))
}

/// Edges of the buckets that touch the range, summed over them.
pub(super) async fn edges(
    engine: &Engine,
    tenant: &TenantId,
    range: TimeRange,
) -> Result<Vec<(EdgeKey, EdgeRow)>, StoreError> {
    edge_rows(engine, (tenant, range), "", |question| question).await
}

/// Edges for which `also` is true, whose parameters `bind` gives.
pub(super) async fn edge_rows(
    engine: &Engine,
    (tenant, range): (&TenantId, TimeRange),
    also: &str,
    bind: impl Fn(Query) -> Query,
) -> Result<Vec<(EdgeKey, EdgeRow)>, StoreError> {
    let rows = edge_condition();
    let sums = format!(
        "SELECT caller, callee, is_error, {SUMS} FROM edges \
         WHERE {rows} {also} GROUP BY caller, callee, is_error"
    );
    // Lists of later buckets go before those of earlier ones.
    let lists = format!(
        "SELECT caller, callee, is_error, arraySlice(arrayDistinct(arrayFlatten(arrayMap(\
         list -> list.2, arrayReverseSort(list -> list.1, groupArray((bucket, held)))))), \
         1, {TRACES_PER_EDGE_MAX}) AS newest FROM \
         (SELECT caller, callee, is_error, bucket, argMax(traces, block) AS held FROM edge_traces \
         WHERE {rows} {also} \
         GROUP BY caller, callee, is_error, bucket) GROUP BY caller, callee, is_error"
    );
    let ask = |sql: &str| bind(ask_edges(engine, sql, tenant, range));
    let range = touching(range, BUCKET_NANOS);
    let sums = engine.rows::<EdgeSums>(ask(&sums)).await?;
    let lists = engine.rows::<EdgeList>(ask(&lists)).await?;
    let key = |caller: String, callee: String, is_error: bool| EdgeKey {
        tenant: tenant.clone(),
        bucket: range.start,
        caller: caller.into(),
        callee: callee.into(),
        is_error,
    };
    let mut found: BTreeMap<EdgeKey, EdgeRow> = BTreeMap::new();
    for row in sums {
        let durations = sketch(row.sketch, row.zero, (row.least, row.most, row.whole))?;
        let (seen, estimated) = (row.spans, row.estimate);
        let summed = EdgeRow { seen, estimated, durations, traces: Vec::new() };
        found.insert(key(row.caller, row.callee, row.is_error), summed);
    }
    for list in lists {
        if let Some(row) = found.get_mut(&key(list.caller, list.callee, list.is_error)) {
            row.traces = traces_of(&list.newest);
        }
    }
    Ok(found.into_iter().collect())
}

fn traces_of(ids: &[[u8; 16]]) -> Vec<TraceId> {
    ids.iter().filter_map(|id| TraceId::from_bytes(*id).ok()).collect()
}

#[derive(Debug, Deserialize, Row)]
struct HeldTraces {
    held: Vec<[u8; 16]>,
}

/// Traces with such a call in the buckets that touch the range, newest bucket first, each once.
pub(super) async fn edge_traces(
    engine: &Engine,
    query: &EdgeTraceQuery,
) -> Result<EdgeTraces, StoreError> {
    let key = EdgeKey {
        tenant: query.tenant.clone(),
        bucket: query.range.start,
        caller: Arc::clone(&query.caller),
        callee: Arc::clone(&query.callee),
        is_error: true,
    };
    let mut hashes = vec![edge_hash(&key, true)];
    if !query.only_errors {
        hashes.push(edge_hash(&key, false));
    }
    let sql = format!(
        "SELECT argMax(traces, block) AS held FROM edge_traces \
         WHERE tenant = {{tenant:String}} AND {} AND edge IN {{edges:Array(UInt64)}} \
         AND caller = {{caller:String}} AND callee = {{callee:String}} \
         GROUP BY bucket, is_error ORDER BY bucket DESC, is_error DESC",
        time_condition("bucket")
    );
    let question = engine
        .question(&sql)
        .param("tenant", query.tenant.as_str())
        .param("edges", hashes)
        .param("caller", parameter(&query.caller, "caller")?)
        .param("callee", parameter(&query.callee, "callee")?);
    let question = bind_time(question, touching(query.range, BUCKET_NANOS));
    let mut list = TraceList::of(query);
    for row in engine.rows::<HeldTraces>(question).await? {
        list.add(&EdgeRow { traces: traces_of(&row.held), ..EdgeRow::default() });
    }
    Ok(list.finish())
}

#[derive(Debug, Deserialize, Row)]
struct HeldList {
    bucket: i64,
    caller: String,
    callee: String,
    is_error: bool,
    held: Vec<[u8; 16]>,
}

/// The traces that are held of a delta's edges, where the delta's own do not fill their lists.
pub(super) async fn held_lists(
    engine: &Engine,
    edges: &Edges,
) -> Result<Vec<(EdgeKey, Vec<TraceId>)>, StoreError> {
    let mut by_tenant: BTreeMap<&TenantId, Vec<&EdgeKey>> = BTreeMap::new();
    for (key, row) in edges {
        if (1..TRACES_PER_EDGE_MAX).contains(&row.traces.len()) {
            by_tenant.entry(&key.tenant).or_default().push(key);
        }
    }
    let mut lists = Vec::new();
    for (tenant, keys) in by_tenant {
        for keys in keys.chunks(HASHES_MAX) {
            held_lists_of(engine, tenant, keys, &mut lists).await?;
        }
    }
    Ok(lists)
}

async fn held_lists_of(
    engine: &Engine,
    tenant: &TenantId,
    keys: &[&EdgeKey],
    lists: &mut Vec<(EdgeKey, Vec<TraceId>)>,
) -> Result<(), StoreError> {
    let times = || keys.iter().map(|key| key.bucket);
    let (Some(start), Some(last)) = (times().min(), times().max()) else { return Ok(()) };
    let sql = format!(
        "SELECT bucket, caller, callee, is_error, argMax(traces, block) AS held FROM edge_traces \
         WHERE tenant = {{tenant:String}} AND {} AND edge IN {{edges:Array(UInt64)}} \
         GROUP BY bucket, caller, callee, is_error",
        time_condition("bucket")
    );
    let hashes: Vec<u64> = keys.iter().map(|key| edge_hash(key, key.is_error)).collect();
    let question = engine.books(&sql).param("tenant", tenant.as_str()).param("edges", hashes);
    let range = TimeRange { start, end: last.plus(SECOND_NANOS) };
    for row in engine.rows::<HeldList>(bind_time(question, range)).await? {
        let key = EdgeKey {
            tenant: tenant.clone(),
            bucket: nanos(row.bucket),
            caller: row.caller.into(),
            callee: row.callee.into(),
            is_error: row.is_error,
        };
        lists.push((key, traces_of(&row.held)));
    }
    Ok(())
}
