//! Limits of the aggregator: everything that it remembers has one.

use std::sync::Arc;
use std::time::Duration;

use crate::spread::LogEnds;

/// Limits of the aggregator. Byte limits are shared evenly by the partitions.
#[derive(Clone, Debug)]
pub struct AggregatorConfig {
    /// The ends of a log of which one trace may have records in several partitions, and a repeated
    /// request may be in another one than its first copy: all of them are looked into. Most logs keep a
    /// trace together (default: `None`).
    pub spread_over: Option<Arc<dyn LogEnds>>,
    /// Counts are flushed this often (default 5 s).
    pub flush_every: Duration,
    /// … and as soon as so many series and edges are held (default 8,192; 1 to 3 KB each): before the
    /// next batch is taken.
    pub flush_rows_max: usize,
    /// The whole state is written this often (default 60 s): a restart reads again what was logged
    /// since, without counting it.
    pub checkpoint_every: Duration,
    /// A (request, trace) seen within this time of the log is not counted again (default 10 min).
    pub digest_window: Duration,
    /// Most bytes of requests seen (default 64 MiB); beyond, the oldest are forgotten early.
    pub digest_bytes_max: usize,
    /// A trace is open until it has been quiet this long in the log's time (default 30 s).
    pub quiet_window: Duration,
    /// … or is this old (default 10 min).
    pub trace_age_max: Duration,
    /// Most bytes of open traces (default 64 MiB); beyond, the quietest are closed early.
    pub open_bytes_max: usize,
    /// Most spans remembered of an open trace (default 16,384).
    pub spans_per_trace_max: usize,
    /// Most services over all tenants (default 10,000), and a quarter more of tenants that have less
    /// than a hundredth of them; beyond, a tenant's `__other__`.
    pub services_max: usize,
    /// Most operations of a service and minute that arrive within an hour (default 1,000); beyond,
    /// `__other__`.
    pub operations_max: usize,
    /// Most operations remembered over all services and minutes (default 1,000,000, 16 B each);
    /// beyond, an hour is forgotten early.
    pub operation_entries_max: usize,
    /// Newest traces kept of an edge and bucket (default 128).
    pub traces_per_edge_max: usize,
    /// A call joined across a border is not counted again within this time (default 1 h).
    pub cross_border_window: Duration,
    /// Most such calls remembered (default 1,000,000, 24 B each).
    pub cross_border_entries_max: usize,
}

impl Default for AggregatorConfig {
    fn default() -> Self {
        Self {
            spread_over: None,
            flush_every: Duration::from_secs(5),
            flush_rows_max: 8_192,
            checkpoint_every: Duration::from_secs(60),
            digest_window: Duration::from_secs(600),
            digest_bytes_max: 64 << 20,
            quiet_window: Duration::from_secs(30),
            trace_age_max: Duration::from_secs(600),
            open_bytes_max: 64 << 20,
            spans_per_trace_max: 16_384,
            services_max: 10_000,
            operations_max: 1_000,
            operation_entries_max: 1_000_000,
            traces_per_edge_max: 128,
            cross_border_window: Duration::from_secs(3_600),
            cross_border_entries_max: 1_000_000,
        }
    }
}

/// A duration in nanoseconds, at most what 64 bits hold.
pub(super) fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}
