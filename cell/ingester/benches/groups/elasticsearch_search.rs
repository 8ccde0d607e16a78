//! The group search-indexer into Elasticsearch.

use std::sync::Arc;

use ingester::SearchIndexerMaker;
use trace_store::{ElasticsearchConfig, ElasticsearchStore};

use crate::bare_elasticsearch::Bare;
use crate::measure::timed;
use crate::{ROUNDS, Rounds};

/// A round of ours into an empty prefix, then the same documents by the bare side into another.
pub(crate) async fn run(address: &str, mut rounds: Rounds) {
    let bare = Bare::new(address, ElasticsearchConfig::at(address, "x").bulk_in_flight_max);
    for round in 0..=ROUNDS {
        let requests = rounds.requests();
        let topic = rounds.log.fill(&requests).await;
        let prefix = format!("farspan-groups-ours-{round}");
        let other_prefix = format!("farspan-groups-bare-{round}");
        for prefix in [&prefix, &other_prefix] {
            bare.remove(prefix).await;
            let config = ElasticsearchConfig::at(address, prefix.clone());
            ElasticsearchStore::init(&config).await.expect("templates");
        }
        let config = ElasticsearchConfig::at(address, prefix.clone());
        let bytes_max = config.bulk_bytes_max;
        let clock = Arc::clone(&rounds.clock);
        let store = ElasticsearchStore::connect(config, clock).await.expect("a store");
        let ours = topic.taken_by(|incarnation| SearchIndexerMaker { indexer: store, incarnation });
        let ours = ours.await;
        let (bodies, documents) = bare.bodies((&prefix, &other_prefix), bytes_max).await;
        let spans: usize = requests.iter().map(|request| request.batch.spans().len()).sum();
        assert_eq!(documents, spans, "each span is a document");
        // Both begin without a day's index: the time to make it is theirs.
        let bares = timed(documents, bare.write(bodies)).await;
        for prefix in [&prefix, &other_prefix] {
            bare.remove(prefix).await;
        }
        rounds.note(round, ours, bares);
    }
    rounds.print();
}
