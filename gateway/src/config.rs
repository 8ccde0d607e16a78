//! The gateway's settings, and what a single question may ask for.

use std::collections::BTreeSet;
use std::time::Duration;

use tokio::time::Instant;
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

/// Where applications send their spans in a region, as the page at `/` shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CollectorEndpoint {
    /// The region.
    pub region: Region,
    /// OTLP over gRPC, as a URL.
    pub otlp_grpc: Option<String>,
    /// OTLP over HTTP, as a URL without `/v1/traces`.
    pub otlp_http: Option<String>,
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
    /// Shown on the page, asked by nobody.
    pub collectors: Vec<CollectorEndpoint>,
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
            collectors: Vec::new(),
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

/// Who asks, and how. Its time runs from when it was made: every step of the answer takes what is left.
#[derive(Clone, Debug)]
pub struct QueryContext {
    /// Whose data.
    pub tenant: TenantId,
    /// How far to trust the index.
    pub freshness: Freshness,
    patience: Patience,
    /// When regions must have begun to answer.
    first_by: Instant,
    /// When the whole answer must be in.
    all_by: Instant,
}

/// A step that others follow takes at most so much less than what is left.
const KEPT_BACK: u32 = 4;

impl QueryContext {
    /// A question that is asked now.
    #[must_use]
    pub fn new(tenant: TenantId, freshness: Freshness, patience: Patience) -> Self {
        let now = Instant::now();
        let all_by = after(now, patience.total);
        let first_by = after(now, patience.first_frame).min(all_by);
        Self { tenant, freshness, patience, first_by, all_by }
    }

    /// How long it waits in all.
    #[must_use]
    pub const fn patience(&self) -> Patience {
        self.patience
    }

    /// How long it still waits.
    #[must_use]
    pub fn left(&self) -> Patience {
        let now = Instant::now();
        Patience {
            first_frame: self.first_by.saturating_duration_since(now),
            total: self.all_by.saturating_duration_since(now),
        }
    }

    /// How long a look at the index may take whose answer the question can do without: a quarter of
    /// what is left.
    #[must_use]
    pub fn index_time(&self) -> Duration {
        self.left().first_frame / KEPT_BACK
    }

    /// The same question, with a quarter of what is left kept back for the step that follows.
    #[must_use]
    pub fn keeping_back(&self) -> Self {
        let kept = self.left().first_frame / KEPT_BACK;
        let first_by = self.first_by.checked_sub(kept).unwrap_or(self.first_by);
        Self { first_by, ..self.clone() }
    }

    /// One of several questions of the same kind in a row: regions may take their whole time to
    /// begin with it, within the time for all of them.
    #[must_use]
    pub fn anew(&self) -> Self {
        let first_by = after(Instant::now(), self.patience.first_frame).min(self.all_by);
        Self { first_by, ..self.clone() }
    }
}

/// A day is longer than anyone waits.
fn after(now: Instant, time: Duration) -> Instant {
    now + time.min(Duration::from_secs(24 * 3_600))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn context() -> QueryContext {
        let patience = Patience { first_frame: 2 * SECOND, total: 10 * SECOND };
        QueryContext::new(TenantId::default(), Freshness::Auto, patience)
    }

    #[tokio::test(start_paused = true)]
    async fn every_step_takes_what_is_left_and_never_more() {
        let context = context();
        assert_eq!(context.left(), context.patience());
        assert_eq!(context.index_time(), SECOND / 2);
        tokio::time::advance(SECOND).await;
        assert_eq!(context.left(), Patience { first_frame: SECOND, total: 9 * SECOND });
        assert_eq!(context.keeping_back().left().first_frame, SECOND * 3 / 4);
        assert_eq!(context.index_time(), SECOND / 4);
        tokio::time::advance(2 * SECOND).await;
        assert_eq!(context.left(), Patience { first_frame: Duration::ZERO, total: 7 * SECOND });
        assert_eq!(context.keeping_back().left().first_frame, Duration::ZERO);
    }

    #[tokio::test(start_paused = true)]
    async fn questions_in_a_row_share_the_time_for_all_of_them() {
        let context = context();
        tokio::time::advance(9 * SECOND).await;
        assert_eq!(context.anew().left(), Patience { first_frame: SECOND, total: SECOND });
        let impatient = Patience { first_frame: Duration::MAX, total: SECOND };
        let impatient = QueryContext::new(TenantId::default(), Freshness::Auto, impatient);
        assert_eq!(impatient.left(), Patience::exactly(SECOND));
    }
}
