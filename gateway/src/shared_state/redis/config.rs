//! Where Redis is, who we are, and how long to wait for it.

use std::path::PathBuf;
use std::time::Duration;

use service_kit::tls::{ClientTls, TlsFault};

/// Redis for the gateways of a region.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RedisConfig {
    /// Its host.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// TLS; `None` speaks plainly.
    pub tls: Option<ClientTls>,
    /// The user; `default` is the one of `requirepass`.
    pub user: Option<String>,
    /// A file with the password alone, read at each connecting.
    pub password_file: Option<PathBuf>,
    /// Put before every key.
    pub prefix: String,
    /// Until a call must be answered; a call that is not ends the connection.
    pub timeout: Duration,
    /// Until a connection must stand.
    pub connect_timeout: Duration,
    /// A connection on which nothing was asked is tried so often: what lies within the process is
    /// at most this and the timeout behind its invalidations.
    pub heartbeat: Duration,
}

impl RedisConfig {
    /// The defaults for a Redis there.
    #[must_use]
    pub fn at(host: impl Into<String>, port: u16) -> Self {
        Self {
            host: host.into(),
            port,
            tls: None,
            user: None,
            password_file: None,
            prefix: "farspan".to_owned(),
            timeout: Duration::from_millis(100),
            connect_timeout: Duration::from_secs(1),
            heartbeat: Duration::from_secs(1),
        }
    }
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum RedisFault {
    /// A file cannot be read.
    #[error("cannot read {}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// The system's word.
        #[source]
        source: std::io::Error,
    },
    /// A file is not what it should be.
    #[error("{}: {what}", path.display())]
    Unfit {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        what: &'static str,
    },
    /// A file of TLS is of no use.
    #[error("TLS")]
    Tls(#[source] TlsFault),
    /// It cannot be reached, or its certificate is not of our authority.
    #[error("cannot connect")]
    Connect(#[source] std::io::Error),
    /// It refused what every connection begins with.
    #[error("it refused the connection's settings")]
    Refused(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// It did not answer in time.
    #[error("no answer in time")]
    TimedOut,
}

impl RedisFault {
    /// Whether the same call may succeed later: a file is mended by a person.
    #[must_use]
    pub const fn is_retryable(&self) -> bool {
        match self {
            Self::Unreadable { .. } | Self::Unfit { .. } | Self::Tls(_) => false,
            Self::Connect(_) | Self::Refused(_) | Self::TimedOut => true,
        }
    }
}
