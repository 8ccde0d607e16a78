//! Entry spans that wait for their parent, and how far the cursor may go: never past one of them.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use rustc_hash::{FxHashMap, FxHashSet};
use trace_model::location::{Cursor, EntrySpan};
use trace_model::{SpanId, TenantId, TraceId};

/// Pauses between looks for a parent; the last repeats.
const PAUSES: [Duration; 5] = [
    Duration::from_secs(1),
    Duration::from_secs(2),
    Duration::from_secs(5),
    Duration::from_secs(10),
    Duration::from_secs(30),
];
/// Calls remembered as settled, about 100 bytes each: a growing trace names its entry spans again
/// in every version. Beyond, the aggregator tells.
const SETTLED_MAX: usize = 50_000;

/// What tells a call of one origin from all others: the called span.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct CallKey {
    pub(super) tenant: TenantId,
    pub(super) trace_id: TraceId,
    pub(super) span_id: SpanId,
}

/// A call whose parent is to be looked for now.
#[derive(Clone, Debug)]
pub(super) struct DueCall {
    pub(super) key: CallKey,
    pub(super) entry: EntrySpan,
    /// The version of our part of the trace at the last look.
    pub(super) looked_at: Option<u64>,
    /// Whether this is the last look.
    pub(super) is_last: bool,
}

#[derive(Debug)]
struct Waiting {
    entry: EntrySpan,
    delivery: u64,
    looks: usize,
    give_up: Duration,
    looked_at: Option<u64>,
}

#[derive(Debug)]
struct Delivery {
    next: Cursor,
    open: usize,
}

/// The calls of one origin that are under way, and the deliveries that brought them.
#[derive(Debug, Default)]
pub(super) struct Pending {
    waiting: FxHashMap<CallKey, Waiting>,
    /// By monotonic time, then by ticket.
    schedule: BTreeMap<(Duration, u64), CallKey>,
    tickets: u64,
    deliveries: VecDeque<Delivery>,
    /// Number of the first of the deliveries.
    base: u64,
    settled: FxHashSet<CallKey>,
    settled_order: VecDeque<CallKey>,
}

impl Pending {
    /// Calls under way.
    pub(super) fn len(&self) -> usize {
        self.waiting.len()
    }

    /// A delivery begins: the calls added from here on hold its cursor back.
    pub(super) fn begin(&mut self, next: Cursor) {
        self.deliveries.push_back(Delivery { next, open: 0 });
    }

    /// Adds a call of the last delivery, to be looked at now. Says whether it is new.
    pub(super) fn add(
        &mut self,
        key: CallKey,
        entry: EntrySpan,
        now: Duration,
        give_up: Duration,
    ) -> bool {
        if self.waiting.contains_key(&key) || self.settled.contains(&key) {
            return false;
        }
        let Some(delivery) = self.deliveries.back_mut() else { return false };
        delivery.open = delivery.open.saturating_add(1);
        let behind = u64::try_from(self.deliveries.len()).unwrap_or(u64::MAX).saturating_sub(1);
        let delivery = self.base.saturating_add(behind);
        let waiting = Waiting { entry, delivery, looks: 0, give_up, looked_at: None };
        self.waiting.insert(key.clone(), waiting);
        self.schedule(key, now);
        true
    }

    /// When the next call is due.
    pub(super) fn next_due(&self) -> Option<Duration> {
        self.schedule.first_key_value().map(|((due, _), _)| *due)
    }

    /// Takes calls that are due off the schedule: each is then put off or settled.
    pub(super) fn take_due(&mut self, now: Duration, limit: usize) -> Vec<DueCall> {
        let mut calls = Vec::new();
        while calls.len() < limit {
            let Some(first) = self.schedule.first_entry() else { break };
            if first.key().0 > now {
                break;
            }
            let key = first.remove();
            let Some(waiting) = self.waiting.get(&key) else { continue };
            calls.push(DueCall {
                entry: waiting.entry.clone(),
                looked_at: waiting.looked_at,
                is_last: now >= waiting.give_up,
                key,
            });
        }
        calls
    }

    /// The parent was not there: look again after the next pause.
    pub(super) fn put_off(&mut self, key: CallKey, now: Duration, looked_at: Option<u64>) {
        let Some(waiting) = self.waiting.get_mut(&key) else { return };
        let [shortest, .., longest] = PAUSES;
        let pause = PAUSES.get(waiting.looks).copied().unwrap_or(longest);
        waiting.looks = waiting.looks.saturating_add(1);
        waiting.looked_at = looked_at;
        let due = now.saturating_add(pause).min(waiting.give_up.max(now.saturating_add(shortest)));
        self.schedule(key, due);
    }

    /// The look failed: it says nothing about the parent, and is made again.
    pub(super) fn look_again(&mut self, key: CallKey, now: Duration) {
        let [shortest, ..] = PAUSES;
        self.schedule(key, now.saturating_add(shortest));
    }

    /// The call was not counted though its parent is known: look again when somebody may count,
    /// whatever was looked at.
    pub(super) fn offer_again(&mut self, key: CallKey, now: Duration) {
        if let Some(waiting) = self.waiting.get_mut(&key) {
            waiting.looked_at = None;
        }
        let [.., longest] = PAUSES;
        self.schedule(key, now.saturating_add(longest));
    }

    /// The call is counted, and its further mentions are passed over.
    pub(super) fn settle(&mut self, key: &CallKey) {
        self.give_up(key);
        if self.settled.insert(key.clone()) {
            self.settled_order.push_back(key.clone());
        }
        while self.settled_order.len() > SETTLED_MAX {
            let Some(oldest) = self.settled_order.pop_front() else { break };
            self.settled.remove(&oldest);
        }
    }

    /// The call is not waited for any longer. A later version of its contribution may bring it
    /// again.
    pub(super) fn give_up(&mut self, key: &CallKey) {
        let Some(waiting) = self.waiting.remove(key) else { return };
        let place = usize::try_from(waiting.delivery.saturating_sub(self.base));
        let delivery = place.ok().and_then(|place| self.deliveries.get_mut(place));
        if let Some(delivery) = delivery {
            delivery.open = delivery.open.saturating_sub(1);
        }
    }

    /// The cursor behind deliveries of which nothing is under way, once each.
    pub(super) fn take_passed(&mut self) -> Option<Cursor> {
        let mut passed = None;
        while self.deliveries.front().is_some_and(|first| first.open == 0) {
            passed = self.deliveries.pop_front().map(|first| first.next).or(passed);
            self.base = self.base.saturating_add(1);
        }
        passed
    }

    fn schedule(&mut self, key: CallKey, due: Duration) {
        self.schedule.insert((due, self.tickets), key);
        self.tickets = self.tickets.wrapping_add(1);
    }
}
