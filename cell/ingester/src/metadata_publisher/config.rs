//! What a publisher is given to start with.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use span_log::port::METADATA_PUBLISHER;
use span_log::{LogError, LogIdentity, SpanLog};
use trace_model::{Region, UnixNanos};

use crate::spread::LogEnds;

/// How the publisher paces itself and what it may hold.
#[derive(Clone, Debug)]
pub struct PublisherConfig {
    /// The region of the cell.
    pub region: Region,
    /// Contributions that are due go out together this often.
    pub publish_every: Duration,
    /// A growing trace is published again at most this often.
    pub grow_every: Duration,
    /// A trace without a new span for this long is published a last time and closed.
    pub quiet_after: Duration,
    /// A watermark alone (nothing to publish) goes out this often.
    pub watermark_every: Duration,
    /// The bytes of a request count once within this time of the log.
    pub repeat_window: Duration,
    /// Most traces open at once; those waiting longest are published and closed.
    pub open_traces_max: usize,
    /// Most span identities held over all open traces (16 bytes each).
    pub held_spans_max: usize,
    /// The ends of a log of which one trace may have records in several partitions, and a repeated
    /// request may be in another one than its first copy. Most logs keep a trace together.
    pub spread_over: Option<Arc<dyn LogEnds>>,
}

impl PublisherConfig {
    /// 100 ms, 1 s, 5 s, 500 ms; 10 minutes; 200,000 traces and 4 million spans (about 250 MB).
    #[must_use]
    pub const fn new(region: Region) -> Self {
        Self {
            region,
            publish_every: Duration::from_millis(100),
            grow_every: Duration::from_secs(1),
            quiet_after: Duration::from_secs(5),
            watermark_every: Duration::from_millis(500),
            repeat_window: Duration::from_secs(600),
            open_traces_max: 200_000,
            held_spans_max: 4_000_000,
            spread_over: None,
        }
    }
}

/// Why a publisher cannot start.
#[derive(Debug, thiserror::Error)]
pub enum PublisherError {
    /// The span log ends below what was published from it: offsets would be given a second time. A
    /// log that is opened with what was seen of it ([`span_log::Seen`]) never does.
    #[error("partition {partition} of the span log ends at {end}, below the published {published}")]
    LogWentBack {
        /// The partition.
        partition: u32,
        /// Where it ends.
        end: u64,
        /// What was published.
        published: u64,
    },
}

/// Which span log is read, and where it ends now.
#[derive(Clone, Debug)]
pub struct SpanLogState {
    /// The log.
    pub identity: LogIdentity,
    /// The end of each of its partitions.
    pub ends: BTreeMap<u32, u64>,
    /// What the group has committed of each partition: it reads on from there.
    pub committed: BTreeMap<u32, u64>,
    /// No record below the ends was appended after this.
    pub end_time: UnixNanos,
}

impl SpanLogState {
    /// Asks the log.
    pub fn of(span_log: &dyn SpanLog) -> Result<Self, LogError> {
        let identity = span_log.identity();
        let (mut ends, mut committed) = (BTreeMap::new(), BTreeMap::new());
        let mut end_time = UnixNanos::default();
        for partition in 0..identity.partitions {
            let end = span_log.end(partition)?;
            ends.insert(partition, end.next);
            end_time = end_time.max(end.append_time);
            // Without a commit this is the oldest record kept: those before it come no more either.
            committed.insert(partition, span_log.committed(METADATA_PUBLISHER, partition)?);
        }
        Ok(Self { identity, ends, committed, end_time })
    }
}
