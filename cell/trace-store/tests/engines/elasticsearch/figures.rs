//! What a cluster says of itself and of our indices.

use trace_store::elasticsearch::figures;

use super::documents::Bench;
use crate::fixture::{Request, span};

#[tokio::test]
async fn a_cluster_tells_its_nodes_and_the_sizes_of_our_shards_alone() {
    let mut bench = Bench::new().await;
    assert_eq!(figures(&bench.config, "2000-01-01").await.unwrap().shards, []);
    bench.index(&Request::of("web", &[span(1, 0, "root")])).await;
    let asked = figures(&bench.config, "2000-01-01").await.unwrap();
    assert!(["green", "yellow", "red"].contains(&asked.status.as_str()), "{asked:?}");
    assert!(asked.data_nodes >= 1 && !asked.nodes.is_empty());
    let share = |part: Option<f64>| part.is_some_and(|part| (0.0..=1.0).contains(&part));
    assert!(share(asked.nodes[0].disk_used) && share(asked.nodes[0].heap_used), "{asked:?}");
    assert_eq!(asked.shards.len(), 1, "{asked:?}");
    assert!(
        asked.shards[0].index.starts_with(&bench.config.index_prefix)
            && !asked.shards[0].is_growing
    );
    assert!(asked.blocked_indices.is_empty());
}
