//! The live tail of one partition: the records that storage-writer has not committed, by trace.
//! Bounded by the caller. Pure.

use std::collections::VecDeque;
use std::time::Duration;

use hashbrown::HashMap;
use proto::LoggedBatch;
use trace_model::{LogRange, StoredSpan, TenantId, TraceId};

use super::blocks::{Item, Loss, weight};
use super::tail_disk::OnDisk;
use crate::embedded::put_spans;

/// Damaged ranges that are told apart by trace; beyond it every trace counts as damaged.
const DAMAGED_MAX: usize = 1_000;

type TraceKey = (TenantId, TraceId);

/// Memory of a record that is on disk, about: its place and its trace's.
const ON_DISK_WEIGHT: usize = 200;

/// A record of the tail.
#[derive(Clone, Debug)]
pub(crate) enum Held {
    InMemory(LoggedBatch),
    /// With the traces that it has spans of.
    OnDisk(OnDisk, Box<[TraceKey]>),
}

impl Held {
    /// A record that was written to disk.
    pub(crate) fn on_disk(place: OnDisk, logged: &LoggedBatch) -> Self {
        Self::OnDisk(place, keys_of(logged).collect())
    }

    const fn range(&self) -> LogRange {
        match self {
            Self::InMemory(logged) => logged.range,
            Self::OnDisk(place, _) => place.range,
        }
    }

    fn weight(&self) -> usize {
        match self {
            Self::InMemory(logged) => weight(&logged.batch),
            Self::OnDisk(_, keys) => ON_DISK_WEIGHT.saturating_mul(keys.len().max(1)),
        }
    }

    fn for_each_key(&self, visit: impl FnMut(TraceKey)) {
        match self {
            Self::InMemory(logged) => keys_of(logged).for_each(visit),
            Self::OnDisk(_, keys) => keys.iter().cloned().for_each(visit),
        }
    }
}

/// What the tail holds of a partition.
#[derive(Debug)]
pub(crate) struct TailMemory {
    next: u64,
    records: VecDeque<Held>,
    /// Offsets of a trace's records, ascending.
    by_trace: HashMap<TraceKey, VecDeque<u64>>,
    bytes: Weights,
    /// Damaged ranges that storage-writer has not passed: where each ends, and whose it was (`None`:
    /// anybody's).
    damaged: VecDeque<(u64, Option<TraceKey>)>,
    /// Commits that wait for their grace: when each was seen, and where.
    graced: VecDeque<(Duration, u64)>,
}

/// Memory in use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Weights {
    /// Of records that are in memory.
    pub(crate) records: usize,
    /// Of what is known about those on disk.
    pub(crate) places: usize,
}

impl Weights {
    fn of(&mut self, held: &Held) -> &mut usize {
        match held {
            Held::InMemory(_) => &mut self.records,
            Held::OnDisk(..) => &mut self.places,
        }
    }
}

/// What a partition's tail says about a trace.
#[derive(Debug, Default)]
pub(crate) struct TraceTail {
    /// Spans of records in memory.
    pub(crate) spans: Vec<StoredSpan>,
    /// Records that have others.
    pub(crate) on_disk: Vec<OnDisk>,
    pub(crate) is_damaged: bool,
}

impl TailMemory {
    /// A tail that starts at an offset.
    pub(crate) fn starting_at(from: u64) -> Self {
        Self {
            next: from,
            records: VecDeque::new(),
            by_trace: HashMap::new(),
            bytes: Weights::default(),
            damaged: VecDeque::new(),
            graced: VecDeque::new(),
        }
    }

    /// Next offset to take in.
    pub(crate) const fn next(&self) -> u64 {
        self.next
    }

    /// Memory in use.
    pub(crate) const fn bytes(&self) -> Weights {
        self.bytes
    }

    /// Takes in what was read at `next`.
    pub(crate) fn push(&mut self, item: Item) {
        let range = item.range();
        if range.next <= self.next {
            return;
        }
        self.next = range.next;
        match item {
            Item::Batch(logged) => self.hold(Held::InMemory(logged)),
            Item::Damaged(_, Loss::Foreign) => {}
            Item::Damaged(_, Loss::OfTrace(tenant, trace_id)) => {
                self.damage(range.next, Some((tenant, trace_id)));
            }
            Item::Damaged(_, Loss::Unknown) => self.damage(range.next, None),
        }
    }

    /// Takes in what was read at `next` and is on disk.
    pub(crate) fn push_on_disk(&mut self, held: Held) {
        let range = held.range();
        if range.next > self.next {
            self.next = range.next;
            self.hold(held);
        }
    }

    fn hold(&mut self, held: Held) {
        let first = held.range().first;
        held.for_each_key(|key| self.by_trace.entry(key).or_default().push_back(first));
        let weight = held.weight();
        let bytes = self.bytes.of(&held);
        *bytes = bytes.saturating_add(weight);
        self.records.push_back(held);
    }

    fn damage(&mut self, next: u64, whose: Option<TraceKey>) {
        if self.damaged.len() >= DAMAGED_MAX {
            // Too many to tell apart.
            self.damaged.clear();
            self.damaged.push_back((next, None));
        } else {
            self.damaged.push_back((next, whose));
        }
    }

    /// The records before an offset are gone and were never seen here: starts anew behind them.
    pub(crate) fn lose_until(&mut self, next: u64) {
        self.drop_until(u64::MAX);
        self.next = self.next.max(next);
        self.damage(self.next, None);
    }

    /// Lets go of what storage-writer has committed, once its commit is `grace` old; steps over it
    /// where it was not taken in yet.
    pub(crate) fn trim(&mut self, committed: u64, now: Duration, grace: Duration) {
        if self.graced.back().is_none_or(|(_, last)| *last < committed) {
            self.graced.push_back((now, committed));
        }
        let mut floor = 0;
        while let Some((seen, committed)) = self.graced.front().copied() {
            if now < seen.saturating_add(grace) {
                break;
            }
            floor = committed;
            self.graced.pop_front();
        }
        self.drop_until(floor);
        self.next = self.next.max(floor);
    }

    fn drop_until(&mut self, floor: u64) {
        while self.damaged.front().is_some_and(|(next, _)| *next <= floor) {
            self.damaged.pop_front();
        }
        while let Some(oldest) = self.records.pop_front_if(|oldest| oldest.range().next <= floor) {
            oldest.for_each_key(|key| {
                let offsets = self.by_trace.get_mut(&key);
                let is_last = offsets.is_none_or(|offsets| {
                    offsets.pop_front();
                    offsets.is_empty()
                });
                if is_last {
                    self.by_trace.remove(&key);
                }
            });
            let bytes = self.bytes.of(&oldest);
            *bytes = bytes.saturating_sub(oldest.weight());
        }
    }

    /// What is held of a trace.
    pub(crate) fn find(&self, tenant: &TenantId, trace_id: TraceId) -> TraceTail {
        let key = (tenant.clone(), trace_id);
        let (mut spans, mut on_disk) = (Vec::new(), Vec::new());
        for offset in self.by_trace.get(&key).into_iter().flatten() {
            let place = self.records.partition_point(|held| held.range().first < *offset);
            match self.records.get(place) {
                Some(Held::InMemory(logged)) => put_spans(&mut spans, logged, tenant, trace_id),
                Some(Held::OnDisk(record, _)) => on_disk.push(record.clone()),
                None => {}
            }
        }
        let is_its = |whose: &Option<TraceKey>| whose.as_ref().is_none_or(|whose| *whose == key);
        let is_damaged = self.damaged.iter().any(|(_, whose)| is_its(whose));
        TraceTail { spans, on_disk, is_damaged }
    }
}

fn keys_of(logged: &LoggedBatch) -> impl Iterator<Item = TraceKey> + '_ {
    let tenant = &logged.batch.source().tenant;
    logged.batch.traces().iter().map(move |trace| (tenant.clone(), trace.trace_id))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use proto::wire::put_bytes_field;
    use proto::{BatchSource, SpanBatchBuilder};
    use trace_model::sampling_threshold::Threshold;
    use trace_model::{LogRange, Region, UnixNanos};

    use super::*;
    use crate::kafka::config::KafkaTailDisk;
    use crate::kafka::tail_disk::TailDisk;
    use crate::port::DamagedRange;

    const SECOND: Duration = Duration::from_secs(1);

    fn trace(number: u8) -> TraceId {
        TraceId::from_bytes([number; 16]).unwrap()
    }

    fn item(offset: u64, number: u8) -> Item {
        let mut span = Vec::new();
        put_bytes_field(&mut span, 1, trace(number).as_bytes());
        put_bytes_field(&mut span, 2, &(offset + 1).to_be_bytes());
        let mut builder = SpanBatchBuilder::new();
        let resource = builder.add_resource(Vec::new());
        let scope = builder.add_scope(resource, Vec::new());
        builder.add_span(trace(number), Threshold::KEEP_ALL, scope, &span);
        let source = BatchSource {
            tenant: TenantId::default(),
            region: Region::new("eu-west-1").unwrap(),
            collector: "c".into(),
            receive_time: UnixNanos(1),
            digest: offset,
        };
        let range = LogRange { partition: 0, first: offset, next: offset + 1 };
        let batch = Arc::new(builder.finish(source).unwrap());
        Item::Batch(LoggedBatch { incarnation: 7, range, append_time: UnixNanos(1), batch })
    }

    fn damage(first: u64, next: u64, loss: Loss) -> Item {
        let range = LogRange { partition: 0, first, next };
        let append_times = (UnixNanos(0), UnixNanos(0));
        Item::Damaged(
            Box::new(DamagedRange { range, append_times, reason: "x".into(), stranger: None }),
            loss,
        )
    }

    fn spans(tail: &TailMemory, number: u8) -> usize {
        tail.find(&TenantId::default(), trace(number)).spans.len()
    }

    #[test]
    fn records_on_disk_are_named_between_those_in_memory_until_their_commit() {
        let place = tempfile::tempdir().unwrap();
        let config = KafkaTailDisk { directory: place.path().into(), bytes_max: 1 << 20 };
        let disk = TailDisk::new(&config);
        let mut tail = TailMemory::starting_at(0);
        for offset in 0..6 {
            match (item(offset, 1), offset % 2 == 0) {
                (Item::Batch(logged), true) => {
                    let held = Held::on_disk(disk.write(&logged).unwrap(), &logged);
                    tail.push_on_disk(held);
                }
                (item, _) => tail.push(item),
            }
        }
        let firsts = |tail: &TailMemory| {
            let found = tail.find(&TenantId::default(), trace(1));
            let firsts: Vec<u64> = found.on_disk.iter().map(|one| one.range.first).collect();
            (found.spans.len(), firsts)
        };
        assert_eq!(firsts(&tail), (3, vec![0, 2, 4]));
        assert!(tail.bytes().records > 0 && tail.bytes().places > 0);
        tail.trim(3, SECOND, Duration::ZERO);
        assert_eq!(firsts(&tail), (2, vec![4]));
        tail.trim(6, SECOND, Duration::ZERO);
        assert_eq!((firsts(&tail), tail.bytes()), ((0, vec![]), Weights::default()));
        assert!(tail.by_trace.is_empty());
    }

    #[test]
    fn records_are_found_until_their_commit_is_a_grace_old() {
        let mut tail = TailMemory::starting_at(10);
        for offset in 10..20 {
            tail.push(item(offset, u8::try_from(offset % 2).unwrap() + 1));
        }
        assert_eq!((spans(&tail, 1), spans(&tail, 2), spans(&tail, 3)), (5, 5, 0));
        tail.trim(14, SECOND, SECOND);
        assert_eq!(spans(&tail, 1), 5);
        tail.trim(15, SECOND * 2, SECOND);
        assert_eq!((spans(&tail, 1), spans(&tail, 2)), (3, 3));
        tail.trim(15, SECOND * 3, SECOND);
        assert_eq!((spans(&tail, 1), spans(&tail, 2)), (2, 3));
        tail.trim(20, SECOND * 3, Duration::ZERO);
        assert_eq!((tail.bytes().records, tail.by_trace.len(), tail.next()), (0, 0, 20));
    }

    #[test]
    fn what_is_read_twice_is_held_once() {
        let mut tail = TailMemory::starting_at(0);
        for offset in [0, 1, 0, 1, 2] {
            tail.push(item(offset, 1));
        }
        assert_eq!(spans(&tail, 1), 3);
    }

    #[test]
    fn damage_marks_the_trace_that_it_names_and_unknown_loss_all() {
        let mut tail = TailMemory::starting_at(0);
        let is_damaged =
            |tail: &TailMemory, number| tail.find(&TenantId::default(), trace(number)).is_damaged;
        tail.push(damage(0, 1, Loss::Foreign));
        assert!(!is_damaged(&tail, 1), "a foreign record is no trace's");
        tail.push(damage(1, 2, Loss::OfTrace(TenantId::default(), trace(1))));
        assert!(is_damaged(&tail, 1) && !is_damaged(&tail, 2));
        tail.push(damage(2, 9, Loss::Unknown));
        assert!(is_damaged(&tail, 2));
        assert_eq!(tail.next(), 9);
        // What storage-writer has passed is told by the log's list of what is lost.
        tail.trim(2, SECOND, Duration::ZERO);
        assert!(is_damaged(&tail, 1));
        tail.trim(9, SECOND, Duration::ZERO);
        assert!(!is_damaged(&tail, 1));
    }

    #[test]
    fn a_tail_that_was_overtaken_starts_behind() {
        let mut tail = TailMemory::starting_at(0);
        tail.push(item(0, 1));
        tail.trim(5, SECOND, SECOND);
        assert_eq!((tail.next(), spans(&tail, 1)), (1, 1));
        tail.trim(5, SECOND * 2, SECOND);
        assert_eq!((tail.next(), tail.bytes().records, spans(&tail, 1)), (5, 0, 0));
        tail.lose_until(8);
        assert_eq!(tail.next(), 8);
        assert!(tail.find(&TenantId::default(), trace(1)).is_damaged);
    }
}
