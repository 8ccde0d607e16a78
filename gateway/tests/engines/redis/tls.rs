//! Through TLS, with a private authority and a password from a file.

use std::path::Path;
use std::sync::Arc;

use gateway::shared_state::SharedStateMetrics;
use gateway::shared_state::redis::{RedisConfig, RedisFault, RedisState, figures};
use service_kit::SystemClock;
use service_kit::tls::ClientTls;
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::server::{Server, free_run};
use super::{Gateway, shared};
use crate::laws::{key, put, text};
use crate::tls_front::{Authority, believes_what_it_is_told_alone, shows_its_certificate};

/// Where the script keeps its authority.
fn authority() -> std::path::PathBuf {
    let home = std::env::var_os("FARSPAN_ENGINES").map(std::path::PathBuf::from);
    let cache = std::env::var_os("XDG_CACHE_HOME").map(std::path::PathBuf::from);
    let user = || Path::new(&std::env::var_os("HOME").unwrap()).join(".cache");
    let home = home.unwrap_or_else(|| cache.unwrap_or_else(user).join("farspan-engines"));
    home.join("redis/tls/ca.crt")
}

async fn refused(config: RedisConfig) -> RedisFault {
    let tasks = (TaskTracker::new(), CancellationToken::new());
    let clock = Arc::new(SystemClock::new());
    RedisState::start(config, clock, SharedStateMetrics::default(), tasks).await.unwrap_err()
}

#[tokio::test]
async fn a_private_authority_and_a_password_from_a_file() {
    let (directory, port) = (TempDir::new().unwrap(), free_run(1));
    let file = |name: &str, text: &str| {
        let path = directory.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    };
    let server = Server::start(
        "tls",
        &[
            ("REDIS_TLS_PORT", port.to_string()),
            ("REDIS_TLS_CLIENTS", "no".to_owned()),
            ("REDIS_PASSWORD", "s3cret-pass".to_owned()),
        ],
    );
    let config = RedisConfig {
        port,
        tls: Some(ClientTls::believing(authority())),
        user: Some("default".to_owned()),
        password_file: Some(file("password", "s3cret-pass\n")),
        ..server.config()
    };
    let gateway = Gateway::connected(config.clone()).await.in_front();
    put(&gateway.cache, &key("a"), "one").await;
    assert_eq!(text(&gateway.cache.read(&key("a")).await).unwrap(), "one");
    assert!(!format!("{:?}", gateway.state).contains("s3cret"));

    let other = Authority::new();
    let strangers = [
        RedisConfig { tls: Some(other.believed()), ..config.clone() },
        RedisConfig { password_file: Some(file("wrong", "guess")), ..config.clone() },
        RedisConfig { user: None, password_file: None, ..config.clone() },
        RedisConfig { tls: None, ..config.clone() },
    ];
    for stranger in strangers {
        let stranger = Gateway::start(stranger).await;
        let until = tokio::time::Instant::now() + std::time::Duration::from_millis(700);
        while tokio::time::Instant::now() < until {
            assert!(!stranger.state.is_connected());
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    }

    let missing = directory.path().join("nothing");
    for faulty in [
        RedisConfig { tls: Some(ClientTls::believing(&missing)), ..config.clone() },
        RedisConfig {
            tls: Some(ClientTls::believing(file("rubbish", "no PEM"))),
            ..config.clone()
        },
        RedisConfig { password_file: Some(missing), ..config.clone() },
        RedisConfig { password_file: Some(file("empty", "\n")), ..config },
    ] {
        let fault = refused(faulty).await;
        assert!(!fault.is_retryable(), "{fault}");
    }
}

#[tokio::test]
async fn redis_is_believed_by_the_authority_that_is_named_alone() {
    let plain = shared();
    let engine = format!("{}:{}", plain.host, plain.port);
    let reach = async |port: u16, tls: Option<ClientTls>| {
        let config = RedisConfig { host: "127.0.0.1".to_owned(), port, tls, ..shared() };
        figures(&config).await.map_err(|fault| {
            let cause = std::error::Error::source(&fault).map(ToString::to_string);
            format!("{fault}: {}", cause.unwrap_or_default())
        })?;
        let gateway = Gateway::connected(config).await;
        put(&gateway.cache, &key("a"), "one").await;
        assert_eq!(text(&gateway.cache.read(&key("a")).await).unwrap(), "one");
        Ok::<(), String>(())
    };
    believes_what_it_is_told_alone(&engine, false, &reach).await;
    shows_its_certificate(&engine, &reach).await;
}
