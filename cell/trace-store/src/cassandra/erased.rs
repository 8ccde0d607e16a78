//! The list of erased traces, as this process knows it: asked for each trace that is written, read
//! or found, and never older than a few seconds when rows are written.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use hashbrown::{HashMap, HashSet};
use trace_model::{TenantId, TraceId, UnixNanos};

use super::engine::Engine;
use super::places::{DAY, bigint, day_of};
use super::schema::retention_seconds;
use crate::port::StoreError;

/// The list is read again after this time, before anything is written or read.
const AGE_MAX: Duration = Duration::from_secs(5);
/// So far apart clocks of processes may be: reading goes back by it, and deletions are dated ahead
/// by it, which covers what writers send that do not know of the erasure yet.
pub(super) const SKEW: Duration = Duration::from_secs(600);
/// An erasure is remembered for the retention and so long: by then no log gives the trace again.
const REMEMBERED: Duration = Duration::from_secs(7 * 24 * 3_600);
/// Days of an epoch: a partition of the list.
const EPOCH_DAYS: i32 = 32;

#[derive(Debug, Default)]
struct State {
    traces: HashMap<TenantId, HashSet<TraceId>>,
    /// Microseconds of the newest erasure that was read.
    newest: i64,
    read: Option<Duration>,
}

/// The list.
#[derive(Debug, Default)]
pub(super) struct ErasedList {
    state: Mutex<State>,
    gate: tokio::sync::Mutex<()>,
    retention: Duration,
}

impl ErasedList {
    pub(super) fn new(retention: Duration) -> Self {
        Self { retention, ..Self::default() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the trace is erased.
    pub(super) fn contains(&self, tenant: &TenantId, trace_id: TraceId) -> bool {
        let state = self.state();
        state.traces.get(tenant).is_some_and(|traces| traces.contains(&trace_id))
    }

    /// Brings the list up to date where it is older than a few seconds.
    pub(super) async fn refresh(&self, engine: &Engine) -> Result<(), StoreError> {
        let is_fresh = || {
            let now = engine.clock.monotonic();
            self.state().read.is_some_and(|at| now.saturating_sub(at) < AGE_MAX)
        };
        if is_fresh() {
            return Ok(());
        }
        let _gate = self.gate.lock().await;
        if is_fresh() { Ok(()) } else { self.load(engine).await }
    }

    /// Reads what is new since it was last read; everything the first time.
    pub(super) async fn load(&self, engine: &Engine) -> Result<(), StoreError> {
        let begun = engine.clock.monotonic();
        let now = engine.clock.now();
        let skew = SKEW.as_micros();
        let from = match self.state().newest {
            0 => 0,
            newest => newest.saturating_sub(i64::try_from(skew).unwrap_or(0)),
        };
        let kept = self.retention.saturating_add(REMEMBERED).as_nanos();
        let oldest = now.minus(u64::try_from(kept).unwrap_or(u64::MAX));
        let oldest = oldest.max(UnixNanos(from.unsigned_abs().saturating_mul(1_000)));
        for epoch in epoch_of(oldest)..=epoch_of(now.plus(DAY)) {
            let mut rows: Vec<(i64, String, Vec<u8>)> = Vec::new();
            let statement = &engine.statements.read_erased;
            engine.each(statement, (epoch, from), |row| rows.push(row)).await?;
            let mut state = self.state();
            for (at, tenant, trace_id) in rows {
                state.newest = state.newest.max(at);
                state.insert(&tenant, &trace_id);
            }
        }
        self.state().read = Some(begun);
        Ok(())
    }

    /// Writes a trace into the list.
    pub(super) async fn add(
        &self,
        engine: &Engine,
        tenant: &TenantId,
        trace_id: TraceId,
    ) -> Result<(), StoreError> {
        let now = engine.clock.now();
        let ttl = retention_seconds(self.retention.saturating_add(REMEMBERED));
        let trace = trace_id.as_bytes().as_slice();
        let values = (epoch_of(now), bigint(now.micros()), tenant.as_str(), trace, ttl);
        engine.execute(&engine.statements.write_erased, values).await?;
        self.state().traces.entry(tenant.clone()).or_default().insert(trace_id);
        Ok(())
    }
}

impl State {
    fn insert(&mut self, tenant: &str, trace_id: &[u8]) {
        let (Ok(tenant), Ok(trace_id)) = (TenantId::new(tenant), TraceId::try_from(trace_id))
        else {
            return;
        };
        self.traces.entry(tenant).or_default().insert(trace_id);
    }
}

fn epoch_of(time: UnixNanos) -> i32 {
    day_of(time) / EPOCH_DAYS
}
