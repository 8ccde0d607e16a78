//! A keyspace that was lost comes back from its backup, by the commands of docs/OPERATIONS.md. By
//! `sstableloader` as well where `FARSPAN_TEST_LOADER` is set: each table is a virtual machine's start.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use scylla::client::session::Session;
use scylla::client::session_builder::SessionBuilder;
use service_kit::ManualClock;
use trace_model::query::Field;
use trace_model::{LogPosition, TenantId, TimeRange};
use trace_store::cassandra::{CassandraConfig, figures};
use trace_store::{CassandraStore, Eraser, ServiceCatalog, SpanWriter, TraceSearch};

use super::read;
use crate::cassandra::cluster;
use crate::cassandra::node::Node;
use crate::fixture::{INCARNATION, Log, NOW, Request, span, trace_id};
use crate::harness::{equals, query};

const KEYSPACE: &str = "farspan";

/// A directory for each table of the keyspace, with its name.
fn tables_in(directory: &Path) -> Vec<(String, PathBuf)> {
    let entries = std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
    let named = entries.map(|path| {
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        (name.split('-').next().unwrap().to_owned(), path)
    });
    named.collect()
}

fn copy_files(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    let files = std::fs::read_dir(from).unwrap().map(|entry| entry.unwrap().path());
    for file in files.filter(|file| file.is_file()) {
        std::fs::copy(&file, to.join(file.file_name().unwrap())).unwrap();
    }
}

/// A node whose keyspace is backed up and lost.
struct Lost {
    node: Node,
    config: CassandraConfig,
    session: Session,
    /// Where the node keeps its keyspaces.
    data: PathBuf,
    backup: tempfile::TempDir,
}

impl Lost {
    async fn open(&self) -> Arc<CassandraStore> {
        let clock = Arc::new(ManualClock::at(NOW));
        CassandraStore::connect(self.config.clone(), clock).await.unwrap()
    }

    /// `nodetool snapshot`, and the files away.
    async fn back_up(&self) {
        self.node.nodetool(&["snapshot", "-t", "T", KEYSPACE]).await;
        for (table, directory) in tables_in(&self.data.join(KEYSPACE)) {
            let snapshot = directory.join("snapshots/T");
            if snapshot.exists() {
                copy_files(&snapshot, &self.backup.path().join(KEYSPACE).join(table));
            }
        }
        self.node.nodetool(&["clearsnapshot", "-t", "T", KEYSPACE]).await;
    }

    /// The keyspace as `farspan store init` makes it, with nothing in it.
    async fn lose(&self) {
        self.session.query_unpaged(format!("DROP KEYSPACE {KEYSPACE}"), ()).await.unwrap();
        CassandraStore::init(&self.config).await.unwrap();
        assert!(read(&*self.open().await, trace_id(1)).await.is_empty());
    }

    fn backed_up(&self) -> Vec<(String, PathBuf)> {
        tables_in(&self.backup.path().join(KEYSPACE))
    }

    /// The files of each table into its directory, and `nodetool refresh`.
    async fn refresh(&self) {
        for (table, files) in self.backed_up() {
            let text = "SELECT CAST(id AS text) FROM system_schema.tables \
                        WHERE keyspace_name = ? AND table_name = ?";
            let rows = self.session.query_unpaged(text, (KEYSPACE, &table)).await.unwrap();
            let (id,) = rows.into_rows_result().unwrap().single_row::<(String,)>().unwrap();
            let directory = format!("{table}-{}", id.replace('-', ""));
            copy_files(&files, &self.data.join(KEYSPACE).join(directory));
            self.node.nodetool(&["refresh", KEYSPACE, &table]).await;
        }
    }

    /// `sstableloader` of each table.
    async fn load(&self) {
        for (_, files) in self.backed_up() {
            self.node.load(&files).await;
        }
    }
}

/// Two traces and one that was erased; a third one came after the backup and is gone.
async fn is_as_it_was(lost: &Lost) {
    let (store, tenant) = (lost.open().await, TenantId::default());
    for (trace, spans) in [(1, 200), (2, 1), (3, 0), (4, 0)] {
        assert_eq!(read(&store, trace_id(trace)).await.len(), spans, "{trace}");
    }
    let found = store.search(&query(equals(Field::Service, "web"))).await.unwrap().matches;
    let mut found: Vec<_> = found.iter().map(|one| one.trace_id).collect();
    found.sort();
    let mut expected = [trace_id(1), trace_id(2)];
    expected.sort();
    assert_eq!(found, expected);
    assert_eq!(store.operations(&tenant, "web", TimeRange::ALL).await.unwrap().len(), 2);
    let held = |offset| store.durable().covers(INCARNATION, LogPosition { partition: 0, offset });
    assert!(held(2) && !held(3), "{:?}", store.durable());
}

#[tokio::test]
async fn a_keyspace_that_was_lost_comes_back_from_its_snapshots() {
    let node = Node::start("backup", &[]).await;
    let mut config = cluster::config(KEYSPACE);
    config.contact_points = vec![node.address()];
    CassandraStore::init(&config).await.unwrap();
    let session = SessionBuilder::new().known_node(node.address()).build().await.unwrap();
    let data = figures(&config).await.unwrap().nodes.remove(0).local.unwrap();
    let data = PathBuf::from(&data.data_directories[0]);
    let lost = Lost { node, config, session, data, backup: tempfile::tempdir().unwrap() };
    let (store, mut log) = (lost.open().await, Log::new());
    let mut write = async |trace: u64, count: u64, name: &str| {
        let spans: Vec<_> = (0..count).map(|id| span(trace, id, name)).collect();
        store.write(&[log.append(&Request::of("web", &spans))]).await.unwrap();
        SpanWriter::flush(&*store, NOW, true).await.unwrap();
    };
    write(1, 200, "step").await;
    write(2, 1, "alone").await;
    write(3, 5, "step").await;
    store.erase(&TenantId::default(), trace_id(3)).await.unwrap();
    lost.back_up().await;
    write(4, 1, "later").await;
    lost.lose().await;
    lost.refresh().await;
    is_as_it_was(&lost).await;
    if std::env::var_os("FARSPAN_TEST_LOADER").is_some() {
        lost.lose().await;
        lost.load().await;
        is_as_it_was(&lost).await;
    }
}
