//! The four engines, one node each, shared by the tests of this program: those that stop or kill one have
//! them alone, or one of their own in its place; the others are beside each other.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Weak};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tokio::sync::{Mutex, RwLock, RwLockReadGuard, RwLockWriteGuard};
use tokio::task::spawn_blocking;

use crate::process::free_ports;

/// An engine of the growth profile.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Engine {
    Kafka,
    Cassandra,
    Elasticsearch,
    Clickhouse,
}

/// All of them, in the order of [`Engine`].
pub(crate) const ALL: [Engine; 4] =
    [Engine::Kafka, Engine::Cassandra, Engine::Elasticsearch, Engine::Clickhouse];

/// One engine that runs.
#[derive(Clone, Debug)]
struct Node {
    engine: Engine,
    name: String,
    port: u16,
    settings: Vec<(String, String)>,
    /// Another [`Engines`] has it as well, and ends it.
    is_anothers: bool,
}

/// The engines; gone with their data when the last test has dropped them.
#[derive(Debug)]
pub(crate) struct Engines {
    nodes: Vec<Node>,
}

/// The engines, while they do what a test wants of them.
pub(crate) struct Turn {
    pub(crate) engines: Arc<Engines>,
    /// Those of which it has some.
    _shared: Option<Arc<Engines>>,
    _guard: Guard,
}

/// Held until it is dropped.
enum Guard {
    Alone(RwLockWriteGuard<'static, ()>),
    Beside(RwLockReadGuard<'static, ()>),
}

impl Drop for Turn {
    /// What a test that failed has left standing goes on.
    fn drop(&mut self) {
        for node in self.engines.nodes.iter().filter(|node| !node.is_anothers) {
            if node.pid().is_some_and(is_alive) {
                node.signal(Signal::CONT);
            }
        }
    }
}

static TURN: RwLock<()> = RwLock::const_new(());
static RUNNING: Mutex<Weak<Engines>> = Mutex::const_new(Weak::new());

/// The engines for a test that stops or kills one of them.
pub(crate) async fn have_engines_alone() -> Turn {
    let engines = running().await;
    Turn { engines, _shared: None, _guard: Guard::Alone(TURN.write().await) }
}

/// The engines for a test that leaves them standing.
pub(crate) async fn share_engines() -> Turn {
    let engines = running().await;
    Turn { engines, _shared: None, _guard: Guard::Beside(TURN.read().await) }
}

/// The same, but for this one, of which the test has a node of its own.
pub(crate) async fn share_engines_but(engine: Engine) -> Turn {
    let shared = running().await;
    let guard = Guard::Beside(TURN.read().await);
    let nodes = shared.nodes.iter().cloned().map(|node| Node { is_anothers: true, ..node });
    let mut nodes: Vec<Node> = nodes.collect();
    nodes[engine as usize] = Node::new(engine, &format!("cell-{}-own", std::process::id()));
    let start = move || {
        let engines = Engines { nodes };
        for verb in ["start", "wait"] {
            engines.node(engine).run(verb);
        }
        engines
    };
    let engines = Arc::new(spawn_blocking(start).await.unwrap());
    Turn { engines, _shared: Some(shared), _guard: guard }
}

/// Starts the engines where no other test has.
async fn running() -> Arc<Engines> {
    let mut running = RUNNING.lock().await;
    let engines = match running.upgrade() {
        Some(engines) => engines,
        None => Arc::new(spawn_blocking(Engines::start).await.unwrap()),
    };
    *running = Arc::downgrade(&engines);
    engines
}

/// Where the scripts are.
pub(crate) fn scripts() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/engines")
}

/// Where the scripts keep what they have installed, and what runs.
pub(crate) fn kept() -> PathBuf {
    let variable = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
    if let Some(kept) = variable("FARSPAN_ENGINES") {
        return kept.into();
    }
    let cache = variable("XDG_CACHE_HOME").map(PathBuf::from);
    cache
        .unwrap_or_else(|| Path::new(&variable("HOME").unwrap()).join(".cache"))
        .join("farspan-engines")
}

impl Node {
    fn new(engine: Engine, name: &str) -> Self {
        let name = name.to_owned();
        let ports = free_ports(3);
        let pair = |key: &str, value: String| (key.to_owned(), value);
        let settings = match engine {
            Engine::Kafka => vec![
                pair("KAFKA_NAME", name.clone()),
                // Its controller's port is a hundred higher.
                pair("KAFKA_PORT", ports[0].to_string()),
                pair("KAFKA_HEAP", "384m".to_owned()),
                pair("KAFKA_JVM_EXTRA", "-XX:TieredStopAtLevel=1".to_owned()),
            ],
            Engine::Cassandra => vec![
                pair("CASS_NAME", name.clone()),
                pair("CASS_PORT", ports[0].to_string()),
                pair("CASS_STORAGE_PORT", ports[1].to_string()),
                pair("CASS_JMX", ports[2].to_string()),
                pair("CASS_HEAP", "512m".to_owned()),
                pair("CASS_MEMTABLE", "96MiB".to_owned()),
                pair("CASS_JVM_EXTRA", "-XX:TieredStopAtLevel=1".to_owned()),
                // One node that is killed must have what it acknowledged.
                pair("CASS_SYNC", "batch".to_owned()),
            ],
            Engine::Elasticsearch => vec![
                pair("HTTP_PORT", ports[0].to_string()),
                pair("TRANSPORT_PORT", ports[1].to_string()),
                pair("HEAP", "512m".to_owned()),
                pair("ES_FAST", "1".to_owned()),
            ],
            Engine::Clickhouse => vec![pair("HTTP_PORT", ports[0].to_string())],
        };
        Self { engine, name, port: ports[0], settings, is_anothers: false }
    }

    fn is_jvm_script(&self) -> bool {
        matches!(self.engine, Engine::Kafka | Engine::Cassandra)
    }

    /// `start`, `wait` or what deletes it.
    fn run(&self, verb: &str) {
        let (script, delete) = match self.engine {
            Engine::Kafka => ("kafka.sh", "wipe"),
            Engine::Cassandra => ("cassandra.sh", "wipe"),
            Engine::Elasticsearch => ("elasticsearch.sh", "clean"),
            Engine::Clickhouse => ("clickhouse.sh", "clean"),
        };
        let verb = if verb == "delete" { delete } else { verb };
        let mut command = Command::new(scripts().join(script));
        command.arg(verb);
        if !self.is_jvm_script() {
            command.arg(&self.name);
        }
        if verb == "wait" {
            command.arg("180");
        }
        command.envs(self.settings.iter().cloned()).stdin(Stdio::null()).stdout(Stdio::null());
        assert!(command.status().unwrap().success(), "{script} {verb}");
    }

    fn pid(&self) -> Option<Pid> {
        let place = match self.engine {
            Engine::Kafka => format!("kafka/run/{}/n1/pid", self.name),
            Engine::Cassandra => format!("cassandra/run/{}/n1/pid", self.name),
            Engine::Elasticsearch => format!("es-8.19.21/nodes/{}/pid", self.name),
            Engine::Clickhouse => format!("clickhouse/nodes/{}/pid", self.name),
        };
        let text = std::fs::read_to_string(kept().join(place)).ok()?;
        Pid::from_raw(text.trim().parse().ok()?)
    }

    fn signal(&self, signal: Signal) {
        kill_process(self.pid().unwrap(), signal).unwrap();
    }
}

impl Engines {
    fn start() -> Self {
        let name = format!("cell-{}", std::process::id());
        let engines = Self { nodes: ALL.map(|engine| Node::new(engine, &name)).to_vec() };
        for verb in ["start", "wait"] {
            for node in &engines.nodes {
                node.run(verb);
            }
        }
        engines
    }

    fn node(&self, engine: Engine) -> &Node {
        &self.nodes[engine as usize]
    }

    /// Where it listens.
    pub(crate) fn address(&self, engine: Engine) -> String {
        format!("127.0.0.1:{}", self.node(engine).port)
    }

    /// SIGSTOP: connections stand, and nothing answers.
    pub(crate) fn stop(&self, engine: Engine) {
        self.node(engine).signal(Signal::STOP);
    }

    /// SIGCONT.
    pub(crate) fn go_on(&self, engine: Engine) {
        self.node(engine).signal(Signal::CONT);
    }

    /// SIGKILL.
    pub(crate) fn kill(&self, engine: Engine) {
        self.node(engine).signal(Signal::KILL);
    }

    /// Starts one that was killed over the same data, and waits until it answers.
    pub(crate) async fn start_again(&self, engine: Engine) {
        let node = self.node(engine).clone();
        let start = move || {
            // A killed one is gone when its process number is.
            while node.pid().is_some_and(is_alive) {
                std::thread::sleep(Duration::from_millis(20));
            }
            for verb in ["start", "wait"] {
                node.run(verb);
            }
        };
        spawn_blocking(start).await.unwrap();
    }

    /// Makes a topic that is nobody's of ours.
    pub(crate) async fn create_topic(&self, topic: &str, partitions: u32) {
        let node = self.node(Engine::Kafka).clone();
        let topic = topic.to_owned();
        let create = move || {
            let created = Command::new(scripts().join("kafka.sh"))
                .args(["tool", "TopicCommand", "--create", "--topic", &topic])
                .args(["--partitions", &partitions.to_string(), "--replication-factor", "1"])
                .envs(node.settings.iter().cloned())
                .stdin(Stdio::null())
                .output()
                .unwrap();
            assert!(created.status.success(), "{topic}: {created:?}");
        };
        spawn_blocking(create).await.unwrap();
    }

    /// Writes these lines to a topic as any producer does, without keys and headers.
    pub(crate) async fn produce(&self, topic: &str, lines: &str) {
        self.run_producer(topic, &[], lines.to_owned()).await;
    }

    /// The same of one line, under a key.
    pub(crate) async fn produce_with_key(&self, topic: &str, key: &str, line: &str) {
        const KEYED: &[&str] =
            &["--reader-property", "parse.key=true", "--reader-property", "key.separator=|"];
        self.run_producer(topic, KEYED, format!("{key}|{line}\n")).await;
    }

    async fn run_producer(&self, topic: &str, more: &'static [&'static str], lines: String) {
        use std::io::Write as _;
        let node = self.node(Engine::Kafka).clone();
        let topic = topic.to_owned();
        let produce = move || {
            let mut child = Command::new(scripts().join("kafka.sh"))
                .args(["tool", "ConsoleProducer", "--topic", &topic])
                // Its own limit is 1.5 s.
                .args(["--request-timeout-ms", "60000"])
                .args(more)
                .envs(node.settings.iter().cloned())
                .stdin(Stdio::piped())
                .stdout(Stdio::null())
                .spawn()
                .unwrap();
            child.stdin.take().unwrap().write_all(lines.as_bytes()).unwrap();
            assert!(child.wait().unwrap().success(), "producing to {topic}");
        };
        spawn_blocking(produce).await.unwrap();
    }

    /// Sets a consumer group back to the beginning of a topic. Nobody may be reading with it.
    pub(crate) async fn rewind(&self, group: &str, topic: &str) {
        let node = self.node(Engine::Kafka).clone();
        let (group, topic) = (group.to_owned(), topic.to_owned());
        let rewind = move || {
            let output = Command::new(scripts().join("kafka.sh"))
                .args(["tool", "ConsumerGroupCommand", "--group", &group, "--topic", &topic])
                .args(["--reset-offsets", "--to-earliest", "--execute"])
                .envs(node.settings.iter().cloned())
                .stdin(Stdio::null())
                .output()
                .unwrap();
            let words = String::from_utf8_lossy(&output.stdout).into_owned();
            assert!(output.status.success() && words.contains(&topic), "{group}: {output:?}");
        };
        spawn_blocking(rewind).await.unwrap();
    }
}

/// Whether a process is there and no zombie.
pub(crate) fn is_alive(pid: Pid) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero()));
    // `pid (name) state …`: a killed child may stay as a zombie until somebody looks.
    stat.is_ok_and(|stat| !stat.rsplit(')').next().unwrap_or_default().trim().starts_with('Z'))
}

impl Drop for Engines {
    fn drop(&mut self) {
        for node in self.nodes.iter().filter(|node| !node.is_anothers) {
            // Also a stopped one ends by this.
            if let Some(pid) = node.pid().filter(|pid| is_alive(*pid)) {
                while is_alive(pid) && kill_process(pid, Signal::KILL).is_ok() {
                    std::thread::sleep(Duration::from_millis(20));
                }
            }
            node.run("delete");
        }
    }
}
