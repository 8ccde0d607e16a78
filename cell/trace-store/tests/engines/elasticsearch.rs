//! The store on Elasticsearch and on OpenSearch. Each test has an index prefix of its own, whose
//! indices go when the test ends.

mod backup;
mod documents;
mod engine;
mod figures;
mod half_answers;
mod hostile;
mod kills;
mod moves;
mod nodes;
mod schema;
mod tiers;
mod tls;

use proptest::collection::vec;
use proptest::prelude::*;

use crate::differential::{any_filter, any_request, check};
pub(crate) use engine::indexing;
use engine::{ELASTICSEARCH, OPENSEARCH};

mod on_elasticsearch {
    use super::ELASTICSEARCH;
    crate::suite::every_fact!(ELASTICSEARCH);
}

mod on_opensearch {
    use super::OPENSEARCH;
    crate::suite::every_fact!(OPENSEARCH);
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(20))]

    #[test]
    fn every_answer_of_elasticsearch_is_the_oracles(
        requests in vec((any_request(), any::<bool>()), 1..5),
        filters in vec(any_filter(), 1..24),
    ) {
        runtime().block_on(check(ELASTICSEARCH, &requests, &filters))?;
    }

    #[test]
    fn every_answer_of_opensearch_is_the_oracles(
        requests in vec((any_request(), any::<bool>()), 1..5),
        filters in vec(any_filter(), 1..24),
    ) {
        runtime().block_on(check(OPENSEARCH, &requests, &filters))?;
    }
}
