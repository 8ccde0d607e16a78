//! The rows that the store has written, read back and written by a loop over Cassandra's driver that
//! knows nothing else: the same tables, statements, batches and bytes, so that what differs is the way
//! to them and not what the engine has to do.

use futures_util::TryStreamExt as _;
use futures_util::stream::{FuturesUnordered, StreamExt as _};
use scylla::SerializeRow;
use scylla::client::session::Session;
use scylla::client::session_builder::SessionBuilder;
use scylla::statement::Consistency;
use scylla::statement::batch::{Batch, BatchType};
use scylla::statement::prepared::PreparedStatement;
use scylla::value::MaybeUnset;

use crate::bare_cassandra::IN_FLIGHT;

/// 30 days, as the store's default.
const TTL: i32 = 30 * 24 * 3_600;
/// As the store: most rows of a batch.
const BATCH_ROWS: usize = 64;

type Envelopes = Vec<(i64, String, String)>;
#[derive(Debug, SerializeRow)]
#[scylla(flavor = "enforce_order", skip_name_checks)]
struct SpanRow {
    ttl: i32,
    timestamp: i64,
    span: MaybeUnset<Vec<u8>>,
    context: MaybeUnset<i64>,
    resource: MaybeUnset<Vec<u8>>,
    scope: MaybeUnset<Vec<u8>>,
    envelopes: MaybeUnset<Envelopes>,
    tenant: String,
    trace_id: Vec<u8>,
    shard: i32,
    part: i8,
    span_id: Vec<u8>,
    kind: i8,
    content: i64,
}

#[derive(Debug, SerializeRow)]
#[scylla(flavor = "enforce_order", skip_name_checks)]
struct IndexRow {
    ttl: i32,
    timestamp: i64,
    region: String,
    spans: Vec<u8>,
    tenant: String,
    service: String,
    hour: i32,
    hash_bucket: i32,
    newest: i64,
    trace_id: Vec<u8>,
    record: i64,
}

/// What one round has written.
#[derive(Debug)]
pub(crate) struct Rows {
    spans: Vec<Vec<SpanRow>>,
    index: Vec<Vec<IndexRow>>,
    /// Rows that are spans.
    pub(crate) span_count: usize,
}

/// A loop over the driver.
#[derive(Debug)]
pub(crate) struct SameRows {
    session: Session,
    write_span: PreparedStatement,
    write_index: PreparedStatement,
    from: String,
    to: String,
}

impl SameRows {
    /// From one keyspace into another of the same schema.
    pub(crate) async fn open(address: &str, from: &str, to: &str) -> Self {
        let session = SessionBuilder::new().known_node(address).build().await.expect("a session");
        let prepare = async |text: String| {
            let mut statement = session.prepare(text).await.expect("prepared");
            statement.set_consistency(Consistency::LocalQuorum);
            statement
        };
        let write_span = prepare(format!(
            "UPDATE {to}.spans USING TTL ? AND TIMESTAMP ? SET span = ?, context = ?, resource = ?, \
             scope = ?, envelopes = envelopes + ? WHERE tenant = ? AND trace_id = ? AND shard = ? \
             AND part = ? AND span_id = ? AND kind = ? AND content = ?"
        ));
        let write_span = write_span.await;
        let write_index = prepare(format!(
            "UPDATE {to}.service_index USING TTL ? AND TIMESTAMP ? SET region = ?, spans = ? \
             WHERE tenant = ? AND service = ? AND hour = ? AND hash_bucket = ? AND newest = ? \
             AND trace_id = ? AND record = ?"
        ));
        let write_index = write_index.await;
        Self { session, write_span, write_index, from: from.to_owned(), to: to.to_owned() }
    }

    /// Reads back what is in the tables.
    pub(crate) async fn read(&self) -> Rows {
        let timestamp = 1_790_000_400_000_000;
        let mut spans: Vec<SpanRow> = Vec::new();
        let text = format!(
            "SELECT tenant, trace_id, shard, part, span_id, kind, content, span, context, resource, \
             scope, envelopes FROM {}.spans",
            self.from
        );
        type Found = (
            String,
            Vec<u8>,
            i32,
            i8,
            Vec<u8>,
            i8,
            i64,
            Option<Vec<u8>>,
            Option<i64>,
            Option<Vec<u8>>,
            Option<Vec<u8>>,
            Option<Envelopes>,
        );
        let pager = self.session.query_iter(text, ()).await.expect("a scan");
        let mut found = pager.rows_stream::<Found>().expect("rows of this type");
        while let Some(row) = found.try_next().await.expect("a row") {
            let (tenant, trace_id, shard, part, span_id, kind, content, span, context, ..) = &row;
            // Accounts hold no span.
            if *part == 0 {
                continue;
            }
            spans.push(SpanRow {
                ttl: TTL,
                timestamp,
                span: MaybeUnset::from_option(span.clone()),
                context: MaybeUnset::from_option(*context),
                resource: MaybeUnset::from_option(row.9.clone()),
                scope: MaybeUnset::from_option(row.10.clone()),
                envelopes: MaybeUnset::from_option(row.11.clone()),
                tenant: tenant.clone(),
                trace_id: trace_id.clone(),
                shard: *shard,
                part: *part,
                span_id: span_id.clone(),
                kind: *kind,
                content: *content,
            });
        }
        let span_count = spans.iter().filter(|row| row.part == 2).count();
        let index = self.read_index(timestamp).await;
        let is_same = |one: &SpanRow, other: &SpanRow| {
            (&one.trace_id, one.shard) == (&other.trace_id, other.shard)
        };
        let is_same_bucket = |one: &IndexRow, other: &IndexRow| {
            (&one.service, one.hour, one.hash_bucket)
                == (&other.service, other.hour, other.hash_bucket)
        };
        Rows { spans: batches(spans, is_same), index: batches(index, is_same_bucket), span_count }
    }

    async fn read_index(&self, timestamp: i64) -> Vec<IndexRow> {
        type Found = (String, String, i32, i32, i64, Vec<u8>, i64, String, Vec<u8>);
        let text = format!(
            "SELECT tenant, service, hour, hash_bucket, newest, trace_id, record, region, spans \
             FROM {}.service_index",
            self.from
        );
        let pager = self.session.query_iter(text, ()).await.expect("a scan");
        let found = pager.rows_stream::<Found>().expect("rows of this type");
        let row = |found: Found| {
            let (tenant, service, hour, hash_bucket, newest, trace_id, record, region, spans) =
                found;
            IndexRow {
                ttl: TTL,
                timestamp,
                region,
                spans,
                tenant,
                service,
                hour,
                hash_bucket,
                newest,
                trace_id,
                record,
            }
        };
        found.map_ok(row).try_collect().await.expect("rows")
    }

    /// Writes them: spans, then the index.
    pub(crate) async fn write(&self, rows: &Rows) {
        self.write_all(&self.write_span, &rows.spans).await;
        self.write_all(&self.write_index, &rows.index).await;
    }

    async fn write_all<R: scylla::serialize::row::SerializeRow + Sync>(
        &self,
        statement: &PreparedStatement,
        batches: &[Vec<R>],
    ) {
        let mut running = FuturesUnordered::new();
        for rows in batches {
            if running.len() >= IN_FLIGHT {
                running.next().await;
            }
            running.push(async move {
                let mut batch = Batch::new(BatchType::Unlogged);
                batch.set_consistency(Consistency::LocalQuorum);
                rows.iter().for_each(|_| batch.append_statement(statement.clone()));
                self.session.batch(&batch, rows).await.expect("written");
            });
        }
        while running.next().await.is_some() {}
    }

    /// Empties the tables of both keyspaces.
    pub(crate) async fn empty(&self) {
        for keyspace in [&self.from, &self.to] {
            for table in ["spans", "service_index"] {
                let text = format!("TRUNCATE {keyspace}.{table}");
                self.session.query_unpaged(text, ()).await.expect("emptied");
            }
        }
    }
}

/// Neighbours of one partition, so many at once.
fn batches<R>(rows: Vec<R>, is_same: impl Fn(&R, &R) -> bool) -> Vec<Vec<R>> {
    let mut batches: Vec<Vec<R>> = Vec::new();
    for row in rows {
        let last = batches.last_mut().filter(|batch| batch.len() < BATCH_ROWS);
        match last.filter(|batch| batch.last().is_some_and(|last| is_same(last, &row))) {
            Some(batch) => batch.push(row),
            None => batches.push(vec![row]),
        }
    }
    batches
}
