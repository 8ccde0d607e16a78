//! How far the log is written, here and by others, and how much is held of each day.
//!
//! A row of progress is dated by its offset: of two that meet, the further one stays, whatever the
//! clocks of their writers say.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use proto::LoggedBatch;
use trace_model::{Coverage, LogPosition};

use super::batches::RowBatch;
use super::engine::Engine;
use super::places::{bigint, day_of, ttl_seconds, unsigned};
use crate::port::{StoreError, StoreFigures};

/// Progress is written, and that of others read, at most once in this time.
const INTERVAL: Duration = Duration::from_secs(1);

/// Day, incarnation of the log, partition.
type HeldKey = (i32, u64, u32);

/// What was written of a day, up to an offset.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Held {
    next: u64,
    spans: u64,
    bytes: u64,
}

#[derive(Debug, Default)]
struct State {
    /// Rows are written up to here.
    written: Coverage,
    /// And so far it is written down.
    durable: Coverage,
    held: BTreeMap<HeldKey, Held>,
    changed: BTreeSet<HeldKey>,
    flushed: Option<Duration>,
    loaded: Option<Duration>,
}

/// The progress of one log.
#[derive(Debug)]
pub(super) struct Progress {
    log: String,
    retention_nanos: u64,
    state: Mutex<State>,
    gate: tokio::sync::Mutex<()>,
}

impl Progress {
    pub(super) fn new(log: &str, retention_nanos: u64) -> Self {
        let state = Mutex::default();
        Self { log: log.to_owned(), retention_nanos, state, gate: tokio::sync::Mutex::default() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How far the log is written and written down.
    pub(super) fn durable(&self) -> Coverage {
        self.state().durable.clone()
    }

    /// Whether everything that is written is written down.
    pub(super) fn is_durable(&self) -> bool {
        let state = self.state();
        state.written == state.durable
    }

    /// As [`Self::durable`], with what other processes have written down about a second ago. To be taken
    /// before the rows that it is to cover.
    pub(super) async fn covered(&self, engine: &Engine) -> Result<Coverage, StoreError> {
        let is_due = {
            let now = engine.clock.monotonic();
            self.state().loaded.is_none_or(|at| now.saturating_sub(at) >= INTERVAL)
        };
        // Who comes while another reads takes what is known: older is never too much.
        if is_due && let Ok(_gate) = self.gate.try_lock() {
            self.load(engine).await?;
        }
        Ok(self.durable())
    }

    /// Whether batches begin behind a gap: their partition was another process's until now.
    pub(super) fn has_gap(&self, batches: &[LoggedBatch]) -> bool {
        let mut written = self.state().written.clone();
        batches.iter().any(|logged| {
            let range = logged.range;
            let is_gap = range.first > written.next_in(logged.incarnation, range.partition);
            written.extend_in(logged.incarnation, range.partition, range.next);
            is_gap
        })
    }

    /// Reads what was written down.
    pub(super) async fn load(&self, engine: &Engine) -> Result<(), StoreError> {
        let begun = engine.clock.monotonic();
        let mut found: Vec<(i64, i32, i64)> = Vec::new();
        let statement = &engine.statements.read_progress;
        engine.each(statement, (&self.log,), |row| found.push(row)).await?;
        let mut held: Vec<(i32, i64, i32, i64, i64, i64)> = Vec::new();
        let statement = &engine.statements.read_held;
        engine.each(statement, (&self.log,), |row| held.push(row)).await?;
        let mut state = self.state();
        for (incarnation, partition, next) in found {
            let mut coverage = Coverage::none(incarnation.cast_unsigned());
            coverage.extend(partition.cast_unsigned(), unsigned(next));
            state.durable.join(&coverage);
            state.written.join(&coverage);
        }
        for (day, incarnation, partition, next, spans, bytes) in held {
            let key = (day, incarnation.cast_unsigned(), partition.cast_unsigned());
            let next = unsigned(next);
            let known = state.held.entry(key).or_default();
            if next > known.next {
                *known = Held { next, spans: unsigned(spans), bytes: unsigned(bytes) };
            }
        }
        state.loaded = Some(begun);
        Ok(())
    }

    /// Notes that the rows of these batches are written. Records that were written before count no
    /// second time.
    pub(super) fn wrote(&self, batches: &[LoggedBatch]) {
        let state = &mut *self.state();
        for logged in batches {
            let batch = &logged.batch;
            let day = day_of(batch.source().receive_time);
            let key = (day, logged.incarnation, logged.range.partition);
            let (mut spans, mut bytes) = (0, 0);
            // After a crash the figures may be ahead of the progress.
            let counted = state.held.get(&key).map_or(0, |held| held.next);
            for (slice, offset) in batch.traces().iter().zip(logged.range.first..) {
                let position = LogPosition { partition: logged.range.partition, offset };
                let is_new = !state.written.covers(logged.incarnation, position);
                if is_new && offset >= counted {
                    let of_trace = batch.spans_of(slice);
                    spans += of_trace.len() as u64;
                    bytes +=
                        of_trace.iter().map(|span| batch.bytes_of(span).len() as u64).sum::<u64>();
                }
            }
            if spans > 0 {
                let held = state.held.entry(key).or_default();
                held.next = held.next.max(logged.range.next);
                held.spans += spans;
                held.bytes += bytes;
                state.changed.insert(key);
            }
            let range = logged.range;
            state.written.extend_in(logged.incarnation, range.partition, range.next);
        }
    }

    /// Writes down how far the rows are written: once a second, or at once where it is forced.
    pub(super) async fn flush(&self, engine: &Engine, force: bool) -> Result<(), StoreError> {
        let now = engine.clock.monotonic();
        let (written, rows, held) = {
            let mut state = self.state();
            let is_due = state.flushed.is_none_or(|at| now.saturating_sub(at) >= INTERVAL);
            if state.written == state.durable || !(force || is_due) {
                return Ok(());
            }
            state.flushed = Some(now);
            (state.written.clone(), self.progress_rows(&state), self.held_rows(&state, engine))
        };
        engine.write(&engine.statements.write_held, &held.1).await?;
        engine.write(&engine.statements.write_progress, &rows).await?;
        let mut state = self.state();
        state.durable.join(&written);
        for (key, next) in held.0 {
            if state.held.get(&key).is_some_and(|known| known.next == next) {
                state.changed.remove(&key);
            }
        }
        Ok(())
    }

    /// A row for each partition, of any incarnation, that is written further than is written down.
    fn progress_rows(&self, state: &State) -> RowBatch<(i64, i64, String, i64, i32)> {
        let mut rows = Vec::new();
        let of_all = state.written.earlier.iter();
        let of_all = of_all.chain([(&state.written.incarnation, &state.written.next)]);
        for (incarnation, partitions) in of_all {
            for (partition, next) in partitions {
                if state.durable.next_in(*incarnation, *partition) < *next {
                    let (log, next) = (self.log.clone(), bigint(*next));
                    let key = (incarnation.cast_signed(), partition.cast_signed());
                    rows.push((next, next, log, key.0, key.1));
                }
            }
        }
        let bytes = rows.len() * 40;
        RowBatch { rows, bytes }
    }

    #[expect(clippy::type_complexity, reason = "the order of the statement's values")]
    fn held_rows(
        &self,
        state: &State,
        engine: &Engine,
    ) -> (Vec<(HeldKey, u64)>, RowBatch<(i32, i64, i64, i64, i64, String, i32, i64, i32)>) {
        let now = engine.clock.now();
        let (mut keys, mut rows) = (Vec::new(), Vec::new());
        for key in &state.changed {
            let Some(held) = state.held.get(key) else { continue };
            keys.push((*key, held.next));
            let end = super::places::slot_times(key.0, 143).1;
            let Some(ttl) = ttl_seconds(end, self.retention_nanos, now) else { continue };
            let next = bigint(held.next);
            let (spans, bytes) = (bigint(held.spans), bigint(held.bytes));
            let (incarnation, partition) = (key.1.cast_signed(), key.2.cast_signed());
            let log = self.log.clone();
            rows.push((ttl, next, next, spans, bytes, log, key.0, incarnation, partition));
        }
        let bytes = rows.len() * 60;
        (keys, RowBatch { rows, bytes })
    }

    /// What was written of the days that retention has not reached.
    pub(super) fn figures(&self, now: trace_model::UnixNanos) -> StoreFigures {
        let oldest = day_of(now.minus(self.retention_nanos));
        let mut figures = StoreFigures::default();
        for held in self.state().held.range((oldest, 0, 0)..).map(|(_, held)| held) {
            figures.spans = figures.spans.saturating_add(held.spans);
            figures.bytes = figures.bytes.saturating_add(held.bytes);
        }
        figures
    }
}
