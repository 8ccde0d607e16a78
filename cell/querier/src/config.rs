//! The querier's settings: who it is, what it lets out, and its limits.

use std::time::Duration;

use trace_model::Region;
use trace_model::locality::Locality;

/// Settings of one cell's querier.
#[derive(Clone, Debug)]
pub struct QuerierConfig {
    /// The region whose data this is.
    pub region: Region,
    /// What leaves the region with answers.
    pub locality: Locality,
    /// Queries answered at once; more are refused.
    pub queries_max: usize,
    /// Of them, questions for traces that the index does not know: random ids from outside cannot
    /// take more than this share of the cell.
    pub miss_rounds_max: usize,
    /// Longest time for one query, whatever the caller allows.
    pub query_time_max: Duration,
    /// Traces in one `FindTraces`.
    pub traces_per_request_max: usize,
    /// Matches in one `SearchTraces`, and traces in one `FindEdgeTraces`.
    pub matches_max: usize,
    /// Largest request message, in bytes.
    pub request_bytes_max: usize,
}

impl QuerierConfig {
    /// The defaults for a region, everything open.
    #[must_use]
    pub fn new(region: Region) -> Self {
        Self {
            region,
            locality: Locality::default(),
            queries_max: 256,
            miss_rounds_max: 64,
            query_time_max: Duration::from_secs(60),
            traces_per_request_max: 2_000,
            matches_max: 2_000,
            request_bytes_max: 1 << 20,
        }
    }
}
