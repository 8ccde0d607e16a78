//! Cassandra's tables and Elasticsearch's index as one store, as a cell has them: spans are the tables',
//! searches and lists are whichever's of the two, the suite does not know which.

use std::sync::Arc;

use opentelemetry_proto::tonic::trace::v1::Span;
use proptest::collection::vec;
use proptest::prelude::*;
use prost::Message as _;
use trace_model::Filter;
use trace_model::query::{CompareOp, Field, Literal};
use trace_store::{Searcher, StandIn, StandInMetrics};

use crate::assembled::Assembled;
use crate::cassandra::cluster;
use crate::differential::{any_filter, any_request, check};
use crate::elasticsearch::indexing;
use crate::fixture::Request;
use crate::harness::{Adapter, Store};

const PAIR: Adapter = Adapter {
    open: |directory, clock| {
        Box::pin(async move {
            let config = cluster::config(&cluster::keyspace_of(&directory));
            let need = cluster::Need::Directory(directory.clone());
            let tables = cluster::open_for(need, config, clock.clone()).await;
            let (index, indexer) = indexing(directory, clock).await;
            let pair = Arc::new(StandIn::new(
                Searcher { search: tables.clone(), catalog: tables.clone() },
                Searcher { search: index.clone(), catalog: index.clone() },
                false,
                StandInMetrics::default(),
            ));
            let store = Assembled {
                writer: tables.clone(),
                reader: tables.clone(),
                erasers: vec![tables, index],
                indexer,
                search: pair.clone(),
                catalog: pair,
            };
            Arc::new(store) as Arc<dyn Store>
        })
    },
    is_durable: true,
};

crate::suite::every_fact!(PAIR);

/// What the tables answer by themselves: a service, perhaps an operation.
fn by_name() -> impl Strategy<Value = Filter> {
    let equals = |field, text: &str| Filter::Compare {
        field,
        op: CompareOp::Eq,
        literal: Literal::Text(text.to_owned()),
    };
    let service = proptest::sample::select(&["web", "cart", "error", "none"][..]);
    let operation = proptest::sample::select(&["", "a", "b", "GET /"][..]);
    (service, proptest::option::of(operation)).prop_map(move |(service, operation)| {
        let operation = operation.map(|name| equals(Field::Operation, name));
        Filter::And([equals(Field::Service, service)].into_iter().chain(operation).collect())
    })
}

/// Left out is what cannot be read behind its header: the tables find it by service, operation and time,
/// which the header has, and the index does not.
fn readable_request() -> impl Strategy<Value = Request> {
    any_request().prop_map(|mut request| {
        for (_, _, spans) in &mut request.groups {
            spans.retain(|span| Span::decode(span.as_slice()).is_ok());
        }
        request
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(8))]

    #[test]
    fn every_answer_of_the_pair_is_the_oracles(
        requests in vec((readable_request(), any::<bool>()), 1..5),
        filters in vec(prop_oneof![any_filter(), by_name()], 1..24),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(check(PAIR, &requests, &filters))?;
    }
}
