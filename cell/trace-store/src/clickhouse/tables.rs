//! The tables.
//!
//! Times of the counts are whole seconds, durations nanoseconds. `block` numbers the insert with
//! which a row came; `arrived` is when it did.

use super::table::{Column, Merging, Placing, Table, column};

/// Which rows of one insert make one part.
const COUNTED: Placing =
    Placing { time: "minute", arrived: "arrived", is_outlying: "is_outlying", block: "block" };

const NAME: &str = "LowCardinality(String)";
const MINUTE: Column = column("minute", "DateTime64(0, 'UTC')", "DoubleDelta, ZSTD(1)");
const BUCKET: Column = column("bucket", "DateTime64(0, 'UTC')", "DoubleDelta, ZSTD(1)");
const KIND: Column = column(
    "kind",
    "Enum8('unspecified' = 0, 'internal' = 1, 'server' = 2, 'client' = 3, 'producer' = 4, 'consumer' = 5)",
    "ZSTD(1)",
);
const STATUS: Column = column("status", "Enum8('unset' = 0, 'ok' = 1, 'error' = 2)", "ZSTD(1)");
const TENANT: Column = column("tenant", NAME, "ZSTD(1)");
const SERVICE: Column = column("service", NAME, "ZSTD(1)");
const IS_OUTLYING: Column = column("is_outlying", "Bool", "ZSTD(1)");
const ARRIVED: Column =
    column("arrived", "SimpleAggregateFunction(max, DateTime('UTC'))", "DoubleDelta, ZSTD(1)");
const BLOCK: Column =
    column("block", "SimpleAggregateFunction(max, UInt64)", "DoubleDelta, ZSTD(1)");
const SEEN: Column = column("seen", "SimpleAggregateFunction(sum, UInt64)", "T64, ZSTD(1)");
const ESTIMATED: Column = column("estimated", "SimpleAggregateFunction(sum, Float64)", "ZSTD(1)");
/// A DDSketch: count by bucket, what is 0, and the exact statistics.
const BUCKETS: Column =
    column("buckets", "SimpleAggregateFunction(sumMap, Map(Int16, UInt64))", "ZSTD(1)");
const ZEROS: Column = column("zeros", "SimpleAggregateFunction(sum, UInt64)", "ZSTD(1)");
const SHORTEST: Column = column("shortest", "SimpleAggregateFunction(min, Float64)", "ZSTD(1)");
const LONGEST: Column = column("longest", "SimpleAggregateFunction(max, Float64)", "ZSTD(1)");
const TOTAL: Column = column("total", "SimpleAggregateFunction(sum, Float64)", "ZSTD(1)");
/// The slowest span and its trace; zeros for none.
const EXEMPLAR: Column = column(
    "exemplar",
    "SimpleAggregateFunction(max, Tuple(nanos UInt64, trace_id FixedString(16)))",
    "ZSTD(1)",
);

/// For dashboards: quantiles that the engine merges and finishes by itself.
const DIGEST: (Column, &str) = (
    column(
        "digest",
        "AggregateFunction(quantilesTDigestWeighted(0.5, 0.9, 0.95, 0.99), Float64, UInt64)",
        "ZSTD(1)",
    ),
    // A bucket `k` of the sketch stands for γ^k · 2γ / (1 + γ), γ = 1.01 / 0.99.
    "arrayReduce('quantilesTDigestWeightedState(0.5, 0.9, 0.95, 0.99)', \
     arrayConcat(arrayMap(k -> exp(k * log(1.01 / 0.99)) * 1.01, mapKeys(buckets)), \
     if(zeros > 0, [0.], CAST([], 'Array(Float64)'))), \
     arrayConcat(mapValues(buckets), if(zeros > 0, [zeros], CAST([], 'Array(UInt64)'))))",
);

/// Series of services: the roll-up over operations.
pub(super) static RED_SERVICES: Table = Table {
    name: "red_services",
    columns: &[
        TENANT,
        SERVICE,
        MINUTE,
        KIND,
        STATUS,
        IS_OUTLYING,
        ARRIVED,
        BLOCK,
        SEEN,
        ESTIMATED,
        BUCKETS,
        ZEROS,
        SHORTEST,
        LONGEST,
        TOTAL,
        EXEMPLAR,
    ],
    viewed: &[DIGEST],
    indexes: &["blocks block TYPE minmax GRANULARITY 1"],
    merging: Merging::Aggregating,
    placing: Some(COUNTED),
    partition: "",
    order: "(tenant, service, minute, kind, status)",
    granularity: 128,
    shard_by: Some("tenant, service"),
};

/// Series of operations.
pub(super) static RED_OPERATIONS: Table = Table {
    name: "red_operations",
    columns: &[
        TENANT,
        SERVICE,
        column("operation", NAME, "ZSTD(1)"),
        MINUTE,
        KIND,
        STATUS,
        IS_OUTLYING,
        ARRIVED,
        BLOCK,
        SEEN,
        ESTIMATED,
        BUCKETS,
        ZEROS,
        SHORTEST,
        LONGEST,
        TOTAL,
        EXEMPLAR,
    ],
    viewed: &[DIGEST],
    indexes: &["blocks block TYPE minmax GRANULARITY 1"],
    merging: Merging::Aggregating,
    placing: Some(COUNTED),
    partition: "",
    order: "(tenant, service, operation, minute, kind, status)",
    granularity: 128,
    shard_by: Some("tenant, service"),
};

const CALLER: Column = column("caller", NAME, "ZSTD(1)");
const CALLEE: Column = column("callee", NAME, "ZSTD(1)");
const IS_ERROR: Column = column("is_error", "Bool", "ZSTD(1)");

/// Calls between services.
pub(super) static EDGES: Table = Table {
    name: "edges",
    columns: &[
        TENANT,
        BUCKET,
        CALLER,
        CALLEE,
        IS_ERROR,
        IS_OUTLYING,
        ARRIVED,
        BLOCK,
        SEEN,
        ESTIMATED,
        BUCKETS,
        ZEROS,
        SHORTEST,
        LONGEST,
        TOTAL,
    ],
    viewed: &[],
    indexes: &["blocks block TYPE minmax GRANULARITY 1"],
    merging: Merging::Aggregating,
    placing: Some(Placing { time: "bucket", ..COUNTED }),
    partition: "",
    order: "(tenant, bucket, caller, callee, is_error)",
    granularity: 1_024,
    shard_by: Some("tenant, caller, callee"),
};

/// The newest traces of calls, newest first. `edge` is a hash of tenant, caller, callee and error.
pub(super) static EDGE_TRACES: Table = Table {
    name: "edge_traces",
    columns: &[
        TENANT,
        BUCKET,
        column("edge", "UInt64", "ZSTD(1)"),
        CALLER,
        CALLEE,
        IS_ERROR,
        IS_OUTLYING,
        column("arrived", "DateTime('UTC')", "DoubleDelta, ZSTD(1)"),
        column("block", "UInt64", "DoubleDelta, ZSTD(1)"),
        column("traces", "Array(FixedString(16))", "ZSTD(1)"),
    ],
    viewed: &[],
    indexes: &["blocks block TYPE minmax GRANULARITY 1"],
    merging: Merging::Replacing("block"),
    placing: Some(Placing { time: "bucket", ..COUNTED }),
    partition: "",
    order: "(tenant, bucket, edge, caller, callee, is_error)",
    granularity: 64,
    shard_by: Some("tenant, caller, callee"),
};

/// Deltas as they will be counted, until they are. Partitions are dropped by [`DELTAS_A_PARTITION`].
pub(super) static METRICS_DELTAS: Table = Table {
    name: "metrics_deltas",
    columns: &[
        column("sequence", "UInt64", ""),
        column("epoch", "UInt64", ""),
        // Rows of this delta, which of them this one is, and how many carry state.
        column("rows", "UInt32", ""),
        column("place", "UInt32", ""),
        column("part", "Enum8('cover' = 0, 'block' = 1, 'state' = 2)", ""),
        column("state_rows", "UInt32", ""),
        // Of `cover`: how far the log is counted, and whether `state` is appended.
        column("incarnation", "UInt64", ""),
        column("partitions", "Array(UInt32)", ""),
        column("nexts", "Array(UInt64)", ""),
        column("extends", "Bool", ""),
        // Of `block`: where it goes.
        column("target", NAME, ""),
        column("block", "UInt64", ""),
        column("is_outlying", "Bool", ""),
        column("day", "UInt32", ""),
        column("body", "String", "ZSTD(1)"),
    ],
    viewed: &[],
    indexes: &[],
    merging: Merging::Not,
    placing: None,
    partition: "intDiv(sequence, 16)",
    order: "(sequence, epoch, part, place)",
    granularity: 64,
    shard_by: None,
};

/// Deltas in one partition of `metrics_deltas`, as its definition says.
pub(super) const DELTAS_A_PARTITION: u64 = 16;

/// How far the log is counted, and who counts.
pub(super) static METRICS_PROGRESS: Table = Table {
    name: "metrics_progress",
    columns: &[
        column("sequence", "UInt64", ""),
        column("epoch", "UInt64", ""),
        column("step", "Enum8('opened' = 0, 'applied' = 1)", ""),
        column("incarnation", "UInt64", ""),
        column("partitions", "Array(UInt32)", ""),
        column("nexts", "Array(UInt64)", ""),
        column("at", "DateTime('UTC')", ""),
    ],
    viewed: &[],
    indexes: &[],
    merging: Merging::Not,
    placing: None,
    partition: "intDiv(sequence, 4096)",
    order: "(sequence, epoch, step)",
    granularity: 1_024,
    shard_by: None,
};

/// Deltas in one partition of `metrics_progress`, as its definition says.
pub(super) const PROGRESS_A_PARTITION: u64 = 4_096;

/// Traces that were erased and must not come back.
pub(super) static ERASED_TRACES: Table = Table {
    name: "erased_traces",
    columns: &[
        column("tenant", "String", ""),
        column("trace_id", "FixedString(16)", ""),
        column("at", "DateTime('UTC')", ""),
    ],
    viewed: &[],
    indexes: &[],
    merging: Merging::Replacing("at"),
    placing: None,
    partition: "tuple()",
    order: "(tenant, trace_id)",
    granularity: 8_192,
    shard_by: None,
};

/// Blocks of raw spans: begun before their insert, done after it.
pub(super) static SPAN_BLOCKS: Table = Table {
    name: "span_blocks",
    columns: &[
        column("incarnation", "UInt64", ""),
        column("partition", "UInt32", ""),
        column("step", "Enum8('begun' = 0, 'done' = 1)", ""),
        column("first", "UInt64", ""),
        column("next", "UInt64", ""),
        column("at", "DateTime('UTC')", ""),
    ],
    viewed: &[],
    indexes: &[],
    merging: Merging::Replacing("next"),
    placing: None,
    partition: "tuple()",
    order: "(incarnation, partition, step)",
    granularity: 1_024,
    shard_by: None,
};

const TEXT: &str = "String";
const ATTRIBUTES: &str = "Map(LowCardinality(String), String)";

/// Raw spans: the columns of the OpenTelemetry Collector's ClickHouse exporter, then ours.
pub(super) static OTEL_TRACES: Table = Table {
    name: "otel_traces",
    columns: &[
        column("Timestamp", "DateTime64(9)", "Delta, ZSTD(1)"),
        column("TraceId", TEXT, "ZSTD(1)"),
        column("SpanId", TEXT, "ZSTD(1)"),
        column("ParentSpanId", TEXT, "ZSTD(1)"),
        column("TraceState", TEXT, "ZSTD(1)"),
        column("SpanName", NAME, "ZSTD(1)"),
        column("SpanKind", NAME, "ZSTD(1)"),
        column("ServiceName", NAME, "ZSTD(1)"),
        column("ResourceAttributes", ATTRIBUTES, "ZSTD(1)"),
        column("ScopeName", TEXT, "ZSTD(1)"),
        column("ScopeVersion", TEXT, "ZSTD(1)"),
        column("SpanAttributes", ATTRIBUTES, "ZSTD(1)"),
        column("Duration", "UInt64", "ZSTD(1)"),
        column("StatusCode", NAME, "ZSTD(1)"),
        column("StatusMessage", TEXT, "ZSTD(1)"),
        column("Events.Timestamp", "Array(DateTime64(9))", "ZSTD(1)"),
        column("Events.Name", "Array(LowCardinality(String))", "ZSTD(1)"),
        column("Events.Attributes", "Array(Map(LowCardinality(String), String))", "ZSTD(1)"),
        column("Links.TraceId", "Array(String)", "ZSTD(1)"),
        column("Links.SpanId", "Array(String)", "ZSTD(1)"),
        column("Links.TraceState", "Array(String)", "ZSTD(1)"),
        column("Links.Attributes", "Array(Map(LowCardinality(String), String))", "ZSTD(1)"),
        column("Tenant", NAME, "ZSTD(1)"),
        column("Region", NAME, "ZSTD(1)"),
        column("AppendTime", "DateTime('UTC')", "DoubleDelta, ZSTD(1)"),
        column("IsOutlying", "Bool", "ZSTD(1)"),
        column("Block", "UInt64", "ZSTD(1)"),
    ],
    viewed: &[],
    indexes: &[
        "idx_trace_id TraceId TYPE bloom_filter(0.001) GRANULARITY 1",
        "idx_res_attr_key mapKeys(ResourceAttributes) TYPE bloom_filter(0.01) GRANULARITY 1",
        "idx_res_attr_value mapValues(ResourceAttributes) TYPE bloom_filter(0.01) GRANULARITY 1",
        "idx_span_attr_key mapKeys(SpanAttributes) TYPE bloom_filter(0.01) GRANULARITY 1",
        "idx_span_attr_value mapValues(SpanAttributes) TYPE bloom_filter(0.01) GRANULARITY 1",
        "idx_duration Duration TYPE minmax GRANULARITY 1",
        "idx_block Block TYPE bloom_filter(0.01) GRANULARITY 1",
    ],
    merging: Merging::Not,
    placing: Some(Placing {
        time: "Timestamp",
        arrived: "AppendTime",
        is_outlying: "IsOutlying",
        block: "Block",
    }),
    partition: "",
    order: "(ServiceName, SpanName, toDateTime(Timestamp))",
    granularity: 8_192,
    shard_by: Some("TraceId"),
};

/// When each trace was: narrows a question by id, as the exporter's table of this name does.
pub(super) static OTEL_TRACES_TRACE_ID_TS: Table = Table {
    name: "otel_traces_trace_id_ts",
    columns: &[
        column("TraceId", TEXT, "ZSTD(1)"),
        column("Start", "DateTime64(9)", "Delta, ZSTD(1)"),
        column("End", "DateTime64(9)", "Delta, ZSTD(1)"),
        column("Tenant", NAME, "ZSTD(1)"),
        column("AppendTime", "DateTime('UTC')", "DoubleDelta, ZSTD(1)"),
        column("IsOutlying", "Bool", "ZSTD(1)"),
        column("Block", "UInt64", "ZSTD(1)"),
    ],
    viewed: &[],
    indexes: &["idx_trace_id TraceId TYPE bloom_filter(0.01) GRANULARITY 1"],
    merging: Merging::Not,
    placing: Some(Placing {
        time: "Start",
        arrived: "AppendTime",
        is_outlying: "IsOutlying",
        block: "Block",
    }),
    partition: "",
    order: "(TraceId, toDateTime(Start))",
    granularity: 8_192,
    shard_by: Some("TraceId"),
};

/// What the view from `otel_traces` into `otel_traces_trace_id_ts` selects; also what mends it.
pub(super) const TRACE_TIMES: &str = "TraceId, min(Timestamp) AS Start, max(Timestamp) AS End, \
     Tenant, max(AppendTime) AS AppendTime, IsOutlying, Block";
/// … and by what it groups.
pub(super) const TRACE_TIMES_BY: &str = "TraceId, Tenant, IsOutlying, Block";

/// The table of this name that blocks go to.
pub(super) fn of_blocks(name: &str) -> Option<&'static Table> {
    ALL.into_iter().find(|table| table.name == name && table.placing.is_some())
}

/// All of them, in the order in which they are made.
pub(super) static ALL: [&Table; 10] = [
    &RED_SERVICES,
    &RED_OPERATIONS,
    &EDGES,
    &EDGE_TRACES,
    &METRICS_DELTAS,
    &METRICS_PROGRESS,
    &ERASED_TRACES,
    &SPAN_BLOCKS,
    &OTEL_TRACES,
    &OTEL_TRACES_TRACE_ID_TS,
];
