//! Creates the schema, checks it, refuses a newer one.

use std::collections::BTreeMap;
use std::time::Duration;

use prometheus_client::metrics::counter::Counter;
use scylla::client::session::Session;
use scylla::deserialize::row::DeserializeRow;
use scylla::errors::{DbError, ExecutionError, RequestAttemptError};
use scylla::statement::unprepared::Statement;

use super::config::CassandraConfig;
use super::fault::{self, Disconnected};
use super::schema::{Dialect, GC_GRACE_SECONDS, SCHEMA, TABLES, Table, create_keyspace};
use super::session;
use crate::migration::expect;
use crate::port::StoreError;

/// What a version of the schema is kept under.
pub(super) const COMPONENT: &str = "trace-store";

/// How long a change of the schema may take: nodes make one after the other, write each to disk and wait for one
/// another, which on a busy cluster takes longer than any request of service should.
const CHANGE_TIMEOUT: Duration = Duration::from_secs(120);

pub(super) async fn open(config: &CassandraConfig) -> Result<Session, StoreError> {
    session::open(config, &Counter::default()).await.map_err(Disconnected::into_error)
}

/// See [`super::CassandraStore::init`].
pub(super) async fn init(config: &CassandraConfig) -> Result<(), StoreError> {
    let session = Box::pin(open(config)).await?;
    let keyspace = &config.keyspace;
    run(&session, create_keyspace(config)?).await?;
    let dialect = dialect(&session).await?;
    // Before anything is created beside it.
    let found = found_version(&session, keyspace).await?;
    if found.is_some() {
        // An older schema is a person's to migrate: beside it nothing is made.
        expect(&name_of(keyspace), found, SCHEMA.version)?;
    }
    for table in &TABLES {
        run(&session, table.create(keyspace, config.retention, dialect)).await?;
    }
    if found.is_none() {
        note(&session, config, COMPONENT, SCHEMA.version).await?;
    }
    Ok(())
}

/// A keyspace as errors name it.
pub(super) fn name_of(keyspace: &str) -> String {
    format!("the keyspace {keyspace}")
}

/// Notes a version of the schema, or a step to it.
pub(super) async fn note(
    session: &Session,
    config: &CassandraConfig,
    component: &str,
    version: u32,
) -> Result<(), StoreError> {
    let version = i32::try_from(version).unwrap_or(i32::MAX);
    let keyspace = &config.keyspace;
    let text = format!("INSERT INTO {keyspace}.schema_version (component, version) VALUES (?, ?)");
    let mut text = Statement::new(text);
    text.set_consistency(config.consistency.of_writes());
    let sent = Box::pin(session.query_unpaged(text, (component, version))).await;
    sent.map(drop).map_err(|error| fault::of_request(&error))
}

/// Runs a statement that changes the schema.
pub(super) async fn change(session: &Session, text: String) -> Result<(), ExecutionError> {
    let mut statement = Statement::new(text);
    statement.set_request_timeout(Some(CHANGE_TIMEOUT));
    Box::pin(session.query_unpaged(statement, ())).await.map(drop)
}

async fn run(session: &Session, text: String) -> Result<(), StoreError> {
    change(session, text).await.map_err(|error| fault::of_request(&error))
}

/// Rows of a table of the server's own, or of the few that are small.
pub(super) async fn rows<R>(
    session: &Session,
    text: String,
    values: &[&str],
) -> Result<Vec<R>, ExecutionError>
where
    R: for<'frame, 'metadata> DeserializeRow<'frame, 'metadata>,
{
    let result = Box::pin(session.query_unpaged(text, values)).await?;
    let Ok(rows) = result.into_rows_result() else { return Ok(Vec::new()) };
    let Ok(rows) = rows.rows::<R>() else { return Ok(Vec::new()) };
    Ok(rows.filter_map(Result::ok).collect())
}

pub(super) async fn dialect(session: &Session) -> Result<Dialect, StoreError> {
    let text = "SELECT table_name FROM system_schema.tables WHERE keyspace_name = 'system' \
                AND table_name = 'scylla_local'";
    let found = rows::<(String,)>(session, text.to_owned(), &[]).await;
    let found = found.map_err(|error| fault::of_request(&error))?;
    Ok(if found.is_empty() { Dialect::Cassandra } else { Dialect::Scylla })
}

/// The version that a keyspace notes; `None` also where it has no tables, or is not there.
pub(super) async fn found_version(
    session: &Session,
    keyspace: &str,
) -> Result<Option<u32>, StoreError> {
    match version(session, keyspace).await {
        Ok(found) => Ok(found),
        Err(error) if is_missing(&error) => Ok(None),
        Err(error) => Err(fault::of_request(&error)),
    }
}

async fn version(session: &Session, keyspace: &str) -> Result<Option<u32>, ExecutionError> {
    let text = format!("SELECT component, version FROM {keyspace}.schema_version");
    let found = rows::<(String, i32)>(session, text, &[]).await?;
    let ours = found.into_iter().find(|(component, _)| component == COMPONENT);
    Ok(ours.map(|(_, version)| u32::try_from(version).unwrap_or(0)))
}

/// The server's word for a keyspace or table that is not there.
fn is_missing(error: &ExecutionError) -> bool {
    matches!(
        error,
        ExecutionError::LastAttemptError(RequestAttemptError::DbError(DbError::Invalid, _))
    )
}

/// Refuses a keyspace without schema, or with one of another version.
pub(super) async fn expect_schema(session: &Session, keyspace: &str) -> Result<(), Disconnected> {
    let missing = |what: &str| {
        let words = format!("the keyspace {keyspace} has {what}: run `farspan store init`");
        Disconnected::Refused(StoreError::Unavailable(words))
    };
    let found = match version(session, keyspace).await {
        Ok(found) => found,
        Err(error) if is_missing(&error) => return Err(missing("no tables of ours")),
        Err(error) => return Err(Disconnected::Unreachable(fault::of_request(&error))),
    };
    if found.is_none() {
        return Err(missing("an unfinished schema"));
    }
    expect(&name_of(keyspace), found, SCHEMA.version).map_err(Disconnected::Refused)
}

/// See [`super::CassandraStore::check`].
pub(super) async fn check(config: &CassandraConfig) -> Result<Vec<String>, StoreError> {
    let session = Box::pin(open(config)).await?;
    let keyspace = &config.keyspace;
    let mut differences = check_keyspace(&session, config).await?;
    if !differences.is_empty() && differences.iter().any(|line| line.ends_with("is missing")) {
        return Ok(differences);
    }
    match version(&session, keyspace).await {
        Ok(found) => {
            if found.is_none() {
                differences.push(format!("{keyspace}: no schema version is noted"));
            } else {
                expect(&name_of(keyspace), found, SCHEMA.version)?;
            }
        }
        Err(error) if is_missing(&error) => {}
        Err(error) => return Err(fault::of_request(&error)),
    }
    for table in &TABLES {
        differences.extend(check_columns(&session, keyspace, table).await?);
        differences.extend(check_options(&session, config, table).await?);
    }
    Ok(differences)
}

async fn check_keyspace(
    session: &Session,
    config: &CassandraConfig,
) -> Result<Vec<String>, StoreError> {
    let text = "SELECT replication FROM system_schema.keyspaces WHERE keyspace_name = ?";
    let keyspace = &config.keyspace;
    let found = rows::<(BTreeMap<String, String>,)>(session, text.to_owned(), &[keyspace]).await;
    let found = found.map_err(|error| fault::of_request(&error))?;
    let Some((found,)) = found.into_iter().next() else {
        return Ok(vec![format!("the keyspace {keyspace} is missing")]);
    };
    let mut wanted: BTreeMap<String, String> = config
        .replication
        .iter()
        .map(|(datacenter, replicas)| (datacenter.clone(), replicas.to_string()))
        .collect();
    wanted.insert("class".to_owned(), "NetworkTopologyStrategy".to_owned());
    Ok(differing(keyspace, "replication", &wanted, &found))
}

/// Options that are not as wanted. Classes are compared by their last name.
fn differing(
    of: &str,
    what: &str,
    wanted: &BTreeMap<String, String>,
    found: &BTreeMap<String, String>,
) -> Vec<String> {
    let short = |value: &str| value.rsplit('.').next().unwrap_or(value).to_owned();
    let mut differences = Vec::new();
    for (key, wanted) in wanted {
        let is = found.get(key).map_or_else(|| "not set".to_owned(), |value| short(value));
        if is != short(wanted) {
            differences.push(format!("{of}: {what} {key} is {is}, not {wanted}"));
        }
    }
    if what == "replication" {
        let more = found.keys().filter(|key| !wanted.contains_key(*key));
        differences
            .extend(more.map(|key| format!("{of}: {what} names {key}, which is not wanted")));
    }
    differences
}

async fn check_columns(
    session: &Session,
    keyspace: &str,
    table: &Table,
) -> Result<Vec<String>, StoreError> {
    let text = "SELECT column_name, type FROM system_schema.columns WHERE keyspace_name = ? \
                AND table_name = ?";
    let found = rows::<(String, String)>(session, text.to_owned(), &[keyspace, table.name]).await;
    let found: BTreeMap<String, String> =
        found.map_err(|error| fault::of_request(&error))?.into_iter().collect();
    let of = table.name;
    if found.is_empty() {
        return Ok(vec![format!("the table {of} is missing")]);
    }
    let mut differences = Vec::new();
    for (name, kind) in table.columns {
        match found.get(*name) {
            Some(found) if same_type(found, kind) => {}
            Some(found) => differences.push(format!("{of}.{name} is {found}, not {kind}")),
            None => differences.push(format!("{of}.{name} is missing")),
        }
    }
    let more = found.keys().filter(|name| !table.columns.iter().any(|(known, _)| known == name));
    differences.extend(more.map(|name| format!("{of}.{name} is not ours")));
    Ok(differences)
}

/// A tuple is frozen whether it says so or not.
fn same_type(left: &str, right: &str) -> bool {
    let plain = |text: &str| text.replace("frozen<", "").replace(['>', ' '], "");
    plain(left) == plain(right)
}

type Options = (BTreeMap<String, String>, BTreeMap<String, String>, i32, i32);

async fn check_options(
    session: &Session,
    config: &CassandraConfig,
    table: &Table,
) -> Result<Vec<String>, StoreError> {
    let text = "SELECT compaction, compression, default_time_to_live, gc_grace_seconds \
                FROM system_schema.tables WHERE keyspace_name = ? AND table_name = ?";
    let keyspace = config.keyspace.as_str();
    let found = rows::<Options>(session, text.to_owned(), &[keyspace, table.name]).await;
    let found = found.map_err(|error| fault::of_request(&error))?;
    let Some((compaction, compression, ttl, grace)) = found.into_iter().next() else {
        return Ok(Vec::new());
    };
    let of = table.name;
    let wanted = table.compaction(config.retention);
    let wanted = wanted.into_iter().map(|(key, value)| (key.to_owned(), value)).collect();
    let mut differences = differing(of, "compaction", &wanted, &compaction);
    if !compression.values().any(|value| value.ends_with("ZstdCompressor")) {
        differences.push(format!("{of}: compression is not zstd"));
    }
    let numbers = [
        ("default_time_to_live", ttl, table.default_ttl(config.retention)),
        ("gc_grace_seconds", grace, GC_GRACE_SECONDS),
    ];
    let differing = numbers.into_iter().filter(|(_, found, wanted)| found != wanted);
    differences.extend(differing.map(|(name, is, not)| format!("{of}: {name} is {is}, not {not}")));
    Ok(differences)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_are_alike_however_they_are_written() {
        assert!(same_type(
            "set<frozen<tuple<bigint, text, text>>>",
            "set<tuple<bigint,text,text>>"
        ));
        assert!(!same_type("set<smallint>", "list<smallint>"));
    }

    #[test]
    fn what_is_missing_more_or_other_is_named() {
        let map = |pairs: &[(&str, &str)]| {
            pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
        };
        let wanted = map(&[("class", "NetworkTopologyStrategy"), ("dc1", "3")]);
        let long = "org.apache.cassandra.locator.NetworkTopologyStrategy";
        let found = map(&[("class", long), ("dc1", "1"), ("dc2", "3")]);
        let lines = differing("k", "replication", &wanted, &found);
        assert_eq!(
            lines,
            ["k: replication dc1 is 1, not 3", "k: replication names dc2, which is not wanted"]
        );
    }
}
