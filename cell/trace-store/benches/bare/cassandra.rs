//! What a program writes over Cassandra's driver that knows nothing else: the side that the store is
//! measured against.
#![allow(dead_code, reason = "each bench takes what it needs")]

use std::collections::BTreeMap;

use bytes::Bytes;
use futures_util::stream::{FuturesUnordered, StreamExt as _};
use proto::LoggedBatch;
use proto::span_batch::{SpanBatch, TraceSlice};
use scylla::client::session::Session;
use scylla::client::session_builder::SessionBuilder;
use scylla::response::{PagingState, PagingStateResponse};
use scylla::statement::batch::{Batch, BatchType};
use scylla::statement::prepared::PreparedStatement;
use trace_model::TraceId;
use trace_model::merge::context_hash;

/// Requests on their way at once, on both sides.
pub(crate) const IN_FLIGHT: usize = 64;
/// 30 days.
const TTL: i32 = 30 * 24 * 3_600;

/// A loop that knows nothing but the driver: one table, plain columns, the bytes of each resource
/// and scope once a batch, as the store does.
#[derive(Debug)]
pub(crate) struct Bare {
    session: Session,
    insert: PreparedStatement,
    select: PreparedStatement,
}

type BareRow<'a> =
    (&'a str, &'a [u8], &'a [u8], i64, &'a [u8], i64, Option<i64>, &'a str, &'a str, i32);

impl Bare {
    pub(crate) async fn open(address: &str, keyspace: &str) -> Self {
        let session = SessionBuilder::new().known_node(address).build().await.expect("a session");
        let table = format!(
            "CREATE TABLE IF NOT EXISTS {keyspace}.bare (tenant text, trace_id blob, span_id blob, \
             content bigint, body blob, context bigint, received bigint, region text, \
             collector text, PRIMARY KEY ((tenant, trace_id), span_id, content)) \
             WITH compaction = {{'class': 'TimeWindowCompactionStrategy'}} \
             AND compression = {{'class': 'ZstdCompressor', 'chunk_length_in_kb': '16'}}"
        );
        session.query_unpaged(table, ()).await.expect("a table");
        let insert = format!(
            "INSERT INTO {keyspace}.bare (tenant, trace_id, span_id, content, body, received, \
             context, region, collector) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?) USING TTL ?"
        );
        let select = format!(
            "SELECT span_id, content, body, context, received, region, collector \
             FROM {keyspace}.bare WHERE tenant = ? AND trace_id = ?"
        );
        let mut insert = session.prepare(insert).await.expect("prepared");
        insert.set_consistency(scylla::statement::Consistency::LocalQuorum);
        let mut select = session.prepare(select).await.expect("prepared");
        select.set_consistency(scylla::statement::Consistency::LocalQuorum);
        select.set_use_cached_result_metadata(true);
        Self { session, insert, select }
    }

    pub(crate) async fn write(&self, requests: &[LoggedBatch]) {
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

    pub(crate) async fn read(&self, trace_id: TraceId) -> usize {
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
