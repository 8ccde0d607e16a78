//! What the span log counts. Names start `farspan_span_log_` and end in their unit.

use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;

use crate::port::{GroupId, LogError};

/// Why an append was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelValue)]
pub enum Refusal {
    /// No room.
    Full,
    /// The queue is full.
    Overloaded,
    /// The disk failed.
    Disk,
    /// Nobody there who keeps the log.
    Unavailable,
    /// A group that must have every record is too far behind.
    Behind,
    /// The log is closing.
    Closed,
    /// The batch is too large.
    TooLarge,
}

impl Refusal {
    /// The reason of an append's error; `None` for errors of readers.
    pub(crate) const fn of(error: &LogError) -> Option<Self> {
        match error {
            LogError::Full => Some(Self::Full),
            LogError::Overloaded => Some(Self::Overloaded),
            LogError::Disk(_) | LogError::NoDescriptors => Some(Self::Disk),
            LogError::Unavailable(_) => Some(Self::Unavailable),
            LogError::Behind { .. } => Some(Self::Behind),
            LogError::Closed => Some(Self::Closed),
            LogError::TooLarge { .. } => Some(Self::TooLarge),
            LogError::Expired { .. } | LogError::NoPartition(_) | LogError::Damaged(_) => None,
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RefusalLabel {
    reason: Refusal,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct GroupLabel {
    group: &'static str,
}

/// The log's metrics; cheap to clone.
#[derive(Clone, Debug)]
pub struct LogMetrics {
    /// Encoded bytes acknowledged.
    pub appended_bytes: Counter,
    /// Bytes written to disk for them, padding included.
    pub written_bytes: Counter,
    /// Batches acknowledged.
    pub appended_batches: Counter,
    /// Trace records acknowledged.
    pub appended_records: Counter,
    /// Batches of a group commit.
    pub group_batches: Histogram,
    /// Duration of a group's fdatasync.
    pub sync_seconds: Histogram,
    /// Encoded bytes that wait for their group commit.
    pub queue_bytes: Gauge,
    /// Bytes of the segments on disk.
    pub disk_bytes: Gauge,
    /// Memory of the live tail's index.
    pub tail_index_bytes: Gauge,
    /// Disk of the live tail.
    pub tail_disk_bytes: Gauge,
    /// Records set aside as damaged since the log was opened.
    pub damaged_records: Counter,
    /// Records dropped to make room although a required group had not read them.
    pub dropped_records: Counter,
    /// Torn tails cut at an opening: at most one, from a write that was not acknowledged.
    pub torn_tails: Counter,
    /// Segments left behind after a failed write or fsync.
    pub abandoned_segments: Counter,
    refused_batches: Family<RefusalLabel, Counter>,
    lag_records: Family<GroupLabel, Gauge>,
    behind_groups: Family<GroupLabel, Gauge>,
    assigned_partitions: Family<GroupLabel, Gauge>,
    rebalances: Family<GroupLabel, Counter>,
}

impl Default for LogMetrics {
    fn default() -> Self {
        Self {
            appended_bytes: Counter::default(),
            written_bytes: Counter::default(),
            appended_batches: Counter::default(),
            appended_records: Counter::default(),
            group_batches: Histogram::new(exponential_buckets(1.0, 2.0, 11)),
            // 50 microseconds to 13 seconds: from a disk with a write cache to one that is failing.
            sync_seconds: Histogram::new(exponential_buckets(0.000_05, 2.0, 19)),
            queue_bytes: Gauge::default(),
            disk_bytes: Gauge::default(),
            tail_index_bytes: Gauge::default(),
            tail_disk_bytes: Gauge::default(),
            damaged_records: Counter::default(),
            dropped_records: Counter::default(),
            torn_tails: Counter::default(),
            abandoned_segments: Counter::default(),
            refused_batches: Family::default(),
            lag_records: Family::default(),
            behind_groups: Family::default(),
            assigned_partitions: Family::default(),
            rebalances: Family::default(),
        }
    }
}

impl LogMetrics {
    /// Hands the metrics to a registry. Counters get their `_total` when they are written out.
    pub fn register(&self, registry: &mut Registry) {
        let registry = registry.sub_registry_with_prefix("farspan_span_log");
        let this = self.clone();
        registry.register("appended_bytes", "Encoded bytes acknowledged", this.appended_bytes);
        registry.register("written_bytes", "Bytes written to disk", this.written_bytes);
        registry.register("appended_batches", "Batches acknowledged", this.appended_batches);
        registry.register("appended_records", "Records acknowledged", this.appended_records);
        registry.register("group_batches", "Batches of a group commit", this.group_batches);
        registry.register("sync_seconds", "Duration of an fdatasync", this.sync_seconds);
        registry.register("queue_bytes", "Encoded bytes waiting", this.queue_bytes);
        registry.register("disk_bytes", "Bytes of the segments", this.disk_bytes);
        registry.register("tail_index_bytes", "Memory of the tail", this.tail_index_bytes);
        let what = "Disk of the tail, for which memory had no room";
        registry.register("tail_disk_bytes", what, this.tail_disk_bytes);
        registry.register("damaged_records", "Records set aside", this.damaged_records);
        registry.register("dropped_records", "Records dropped for room", this.dropped_records);
        registry.register("torn_tails", "Torn tails cut", this.torn_tails);
        registry.register("abandoned_segments", "Segments left", this.abandoned_segments);
        registry.register("refused_batches", "Batches refused", this.refused_batches);
        registry.register("lag_records", "Records a group has to handle", this.lag_records);
        let what = "1 where no spans are taken because the group is too near the log's retention";
        registry.register("behind_groups", what, this.behind_groups);
        let assigned = this.assigned_partitions;
        registry.register("assigned_partitions", "Partitions that are read here", assigned);
        registry.register("rebalances", "Partitions given or taken", this.rebalances);
    }

    /// Counts a refused append.
    pub fn refuse(&self, error: &LogError) {
        if let Some(reason) = Refusal::of(error) {
            self.refused_batches.get_or_create(&RefusalLabel { reason }).inc();
        }
    }

    /// Appends refused for this reason.
    #[must_use]
    pub fn refused(&self, reason: Refusal) -> u64 {
        self.refused_batches.get_or_create(&RefusalLabel { reason }).get()
    }

    /// Notes how many records a group has yet to handle.
    pub fn observe_lag(&self, group: GroupId, records: u64) {
        let records = i64::try_from(records).unwrap_or(i64::MAX);
        self.lag_records.get_or_create(&GroupLabel { group: group.0 }).set(records);
    }

    /// Notes whether appends are refused because this group is too far behind.
    pub fn observe_behind(&self, group: GroupId, is_behind: bool) {
        let label = GroupLabel { group: group.0 };
        self.behind_groups.get_or_create(&label).set(i64::from(is_behind));
    }

    /// Notes how many of a group's partitions this process reads.
    pub fn observe_assigned(&self, group: GroupId, partitions: usize) {
        let partitions = i64::try_from(partitions).unwrap_or(i64::MAX);
        self.assigned_partitions.get_or_create(&GroupLabel { group: group.0 }).set(partitions);
    }

    /// Counts a rebalance of a group, which has left this process so many partitions.
    pub fn observe_rebalance(&self, group: GroupId, partitions: usize) {
        self.rebalances.get_or_create(&GroupLabel { group: group.0 }).inc();
        self.observe_assigned(group, partitions);
    }
}
