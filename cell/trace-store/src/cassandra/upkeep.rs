//! What an operator asks of a keyspace: how it stands, and that its schema goes forward.

use scylla::client::session::Session;
use scylla::errors::{DbError, ExecutionError, RequestAttemptError};
use trace_model::Coverage;

use super::config::CassandraConfig;
use super::fault;
use super::init::{COMPONENT, change, check, found_version, name_of, note, open, rows};
use super::places::unsigned;
use super::schema::SCHEMA;
use crate::migration::{MigrationReport, Schema};
use crate::port::{PartSize, StoreError, StoreStatus};

/// See [`super::CassandraStore::status`].
pub(super) async fn status(config: &CassandraConfig) -> Result<StoreStatus, StoreError> {
    let session = Box::pin(open(config)).await?;
    let keyspace = &config.keyspace;
    let schema = found_version(&session, keyspace).await?;
    let mut status =
        StoreStatus { engine: engine(&session).await?, schema, ..StoreStatus::default() };
    if schema == Some(SCHEMA.version) {
        status.differences = Box::pin(check(config)).await?;
        status.sizes = sizes(&session, keyspace).await?;
        status.covered = vec![("storage-writer", covered(&session, config).await?)];
    }
    Ok(status)
}

async fn engine(session: &Session) -> Result<String, StoreError> {
    let text = "SELECT release_version FROM system.local".to_owned();
    let found = rows::<(String,)>(session, text, &[]).await;
    let found = found.map_err(|error| fault::of_request(&error))?;
    let version = found.into_iter().next().map(|(version,)| version).unwrap_or_default();
    Ok(format!("Cassandra {version}"))
}

/// The estimates of the node that answers, in which what was not yet flushed to disk is missing.
async fn sizes(session: &Session, keyspace: &str) -> Result<Vec<PartSize>, StoreError> {
    let text = "SELECT table_name, mean_partition_size, partitions_count FROM system.size_estimates \
                WHERE keyspace_name = ?";
    let found = rows::<(String, i64, i64)>(session, text.to_owned(), &[keyspace]).await;
    let mut sizes: Vec<PartSize> = Vec::new();
    for (name, mean, count) in found.map_err(|error| fault::of_request(&error))? {
        let bytes = unsigned(mean).saturating_mul(unsigned(count));
        match sizes.iter_mut().find(|size| size.name == name) {
            Some(size) => size.bytes = size.bytes.saturating_add(bytes),
            None => sizes.push(PartSize { name, rows: None, bytes }),
        }
    }
    sizes.retain(|size| size.bytes > 0);
    Ok(sizes)
}

async fn covered(session: &Session, config: &CassandraConfig) -> Result<Coverage, StoreError> {
    let keyspace = &config.keyspace;
    let text =
        format!("SELECT incarnation, log_partition, next FROM {keyspace}.progress WHERE log = ?");
    let found = rows::<(i64, i32, i64)>(session, text, &[&config.log]).await;
    let mut covered = Coverage::default();
    for (incarnation, partition, next) in found.map_err(|error| fault::of_request(&error))? {
        let mut one = Coverage::none(incarnation.cast_unsigned());
        one.extend(partition.cast_unsigned(), unsigned(next));
        covered.join(&one);
    }
    Ok(covered)
}

/// See [`super::CassandraStore::migrate`].
pub(super) async fn migrate(
    config: &CassandraConfig,
    schema: &Schema,
    is_dry_run: bool,
) -> Result<MigrationReport, StoreError> {
    let session = Box::pin(open(config)).await?;
    let keyspace = &config.keyspace;
    let report = schema.due(&name_of(keyspace), found_version(&session, keyspace).await?)?;
    if is_dry_run {
        return Ok(report);
    }
    for step in &report.steps {
        for statement in step.statements {
            apply(&session, statement.replace("{store}", keyspace)).await?;
        }
        note(&session, config, &format!("{COMPONENT} step {}", step.to), step.to).await?;
        note(&session, config, COMPONENT, step.to).await?;
    }
    Ok(report)
}

/// Runs a statement of a step. A column that a try before has added is there.
async fn apply(session: &Session, statement: String) -> Result<(), StoreError> {
    match change(session, statement).await {
        Ok(()) => Ok(()),
        Err(error) if is_there_already(&error) => Ok(()),
        Err(error) => Err(fault::of_request(&error)),
    }
}

fn is_there_already(error: &ExecutionError) -> bool {
    let ExecutionError::LastAttemptError(RequestAttemptError::DbError(kind, words)) = error else {
        return false;
    };
    let is_existing = words.contains("already exist") || words.contains("existing column");
    matches!(kind, DbError::AlreadyExists { .. }) || (*kind == DbError::Invalid && is_existing)
}
