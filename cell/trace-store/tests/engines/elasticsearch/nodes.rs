//! A cluster of three nodes, one for each tier: days lie where their tier says after our runner's moves.
//! It takes more memory than a run of all suites has: made by command, where `FARSPAN_TEST_NODES` is set.

use std::net::TcpListener;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::Value;
use trace_model::Filter;
use trace_store::elasticsearch::{
    ElasticsearchConfig, Tier, TierDriver, TierPolicy, TierReport, TierSteps,
};

use super::documents::{Bench, TODAY};
use super::engine::{http, json};
use crate::fixture::{NOW, Request, span};

const DAY: u64 = 24 * 3_600 * 1_000_000_000;
const TIERS: [&str; 3] = ["hot", "warm", "cold"];

/// OpenSearch nodes that the project's script starts, and that go with the test.
struct Nodes {
    cluster: String,
    /// Of each node: where it is asked, and where the others meet it.
    ports: [[u16; 2]; 3],
}

impl Nodes {
    fn start() -> Self {
        let free = || TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let ports = [(); 3].map(|()| [free(), free()]);
        let nodes = Self { cluster: format!("nodes-{}", std::process::id()), ports };
        for command in ["start", "wait"] {
            (0..TIERS.len()).for_each(|node| nodes.run(command, node));
        }
        nodes
    }

    fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.ports[0][0])
    }

    fn name(&self, node: usize) -> String {
        format!("{}-{}", self.cluster, TIERS[node])
    }

    fn run(&self, command: &str, node: usize) {
        let script =
            Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/engines/opensearch.sh");
        let seeds = self.ports.map(|[_, meeting]| format!("127.0.0.1:{meeting}")).join(",");
        let status = Command::new(script)
            .args([command, &self.name(node)])
            .env("HTTP_PORT", self.ports[node][0].to_string())
            .env("TRANSPORT_PORT", self.ports[node][1].to_string())
            .env("CLUSTER", &self.cluster)
            .env("DATA_ATTR", TIERS[node])
            .env("SEEDS", seeds)
            .env("MASTERS", self.name(0))
            .env("HEAP", "384m")
            .env("ES_FAST", "1")
            .status()
            .unwrap();
        assert!(status.success(), "{command} {}", self.name(node));
    }

    /// Waits until all nodes are in the cluster.
    fn are_one(&self) {
        let path = "/_cluster/health?wait_for_nodes=3&timeout=60s";
        let health = json(&self.url(), "GET", path, &Value::Null);
        assert_eq!(health["number_of_nodes"], 3, "{health}");
    }
}

impl Drop for Nodes {
    fn drop(&mut self) {
        (0..TIERS.len()).for_each(|node| self.run("clean", node));
    }
}

/// A store of two shards a day, whose days it moves itself.
struct Moving {
    bench: Bench,
}

impl Moving {
    async fn run(&self) -> TierReport {
        let report = self.bench.store.move_tiers(TierSteps::All).await.unwrap();
        assert!(report.days.iter().all(|day| day.error.is_none()), "{report:?}");
        report
    }

    /// Tiers of the nodes on which the shards of the day are, once they have settled.
    fn settled(&self, tier: &str) -> Vec<String> {
        let path = format!("/_cat/shards/{}?h=node,state", self.bench.name(TODAY));
        let deadline = Instant::now() + Duration::from_secs(60);
        loop {
            let listed = http(&self.bench.url, "GET", &path, "").1;
            let rows: Vec<Vec<&str>> =
                listed.lines().map(|line| line.split_whitespace().collect()).collect();
            // A copy that finds no second node of the tier has no node.
            let placed: Vec<_> = rows.iter().filter(|row| row.len() > 1).collect();
            let is_there = |row: &&Vec<&str>| {
                row.last() == Some(&"STARTED") && row[0].ends_with(&format!("-{tier}"))
            };
            if !placed.is_empty() && placed.iter().all(is_there) {
                return placed.iter().map(|row| row[0].to_owned()).collect();
            }
            assert!(Instant::now() < deadline, "not on {tier}:\n{listed}");
            std::thread::park_timeout(Duration::from_millis(100));
        }
    }
}

#[tokio::test]
#[expect(clippy::disallowed_methods, reason = "a test is told by the environment")]
async fn a_day_lies_on_the_nodes_of_its_tier_after_each_move() {
    if std::env::var("FARSPAN_TEST_NODES").is_err() {
        println!("made where FARSPAN_TEST_NODES is set: it starts three nodes");
        return;
    }
    let nodes = Nodes::start();
    nodes.are_one();
    let bench = Bench::at(nodes.url(), |config| ElasticsearchConfig {
        shards: 2,
        // A tier of one node has no place for a second copy: it would stay where it is.
        replicas: Some(0),
        tiers: TierPolicy { driver: TierDriver::Auto, ..TierPolicy::default() },
        retention: Duration::from_secs(40 * 24 * 3_600),
        ..config
    })
    .await;
    let mut moving = Moving { bench };
    let spans: Vec<_> = (0..50).map(|trace| span(trace, 0, "a")).collect();
    moving.bench.index(&Request::of("web", &spans)).await;
    assert_eq!(moving.settled("hot").len(), 2);
    for (days, tier, word) in [(2, Tier::Warm, "warm"), (7, Tier::Cold, "cold")] {
        moving.bench.clock.set_wall(NOW.plus(days * DAY));
        let moved = moving.run().await;
        let wanted = moving.bench.name(TODAY);
        let day = moved.days.iter().find(|day| day.name == wanted).unwrap();
        assert_eq!((day.tier, day.due), (tier, tier));
        assert_eq!(moving.settled(word).len(), 1, "shrunk to one shard");
        assert_eq!(moving.bench.count(TODAY), 50);
        assert_eq!(moving.bench.find(Filter::All).await.len(), 50);
        assert!(moving.run().await.days.iter().all(|day| day.done.is_empty()));
    }
    // What comes late lies on the nodes that take writes, until the next move.
    moving.bench.index(&Request::of("web", &[span(50, 0, "late")])).await;
    moving.settled("cold");
    assert_eq!(moving.bench.find(Filter::All).await.len(), 51);
    drop(moving);
    drop(nodes);
}
