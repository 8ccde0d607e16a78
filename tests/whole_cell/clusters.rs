//! Three brokers, and Cassandra in two data centres of one node each: what a cell may lose one of.

use std::process::{Command, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tokio::task::spawn_blocking;

use crate::counts::Names;
use crate::process::{free_ports, free_run};
use crate::running_engines::{Engine, Engines, is_alive, kept, scripts};

/// Brokers, each of which has every record.
pub(crate) const BROKERS: u16 = 3;
/// Where the data centres' nodes listen.
const DATACENTERS: [&str; 2] = ["127.0.0.1", "127.0.0.2"];

/// Nodes of one kind, started by one script.
#[derive(Clone, Debug)]
struct Cluster {
    script: &'static str,
    /// Its directory among those that the scripts keep.
    place: String,
    settings: Vec<(String, String)>,
}

impl Cluster {
    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(scripts().join(self.script));
        command.args(arguments).envs(self.settings.iter().cloned()).stdin(Stdio::null());
        command
    }

    fn run(&self, arguments: &[&str]) {
        let status = self.command(arguments).stdout(Stdio::null()).status().unwrap();
        assert!(status.success(), "{} {arguments:?}", self.script);
    }

    fn pid(&self, node: usize) -> Option<Pid> {
        let file = kept().join(&self.place).join(format!("n{node}/pid"));
        let text = std::fs::read_to_string(file).ok()?;
        Pid::from_raw(text.trim().parse().ok()?)
    }

    fn signal(&self, node: usize, signal: Signal) {
        kill_process(self.pid(node).unwrap(), signal).unwrap();
    }

    /// Starts a node that was killed, over its data, and waits until it answers.
    async fn start_again(&self, node: usize) {
        let cluster = self.clone();
        let start = move || {
            while cluster.pid(node).is_some_and(is_alive) {
                std::thread::sleep(Duration::from_millis(20));
            }
            cluster.run(&["start", &node.to_string()]);
            cluster.run(&["wait", "180"]);
        };
        spawn_blocking(start).await.unwrap();
    }
}

/// Both; gone with their data when they are dropped. Nodes are counted from 1.
#[derive(Debug)]
pub(crate) struct Clusters {
    kafka: Cluster,
    cassandra: Cluster,
    first_broker: u16,
    cassandra_port: u16,
}

impl Clusters {
    /// Starts all nodes and waits until they know each other.
    pub(crate) async fn start() -> Self {
        let name = format!("cell-{}-many", std::process::id());
        let pair = |key: &str, value: &str| (key.to_owned(), value.to_owned());
        // The controllers' ports are a hundred higher.
        let first_broker = free_run(BROKERS);
        let kafka = Cluster {
            script: "kafka.sh",
            place: format!("kafka/run/{name}"),
            settings: vec![
                pair("KAFKA_NAME", &name),
                pair("KAFKA_NODES", &BROKERS.to_string()),
                pair("KAFKA_PORT", &first_broker.to_string()),
                pair("KAFKA_HEAP", "256m"),
                pair("KAFKA_JVM_EXTRA", "-XX:TieredStopAtLevel=1"),
            ],
        };
        let ports = free_ports(2);
        let [first, second] = DATACENTERS;
        let cassandra = Cluster {
            script: "cassandra.sh",
            place: format!("cassandra/run/{name}"),
            settings: vec![
                pair("CASS_NAME", &name),
                pair("CASS_NODES", &format!("{first}:dc1 {second}:dc2")),
                pair("CASS_PORT", &ports[0].to_string()),
                pair("CASS_STORAGE_PORT", &ports[1].to_string()),
                pair("CASS_JMX", &free_run(2).to_string()),
                pair("CASS_HEAP", "384m"),
                pair("CASS_MEMTABLE", "64MiB"),
                pair("CASS_JVM_EXTRA", "-XX:TieredStopAtLevel=1"),
                // One node of each data centre: it must have what it acknowledged.
                pair("CASS_SYNC", "batch"),
            ],
        };
        let clusters = Self { kafka, cassandra, first_broker, cassandra_port: ports[0] };
        let (kafka, cassandra) = (clusters.kafka.clone(), clusters.cassandra.clone());
        let start = move || {
            for verb in ["start", "wait"] {
                for cluster in [&kafka, &cassandra] {
                    cluster.run(&[verb]);
                }
            }
        };
        spawn_blocking(start).await.unwrap();
        clusters
    }

    /// Addresses of Cassandra's nodes, by data centre.
    pub(crate) fn nodes(&self) -> [String; 2] {
        DATACENTERS.map(|ip| format!("{ip}:{}", self.cassandra_port))
    }

    /// What a cell on them adds to its file.
    pub(crate) fn yaml(&self, engines: &Engines, names: &Names) -> String {
        let brokers = (self.first_broker..).take(BROKERS.into());
        let brokers: Vec<_> = brokers.map(|port| format!("\"127.0.0.1:{port}\"")).collect();
        let [first, second] = self.nodes();
        format!(
            "profile: growth\nhead: {{rate: 1.0}}\nkafka:\n  brokers: [{}]\n  prefix: {name}.\n  \
             partitions: 6\n  replication: 3\ncassandra:\n  nodes: [\"{first}\", \"{second}\"]\n  \
             datacenter: dc1\n  keyspace: {name}\n  replication: {{dc1: 1, dc2: 1}}\n  consistency: \
             each_quorum\nelasticsearch:\n  urls: [\"http://{}\"]\n  prefix: {name}\n  shards: \
             1\nclickhouse:\n  url: http://{}\n  database: {name}\n",
            brokers.join(", "),
            engines.address(Engine::Elasticsearch),
            engines.address(Engine::Clickhouse),
            name = names.name,
        )
    }

    /// The broker that leads the cluster and, as each does, some of the partitions: the worst to lose.
    pub(crate) async fn leading_broker(&self) -> usize {
        let mut ask =
            self.kafka.command(&["tool", "MetadataQuorumCommand", "describe", "--status"]);
        let output = spawn_blocking(move || ask.output().unwrap()).await.unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let leader = text.lines().find_map(|line| line.strip_prefix("LeaderId:"));
        leader.and_then(|id| id.trim().parse().ok()).unwrap_or_else(|| panic!("{output:?}"))
    }

    /// SIGKILL of a broker.
    pub(crate) fn kill_broker(&self, broker: usize) {
        self.kafka.signal(broker, Signal::KILL);
    }

    pub(crate) async fn start_broker_again(&self, broker: usize) {
        self.kafka.start_again(broker).await;
    }

    /// A signal to all nodes of a data centre.
    pub(crate) fn signal_datacenter(&self, datacenter: usize, signal: Signal) {
        self.cassandra.signal(datacenter, signal);
    }

    pub(crate) async fn start_datacenter_again(&self, datacenter: usize) {
        self.cassandra.start_again(datacenter).await;
    }
}

impl Drop for Clusters {
    fn drop(&mut self) {
        for cluster in [&self.kafka, &self.cassandra] {
            for node in 1..=usize::from(BROKERS) {
                // Also a stopped one ends by this.
                if let Some(pid) = cluster.pid(node).filter(|pid| is_alive(*pid)) {
                    while is_alive(pid) && kill_process(pid, Signal::KILL).is_ok() {
                        std::thread::sleep(Duration::from_millis(20));
                    }
                }
            }
            cluster.run(&["wipe"]);
        }
    }
}
