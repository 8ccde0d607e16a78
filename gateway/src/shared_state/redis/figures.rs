//! How a Redis is, in its own figures: for those who look after it. Changes nothing.

use std::collections::BTreeMap;
use std::time::Duration;

use ::redis::aio::MultiplexedConnection;
use ::redis::{AsyncConnectionConfig, RedisError, cmd};

use super::config::{RedisConfig, RedisFault};
use super::stream;

/// What a Redis says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RedisFigures {
    /// Its release.
    pub version: String,
    /// Bytes that it holds.
    pub used_bytes: u64,
    /// Bytes that it may hold; `None` without a limit.
    pub max_bytes: Option<u64>,
    /// What it does when these are full.
    pub policy: String,
    /// Keys that it removed before their end to make room, since it was started.
    pub evicted_keys: u64,
    /// Connections of clients.
    pub clients: u64,
    /// From a `PING` to its answer, the best of three.
    pub ping: Duration,
}

/// Asks over a connection of its own, within the connect timeout and a few calls.
///
/// # Errors
/// When it cannot be reached, refuses the login, or does not answer in time.
pub async fn figures(config: &RedisConfig) -> Result<RedisFigures, RedisFault> {
    let refused = |error: RedisError| RedisFault::Refused(Box::new(error));
    let login = stream::login(config).await?;
    let connecting = async {
        let stream = stream::open(config).await?;
        let settings = AsyncConnectionConfig::new().set_response_timeout(Some(config.timeout));
        let made = MultiplexedConnection::new_with_config(&login, stream, settings);
        made.await.map_err(refused)
    };
    let connected = tokio::time::timeout(config.connect_timeout, connecting).await;
    let (connection, driver) = connected.map_err(|_| RedisFault::TimedOut)??;
    tokio::select! {
        asked = ask(connection) => asked.map_err(refused),
        () = driver => Err(RedisFault::TimedOut),
    }
}

async fn ask(mut connection: MultiplexedConnection) -> Result<RedisFigures, RedisError> {
    let mut ping = Duration::MAX;
    for _ in 0..3 {
        let begun = tokio::time::Instant::now();
        cmd("PING").exec_async(&mut connection).await?;
        ping = ping.min(begun.elapsed());
    }
    let told: String = cmd("INFO").query_async(&mut connection).await?;
    Ok(RedisFigures { ping, ..read(&told) })
}

/// Reads `name:value` lines; what is missing is empty or 0.
fn read(told: &str) -> RedisFigures {
    let told: BTreeMap<&str, &str> =
        told.lines().filter_map(|line| line.trim_end().split_once(':')).collect();
    let text = |name| told.get(name).copied().unwrap_or_default().to_owned();
    let number = |name| told.get(name).and_then(|value| value.parse().ok()).unwrap_or(0);
    RedisFigures {
        version: text("redis_version"),
        used_bytes: number("used_memory"),
        max_bytes: Some(number("maxmemory")).filter(|bytes| *bytes > 0),
        policy: text("maxmemory_policy"),
        evicted_keys: number("evicted_keys"),
        clients: number("connected_clients"),
        ping: Duration::ZERO,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_redis_tells_is_read_and_no_limit_is_none() {
        let told = "# Server\r\nredis_version:7.2.4\r\n# Memory\r\nused_memory:1024\r\n\
                    maxmemory:0\r\nmaxmemory_policy:noeviction\r\nevicted_keys:3\r\n";
        let figures = read(told);
        assert_eq!((figures.version.as_str(), figures.used_bytes), ("7.2.4", 1_024));
        assert_eq!((figures.max_bytes, figures.policy.as_str()), (None, "noeviction"));
        assert_eq!((figures.evicted_keys, figures.clients), (3, 0));
        assert_eq!(read("maxmemory:5\n").max_bytes, Some(5));
    }
}
