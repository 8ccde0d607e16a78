//! Through TLS, with a private authority and a password from a file.

use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use gateway::shared_state::SharedStateMetrics;
use gateway::shared_state::redis::{RedisConfig, RedisFault, RedisState};
use service_kit::SystemClock;
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::Gateway;
use super::server::{Server, free_run};
use crate::laws::{key, put, text};

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
        ca_file: Some(authority()),
        user: Some("default".to_owned()),
        password_file: Some(file("password", "s3cret-pass\n")),
        ..server.config()
    };
    let gateway = Gateway::connected(config.clone()).await.in_front();
    put(&gateway.cache, &key("a"), "one").await;
    assert_eq!(text(&gateway.cache.read(&key("a")).await).unwrap(), "one");
    assert!(!format!("{:?}", gateway.state).contains("s3cret"));

    let other = directory.path().join("other.pem");
    let made = Command::new("openssl")
        .args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"])
        .args(["-nodes", "-days", "2", "-subj", "/CN=other", "-keyout"])
        .arg(directory.path().join("other.key"))
        .arg("-out")
        .arg(&other)
        .output();
    assert!(made.unwrap().status.success());
    let strangers = [
        RedisConfig { ca_file: Some(other), ..config.clone() },
        RedisConfig { password_file: Some(file("wrong", "guess")), ..config.clone() },
        RedisConfig { user: None, password_file: None, ..config.clone() },
        RedisConfig { ca_file: None, ..config.clone() },
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
        RedisConfig { ca_file: Some(missing.clone()), ..config.clone() },
        RedisConfig { ca_file: Some(file("rubbish", "no PEM")), ..config.clone() },
        RedisConfig { password_file: Some(missing), ..config.clone() },
        RedisConfig { password_file: Some(file("empty", "\n")), ..config },
    ] {
        let fault = refused(faulty).await;
        assert!(!fault.is_retryable(), "{fault}");
    }
}
