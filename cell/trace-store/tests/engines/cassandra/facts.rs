//! What only a store over Cassandra has: what lies in its tables, what it refuses, what it survives.

mod away;
mod backup;
mod bounds;
mod erasing;
mod figures;
mod hostile;
mod long;
mod rows;
mod schema;
mod search;
mod tls;

use std::sync::Arc;

use opentelemetry_proto::tonic::trace::v1 as otlp;
use proto::LoggedBatch;
use scylla::client::session::Session;
use scylla::deserialize::row::DeserializeRow;
use scylla::response::PagingState;
use scylla::statement::unprepared::Statement;
use service_kit::ManualClock;
use trace_model::{StoredSpan, TenantId, TraceId, TraceSpans};
use trace_store::{CassandraStore, SpanWriter, TraceReader};

use super::cluster;
use crate::fixture::{Log, NOW, Request};

/// A store of a keyspace of its own, with a log, a clock that stands still and a session beside it.
pub(super) struct Bench {
    pub(super) keyspace: String,
    pub(super) clock: Arc<ManualClock>,
    pub(super) store: Arc<CassandraStore>,
    pub(super) log: Log,
    pub(super) session: Session,
    /// The keyspace goes with it.
    _holder: Arc<()>,
}

impl Bench {
    pub(super) async fn new(name: &str) -> Self {
        Self::with(name, |_| {}).await
    }

    pub(super) async fn with(
        name: &str,
        change: impl FnOnce(&mut trace_store::CassandraConfig),
    ) -> Self {
        let keyspace = cluster::keyspace_of(std::path::Path::new(name));
        let mut config = cluster::config(&keyspace);
        change(&mut config);
        let clock = Arc::new(ManualClock::at(NOW));
        let holder = Arc::new(());
        let need = cluster::Need::Holder(Arc::downgrade(&holder));
        let store = cluster::open_for(need, config, clock.clone()).await;
        let session = cluster::session().await;
        Self { keyspace, clock, store, log: Log::new(), session, _holder: holder }
    }

    /// Another store of the same keyspace: another process.
    pub(super) async fn another(&self) -> Arc<CassandraStore> {
        cluster::open(&self.keyspace, self.clock.clone()).await
    }

    pub(super) async fn write(&mut self, request: &Request) -> LoggedBatch {
        let batch = self.log.append(request);
        self.store.write(std::slice::from_ref(&batch)).await.unwrap();
        batch
    }

    pub(super) async fn flush(&self) {
        SpanWriter::flush(&*self.store, NOW, true).await.unwrap();
    }

    pub(super) async fn read(&self, trace_id: TraceId) -> Vec<StoredSpan> {
        read(&self.store, trace_id).await
    }

    /// All rows that a statement gives; `{}` stands for the keyspace.
    pub(super) async fn rows<R>(&self, text: &str) -> Vec<R>
    where
        R: for<'frame, 'metadata> DeserializeRow<'frame, 'metadata>,
    {
        let text = text.replace("{}", &self.keyspace);
        let statement = Statement::new(text).with_page_size(5_000);
        let statement = self.session.prepare(statement).await.unwrap();
        let mut rows = Vec::new();
        let mut state = PagingState::start();
        loop {
            let page = self.session.execute_single_page(&statement, (), state).await.unwrap();
            let result = page.0.into_rows_result().unwrap();
            rows.extend(result.rows::<R>().unwrap().map(Result::unwrap));
            match page.1.into_paging_control_flow() {
                std::ops::ControlFlow::Break(()) => return rows,
                std::ops::ControlFlow::Continue(next) => state = next,
            }
        }
    }

    /// Keys of all rows of spans: trace, shard, span id, content.
    pub(super) async fn span_rows(&self) -> Vec<(Vec<u8>, i32, Vec<u8>, i64)> {
        let text = "SELECT trace_id, shard, span_id, content, part FROM {}.spans";
        let rows = self.rows::<(Vec<u8>, i32, Vec<u8>, i64, i8)>(text).await;
        let rows = rows.into_iter().filter(|row| row.4 == 2);
        rows.map(|(trace, shard, span, content, _)| (trace, shard, span, content)).collect()
    }
}

/// The spans of a trace of the default tenant, each once.
pub(super) async fn read(store: &CassandraStore, trace_id: TraceId) -> Vec<StoredSpan> {
    let read = store.read_trace(&TenantId::default(), trace_id).await.unwrap();
    assert!(!read.is_damaged);
    let mut spans = TraceSpans::new(trace_id);
    for span in read.spans {
        spans.insert(span);
    }
    spans.into_spans().collect()
}

/// A request of spans of one service, received then.
pub(super) fn received(after: u64, service: &str, spans: &[otlp::Span]) -> Request {
    Request { receive_time: NOW.plus(after), ..Request::of(service, spans) }
}
