//! The cluster that tests run against, a keyspace for each of them, and a memory beside it.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock, Mutex, Weak};
use std::time::Duration;

use crate::harness::NAMES_LISTED;
use async_trait::async_trait;
use proto::LoggedBatch;
use scylla::client::execution_profile::ExecutionProfile;
use scylla::client::session::Session;
use scylla::client::session_builder::SessionBuilder;
use tokio::sync::OnceCell;
use trace_model::{Clock, Coverage, UnixNanos};
use trace_store::cassandra::CassandraConfig;
use trace_store::{CassandraStore, MemoryStore, SearchIndexer, SpanWriter, StoreError};

/// What keyspaces of tests begin with.
const PREFIX: &str = "farspan_test_";

/// Where the cluster listens.
#[expect(clippy::disallowed_methods, reason = "a test is told by the environment")]
pub(crate) fn address() -> String {
    std::env::var("FARSPAN_TEST_CASSANDRA").expect(
        "FARSPAN_TEST_CASSANDRA names no cluster: start one with `tests/engines/cassandra.sh \
         install && tests/engines/cassandra.sh start && tests/engines/cassandra.sh wait` and set \
         it to 127.0.0.1:19042",
    )
}

/// A configuration for a keyspace of one replica.
pub(crate) fn config(keyspace: &str) -> CassandraConfig {
    CassandraConfig {
        replication: [("dc1".to_owned(), 1)].into(),
        request_timeout: Duration::from_secs(30),
        names_max: NAMES_LISTED,
        ..CassandraConfig::at([address()], keyspace, "dc1")
    }
}

/// A keyspace of its own for a directory.
pub(crate) fn keyspace_of(directory: &Path) -> String {
    let name = directory.file_name().unwrap().to_string_lossy();
    let tail = xxhash_rust::xxh3::xxh3_64(directory.to_string_lossy().as_bytes());
    let name: String = name.chars().filter(char::is_ascii_alphanumeric).collect();
    format!("{PREFIX}{}_{tail:016x}", name.to_ascii_lowercase())
}

/// A session for what only tests ask.
pub(crate) async fn session() -> Session {
    // Nodes take their time over a change of the schema while they are busy.
    let profile = ExecutionProfile::builder().request_timeout(Some(Duration::from_secs(120)));
    SessionBuilder::new()
        .known_node(address())
        .default_execution_profile_handle(profile.build().into_handle())
        .fetch_schema_metadata(false)
        .build()
        .await
        .unwrap()
}

/// Drops what earlier runs left, once.
async fn clean() {
    static CLEANED: OnceCell<()> = OnceCell::const_new();
    CLEANED
        .get_or_init(|| async {
            let session = session().await;
            let text = "SELECT keyspace_name FROM system_schema.keyspaces";
            let rows = session.query_unpaged(text, ()).await.unwrap().into_rows_result().unwrap();
            for row in rows.rows::<(String,)>().unwrap() {
                let (keyspace,) = row.unwrap();
                if keyspace.starts_with(PREFIX) {
                    session.query_unpaged(format!("DROP KEYSPACE {keyspace}"), ()).await.unwrap();
                }
            }
        })
        .await;
}

/// What needs a keyspace.
#[derive(Debug)]
pub(crate) enum Need {
    /// Somebody who holds the other end of this.
    Holder(Weak<()>),
    /// A directory, as long as it is there.
    Directory(PathBuf),
}

impl Need {
    fn is_over(&self) -> bool {
        match self {
            Self::Holder(holder) => holder.strong_count() == 0,
            Self::Directory(directory) => !directory.exists(),
        }
    }
}

/// Drops a keyspace some time after nobody needs it any more: every table takes a megabyte or more of
/// a node's heap, and a node that has no more of it stands.
async fn drop_when_over(keyspace: &str, need: Need) {
    static NEEDED: Mutex<BTreeMap<String, Need>> = Mutex::new(BTreeMap::new());
    let over: Vec<String> = {
        let mut needed = NEEDED.lock().unwrap();
        needed.insert(keyspace.to_owned(), need);
        needed.extract_if(.., |_, need| need.is_over()).map(|(keyspace, _)| keyspace).collect()
    };
    if over.is_empty() {
        return;
    }
    let session = session().await;
    for keyspace in over {
        let text = format!("DROP KEYSPACE IF EXISTS {keyspace}");
        if let Err(error) = session.query_unpaged(text, ()).await {
            println!("{keyspace} is left behind: {error}");
        }
    }
}

/// Opens a store of this keyspace, which is created where it is missing and lasts while it is needed.
pub(crate) async fn open_for(
    need: Need,
    config: CassandraConfig,
    clock: Arc<dyn Clock>,
) -> Arc<CassandraStore> {
    clean().await;
    drop_when_over(&config.keyspace, need).await;
    open_with(config, clock).await
}

/// Opens a store of this keyspace, which is created where it is missing.
pub(crate) async fn open(keyspace: &str, clock: Arc<dyn Clock>) -> Arc<CassandraStore> {
    open_with(config(keyspace), clock).await
}

/// The same with a configuration.
pub(crate) async fn open_with(
    config: CassandraConfig,
    clock: Arc<dyn Clock>,
) -> Arc<CassandraStore> {
    CassandraStore::init(&config).await.unwrap();
    CassandraStore::connect(config, clock).await.unwrap()
}

/// A memory that outlives the stores of its directory.
pub(crate) fn memory_of(directory: &Path) -> Arc<MemoryIndex> {
    static MEMORIES: LazyLock<Mutex<HashMap<PathBuf, Arc<MemoryIndex>>>> =
        LazyLock::new(Mutex::default);
    Arc::clone(MEMORIES.lock().unwrap().entry(directory.to_owned()).or_default())
}

/// A store in memory that is written as an index.
#[derive(Debug, Default)]
pub(crate) struct MemoryIndex(pub(crate) Arc<MemoryStore>);

#[async_trait]
impl SearchIndexer for MemoryIndex {
    async fn index(&self, batches: &[LoggedBatch]) -> Result<(), StoreError> {
        self.0.write(batches).await
    }

    async fn flush(&self, now: UnixNanos, force: bool) -> Result<(), StoreError> {
        SpanWriter::flush(&*self.0, now, force).await
    }

    fn indexed(&self) -> Coverage {
        self.0.durable()
    }
}
