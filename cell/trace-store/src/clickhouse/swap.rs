//! Counts that were filled anew take the place of a cell's: their tables are exchanged, one by one.
//!
//! Nobody may count meanwhile: the cell's counts are closed first, for whoever counts and whoever opens
//! them, and open again with the last table, which is the one that says who counts. Which tables are to
//! be exchanged is written down before the first, by what the engine itself calls them: a swap that was
//! cut off at any point is finished by doing it again. The closed side stays in the other database.

use clickhouse::Row;
use serde::Deserialize;
use trace_model::{Clock, Coverage, UnixNanos};

use super::client::Engine;
use super::config::ClickhouseConfig;
use super::metrics::{close_counts, counted};
use super::table::Table;
use super::tables::{
    EDGE_TRACES, EDGES, METRICS_DELTAS, METRICS_PROGRESS, RED_OPERATIONS, RED_SERVICES,
};
use crate::port::StoreError;

/// What is exchanged, in order: who counts comes last.
static EXCHANGED: [&Table; 6] =
    [&RED_SERVICES, &RED_OPERATIONS, &EDGES, &EDGE_TRACES, &METRICS_DELTAS, &METRICS_PROGRESS];

/// How far a swap out of a database is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SwapState {
    /// None was begun.
    Open,
    /// It was begun, and cut off.
    Begun,
    /// It is done: the database holds what was swapped away.
    Done,
}

/// What counts are like beside others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CountsCompared {
    /// Partitions of which less is counted than of the cell's: partition, counted, counted in the cell's.
    pub behind: Vec<(u32, u64, u64)>,
    /// The first minute that is counted; `None` where nothing is.
    pub begins: Option<UnixNanos>,
    /// The first minute of the cell's.
    pub cell_begins: Option<UnixNanos>,
}

#[derive(Debug, Deserialize, Row)]
struct NamedRow {
    name: String,
    id: String,
}

/// Refuses in one database what was erased in another of the same engine. To be called before anybody
/// writes to it. Repeating it is harmless.
///
/// # Errors
/// [`StoreError::Unavailable`] while the engine is away.
pub async fn copy_erasures(
    from: &ClickhouseConfig,
    to: &ClickhouseConfig,
) -> Result<(), StoreError> {
    let engine = Engine::open(to.clone())?;
    let (from, to) = (&from.database, &to.database);
    let columns = "tenant, trace_id, at";
    let copy = format!(
        "INSERT INTO {to}.erased_traces ({columns}) SELECT {columns} FROM {from}.erased_traces"
    );
    engine.define(&copy).await
}

/// How far a swap out of this database is.
///
/// # Errors
/// [`StoreError::Unavailable`] while the engine is away.
pub async fn swap_state(
    cell: &ClickhouseConfig,
    filled: &ClickhouseConfig,
) -> Result<SwapState, StoreError> {
    let engine = Engine::open(filled.clone())?;
    let planned = plan(&engine).await?;
    if planned.is_empty() {
        return Ok(SwapState::Open);
    }
    let there = ids(&engine, &cell.database).await?;
    let is_done = planned.iter().all(|row| there.iter().any(|other| other.id == row.id));
    Ok(if is_done { SwapState::Done } else { SwapState::Begun })
}

/// Compares counts that were filled with the cell's.
///
/// # Errors
/// [`StoreError::Unsupported`] where they count different logs; [`StoreError::Unavailable`] while the
/// engine is away.
pub async fn compare_counts(
    cell: &ClickhouseConfig,
    filled: &ClickhouseConfig,
) -> Result<CountsCompared, StoreError> {
    let (cell, filled) = (Engine::open(cell.clone())?, Engine::open(filled.clone())?);
    let (theirs, ours): (Coverage, Coverage) = (counted(&cell).await?, counted(&filled).await?);
    if !theirs.next.is_empty() && theirs.incarnation != ours.incarnation {
        let words = "the databases count different logs: the topic was made anew in between";
        return Err(StoreError::Unsupported(words.to_owned()));
    }
    let mut behind = Vec::new();
    for (partition, wanted) in &theirs.next {
        let held = ours.next.get(partition).copied().unwrap_or(0);
        // Calls joined across borders are counted beside the partitions of the log.
        if *partition != u32::MAX && held < *wanted {
            behind.push((*partition, held, *wanted));
        }
    }
    let (begins, cell_begins) = (begins(&filled).await?, begins(&cell).await?);
    Ok(CountsCompared { behind, begins, cell_begins })
}

async fn begins(engine: &Engine) -> Result<Option<UnixNanos>, StoreError> {
    let sql = "SELECT count(), toInt64(toUnixTimestamp(min(minute))) FROM red_services";
    let rows: Vec<(u64, i64)> = engine.rows(engine.books(sql)).await?;
    let counted = rows.into_iter().find(|(rows, _)| *rows > 0);
    let seconds = counted.and_then(|(_, seconds)| u64::try_from(seconds).ok());
    Ok(seconds.map(|seconds| UnixNanos(seconds.saturating_mul(1_000_000_000))))
}

/// Exchanges the counts of a cell with those that were filled into another database of the engine, or
/// finishes that. The caller has made sure that nobody counts, and has compared them.
///
/// # Errors
/// [`StoreError::Unsupported`] on a cluster; [`StoreError::Unavailable`] while the engine is away: to be
/// done again.
pub async fn swap_counts(
    cell: &ClickhouseConfig,
    filled: &ClickhouseConfig,
    clock: &dyn Clock,
) -> Result<(), StoreError> {
    if cell.cluster.is_some() {
        let words = "tables of a cluster are not swapped: name the filled database in \
                     `clickhouse.database`, and start the cell again";
        return Err(StoreError::Unsupported(words.to_owned()));
    }
    let (theirs, ours) = (Engine::open(cell.clone())?, Engine::open(filled.clone())?);
    let mut planned = plan(&ours).await?;
    if planned.is_empty() {
        close_counts(&theirs, clock.now()).await?;
        planned = make_plan(&ours).await?;
    }
    for table in EXCHANGED {
        let there = ids(&theirs, &cell.database).await?;
        let id_in = |rows: &[NamedRow]| {
            rows.iter().find(|row| row.name == table.name).map(|row| row.id.clone())
        };
        let (Some(wanted), Some(held)) = (id_in(&planned), id_in(&there)) else {
            return Err(StoreError::Damaged(format!("the table {} is missing", table.name)));
        };
        if wanted != held {
            let (cell, filled, name) = (&cell.database, &filled.database, table.name);
            ours.define(&format!("EXCHANGE TABLES {cell}.{name} AND {filled}.{name}")).await?;
        }
    }
    Ok(())
}

/// Tables of a database, and what the engine calls them wherever they are.
async fn ids(engine: &Engine, database: &str) -> Result<Vec<NamedRow>, StoreError> {
    let sql = "SELECT name, toString(uuid) AS id FROM system.tables \
               WHERE database = {database:String}";
    engine.rows(engine.books_of_all(sql).param("database", database)).await
}

/// What is to be exchanged out of a database; empty where no swap was begun.
async fn plan(engine: &Engine) -> Result<Vec<NamedRow>, StoreError> {
    let tables = ids(engine, &engine.config.database).await?;
    if !tables.iter().any(|table| table.name == "swap") {
        return Ok(Vec::new());
    }
    engine.rows(engine.books("SELECT name, id FROM swap")).await
}

/// Writes down what is to be exchanged: all of it in one part, or nothing.
async fn make_plan(engine: &Engine) -> Result<Vec<NamedRow>, StoreError> {
    let database = &engine.config.database;
    engine
        .define(&format!(
            "CREATE TABLE IF NOT EXISTS {database}.swap (name String, id String) \
             ENGINE = MergeTree ORDER BY name SETTINGS fsync_after_insert = 1"
        ))
        .await?;
    let names = EXCHANGED.map(|table| format!("'{}'", table.name)).join(", ");
    engine
        .define(&format!(
            "INSERT INTO {database}.swap SELECT name, toString(uuid) FROM system.tables \
             WHERE database = '{database}' AND name IN ({names})"
        ))
        .await?;
    plan(engine).await
}
