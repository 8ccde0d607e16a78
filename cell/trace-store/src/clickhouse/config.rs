//! How ClickHouse is reached and how much it is asked for.

use std::path::PathBuf;
use std::time::Duration;

use service_kit::tls::ClientTls;

/// Rows of one block that the engine still takes as one part.
const BLOCK_ROWS_MAX: usize = 900_000;
/// Bytes of one block that the engine still takes as one part.
const BLOCK_BYTES_MAX: usize = 128 << 20;
/// Arrival times are 32-bit seconds: a longer retention could reach beyond 2106.
const RETENTION_MAX: Duration = Duration::from_secs(3_650 * 24 * 3_600);

/// Settings of the adapter. [`ClickhouseConfig::new`] gives the defaults.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClickhouseConfig {
    /// The HTTP interface, for example `http://127.0.0.1:8123`.
    pub url: String,
    /// The database: everything lies in it, and one cell alone uses it. An identifier.
    pub database: String,
    /// The user; without one, ClickHouse's default.
    pub user: Option<String>,
    /// The file with the user's password; white space around it does not count.
    pub password_file: Option<PathBuf>,
    /// Whom we believe, and what we show, over `https://`; without it, the authorities of the web.
    pub tls: Option<ClientTls>,
    /// The cluster, as the engine's configuration names it: tables are then replicated and
    /// distributed over its shards.
    pub cluster: Option<String>,
    /// Where old parts move, if they move.
    pub storage: Option<StorageTiers>,
    /// Rows are kept for this long after their arrival (default 30 days).
    pub retention: Duration,
    /// A question takes at most this long (default 30 s), here and in the engine.
    pub query_timeout: Duration,
    /// An insert, a definition or a mutation takes at most this long (default 60 s).
    pub insert_timeout: Duration,
    /// Most memory of a question in the engine, in bytes (default 2 GiB).
    pub query_memory_bytes_max: u64,
    /// Most rows of an answer (default 1,000,000); a question for more is refused.
    pub query_rows_max: u64,
    /// Most spans of a block (default 100,000).
    pub insert_block_rows: usize,
    /// Most bytes of a block (default 16 MiB), and four times as many wait at most.
    pub insert_block_bytes: usize,
    /// Raw spans are inserted after this time, however few they are (default 5 s).
    pub flush_after: Duration,
}

/// A storage policy of the engine with a volume for what is old.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StorageTiers {
    /// The policy's name.
    pub policy: String,
    /// The volume to which parts move.
    pub volume: String,
    /// They move this long after their arrival.
    pub after: Duration,
}

impl ClickhouseConfig {
    /// The defaults, for this address and database.
    #[must_use]
    pub fn new(url: impl Into<String>, database: impl Into<String>) -> Self {
        Self {
            url: url.into(),
            database: database.into(),
            user: None,
            password_file: None,
            tls: None,
            cluster: None,
            storage: None,
            retention: Duration::from_secs(30 * 24 * 3_600),
            query_timeout: Duration::from_secs(30),
            insert_timeout: Duration::from_secs(60),
            query_memory_bytes_max: 2 << 30,
            query_rows_max: 1_000_000,
            insert_block_rows: 100_000,
            insert_block_bytes: 16 << 20,
            flush_after: Duration::from_secs(5),
        }
    }

    /// What is wrong with the settings, all of it; empty where nothing is.
    #[must_use]
    pub fn faults(&self) -> Vec<String> {
        let mut faults = Vec::new();
        if !self.url.starts_with("http://") && !self.url.starts_with("https://") {
            faults.push("url does not start with http:// or https://".to_owned());
        }
        if self.password_file.is_some() && self.user.is_none() {
            faults.push("password_file without user".to_owned());
        }
        let tiers = self.storage.as_ref();
        let names = [
            ("database", Some(&self.database)),
            ("cluster", self.cluster.as_ref()),
            ("storage.policy", tiers.map(|tiers| &tiers.policy)),
            ("storage.volume", tiers.map(|tiers| &tiers.volume)),
        ];
        for (key, name) in names {
            if name.is_some_and(|name| !is_identifier(name)) {
                faults.push(format!(
                    "{key} is not an identifier (a letter or _, then A-Z a-z 0-9 _)"
                ));
            }
        }
        if self.retention < Duration::from_secs(3_600) || self.retention > RETENTION_MAX {
            faults.push("retention is not between an hour and ten years".to_owned());
        }
        if tiers.is_some_and(|tiers| tiers.after >= self.retention) {
            faults.push("storage.after is not below retention".to_owned());
        }
        if !(1..=BLOCK_ROWS_MAX).contains(&self.insert_block_rows) {
            faults.push(format!("insert_block_rows is not between 1 and {BLOCK_ROWS_MAX}"));
        }
        if !(1 << 10..=BLOCK_BYTES_MAX).contains(&self.insert_block_bytes) {
            faults.push(format!("insert_block_bytes is not between 1 KiB and {BLOCK_BYTES_MAX}"));
        }
        if self.query_timeout.is_zero() || self.insert_timeout.is_zero() {
            faults.push("a timeout of zero".to_owned());
        }
        if self.query_rows_max == 0 || self.query_memory_bytes_max == 0 {
            faults.push(
                "a limit of questions that is zero (the engine takes it for none)".to_owned(),
            );
        }
        faults
    }
}

/// Whether a name can stand in a statement as it is.
fn is_identifier(name: &str) -> bool {
    let is_letter = |byte: u8| byte.is_ascii_alphabetic() || byte == b'_';
    let mut bytes = name.bytes();
    bytes.next().is_some_and(is_letter)
        && bytes.all(|byte| is_letter(byte) || byte.is_ascii_digit())
        && name.len() <= 64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_have_no_fault_and_every_fault_is_told_at_once() {
        let mut config = ClickhouseConfig::new("http://127.0.0.1:8123", "farspan");
        assert_eq!(config.faults(), [""; 0]);
        config.url = "ftp://x".to_owned();
        config.database = "a; DROP DATABASE b".to_owned();
        config.cluster = Some("c`".to_owned());
        config.password_file = Some("p".into());
        config.retention = Duration::from_secs(1);
        config.insert_block_rows = 0;
        config.insert_block_bytes = 1;
        config.query_timeout = Duration::ZERO;
        config.query_rows_max = 0;
        assert_eq!(config.faults().len(), 9, "{:?}", config.faults());
        for name in ["", "1a", "a-b", "a.b", "ä", "a b", "a\n"] {
            assert!(!is_identifier(name), "{name:?}");
        }
    }
}
