//! What was filled anew takes the place of a cell's: counts, or raw spans. Their tables are exchanged, one by
//! one.
//!
//! Nobody may write meanwhile. Which tables are to be exchanged is written down first, by what the engine
//! itself calls them; then the cell's side is closed, for whoever writes and whoever opens it, and opens
//! again with the last table, which is the one that says how far the log is taken in. In the end it is
//! written down that it has ended. A swap that was cut off at any point is finished by doing it again. The
//! closed side stays in the other database.
//!
//! What was erased in the cell is erased in what was filled before the first exchange, and looked for once
//! more after the last: that a database has noted an erasure does not say that its rows are gone.

use std::sync::Arc;

use clickhouse::Row;
use serde::Deserialize;
use trace_model::{Clock, Coverage, UnixNanos};

use super::client::Engine;
use super::config::ClickhouseConfig;
use super::metrics::{ClickhouseMetricsStore, Erased, close_counts, counted};
use super::spans::{ClickhouseSpans, close_spans, stored};
use super::table::Table;
use super::tables::{
    EDGE_TRACES, EDGES, METRICS_DELTAS, METRICS_PROGRESS, OTEL_TRACES, OTEL_TRACES_TRACE_ID_TS,
    RED_OPERATIONS, RED_SERVICES, SPAN_BLOCKS,
};
use crate::port::{Eraser, StoreError};

/// What is exchanged, in order: what says how far the log is in comes last.
static COUNTS: [&Table; 6] =
    [&RED_SERVICES, &RED_OPERATIONS, &EDGES, &EDGE_TRACES, &METRICS_DELTAS, &METRICS_PROGRESS];
static SPANS: [&Table; 3] = [&OTEL_TRACES, &OTEL_TRACES_TRACE_ID_TS, &SPAN_BLOCKS];

/// What takes the place of a cell's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Swapped {
    /// What metrics-aggregator counts.
    Counts,
    /// What analytics-writer writes: `otel_traces`.
    Spans,
}

impl Swapped {
    fn tables(self) -> &'static [&'static Table] {
        match self {
            Self::Counts => &COUNTS,
            Self::Spans => &SPANS,
        }
    }

    fn has(self, name: &str) -> bool {
        self.tables().iter().any(|table| table.name == name)
    }

    /// What stands in the plan when all is done.
    const fn end(self) -> &'static str {
        match self {
            Self::Counts => "counts are swapped",
            Self::Spans => "raw spans are swapped",
        }
    }

    async fn covered(self, engine: &Engine) -> Result<Coverage, StoreError> {
        match self {
            Self::Counts => counted(engine).await,
            Self::Spans => stored(engine).await,
        }
    }

    async fn close(self, engine: &Engine, now: UnixNanos) -> Result<(), StoreError> {
        match self {
            Self::Counts => close_counts(engine, now).await,
            Self::Spans => close_spans(engine, now).await,
        }
    }

    async fn eraser(
        self,
        config: &ClickhouseConfig,
        clock: &Arc<dyn Clock>,
    ) -> Result<Box<dyn Eraser>, StoreError> {
        let (config, clock) = (config.clone(), Arc::clone(clock));
        Ok(match self {
            Self::Counts => Box::new(ClickhouseMetricsStore::connect(config, clock).await?),
            Self::Spans => Box::new(ClickhouseSpans::connect(config, clock).await?),
        })
    }
}

/// How far a swap out of a database is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SwapState {
    /// Nothing is exchanged: the two may be compared, and more may be filled in.
    Open,
    /// It was begun, and cut off between two tables.
    Begun,
    /// It is over: the database holds what was swapped away.
    Done,
}

/// What was filled, beside the cell's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Compared {
    /// Partitions of which less is in than in the cell's: partition, offset, the cell's offset.
    pub behind: Vec<(u32, u64, u64)>,
    /// The first minute that is counted, or the first time of an append; `None` where there is nothing.
    pub begins: Option<UnixNanos>,
    /// The same of the cell's.
    pub cell_begins: Option<UnixNanos>,
}

#[derive(Debug, Deserialize, Row, PartialEq, Eq)]
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
    what: Swapped,
    cell: &ClickhouseConfig,
    filled: &ClickhouseConfig,
) -> Result<SwapState, StoreError> {
    let (theirs, ours) = (Engine::open(cell.clone())?, Engine::open(filled.clone())?);
    let Plan { tables, has_ended } = plan(what, &ours).await?;
    if tables.is_empty() {
        return Ok(SwapState::Open);
    }
    let places = Places::of(&theirs, &ours).await?;
    // Where another swap has followed, what was filled here is in use no more, and this one is over.
    if has_ended || !tables.iter().any(|row| places.have(row)) {
        return Ok(SwapState::Done);
    }
    Ok(if places.has_begun(&tables) { SwapState::Begun } else { SwapState::Open })
}

/// Compares what was filled with the cell's.
///
/// # Errors
/// [`StoreError::Unsupported`] where they are of different logs; [`StoreError::Unavailable`] while the
/// engine is away.
pub async fn compare(
    what: Swapped,
    cell: &ClickhouseConfig,
    filled: &ClickhouseConfig,
) -> Result<Compared, StoreError> {
    let (cell, filled) = (Engine::open(cell.clone())?, Engine::open(filled.clone())?);
    let (theirs, ours) = (what.covered(&cell).await?, what.covered(&filled).await?);
    if !theirs.next.is_empty() && theirs.incarnation != ours.incarnation {
        let words = "the databases are of different logs: the topic was made anew in between";
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
    let (begins, cell_begins) = (begins(what, &filled).await?, begins(what, &cell).await?);
    Ok(Compared { behind, begins, cell_begins })
}

async fn begins(what: Swapped, engine: &Engine) -> Result<Option<UnixNanos>, StoreError> {
    let sql = match what {
        Swapped::Counts => {
            "SELECT count(), toInt64(toUnixTimestamp(min(minute))) FROM red_services"
        }
        Swapped::Spans => {
            "SELECT count(), toInt64(toUnixTimestamp(min(AppendTime))) FROM otel_traces"
        }
    };
    let rows: Vec<(u64, i64)> = engine.rows(engine.books(sql)).await?;
    let counted = rows.into_iter().find(|(rows, _)| *rows > 0);
    let seconds = counted.and_then(|(_, seconds)| u64::try_from(seconds).ok());
    Ok(seconds.map(|seconds| UnixNanos(seconds.saturating_mul(1_000_000_000))))
}

/// Exchanges what a cell has with what was filled into another database of the engine, or finishes that.
/// The caller has made sure that nobody writes it, and has compared them. Takes about a minute for each
/// trace that was erased since the fill began.
///
/// # Errors
/// [`StoreError::Unsupported`] on a cluster; [`StoreError::Unavailable`] while the engine is away: to be
/// done again.
pub async fn swap(
    what: Swapped,
    cell: &ClickhouseConfig,
    filled: &ClickhouseConfig,
    clock: Arc<dyn Clock>,
) -> Result<(), StoreError> {
    if cell.cluster.is_some() {
        let words = "tables of a cluster are not swapped: name the filled database in \
                     `clickhouse.database`, and start the cell again";
        return Err(StoreError::Unsupported(words.to_owned()));
    }
    let (theirs, ours) = (Engine::open(cell.clone())?, Engine::open(filled.clone())?);
    let mut planned = plan(what, &ours).await?;
    if planned.tables.is_empty() {
        planned = make_plan(what, &ours).await?;
    }
    if planned.has_ended {
        return Ok(());
    }
    let places = Places::of(&theirs, &ours).await?;
    if !places.has_begun(&planned.tables) {
        what.close(&theirs, clock.now()).await?;
        forget(what, &theirs, filled, &clock).await?;
    }
    for table in what.tables() {
        exchange(&planned.tables, table, &theirs, &ours).await?;
    }
    // What was filled is the cell's now.
    forget(what, &theirs, cell, &clock).await?;
    let (database, end) = (&filled.database, what.end());
    ours.define(&format!("INSERT INTO {database}.swap SELECT '{end}', ''")).await
}

/// Exchanges a table, unless that is done.
async fn exchange(
    planned: &[NamedRow],
    table: &Table,
    theirs: &Engine,
    ours: &Engine,
) -> Result<(), StoreError> {
    let name = table.name;
    let missing = || StoreError::Damaged(format!("the table {name} that was filled is missing"));
    let row = planned.iter().find(|row| row.name == name).ok_or_else(missing)?;
    let places = Places::of(theirs, ours).await?;
    if places.theirs.contains(row) {
        return Ok(());
    }
    if !places.ours.contains(row) {
        return Err(missing());
    }
    let (cell, filled) = (&theirs.config.database, &ours.config.database);
    ours.define(&format!("EXCHANGE TABLES {cell}.{name} AND {filled}.{name}")).await
}

/// Erases what was erased in the cell in what was filled, which lies in this database now. Where nothing of
/// a trace is found that is a question a table.
async fn forget(
    what: Swapped,
    theirs: &Engine,
    lies_in: &ClickhouseConfig,
    clock: &Arc<dyn Clock>,
) -> Result<(), StoreError> {
    let erased = Erased::read(theirs).await?;
    let nothing = Erased::default();
    let mut wanted = erased.since(&nothing).peekable();
    if wanted.peek().is_none() {
        return Ok(());
    }
    let eraser = what.eraser(lies_in, clock).await?;
    for (tenant, trace_id) in wanted {
        eraser.erase(tenant, *trace_id).await?;
    }
    Ok(())
}

/// Tables of both databases.
struct Places {
    theirs: Vec<NamedRow>,
    ours: Vec<NamedRow>,
}

impl Places {
    async fn of(theirs: &Engine, ours: &Engine) -> Result<Self, StoreError> {
        let (cell, filled) = (&theirs.config.database, &ours.config.database);
        Ok(Self { theirs: ids(theirs, cell).await?, ours: ids(ours, filled).await? })
    }

    /// Whether a table is exchanged. Until then the cell may not be closed yet, and have gone on.
    fn has_begun(&self, planned: &[NamedRow]) -> bool {
        planned.iter().any(|row| !self.ours.contains(row))
    }

    fn have(&self, row: &NamedRow) -> bool {
        self.theirs.contains(row) || self.ours.contains(row)
    }
}

/// Tables of a database, and what the engine calls them wherever they are.
async fn ids(engine: &Engine, database: &str) -> Result<Vec<NamedRow>, StoreError> {
    let sql = "SELECT name, toString(uuid) AS id FROM system.tables \
               WHERE database = {database:String}";
    engine.rows(engine.books_of_all(sql).param("database", database)).await
}

/// What is to be exchanged out of a database.
struct Plan {
    /// Empty where no swap was begun.
    tables: Vec<NamedRow>,
    has_ended: bool,
}

async fn plan(what: Swapped, engine: &Engine) -> Result<Plan, StoreError> {
    let made = ids(engine, &engine.config.database).await?;
    if !made.iter().any(|table| table.name == "swap") {
        return Ok(Plan { tables: Vec::new(), has_ended: false });
    }
    let mut tables: Vec<NamedRow> = engine.rows(engine.books("SELECT name, id FROM swap")).await?;
    let has_ended = tables.iter().any(|row| row.name == what.end());
    tables.retain(|row| what.has(&row.name));
    Ok(Plan { tables, has_ended })
}

/// Writes down what is to be exchanged: all of it in one part, or nothing.
async fn make_plan(what: Swapped, engine: &Engine) -> Result<Plan, StoreError> {
    let database = &engine.config.database;
    engine
        .define(&format!(
            "CREATE TABLE IF NOT EXISTS {database}.swap (name String, id String) \
             ENGINE = MergeTree ORDER BY name SETTINGS fsync_after_insert = 1"
        ))
        .await?;
    let names = what.tables().iter().map(|table| format!("'{}'", table.name));
    let names = names.collect::<Vec<_>>().join(", ");
    engine
        .define(&format!(
            "INSERT INTO {database}.swap SELECT name, toString(uuid) FROM system.tables \
             WHERE database = '{database}' AND name IN ({names})"
        ))
        .await?;
    plan(what, engine).await
}
