//! Opens sessions: addresses, credentials, encryption, time limits, retries.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use prometheus_client::metrics::counter::Counter;
use scylla::client::execution_profile::ExecutionProfile;
use scylla::client::session::Session;
use scylla::client::session_builder::SessionBuilder;
use scylla::client::{Compression, PoolSize};
use scylla::policies::load_balancing::DefaultPolicy;
use scylla::policies::retry::{
    DefaultRetryPolicy, RequestInfo, RetryDecision, RetryPolicy, RetrySession,
};
use service_kit::tls::ClientTls;

use super::config::CassandraConfig;
use super::fault::{self, Disconnected};
use super::schema::check_names;
use crate::port::StoreError;

/// A connection says at least so often that it lives.
const KEEPALIVE: Duration = Duration::from_secs(5);

/// Opens a session. Never takes longer than three times the connect timeout.
pub(super) async fn open(
    config: &CassandraConfig,
    retries: &Counter,
) -> Result<Session, Disconnected> {
    check_names(config).map_err(Disconnected::Refused)?;
    let builder = builder(config, retries).await.map_err(Disconnected::Refused)?;
    let limit = config.connect_timeout.saturating_mul(3);
    let opened = tokio::time::timeout(limit, Box::pin(builder.build())).await;
    let session = opened
        .map_err(|_| {
            let words = format!("no node answered within {limit:?}");
            Disconnected::Unreachable(StoreError::Unavailable(words))
        })?
        .map_err(|error| fault::of_session(&error))?;
    check_datacenter(&session, &config.local_datacenter)?;
    Ok(session)
}

async fn builder(
    config: &CassandraConfig,
    retries: &Counter,
) -> Result<SessionBuilder, StoreError> {
    let datacenter = config.local_datacenter.clone();
    let policy = DefaultPolicy::builder()
        .prefer_datacenter(datacenter)
        .token_aware(true)
        .permit_dc_failover(config.consistency.is_same_everywhere())
        .build();
    let profile = ExecutionProfile::builder()
        .consistency(config.consistency.of_reads())
        .request_timeout(Some(config.request_timeout))
        .load_balancing_policy(policy)
        .retry_policy(Arc::new(Counted { retries: retries.clone() }))
        .build();
    let mut builder = SessionBuilder::new()
        .known_nodes(&config.contact_points)
        .default_execution_profile_handle(profile.into_handle())
        .connection_timeout(config.connect_timeout)
        .hostname_resolution_timeout(Some(config.connect_timeout))
        .metadata_request_clientside_timeout(config.request_timeout)
        .keepalive_interval(KEEPALIVE)
        .keepalive_timeout(KEEPALIVE)
        .keyspaces_to_fetch([config.keyspace.clone()])
        .pool_size(PoolSize::default())
        .compression(config.compress_frames.then_some(Compression::Lz4));
    if let Some(credentials) = &config.credentials {
        let password = read(&credentials.password_file).await?;
        let password = String::from_utf8(password)
            .map_err(|_| unusable(&credentials.password_file, "not text"))?;
        builder = builder.user(&credentials.user, password.trim());
    }
    if let Some(tls) = &config.tls {
        builder = builder.tls_context(Some(Arc::new(tls_config(tls).await?)));
    }
    Ok(builder)
}

/// A wrong name of the data centre would find no node for any request, for ever.
fn check_datacenter(session: &Session, local: &str) -> Result<(), Disconnected> {
    let state = session.get_cluster_state();
    let mut known: Vec<&str> =
        state.get_nodes_info().iter().filter_map(|node| node.datacenter.as_deref()).collect();
    if known.contains(&local) {
        return Ok(());
    }
    known.sort_unstable();
    known.dedup();
    let words = format!("no node is in the data centre {local:?}; there are {known:?}");
    Err(Disconnected::Refused(StoreError::Unavailable(words)))
}

async fn read(path: &Path) -> Result<Vec<u8>, StoreError> {
    tokio::fs::read(path).await.map_err(|error: io::Error| unusable(path, &error.to_string()))
}

fn unusable(path: &Path, why: &str) -> StoreError {
    StoreError::Unsupported(format!("{}: {why}", path.display()))
}

async fn tls_config(tls: &ClientTls) -> Result<rustls::ClientConfig, StoreError> {
    let tls = tls.clone();
    let read = tokio::task::spawn_blocking(move || tls.read()).await;
    let read = read.map_err(|error| StoreError::Unsupported(error.to_string()))?;
    read.map_err(|fault| StoreError::Unsupported(format!("cassandra: {}", fault.words())))
}

/// The driver's own policy, counted.
#[derive(Debug)]
struct Counted {
    retries: Counter,
}

struct CountedSession {
    inner: Box<dyn RetrySession>,
    retries: Counter,
}

impl RetryPolicy for Counted {
    fn new_session(&self) -> Box<dyn RetrySession> {
        let inner = DefaultRetryPolicy::new().new_session();
        Box::new(CountedSession { inner, retries: self.retries.clone() })
    }
}

impl RetrySession for CountedSession {
    fn decide_should_retry(&mut self, request_info: RequestInfo<'_>) -> RetryDecision {
        let decision = self.inner.decide_should_retry(request_info);
        let is_retry = matches!(
            decision,
            RetryDecision::RetrySameTarget(_) | RetryDecision::RetryNextTarget(_)
        );
        if is_retry {
            self.retries.inc();
        }
        decision
    }

    fn reset(&mut self) {
        self.inner.reset();
    }
}
