//! How tests open, reopen, fill and ask a store, whatever its adapter.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use futures_util::future::BoxFuture;
use service_kit::ManualClock;
use trace_model::query::{CompareOp, Field, Literal, Place};
use trace_model::{Clock, Filter, SearchQuery, StoredSpan, TenantId, TimeRange, TraceId};
use trace_store::{
    EmbeddedStore, EmbeddedStoreConfig, Eraser, MemoryStore, SearchAnswer, SearchIndexer,
    ServiceCatalog, SpanWriter, TraceReader, TraceSearch,
};

use crate::fixture::{Log, NOW, Request};

/// All ports of one store.
pub(crate) trait Store:
    SpanWriter + TraceReader + Eraser + SearchIndexer + TraceSearch + ServiceCatalog
{
}

impl<T: SpanWriter + TraceReader + Eraser + SearchIndexer + TraceSearch + ServiceCatalog> Store
    for T
{
}

/// Opens a store; the directory is its own, and its name is no other test's.
pub(crate) type Open = fn(PathBuf, Arc<dyn Clock>) -> BoxFuture<'static, Arc<dyn Store>>;

/// How an adapter is opened.
#[derive(Clone, Copy)]
pub(crate) struct Adapter {
    pub(crate) open: Open,
    /// What was sealed is there after it is opened again.
    pub(crate) is_durable: bool,
}

pub(crate) const MEMORY: Adapter = Adapter {
    open: |_, _| ready(Arc::new(MemoryStore::new().with_names_max(NAMES_LISTED))),
    is_durable: false,
};
pub(crate) const EMBEDDED: Adapter = Adapter {
    open: |directory, clock| ready(EmbeddedStore::open(small_config(&directory), clock).unwrap()),
    is_durable: true,
};

/// A store that needs no waiting to be opened.
pub(crate) fn ready(store: Arc<dyn Store>) -> BoxFuture<'static, Arc<dyn Store>> {
    Box::pin(std::future::ready(store))
}

/// Names in a list, at most, of every store that runs the suite.
pub(crate) const NAMES_LISTED: usize = 200;

/// Small blocks and segments, so that few spans fill several.
pub(crate) fn small_config(directory: &Path) -> EmbeddedStoreConfig {
    EmbeddedStoreConfig {
        block_spans: 16,
        segment_spans_max: 200,
        merge_fan_in: 3,
        names_max: NAMES_LISTED,
        ..EmbeddedStoreConfig::at(directory)
    }
}

/// A store in a directory of its own.
pub(crate) struct Harness {
    pub(crate) adapter: Adapter,
    pub(crate) directory: tempfile::TempDir,
    pub(crate) clock: Arc<ManualClock>,
    pub(crate) store: Arc<dyn Store>,
    pub(crate) log: Log,
}

impl Harness {
    pub(crate) async fn new(adapter: Adapter) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let clock = Arc::new(ManualClock::at(NOW));
        let store = (adapter.open)(directory.path().to_owned(), clock.clone()).await;
        Self { adapter, directory, clock, store, log: Log::new() }
    }

    pub(crate) async fn write(&mut self, request: &Request) {
        let batch = self.log.append(request);
        self.store.write(std::slice::from_ref(&batch)).await.unwrap();
        self.store.index(&[batch]).await.unwrap();
    }

    pub(crate) async fn seal(&self) {
        SpanWriter::flush(&*self.store, NOW, true).await.unwrap();
        SearchIndexer::flush(&*self.store, NOW, true).await.unwrap();
    }

    pub(crate) async fn write_sealed(&mut self, request: &Request) {
        self.write(request).await;
        self.seal().await;
    }

    /// Closes and opens again, where the adapter keeps anything.
    pub(crate) async fn reopen(self) -> Self {
        let Self { adapter, directory, clock, store, log } = self;
        if !adapter.is_durable {
            return Self { adapter, directory, clock, store, log };
        }
        drop(store);
        let store = (adapter.open)(directory.path().to_owned(), clock.clone()).await;
        Self { adapter, directory, clock, store, log }
    }

    pub(crate) async fn read(&self, trace: TraceId) -> Vec<StoredSpan> {
        self.read_of(&TenantId::default(), trace).await
    }

    /// The spans of a trace, each once.
    pub(crate) async fn read_of(&self, tenant: &TenantId, trace: TraceId) -> Vec<StoredSpan> {
        let read = self.store.read_trace(tenant, trace).await.unwrap();
        assert!(!read.is_damaged);
        let mut spans = trace_model::TraceSpans::new(trace);
        for span in read.spans {
            spans.insert(span);
        }
        spans.into_spans().collect()
    }

    pub(crate) async fn search(&self, filter: Filter) -> SearchAnswer {
        self.store.search(&query(filter)).await.unwrap()
    }

    /// The traces that a filter finds, newest first.
    pub(crate) async fn find(&self, filter: Filter) -> Vec<TraceId> {
        let answer = self.search(filter).await;
        assert!(!answer.is_damaged);
        answer.matches.iter().map(|found| found.trace_id).collect()
    }
}

/// A search over all of time.
pub(crate) fn query(filter: Filter) -> SearchQuery {
    SearchQuery {
        tenant: TenantId::default(),
        filter,
        range: TimeRange::ALL,
        limit: 100,
        before: None,
    }
}

/// Spans whose attribute, wherever it stands, prints so.
pub(crate) fn tag(key: &str, value: &str) -> Filter {
    equals(Field::Attribute { place: Place::Any, key: key.to_owned() }, value)
}

/// Spans whose field prints so.
pub(crate) fn equals(field: Field, value: &str) -> Filter {
    Filter::Compare { field, op: CompareOp::Eq, literal: Literal::Text(value.to_owned()) }
}

/// Names of the files below a directory whose bytes, decompressed where they are frames of zstd,
/// hold the needle.
pub(crate) fn files_with(directory: &Path, needle: &[u8]) -> Vec<String> {
    let holds = |bytes: &[u8]| bytes.windows(needle.len()).any(|window| window == needle);
    let mut found = Vec::new();
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files_with(&path, needle));
            continue;
        }
        let bytes = std::fs::read(&path).unwrap();
        let frames = (0..bytes.len())
            .filter(|at| bytes[*at..].starts_with(&[0x28, 0xb5, 0x2f, 0xfd]))
            .any(|at| {
                let mut decoder = zstd::stream::read::Decoder::new(&bytes[at..]).unwrap();
                let mut frame = Vec::new();
                drop(std::io::Read::read_to_end(&mut decoder, &mut frame));
                holds(&frame)
            });
        if frames || holds(&bytes) {
            found.push(path.display().to_string());
        }
    }
    found
}

/// The files of a directory, in one of its own.
pub(crate) fn copied(directory: &Path) -> tempfile::TempDir {
    let copy = tempfile::tempdir().unwrap();
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        std::fs::copy(&path, copy.path().join(path.file_name().unwrap())).unwrap();
    }
    copy
}
