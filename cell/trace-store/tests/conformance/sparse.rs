//! The embedded store against the oracle, with as many blocks and segments as a few spans can fill.

use proptest::collection::vec;
use proptest::prelude::*;
use trace_store::{EmbeddedStore, EmbeddedStoreConfig};

use crate::differential::{any_filter, any_request, check};
use crate::harness::{Adapter, ready, small_config};

/// Blocks of a few spans and segments of a few blocks: their filters hold little, so that one entry
/// that is missing shows.
const SPARSE: Adapter = Adapter {
    open: |directory, clock| {
        let config = EmbeddedStoreConfig {
            block_spans: 2,
            segment_spans_max: 8,
            ..small_config(&directory)
        };
        ready(EmbeddedStore::open(config, clock).unwrap())
    },
    is_durable: true,
};

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn every_answer_is_the_oracles(
        requests in vec((any_request(), any::<bool>()), 1..5),
        filters in vec(any_filter(), 1..24),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(check(SPARSE, &requests, &filters))?;
    }
}
