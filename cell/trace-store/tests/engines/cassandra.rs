//! The store over Cassandra: the whole suite, and what only such a store has.

pub(crate) mod cluster;
mod facts;
mod node;
mod proxy;

use std::sync::Arc;

use crate::assembled::Assembled;
use crate::harness::Adapter;

/// Spans, reading, erasure and catalogue are Cassandra's; search and its index are in memory: what
/// the adapter's own search can do is tested in `facts`.
pub(crate) const CASSANDRA: Adapter = Adapter {
    open: |directory, clock| {
        Box::pin(async move {
            let config = cluster::config(&cluster::keyspace_of(&directory));
            let need = cluster::Need::Directory(directory.clone());
            let store = cluster::open_for(need, config, clock).await;
            let memory = cluster::memory_of(&directory);
            let store: Arc<Assembled> = Arc::new(Assembled {
                writer: store.clone(),
                reader: store.clone(),
                erasers: vec![store.clone(), memory.0.clone()],
                indexer: memory.clone(),
                search: memory.0.clone(),
                catalog: store,
            });
            store as Arc<dyn crate::harness::Store>
        })
    },
    is_durable: true,
};

crate::suite::every_fact!(CASSANDRA);
