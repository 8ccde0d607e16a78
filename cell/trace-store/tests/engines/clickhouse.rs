//! The adapter `clickhouse` on the real engine. Each test has a database of its own.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use clickhouse::{Client, RowOwned, RowRead};
use futures_util::future::BoxFuture;
use service_kit::SystemClock;
use trace_model::Clock;
use trace_store::clickhouse::init;
use trace_store::{ClickhouseConfig, ClickhouseMetricsStore, ClickhouseSpans, StoreError};

use crate::http_proxy as proxy;
use crate::metrics::Bench;

mod agreement;
mod backup;
mod crashes;
mod faults;
mod figures;
mod hostile;
mod repeats;
mod schema;
mod span_runs;
mod spans;
mod swap;
mod tls;

/// The address of an engine that runs.
#[expect(clippy::disallowed_methods, reason = "a test is configured by its environment")]
fn engine() -> String {
    std::env::var("FARSPAN_TEST_CLICKHOUSE").expect(
        "FARSPAN_TEST_CLICKHOUSE is not set; \
         start an engine: tests/engines/clickhouse.sh start && tests/engines/clickhouse.sh wait, \
         then FARSPAN_TEST_CLICKHOUSE=http://127.0.0.1:8123",
    )
}

fn clock() -> Arc<dyn Clock> {
    Arc::new(SystemClock::new())
}

/// A database that goes with the test.
struct Database {
    config: ClickhouseConfig,
    engine: String,
}

impl Database {
    /// A name that no other test has; nothing is made yet.
    fn named() -> Self {
        Self::at(&engine())
    }

    fn at(engine: &str) -> Self {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("farspan_{}_{count}_{}", std::process::id(), clock().now().millis());
        Self { config: ClickhouseConfig::new(engine, name), engine: engine.to_owned() }
    }

    async fn new() -> Self {
        let database = Self::named();
        init(&database.config).await.unwrap();
        database
    }

    async fn metrics(&self) -> ClickhouseMetricsStore {
        ClickhouseMetricsStore::connect(self.config.clone(), clock()).await.unwrap()
    }

    async fn spans(&self) -> ClickhouseSpans {
        ClickhouseSpans::connect(self.config.clone(), clock()).await.unwrap()
    }

    fn client(&self) -> Client {
        Client::default().with_url(&self.engine).with_database(&self.config.database)
    }

    async fn ask<T>(&self, sql: &str) -> Vec<T>
    where
        T: RowOwned + RowRead,
    {
        self.client().query(sql).fetch_all().await.unwrap_or_else(|error| panic!("{sql}: {error}"))
    }

    async fn number(&self, sql: &str) -> u64 {
        self.ask::<u64>(sql).await[0]
    }

    async fn run(&self, sql: &str) {
        let done = self.client().query(sql).with_setting("mutations_sync", "2").execute().await;
        done.unwrap_or_else(|error| panic!("{sql}: {error}"));
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        let Some(address) = self.engine.strip_prefix("http://") else { return };
        let Ok(mut stream) = TcpStream::connect(address) else { return };
        let sql = format!("DROP DATABASE IF EXISTS {} SYNC", self.config.database);
        let length = sql.len();
        let head = format!(
            "POST / HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n"
        );
        if stream.write_all(format!("{head}{sql}").as_bytes()).is_ok() {
            let mut answer = Vec::new();
            let _ignored = stream.read_to_end(&mut answer);
        }
    }
}

fn open() -> BoxFuture<'static, Bench> {
    Box::pin(async {
        let database = Database::new().await;
        let store = Arc::new(database.metrics().await);
        Bench { store, _kept: Box::new(database) }
    })
}

mod suite {
    crate::metrics::every_fact!(crate::clickhouse::open);
}

fn is_unavailable<T: std::fmt::Debug>(result: &Result<T, StoreError>) -> bool {
    matches!(result, Err(StoreError::Unavailable(_)))
}

fn is_fenced<T: std::fmt::Debug>(result: &Result<T, StoreError>) -> bool {
    matches!(result, Err(StoreError::Fenced))
}
