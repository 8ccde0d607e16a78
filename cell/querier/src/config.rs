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
    /// Queries at work at once; more are refused. A query is at work until the stores have
    /// answered, not until its reader has taken what they gave.
    pub queries_max: usize,
    /// Of them, questions for traces that the index does not know: random ids from outside cannot
    /// take more than this share of the cell.
    pub miss_rounds_max: usize,
    /// Longest time for one query, whatever the caller allows.
    pub query_time_max: Duration,
    /// Answers by trace id on their way to their readers, each with a frame (256 KiB) in memory;
    /// more are refused. Never fewer than `queries_max`.
    pub answers_max: usize,
    /// Bytes of theirs in memory beyond a frame each. What does not fit is refused.
    pub answer_bytes_max: usize,
    /// A reader slower than this, or than its own deadline, is cut when others want its room.
    pub pace_bytes_per_second: u64,
    /// Traces in one `FindTraces`.
    pub traces_per_request_max: usize,
    /// Matches in one `SearchTraces`, and traces in one `FindEdgeTraces`.
    pub matches_max: usize,
    /// Rows of one page of rates or edges, whatever is asked for: at some hundred bytes each they fit into
    /// a message.
    pub page_rows_max: usize,
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
            answers_max: 512,
            answer_bytes_max: 128 << 20,
            pace_bytes_per_second: 64 << 10,
            traces_per_request_max: 2_000,
            matches_max: 2_000,
            page_rows_max: 50_000,
            request_bytes_max: 1 << 20,
        }
    }
}
