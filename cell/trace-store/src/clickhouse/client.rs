//! The engine as this adapter speaks to it: every request has a deadline and limits, every error is
//! in the store's words.

use std::fmt;
use std::time::Duration;

use bytes::Bytes;
use clickhouse::query::Query;
use clickhouse::{Client, RowOwned, RowRead};
use hyper_rustls::HttpsConnectorBuilder;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use service_kit::tls::{self, ClientTls, TlsFault};
use tokio::time::timeout;

use super::config::ClickhouseConfig;
use super::error;
use super::table::{Column, Table};
use crate::port::StoreError;

/// How long a connection may rest: less than the engine keeps it (3 s by default).
const IDLE_MAX: Duration = Duration::from_secs(2);
/// Bytes of a body handed to the connection at once.
const CHUNK_BYTES: usize = 256 << 10;
/// A longer text does not fit into the engine's limit of a parameter (128 KiB, escaped).
const PARAMETER_BYTES_MAX: usize = 60 << 10;

/// A connection pool and the limits.
pub(super) struct Engine {
    /// Names the database in each request.
    client: Client,
    pub(super) config: ClickhouseConfig,
}

impl fmt::Debug for Engine {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The client's own form leaves credentials out.
        formatter.debug_struct("Engine").field("client", &self.client).finish_non_exhaustive()
    }
}

impl Engine {
    /// Reads the files that the settings name; connects with the first request.
    pub(super) fn open(config: ClickhouseConfig) -> Result<Self, StoreError> {
        let faults = config.faults();
        if !faults.is_empty() {
            return Err(StoreError::Unsupported(faults.join("; ")));
        }
        let mut client = match &config.tls {
            Some(tls) => encrypted(tls)?,
            None => Client::default(),
        };
        client =
            client.with_url(&config.url).with_product_info("farspan", env!("CARGO_PKG_VERSION"));
        if let Some(user) = &config.user {
            client = client.with_user(user);
        }
        if let Some(path) = &config.password_file {
            let password = tls::content(path).map_err(|fault| unusable(&fault))?;
            let password = String::from_utf8_lossy(&password).trim().to_owned();
            client = client.with_password(password);
        }
        // A result that fails half way is no result; inserts are acknowledged when they are stored.
        for (name, value) in [("wait_end_of_query", "1"), ("async_insert", "0")] {
            client = client.with_setting(name, value);
        }
        if config.cluster.is_some() {
            for (name, value) in [
                ("distributed_foreground_insert", "1"),
                ("distributed_ddl_task_timeout", "120"),
                ("insert_quorum", "auto"),
                ("insert_quorum_parallel", "0"),
                ("select_sequential_consistency", "1"),
            ] {
                client = client.with_setting(name, value);
            }
        }
        client = client.with_database(&config.database);
        Ok(Self { client, config })
    }

    /// Whether block and deduplication are one step in the engine.
    pub(super) const fn is_replicated(&self) -> bool {
        self.config.cluster.is_some()
    }

    /// A question with the limits of questions. `{name:Type}` is bound by [`Query::param`].
    pub(super) fn question(&self, sql: &str) -> Query {
        let seconds = self.config.query_timeout.as_secs_f64();
        self.client
            .query(sql)
            .with_setting("max_execution_time", seconds.to_string())
            .with_setting("max_memory_usage", self.config.query_memory_bytes_max.to_string())
            .with_setting("max_result_rows", self.config.query_rows_max.to_string())
            .with_setting("result_overflow_mode", "throw")
    }

    /// A question of the adapter to its own books: small, or as large as it has to be.
    pub(super) fn books(&self, sql: &str) -> Query {
        self.client.query(sql)
    }

    /// … also while the database may be missing.
    pub(super) fn books_of_all(&self, sql: &str) -> Query {
        self.client.clone().with_database("default").query(sql)
    }

    /// All rows of an answer, or an error.
    pub(super) async fn rows<T>(&self, query: Query) -> Result<Vec<T>, StoreError>
    where
        T: RowOwned + RowRead,
    {
        let answer = timeout(self.config.query_timeout, query.fetch_all::<T>()).await;
        let rows = answer.map_err(|_| late(self.config.query_timeout))?;
        rows.map_err(|error| error::of_question(&error))
    }

    /// Whether the engine is there and takes the login: a question that needs no table.
    pub(super) async fn greet(&self) -> Result<(), StoreError> {
        let greeting = self.books_of_all("SELECT toUInt8(1)");
        let answer = timeout(self.config.query_timeout, greeting.fetch_one::<u8>()).await;
        let answer = answer.map_err(|_| late(self.config.query_timeout))?;
        answer.map(drop).map_err(|error| error::of_greeting(&error))
    }

    /// A definition or a mutation.
    pub(super) async fn execute(&self, query: Query) -> Result<(), StoreError> {
        let done = timeout(self.config.insert_timeout, query.execute()).await;
        let done = done.map_err(|_| late(self.config.insert_timeout))?;
        done.map_err(|error| error::of_statement(&error))
    }

    /// A definition that needs no database to be there.
    pub(super) async fn define(&self, sql: &str) -> Result<(), StoreError> {
        self.execute(self.books_of_all(sql)).await
    }

    /// Inserts rows into a table's entrance. An engine that remembers the token takes them no
    /// second time; without a token it always takes them.
    pub(super) async fn insert(
        &self,
        table: &Table,
        body: &Bytes,
        token: Option<&str>,
    ) -> Result<(), StoreError> {
        let names: Vec<String> =
            table.columns.iter().map(|Column { name, .. }| format!("`{name}`")).collect();
        let sql = format!(
            "INSERT INTO {} ({}) FORMAT RowBinaryWithNamesAndTypes",
            table.entrance(),
            names.join(", ")
        );
        let done = timeout(self.config.insert_timeout, self.send(sql, body, token)).await;
        let done = done.map_err(|_| late(self.config.insert_timeout))?;
        done.map_err(|error| error::of_statement(&error))
    }

    async fn send(
        &self,
        sql: String,
        body: &Bytes,
        token: Option<&str>,
    ) -> clickhouse::error::Result<()> {
        let insert = self.client.insert_formatted_with(sql);
        let mut insert = match token {
            None => insert.with_setting("insert_deduplicate", "0"),
            Some(token) => insert
                .with_setting("insert_deduplicate", "1")
                .with_setting("insert_deduplication_token", token)
                .with_setting("deduplicate_blocks_in_dependent_materialized_views", "1"),
        };
        let mut rest = body.clone();
        while !rest.is_empty() {
            insert.send(rest.split_to(rest.len().min(CHUNK_BYTES))).await?;
        }
        insert.end().await
    }
}

/// A text that is asked for, if the engine takes it as a parameter.
pub(super) fn parameter<'a>(text: &'a str, what: &str) -> Result<&'a str, StoreError> {
    if !is_parameter(text) {
        let length = text.len();
        return Err(StoreError::Unsupported(format!("a question for a {what} of {length} bytes")));
    }
    Ok(text)
}

/// Whether the engine takes a text as a parameter.
pub(super) const fn is_parameter(text: &str) -> bool {
    text.len() <= PARAMETER_BYTES_MAX
}

/// As much of a text as the engine takes as a parameter.
pub(super) fn longest_parameter(text: &str) -> &str {
    text.get(..text.floor_char_boundary(PARAMETER_BYTES_MAX)).unwrap_or_default()
}

fn late(after: Duration) -> StoreError {
    StoreError::Unavailable(format!("clickhouse: no answer within {} s", after.as_secs_f64()))
}

fn unusable(fault: &TlsFault) -> StoreError {
    StoreError::Unsupported(format!("clickhouse: {}", fault.words()))
}

/// A client that speaks TLS by these files.
fn encrypted(tls: &ClientTls) -> Result<Client, StoreError> {
    let tls = tls.read().map_err(|fault| unusable(&fault))?;
    let mut connector = HttpConnector::new();
    connector.enforce_http(false);
    let connector = HttpsConnectorBuilder::new()
        .with_tls_config(tls)
        .https_or_http()
        .enable_http1()
        .wrap_connector(connector);
    let http = hyper_util::client::legacy::Client::builder(TokioExecutor::new())
        .pool_idle_timeout(IDLE_MAX)
        .build(connector);
    Ok(Client::with_http_client(http))
}
