//! Joins the calls of one origin: take a delivery → look for parents → offer → settle → move the
//! cursor. One task; what it knows is a function of the origin's log behind the cursor.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use trace_model::location::{Cursor, EntrySpan, Keep};
use trace_model::{Contribution, Region, TenantId, TraceId, UnixNanos};

use super::cursor_file::CursorFile;
use super::pending::{CallKey, DueCall, Pending};
use super::skew::SkewSample;
use super::{BorderParts, ParentSpan};
use crate::metrics_aggregator::cross_border::AggregatorEnded;
use crate::metrics_aggregator::{EntryJoin, JoinOutcome};

/// Calls looked at in one go: until it is done nothing else of the origin moves.
const LOOKS_MAX: usize = 256;
/// With nothing due, the cursor is looked at this often.
const IDLE: Duration = Duration::from_secs(1);
/// A cursor that passed only watermarks is written this much more seldom.
const QUIET_FACTOR: u32 = 30;

/// A frame's contributions and the cursor behind them.
pub(super) type Delivered = (Vec<Contribution>, Cursor);

type Offered = (CallKey, SkewSample, Result<JoinOutcome, AggregatorEnded>);

/// Joins the calls of one origin.
#[derive(Debug)]
pub(super) struct OriginJoiner {
    origin: Region,
    parts: BorderParts,
    file: CursorFile,
    pending: Pending,
    offers: FuturesUnordered<BoxFuture<'static, Offered>>,
    /// How far the cursor may be moved; written when it is due.
    passed: Option<Cursor>,
    has_passed_calls: bool,
    saved_at: Duration,
}

impl OriginJoiner {
    pub(super) fn new(origin: Region, file: CursorFile, parts: BorderParts) -> Self {
        let saved_at = parts.clock.monotonic();
        Self {
            origin,
            parts,
            file,
            pending: Pending::default(),
            offers: FuturesUnordered::new(),
            passed: None,
            has_passed_calls: false,
            saved_at,
        }
    }

    /// Joins until the token is cancelled or the stream has ended.
    pub(super) async fn run(
        mut self,
        mut deliveries: mpsc::Receiver<Delivered>,
        token: CancellationToken,
    ) {
        loop {
            let pause = self.until_due().unwrap_or(IDLE);
            let (can_look, has_room) = (self.can_look(), self.has_room());
            tokio::select! {
                biased;
                () = token.cancelled() => break,
                Some(offered) = self.offers.next() => self.close(offered),
                () = tokio::time::sleep(pause), if can_look => self.look().await,
                delivered = deliveries.recv(), if has_room => {
                    let Some(delivered) = delivered else { break };
                    self.take(delivered);
                }
            }
            self.save_if_due().await;
        }
        self.end().await;
    }

    /// Whether another delivery is taken. Otherwise the origin's stream waits, and with it what has
    /// waited longest there is the first to be given up: nothing that is here is lost.
    pub(super) fn has_room(&self) -> bool {
        self.pending.len() < self.parts.config.waiting_max
    }

    fn can_look(&self) -> bool {
        self.offers.len() < self.parts.config.offers_max
    }

    fn until_due(&self) -> Option<Duration> {
        let due = self.pending.next_due()?;
        Some(due.saturating_sub(self.parts.clock.monotonic()).min(IDLE))
    }

    /// Adds the entry spans of a delivery.
    pub(super) fn take(&mut self, (contributions, next): Delivered) {
        self.pending.begin(next);
        self.has_passed_calls |= !contributions.is_empty();
        for contribution in contributions {
            let is_held = !contribution.is_erased && contribution.keep != Keep::SampledOut;
            if is_held {
                self.add_entries(contribution);
            }
        }
    }

    fn add_entries(&mut self, contribution: Contribution) {
        let Some(detail) = contribution.detail else { return };
        let (wall, now) = (self.parts.clock.now(), self.parts.clock.monotonic());
        let age = Duration::from_nanos(wall.since(contribution.last_append));
        let config = &self.parts.config;
        let left = config.wait_max.saturating_sub(age).max(config.wait_min);
        for entry in detail.entries {
            if age.max(age_of(&entry, wall)) > config.age_max {
                self.parts.metrics.late.inc();
                continue;
            }
            let key = CallKey {
                tenant: contribution.tenant.clone(),
                trace_id: contribution.trace_id,
                span_id: entry.span_id,
            };
            if self.pending.add(key, entry, now, now.saturating_add(left)) {
                self.parts.metrics.pending.inc();
            }
        }
    }

    /// Looks for the parents of calls that are due.
    pub(super) async fn look(&mut self) {
        let now = self.parts.clock.monotonic();
        let mut traces: BTreeMap<(TenantId, TraceId), Vec<DueCall>> = BTreeMap::new();
        for call in self.pending.take_due(now, LOOKS_MAX) {
            let trace = (call.key.tenant.clone(), call.key.trace_id);
            traces.entry(trace).or_default().push(call);
        }
        if traces.is_empty() {
            return;
        }
        let (keys, calls): (Vec<_>, Vec<_>) = traces.into_iter().unzip();
        match self.parts.own.versions(&keys).await {
            Ok(versions) => {
                let versions = versions.into_iter().chain(std::iter::repeat(None));
                for ((trace, calls), version) in keys.iter().zip(calls).zip(versions) {
                    self.look_into(trace, calls, version).await;
                }
            }
            Err(error) => self.note_failure(&error, calls.into_iter().flatten()),
        }
    }

    async fn look_into(
        &mut self,
        (tenant, trace_id): &(TenantId, TraceId),
        calls: Vec<DueCall>,
        version: Option<u64>,
    ) {
        let is_unread = |call: &DueCall| version.is_some() && call.looked_at != version;
        let parents: Vec<_> = calls
            .iter()
            .filter(|call| is_unread(call))
            .map(|call| call.entry.parent_span_id)
            .collect();
        if parents.is_empty() {
            for call in calls {
                self.wait_on(call, version);
            }
            return;
        }
        self.parts.metrics.reads.inc();
        match self.parts.parents.parents_of(tenant, *trace_id, &parents).await {
            Ok(held) => {
                for call in calls {
                    match held.get(&call.entry.parent_span_id) {
                        Some(parent) => self.offer(call, parent),
                        None => self.wait_on(call, version),
                    }
                }
            }
            Err(error) => self.note_failure(&error, calls.into_iter()),
        }
    }

    fn note_failure(&mut self, error: &super::LookupError, calls: impl Iterator<Item = DueCall>) {
        tracing::debug!(%error, origin = %self.origin, "parents are looked for again");
        self.parts.metrics.failed_looks.inc();
        let now = self.parts.clock.monotonic();
        for call in calls {
            self.pending.look_again(call.key, now);
        }
    }

    fn wait_on(&mut self, call: DueCall, version: Option<u64>) {
        if call.is_last {
            self.parts.metrics.dropped.inc();
            self.parts.metrics.pending.dec();
            self.pending.give_up(&call.key);
            return;
        }
        self.pending.put_off(call.key, self.parts.clock.monotonic(), version);
    }

    fn offer(&mut self, call: DueCall, parent: &ParentSpan) {
        let DueCall { key, entry, .. } = call;
        let sample = SkewSample {
            parent_start: parent.start,
            parent_end: parent.end,
            child_start: entry.start,
            child_end: entry.start.plus(entry.duration_nanos),
        };
        let join = EntryJoin {
            tenant: key.tenant.clone(),
            trace_id: key.trace_id,
            region: self.origin.clone(),
            entry,
            parent_service: Arc::clone(&parent.service),
            adjusted_count: self.parts.config.adjusted_count,
        };
        let calls = Arc::clone(&self.parts.calls);
        self.offers.push(Box::pin(async move { (key, sample, calls.count(join).await) }));
    }

    /// Takes the aggregator's answer. Without an aggregator the call is offered again: it may be made
    /// anew. A call that is counted now is a sample of how the two regions' clocks differ.
    fn close(&mut self, (key, sample, outcome): Offered) {
        let metrics = &self.parts.metrics;
        let now = self.parts.clock.monotonic();
        match outcome {
            Ok(JoinOutcome::Counted) => {
                metrics.joined.inc();
                metrics.skew.offer(&self.origin, sample, now);
            }
            Ok(JoinOutcome::AlreadyCounted) => drop(metrics.repeated.inc()),
            Ok(JoinOutcome::SameService) => drop(metrics.same_service.inc()),
            Err(AggregatorEnded) => {
                metrics.failed_looks.inc();
                self.pending.offer_again(key, now);
                return;
            }
        }
        metrics.pending.dec();
        self.pending.settle(&key);
    }

    /// Waits for all offers that are out; for tests, which drive the steps by hand.
    #[cfg(test)]
    pub(super) async fn close_all(&mut self) {
        while let Some(offered) = self.offers.next().await {
            self.close(offered);
        }
    }

    /// Writes the cursor where it is due.
    pub(super) async fn save_if_due(&mut self) {
        self.passed = self.pending.take_passed().or(self.passed);
        let every = self.parts.config.save_every;
        let every = if self.has_passed_calls { every } else { every * QUIET_FACTOR };
        let since = self.parts.clock.monotonic().saturating_sub(self.saved_at);
        if since >= every {
            self.save().await;
        }
    }

    async fn save(&mut self) {
        let Some(cursor) = self.passed else { return };
        self.saved_at = self.parts.clock.monotonic();
        let file = self.file.clone();
        match tokio::task::spawn_blocking(move || file.write(cursor)).await {
            Ok(Ok(())) => {
                self.passed = None;
                self.has_passed_calls = false;
            }
            Ok(Err(error)) => {
                tracing::warn!(%error, origin = %self.origin, "a cursor is not written");
            }
            Err(error) => tracing::warn!(%error, origin = %self.origin, "a cursor is not written"),
        }
    }

    /// What is under way comes again after the next start.
    async fn end(mut self) {
        self.passed = self.pending.take_passed().or(self.passed);
        self.save().await;
        let left = i64::try_from(self.pending.len()).unwrap_or(i64::MAX);
        self.parts.metrics.pending.dec_by(left);
    }
}

fn age_of(entry: &EntrySpan, now: UnixNanos) -> Duration {
    Duration::from_nanos(now.since(entry.start.plus(entry.duration_nanos)))
}
