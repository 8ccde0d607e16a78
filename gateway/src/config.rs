//! The gateway's settings, and what a single question may ask for.

use std::collections::BTreeSet;
use std::time::Duration;

use trace_model::{Region, TenantId};

use crate::room::AnswerRoom;

/// Bytes of answers held at once, where the configuration does not say.
const ANSWER_BYTES_MAX: u64 = 1 << 30;

/// A cell that the gateway can reach.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CellEndpoint {
    /// Its region.
    pub region: Region,
    /// Where its querier listens, as a URL.
    pub endpoint: String,
}

/// Settings of a gateway. `new` gives the defaults.
#[derive(Clone, Debug)]
pub struct GatewayConfig {
    /// The region that the gateway runs in: its cell is always asked.
    pub region: Region,
    /// The cells, its own among them.
    pub cells: Vec<CellEndpoint>,
    /// Regions whose policy publishes no index (`index: none`): asked when the index knows nothing
    /// of a trace, named as not provable otherwise.
    pub unindexed: BTreeSet<Region>,
    /// How long to wait where the question does not say.
    pub patience: Patience,
    /// The longest `timeout` that a question may ask for.
    pub timeout_max: Duration,
    /// Least pace of an answer after its first frame, in bytes a second.
    pub pace_bytes_per_second: u64,
    /// Most spans that one region may send for one question.
    pub region_spans_max: usize,
    /// Most bytes that one region may send for one question.
    pub region_bytes_max: usize,
    /// The room that all answers of the process share. Clients of cells take from the same.
    pub answer_room: AnswerRoom,
    /// Rounds a second for traces that the index does not know, on average.
    pub miss_rounds_per_second: f64,
    /// Such rounds at once after a quiet time.
    pub miss_rounds_burst: f64,
    /// Time range of a search that names none, back from now.
    pub search_lookback: Duration,
    /// Time range of service and operation lists, back from now.
    pub catalog_lookback: Duration,
    /// Traces of a search of ours that names no limit.
    pub search_limit: usize,
    /// Most traces that a search may ask for.
    pub search_limit_max: usize,
    /// HTTP: requests a second from one address, on average.
    pub requests_per_second: u32,
    /// HTTP: requests at once from one address.
    pub requests_burst: u32,
    /// HTTP: requests being answered at once, over all addresses.
    pub requests_running_max: usize,
    /// HTTP: open connections.
    pub connections_max: usize,
}

impl GatewayConfig {
    /// The defaults for a gateway of this region.
    #[must_use]
    pub fn new(region: Region, cells: Vec<CellEndpoint>) -> Self {
        Self {
            region,
            cells,
            unindexed: BTreeSet::new(),
            patience: Patience {
                first_frame: Duration::from_secs(2),
                total: Duration::from_secs(30),
            },
            timeout_max: Duration::from_secs(120),
            pace_bytes_per_second: 64 << 10,
            region_spans_max: 1_000_000,
            region_bytes_max: 512 << 20,
            answer_room: AnswerRoom::new(ANSWER_BYTES_MAX),
            miss_rounds_per_second: 50.0,
            miss_rounds_burst: 200.0,
            search_lookback: Duration::from_secs(3_600),
            catalog_lookback: Duration::from_secs(7 * 24 * 3_600),
            search_limit: 20,
            search_limit_max: 1_500,
            requests_per_second: 200,
            requests_burst: 400,
            requests_running_max: 512,
            connections_max: 4_096,
        }
    }
}

/// How long a question waits for regions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Patience {
    /// Until a region's first frame.
    pub first_frame: Duration,
    /// Until a region's last frame.
    pub total: Duration,
}

impl Patience {
    /// Exactly this long, for the first frame as for the last.
    #[must_use]
    pub const fn exactly(timeout: Duration) -> Self {
        Self { first_frame: timeout, total: timeout }
    }

    /// Whether someone this patient is served by an answer that waits so long.
    #[must_use]
    pub fn is_at_most(&self, other: &Self) -> bool {
        self.first_frame <= other.first_frame && self.total <= other.total
    }
}

/// How far a question trusts the index.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Freshness {
    /// Hit: the regions that the index names. Miss: every region that may hold the trace.
    #[default]
    Auto,
    /// The index alone decides: absence is proven as of its watermarks, without a round.
    Index,
    /// Every region is asked.
    Now,
}

/// Who asks, and how.
#[derive(Clone, Debug)]
pub struct QueryContext {
    /// Whose data.
    pub tenant: TenantId,
    /// How far to trust the index.
    pub freshness: Freshness,
    /// How long to wait.
    pub patience: Patience,
}
