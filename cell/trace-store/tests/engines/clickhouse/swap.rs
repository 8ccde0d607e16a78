//! Schemas led forward, and counts that take the place of others.

use proto::LoggedBatch;
use trace_store::clickhouse::{
    SCHEMA, SwapState, Swapped, compare, copy_erasures, init, migrate, status, swap, swap_state,
};
use trace_store::{Eraser, MetricsStore, Migration, Schema, SpanWriter, StoreError};

use super::spans::{logged, today};
use super::{Database, clock, is_fenced, is_unavailable};
use crate::fixture::{Request, trace_id};
use crate::metrics::{everything, some_delta, tenant, trace};

static STEPS: [Migration; 2] = [
    Migration {
        to: 2,
        what: "how long an edge's rows lay in queues",
        statements: &[
            "ALTER TABLE {store}.edges{on_cluster} ADD COLUMN IF NOT EXISTS queued UInt64 DEFAULT 7",
        ],
    },
    Migration {
        to: 3,
        what: "a table of notes",
        statements: &[
            "CREATE TABLE IF NOT EXISTS {store}.notes{on_cluster} (note String) ENGINE = MergeTree ORDER BY note",
        ],
    },
];
static NEXT: Schema = Schema { version: 3, steps: &STEPS };

#[tokio::test]
async fn a_schema_goes_forward_step_by_step_while_the_old_release_writes_on() {
    let database = Database::new().await;
    let config = &database.config;
    let store = database.metrics().await;
    store.checkpoint().await.unwrap();
    store.apply(some_delta(1, 0, 0)).await.unwrap();
    let planned = migrate(config, &NEXT, true).await.unwrap();
    assert_eq!((planned.found, planned.wanted, &planned.steps[..]), (1, 3, &STEPS[..]));
    assert_eq!(status(config).await.unwrap().schema, Some(1), "a dry run changes nothing");
    let advice = status(config).await.unwrap().advice("it", &NEXT).unwrap();
    assert!(advice.contains("2 (how long an edge's rows lay in queues), 3 (a table"), "{advice}");
    // As if a try before had been cut off behind its statement.
    database
        .run(
            &STEPS[0].statements[0]
                .replace("{store}", &config.database)
                .replace("{on_cluster}", ""),
        )
        .await;
    assert_eq!(migrate(config, &NEXT, false).await.unwrap(), planned);
    assert_eq!(
        database.ask::<u32>("SELECT version FROM schema_version ORDER BY version").await,
        [1, 2, 3]
    );
    // What was there reads with the default, what comes as it comes; who was there writes on.
    store.apply(some_delta(2, 0, 0)).await.unwrap();
    database.run("INSERT INTO edges (caller, queued, arrived) VALUES ('new', 9, now())").await;
    let queued = database
        .ask::<(u64, u64)>("SELECT queued, count() FROM edges GROUP BY queued ORDER BY queued")
        .await;
    assert_eq!(queued, [(7, 2), (9, 1)]);
    assert_eq!(migrate(config, &NEXT, false).await.unwrap().steps, []);
    // This release is the older one now.
    for refused in [
        init(config).await,
        migrate(config, &SCHEMA, false).await.map(drop),
        trace_store::ClickhouseMetricsStore::connect(config.clone(), clock()).await.map(drop),
    ] {
        let is_newer = matches!(refused, Err(StoreError::NewerFormat { found: 3, known: 1, .. }));
        assert!(is_newer, "{refused:?}");
    }
    // And an older schema than this release's is not run on, nor made over.
    database.run("ALTER TABLE schema_version DELETE WHERE version > 0").await;
    database.run("INSERT INTO schema_version VALUES (0, now())").await;
    for refused in [
        init(config).await,
        trace_store::ClickhouseMetricsStore::connect(config.clone(), clock()).await.map(drop),
    ] {
        assert!(refused.unwrap_err().to_string().contains("store migrate"));
    }
}

#[tokio::test]
async fn counts_are_swapped_whole_also_where_a_swap_was_cut_off() {
    let (cell, filled) = (Database::new().await, Database::new().await);
    let store = cell.metrics().await;
    store.checkpoint().await.unwrap();
    for next in 1..=4 {
        store.apply(some_delta(next, next, 0)).await.unwrap();
    }
    store.erase(&tenant("default"), trace(2)).await.unwrap();
    let before = everything(&store).await;
    copy_erasures(&cell.config, &filled.config).await.unwrap();
    let fill = filled.metrics().await;
    fill.checkpoint().await.unwrap();
    fill.apply(some_delta(3, 3, 1)).await.unwrap();
    let compared = compare(Swapped::Counts, &cell.config, &filled.config).await.unwrap();
    assert_eq!(compared.behind, [(0, 3, 4)]);
    assert!(compared.begins > compared.cell_begins);
    fill.apply(some_delta(5, 5, 1)).await.unwrap();
    assert_eq!(compare(Swapped::Counts, &cell.config, &filled.config).await.unwrap().behind, []);
    let wanted = everything(&fill).await;
    let state = || swap_state(Swapped::Counts, &cell.config, &filled.config);
    assert_eq!(state().await.unwrap(), SwapState::Open);
    swap(Swapped::Counts, &cell.config, &filled.config, clock()).await.unwrap();
    // As if it had been cut off behind the third table.
    filled.run("ALTER TABLE swap DELETE WHERE id = ''").await;
    for table in ["edge_traces", "metrics_deltas", "metrics_progress"] {
        let (cell_name, filled_name) = (&cell.config.database, &filled.config.database);
        cell.run(&format!("EXCHANGE TABLES {cell_name}.{table} AND {filled_name}.{table}")).await;
    }
    assert_eq!(state().await.unwrap(), SwapState::Begun);
    assert!(is_fenced(&store.apply(some_delta(6, 6, 0)).await), "the old writer is refused");
    assert!(is_unavailable(&cell.metrics().await.checkpoint().await), "nobody opens half of it");
    swap(Swapped::Counts, &cell.config, &filled.config, clock()).await.unwrap();
    assert_eq!(state().await.unwrap(), SwapState::Done);
    // It goes on from what was filled, in tables that are the cell's; the old one stays refused.
    let next = cell.metrics().await;
    assert_eq!(everything(&next).await, wanted);
    assert!(is_fenced(&store.apply(some_delta(6, 6, 0)).await));
    next.apply(some_delta(6, 6, 2)).await.unwrap();
    assert_eq!(cell.number("SELECT count() FROM red_services WHERE service = 'fraud'").await, 1);
    assert_eq!(filled.number("SELECT count() FROM red_services WHERE service = 'fraud'").await, 0);
    assert!(
        is_unavailable(&filled.metrics().await.checkpoint().await),
        "the old counts are closed"
    );
    assert_ne!(before, wanted);
}

/// Spans of these traces, one a record, from an offset on.
fn spans_of(first: u64, traces: std::ops::Range<u64>) -> LoggedBatch {
    let spans: Vec<_> = traces.map(|trace| today(trace, 1, "work")).collect();
    logged(0, first, Request::of("web", &spans).batch())
}

async fn trace_ids(database: &Database, table: &str) -> Vec<u128> {
    let sql = format!("SELECT TraceId FROM {table} ORDER BY TraceId");
    let ids = database.ask::<String>(&sql).await;
    ids.iter().map(|id| u128::from_str_radix(id, 16).unwrap()).collect()
}

fn ids(traces: impl IntoIterator<Item = u64>) -> Vec<u128> {
    let mut ids: Vec<_> =
        traces.into_iter().map(|id| u128::from_be_bytes(*trace_id(id).as_bytes())).collect();
    ids.sort_unstable();
    ids
}

/// As whoever erases a trace writes it down first.
async fn erased_in(database: &Database, trace: u64) {
    let id: String = trace_id(trace).as_bytes().iter().map(|byte| format!("{byte:02x}")).collect();
    let note = "INSERT INTO erased_traces (tenant, trace_id, at)";
    database.run(&format!("{note} SELECT 'default', unhex('{id}'), now()")).await;
}

#[tokio::test]
async fn raw_spans_are_swapped_whole_also_where_a_swap_was_cut_off() {
    let (cell, filled) = (Database::new().await, Database::new().await);
    let writer = cell.spans().await;
    writer.write(&[spans_of(0, 0..4)]).await.unwrap();
    writer.flush(clock().now(), true).await.unwrap();
    copy_erasures(&cell.config, &filled.config).await.unwrap();
    // What the cell has, but for trace 0, which no log has any more.
    let fill = filled.spans().await;
    fill.write(&[spans_of(1, 1..3)]).await.unwrap();
    fill.flush(clock().now(), true).await.unwrap();
    let what = Swapped::Spans;
    let compared = compare(what, &cell.config, &filled.config).await.unwrap();
    assert_eq!(compared.behind, [(0, 3, 4)]);
    fill.write(&[spans_of(3, 3..6)]).await.unwrap();
    fill.flush(clock().now(), true).await.unwrap();
    let compared = compare(what, &cell.config, &filled.config).await.unwrap();
    assert!(compared.behind.is_empty() && compared.begins.is_some());
    // Erased in the cell while the other was filled, which only notes it when it is looked at again.
    erased_in(&cell, 2).await;
    copy_erasures(&cell.config, &filled.config).await.unwrap();
    // A try that ended before it had written down what to exchange.
    filled.run("CREATE TABLE swap (name String, id String) ENGINE = MergeTree ORDER BY name").await;
    let state = || swap_state(what, &cell.config, &filled.config);
    assert_eq!(state().await.unwrap(), SwapState::Open);
    // A try that ended when it had written that down, and had not closed the cell.
    filled
        .run(
            "INSERT INTO swap SELECT name, toString(uuid) FROM system.tables \
             WHERE database = currentDatabase() \
             AND name IN ('otel_traces', 'otel_traces_trace_id_ts', 'span_blocks')",
        )
        .await;
    assert_eq!(state().await.unwrap(), SwapState::Open);
    swap(what, &cell.config, &filled.config, clock()).await.unwrap();
    assert_eq!(state().await.unwrap(), SwapState::Done);
    // As if it had been cut off behind the first table; and another trace was erased meanwhile.
    filled.run("ALTER TABLE swap DELETE WHERE id = ''").await;
    for table in ["otel_traces_trace_id_ts", "span_blocks"] {
        let (cell_name, filled_name) = (&cell.config.database, &filled.config.database);
        cell.run(&format!("EXCHANGE TABLES {cell_name}.{table} AND {filled_name}.{table}")).await;
    }
    assert_eq!(state().await.unwrap(), SwapState::Begun);
    // What is there can be asked, and nobody writes to half of it.
    let opened = cell.spans().await;
    let refused = opened.write(&[spans_of(5, 5..8)]).await.unwrap_err().to_string();
    assert!(refused.contains("being swapped") && refused.contains("--swap"), "{refused}");
    assert_eq!(status(&cell.config).await.unwrap().covered.len(), 2);
    assert!(is_unavailable(&writer.begin_turn().await), "nobody begins on half of it");
    erased_in(&cell, 4).await;
    swap(what, &cell.config, &filled.config, clock()).await.unwrap();
    assert_eq!(state().await.unwrap(), SwapState::Done);
    // The cell goes on behind what was filled, in tables that are its own.
    writer.begin_turn().await.unwrap();
    writer.write(&[spans_of(5, 5..8)]).await.unwrap();
    writer.flush(clock().now(), true).await.unwrap();
    for table in ["otel_traces", "otel_traces_trace_id_ts"] {
        assert_eq!(trace_ids(&cell, table).await, ids([1, 3, 5, 6, 7]), "{table}");
        assert_eq!(trace_ids(&filled, table).await, ids(0..4), "{table}");
    }
    assert!(is_unavailable(&fill.begin_turn().await), "what was swapped away is closed");
    // The counts of the two are another matter.
    let counts = swap_state(Swapped::Counts, &cell.config, &filled.config).await;
    assert_eq!(counts.unwrap(), SwapState::Open);
}

#[tokio::test]
async fn what_a_later_swap_has_replaced_is_not_swapped_in_again() {
    let (cell, first, second) =
        (Database::new().await, Database::new().await, Database::new().await);
    let what = Swapped::Spans;
    for (filled, next) in [(&first, 2), (&second, 3)] {
        let fill = filled.spans().await;
        fill.write(&[spans_of(0, 0..next)]).await.unwrap();
        fill.flush(clock().now(), true).await.unwrap();
        swap(what, &cell.config, &filled.config, clock()).await.unwrap();
    }
    for filled in [&first, &second] {
        let state = swap_state(what, &cell.config, &filled.config).await.unwrap();
        assert_eq!(state, SwapState::Done);
        swap(what, &cell.config, &filled.config, clock()).await.unwrap();
        assert_eq!(trace_ids(&cell, "otel_traces").await, ids(0..3));
    }
    // As if the first had not got to its end: its tables are in use no more.
    first.run("ALTER TABLE swap DELETE WHERE id = ''").await;
    let state = swap_state(what, &cell.config, &first.config).await.unwrap();
    assert_eq!(state, SwapState::Done);
    assert!(swap(what, &cell.config, &first.config, clock()).await.is_err());
    assert_eq!(trace_ids(&cell, "otel_traces").await, ids(0..3));
    cell.spans().await.write(&[spans_of(3, 3..4)]).await.unwrap();
}
