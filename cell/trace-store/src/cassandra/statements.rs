//! Every statement that is sent, prepared once; values are bound and never written into the text.

use futures_util::TryStreamExt as _;
use futures_util::stream::FuturesOrdered;
use scylla::client::session::Session;
use scylla::statement::prepared::PreparedStatement;

use super::config::CassandraConfig;
use super::fault;
use crate::port::StoreError;

macro_rules! statements {
    ($($(#[$doc:meta])* $name:ident: $text:expr;)*) => {
        /// The statements.
        #[derive(Debug)]
        pub(super) struct Statements {
            $($(#[$doc])* pub(super) $name: PreparedStatement,)*
        }

        /// Their texts; `{}` stands for the keyspace.
        const TEXTS: &[&str] = &[$($text,)*];

        impl Statements {
            fn of(prepared: Vec<PreparedStatement>) -> Option<Self> {
                let mut prepared = prepared.into_iter();
                Some(Self { $($name: prepared.next()?,)* })
            }
        }
    };
}

statements! {
    /// A row of a trace, of any part. In the order of [`super::rows::SpanRow`].
    write_span: "UPDATE {}.spans USING TTL ? AND TIMESTAMP ? SET span = ?, context = ?, \
        resource = ?, scope = ?, envelopes = envelopes + ?, bytes = ? WHERE tenant = ? \
        AND trace_id = ? AND shard = ? AND part = ? AND span_id = ? AND kind = ? AND content = ?";
    /// A shard of a trace: tenant, trace, shard.
    read_spans: "SELECT part, span_id, kind, content, span, context, resource, scope, envelopes \
        FROM {}.spans WHERE tenant = ? AND trace_id = ? AND shard = ?";
    /// The accounts of a trace: tenant, trace.
    read_accounts: "SELECT span_id, content, bytes FROM {}.spans WHERE tenant = ? \
        AND trace_id = ? AND shard = 0 AND part = 0";
    /// Removes a shard: timestamp, tenant, trace, shard.
    delete_spans: "DELETE FROM {}.spans USING TIMESTAMP ? WHERE tenant = ? AND trace_id = ? \
        AND shard = ?";
    /// A row of the index. In the order of [`super::rows::IndexRow`].
    write_index: "UPDATE {}.service_index USING TTL ? AND TIMESTAMP ? SET region = ?, spans = ? \
        WHERE tenant = ? AND service = ? AND hour = ? AND hash_bucket = ? AND newest = ? \
        AND trace_id = ? AND record = ?";
    /// A bucket of the index, newest first: its key, first and last time.
    read_index: "SELECT newest, trace_id, region, spans FROM {}.service_index WHERE tenant = ? \
        AND service = ? AND hour = ? AND hash_bucket = ? AND newest >= ? AND newest <= ?";
    /// Removes a trace's rows of one time: timestamp, the bucket's key, time, trace.
    delete_index: "DELETE FROM {}.service_index USING TIMESTAMP ? WHERE tenant = ? \
        AND service = ? AND hour = ? AND hash_bucket = ? AND newest = ? AND trace_id = ?";
    /// What a writer put into a level: bytes, tenant, service, hour, level, writer.
    write_fill: "UPDATE {}.index_fill SET bytes = ? WHERE tenant = ? AND service = ? \
        AND hour = ? AND level = ? AND writer = ?";
    /// The levels of an hour: tenant, service, hour.
    read_fill: "SELECT level, writer, bytes FROM {}.index_fill WHERE tenant = ? AND service = ? \
        AND hour = ?";
    /// A day: tenant, day, TTL, timestamp.
    write_day: "INSERT INTO {}.days (tenant, day) VALUES (?, ?) USING TTL ? AND TIMESTAMP ?";
    /// The days of a tenant, newest first: tenant, first, last.
    read_days: "SELECT day FROM {}.days WHERE tenant = ? AND day >= ? AND day <= ?";
    /// A service: TTL, timestamp, slots, levels, name, tenant, day, bucket, service.
    write_service: "UPDATE {}.services USING TTL ? AND TIMESTAMP ? SET slots = slots + ?, \
        levels = levels + ?, name = ? WHERE tenant = ? AND day = ? AND bucket = ? AND service = ?";
    /// Doubts of a service: TTL, slots, tenant, day, bucket, service.
    doubt_service: "UPDATE {}.services USING TTL ? SET doubts = doubts + ? WHERE tenant = ? \
        AND day = ? AND bucket = ? AND service = ?";
    /// The services of a day: tenant, day, bucket.
    read_services: "SELECT service, name, slots, doubts FROM {}.services WHERE tenant = ? \
        AND day = ? AND bucket = ?";
    /// A service: tenant, day, bucket, service.
    read_service: "SELECT slots, levels FROM {}.services WHERE tenant = ? AND day = ? \
        AND bucket = ? AND service = ?";
    /// An operation: TTL, timestamp, slots, name, tenant, service, day, operation, kind.
    write_operation: "UPDATE {}.operations USING TTL ? AND TIMESTAMP ? SET slots = slots + ?, \
        name = ? WHERE tenant = ? AND service = ? AND day = ? AND operation = ? AND kind = ?";
    /// Doubts of an operation: TTL, slots, tenant, service, day, operation, kind.
    doubt_operation: "UPDATE {}.operations USING TTL ? SET doubts = doubts + ? WHERE tenant = ? \
        AND service = ? AND day = ? AND operation = ? AND kind = ?";
    /// The operations of a service: tenant, service, day.
    read_operations: "SELECT operation, kind, name, slots, doubts FROM {}.operations \
        WHERE tenant = ? AND service = ? AND day = ?";
    /// An operation in all kinds: tenant, service, day, operation.
    read_operation: "SELECT slots FROM {}.operations WHERE tenant = ? AND service = ? \
        AND day = ? AND operation = ?";
    /// An erased trace: epoch, time, tenant, trace, TTL.
    write_erased: "INSERT INTO {}.erased (epoch, erased_at, tenant, trace_id) \
        VALUES (?, ?, ?, ?) USING TTL ?";
    /// The erased of an epoch from a time on.
    read_erased: "SELECT erased_at, tenant, trace_id FROM {}.erased WHERE epoch = ? \
        AND erased_at >= ?";
    /// How far a partition is written: timestamp (the offset), offset, log, incarnation, partition.
    write_progress: "UPDATE {}.progress USING TIMESTAMP ? SET next = ? WHERE log = ? \
        AND incarnation = ? AND log_partition = ?";
    /// How far a log is written.
    read_progress: "SELECT incarnation, log_partition, next FROM {}.progress WHERE log = ?";
    /// What was written of a day: TTL, timestamp (the offset), offset, spans, bytes, log, day,
    /// incarnation, partition.
    write_held: "UPDATE {}.held USING TTL ? AND TIMESTAMP ? SET next = ?, spans = ?, bytes = ? \
        WHERE log = ? AND day = ? AND incarnation = ? AND log_partition = ?";
    /// What was written of each day.
    read_held: "SELECT day, incarnation, log_partition, next, spans, bytes FROM {}.held \
        WHERE log = ?";
}

/// Prepares them all. Each may be repeated: none counts or appends.
pub(super) async fn prepare(
    session: &Session,
    config: &CassandraConfig,
) -> Result<Statements, StoreError> {
    let prepare = |text: &&str| {
        let level = match text.starts_with("SELECT") {
            true => config.consistency.of_reads(),
            false => config.consistency.of_writes(),
        };
        let text = text.replace("{}", &config.keyspace);
        async move {
            let mut statement = session.prepare(text).await.map_err(|e| fault::of_prepare(&e))?;
            statement.set_is_idempotent(true);
            statement.set_consistency(level);
            statement.set_use_cached_result_metadata(true);
            Ok::<_, StoreError>(statement)
        }
    };
    let prepared = TEXTS.iter().map(prepare).collect::<FuturesOrdered<_>>();
    let prepared = prepared.try_collect().await?;
    Statements::of(prepared).ok_or_else(|| StoreError::Damaged("a statement is missing".to_owned()))
}
