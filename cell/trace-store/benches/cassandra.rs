//! What the store costs over Cassandra, against a bare loop over the same driver in the same run:
//! rows of the same bytes written by batches of one partition, and traces of 20 spans read by page.
//! Rounds of both alternate, so that a busy machine hits both alike; medians are printed.
//!
//! `FARSPAN_TEST_CASSANDRA=127.0.0.1:19042 cargo bench -p trace-store --bench cassandra`; the number
//! of spans a round is the environment's to say (`STORE_SPANS`; 40,000 where it says nothing).
#![expect(
    clippy::expect_used,
    clippy::print_stdout,
    clippy::indexing_slicing,
    clippy::cast_precision_loss,
    clippy::disallowed_methods,
    reason = "a benchmark"
)]

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use futures_util::stream::{FuturesUnordered, StreamExt as _};
use proto::LoggedBatch;
use proto::span_batch::{SpanBatch, TraceSlice};
use scylla::client::session::Session;
use scylla::client::session_builder::SessionBuilder;
use scylla::response::{PagingState, PagingStateResponse};
use scylla::statement::batch::{Batch, BatchType};
use scylla::statement::prepared::PreparedStatement;
use trace_model::merge::context_hash;
use trace_model::{TenantId, TraceId};
use trace_store::{CassandraConfig, CassandraStore, SpanWriter, TraceReader};

mod measure;
#[path = "../tests/conformance/workload.rs"]
mod workload;

use measure::{BenchClock, median, print_medians, timed};
use workload::{BEGIN, REQUEST_SPANS, Workload};

/// As the product's binary.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Rounds of each kind.
const ROUNDS: usize = 7;
/// Requests on their way at once, on both sides.
const IN_FLIGHT: usize = 64;
/// Requests of a call, about 4 MiB: what a consumer reads at once.
const CALL_REQUESTS: usize = 16;
/// Spans of the traces that are read.
const TRACE_SPANS: u32 = 20;
const KEYSPACE: &str = "farspan_bench";
/// 30 days.
const TTL: i32 = 30 * 24 * 3_600;

/// A loop that knows nothing but the driver: one table, plain columns, the bytes of each resource
/// and scope once a batch, as the store does.
struct Bare {
    session: Session,
    insert: PreparedStatement,
    select: PreparedStatement,
}

type BareRow<'a> =
    (&'a str, &'a [u8], &'a [u8], i64, &'a [u8], i64, Option<i64>, &'a str, &'a str, i32);

impl Bare {
    async fn open(address: &str) -> Self {
        let session = SessionBuilder::new().known_node(address).build().await.expect("a session");
        let table = format!(
            "CREATE TABLE IF NOT EXISTS {KEYSPACE}.bare (tenant text, trace_id blob, span_id blob, \
             content bigint, body blob, context bigint, received bigint, region text, \
             collector text, PRIMARY KEY ((tenant, trace_id), span_id, content)) \
             WITH compaction = {{'class': 'TimeWindowCompactionStrategy'}} \
             AND compression = {{'class': 'ZstdCompressor', 'chunk_length_in_kb': '16'}}"
        );
        session.query_unpaged(table, ()).await.expect("a table");
        let insert = format!(
            "INSERT INTO {KEYSPACE}.bare (tenant, trace_id, span_id, content, body, received, \
             context, region, collector) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?) USING TTL ?"
        );
        let select = format!(
            "SELECT span_id, content, body, context, received, region, collector \
             FROM {KEYSPACE}.bare WHERE tenant = ? AND trace_id = ?"
        );
        let mut insert = session.prepare(insert).await.expect("prepared");
        insert.set_consistency(scylla::statement::Consistency::LocalQuorum);
        let mut select = session.prepare(select).await.expect("prepared");
        select.set_consistency(scylla::statement::Consistency::LocalQuorum);
        select.set_use_cached_result_metadata(true);
        Self { session, insert, select }
    }

    async fn write(&self, requests: &[LoggedBatch]) {
        let mut running = FuturesUnordered::new();
        for logged in requests {
            for slice in logged.batch.traces() {
                if running.len() >= IN_FLIGHT {
                    running.next().await;
                }
                running.push(self.batch(bare_rows(&logged.batch, slice)));
            }
        }
        while running.next().await.is_some() {}
    }

    async fn batch(&self, rows: Vec<BareRow<'_>>) {
        let mut batch = Batch::new(BatchType::Unlogged);
        batch.set_consistency(scylla::statement::Consistency::LocalQuorum);
        for _ in &rows {
            batch.append_statement(self.insert.clone());
        }
        self.session.batch(&batch, rows).await.expect("written");
    }

    async fn read(&self, trace_id: TraceId) -> usize {
        type Row<'a> = (&'a [u8], i64, Bytes, Option<i64>, i64, &'a str, &'a str);
        let mut state = PagingState::start();
        let mut count = 0;
        loop {
            let values = ("default", trace_id.as_bytes().as_slice());
            let page = self.session.execute_single_page(&self.select, values, state).await;
            let (result, next) = page.expect("a page");
            let result = result.into_rows_result().expect("rows");
            for row in result.rows::<Row<'_>>().expect("rows of this type") {
                count += usize::from(!row.expect("a row").0.is_empty());
            }
            match next {
                PagingStateResponse::NoMorePages => return count,
                PagingStateResponse::HasMorePages { state: more } => state = more,
            }
        }
    }
}

/// Each resource once, then the spans of a trace.
fn bare_rows<'a>(batch: &'a SpanBatch, slice: &'a TraceSlice) -> Vec<BareRow<'a>> {
    let id = slice.trace_id.as_bytes().as_slice();
    let mut contexts: BTreeMap<u32, i64> = BTreeMap::new();
    let mut rows: Vec<BareRow<'a>> = Vec::new();
    for span in batch.spans_of(slice) {
        let context = batch.context_of(span).expect("a context");
        let hash = context_hash(&context.resource, &context.scope).cast_signed();
        if contexts.insert(span.scope, hash).is_none() {
            rows.push(("default", id, &[], hash, &context.resource, 0, None, "", "", TTL));
        }
    }
    let source = batch.source();
    for span in batch.spans_of(slice) {
        rows.push((
            "default",
            id,
            span.span_id.as_bytes(),
            batch.key_of(span).content.cast_signed(),
            batch.bytes_of(span),
            source.receive_time.0.cast_signed(),
            contexts.get(&span.scope).copied(),
            source.region.as_str(),
            &source.collector,
            TTL,
        ));
    }
    rows
}

async fn write_rounds(store: &CassandraStore, bare: &Bare, spans: usize) -> Vec<TraceId> {
    let mut workload = Workload::new(7, 1_000_000);
    let (mut ours, mut bares, mut ids) = (Vec::new(), Vec::new(), Vec::new());
    for round in 0..=ROUNDS {
        let requests: Vec<_> =
            (0..spans.div_ceil(REQUEST_SPANS)).map(|_| workload.request()).collect();
        let spans = requests.len() * REQUEST_SPANS;
        for logged in &requests {
            let traces = logged.batch.traces().iter();
            let fitting = traces.filter(|slice| slice.span_count == TRACE_SPANS);
            ids.extend(fitting.map(|slice| slice.trace_id));
        }
        let written = timed(spans, async {
            for call in requests.chunks(CALL_REQUESTS) {
                store.write(call).await.expect("written");
                SpanWriter::flush(store, BEGIN, false).await.expect("flushed");
            }
        });
        let own = written.await;
        let other = timed(spans, async {
            for call in requests.chunks(CALL_REQUESTS) {
                bare.write(call).await;
            }
        });
        let other = other.await;
        println!("round {round}: ours {:.0} spans/s, bare {:.0} spans/s", own.0, other.0);
        // The first one warms both up.
        if round > 0 {
            ours.push(own);
            bares.push(other);
        }
    }
    print_medians("span", &ours, &bares);
    ids
}

async fn read_rounds(store: &CassandraStore, bare: &Bare, ids: &[TraceId]) {
    let tenant = TenantId::default();
    let (mut ours, mut bares) = (Vec::new(), Vec::new());
    for (at, id) in ids.iter().cycle().take(4_000).enumerate() {
        let begun = Instant::now();
        let read = store.read_trace(&tenant, *id).await.expect("read");
        let own = begun.elapsed();
        assert_eq!(read.spans.len(), TRACE_SPANS as usize, "a whole trace");
        let begun = Instant::now();
        let count = bare.read(*id).await;
        let other = begun.elapsed();
        assert_eq!(count, TRACE_SPANS as usize, "a whole trace");
        if at >= 500 {
            ours.push(own.as_secs_f64() * 1_000.0);
            bares.push(other.as_secs_f64() * 1_000.0);
        }
    }
    let (own, other) = (median(&mut ours), median(&mut bares));
    println!(
        "by id, {TRACE_SPANS} spans, {} traces: P50 {own:.2} ms, bare {other:.2} ms: {:.2} x; P95 \
         {:.2} ms, bare {:.2} ms",
        ids.len(),
        own / other,
        ours[ours.len() * 95 / 100],
        bares[bares.len() * 95 / 100],
    );
}

async fn run() {
    let setting = |name: &str| std::env::var(name).ok();
    let address = setting("FARSPAN_TEST_CASSANDRA").unwrap_or("127.0.0.1:19042".to_owned());
    let spans = setting("STORE_SPANS").and_then(|text| text.parse().ok()).unwrap_or(40_000);
    let config = CassandraConfig {
        replication: [("dc1".to_owned(), 1)].into(),
        concurrency: IN_FLIGHT,
        ..CassandraConfig::at([address.clone()], KEYSPACE, "dc1")
    };
    let session = SessionBuilder::new().known_node(&address).build().await.expect("a session");
    let drop_keyspace = format!("DROP KEYSPACE IF EXISTS {KEYSPACE}");
    session.query_unpaged(drop_keyspace.clone(), ()).await.expect("dropped");
    CassandraStore::init(&config).await.expect("a schema");
    let clock = Arc::new(BenchClock(Instant::now()));
    let store = CassandraStore::connect(config, clock).await.expect("a store");
    let bare = Bare::open(&address).await;
    let ids = write_rounds(&store, &bare, spans).await;
    read_rounds(&store, &bare, &ids).await;
    session.query_unpaged(drop_keyspace, ()).await.expect("dropped");
}

fn main() {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    runtime.block_on(run());
}
