//! Why a log on Kafka could not be opened. None of these is answered by an empty log.

use std::path::PathBuf;

/// Why the log was not opened.
#[derive(Debug, thiserror::Error)]
pub enum KafkaOpenError {
    /// The configuration contradicts itself.
    #[error("{key} of the span log on Kafka {reason}")]
    Config {
        /// The key.
        key: &'static str,
        /// What is wrong.
        reason: &'static str,
    },
    /// A secret cannot be read.
    #[error("the file {} with {property} cannot be read", path.display())]
    Secret {
        /// The property that it holds.
        property: String,
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// The client refuses a property.
    #[error("the Kafka client cannot be made: {0}")]
    Client(String),
    /// The brokers did not answer in time.
    #[error("the brokers did not answer in time: {0}")]
    Unreachable(String),
    /// The brokers do not take the login.
    #[error("the brokers refuse the login: {0}")]
    Login(String),
    /// The topic does not exist.
    #[error("there is no topic {0}; `farspan store init` creates it")]
    NoTopic(String),
    /// The topic is set up so that the log's promises would not hold.
    #[error("the topic {topic} cannot carry a span log: {faults}")]
    Unfit {
        /// The topic.
        topic: String,
        /// What is wrong.
        faults: String,
    },
    /// The log's identity could not be agreed on.
    #[error("the identity of the span log could not be settled: {0}")]
    Identity(String),
}

impl KafkaOpenError {
    /// Whether opening again later may succeed.
    #[must_use]
    pub const fn is_retryable(&self) -> bool {
        match self {
            Self::Unreachable(_) | Self::NoTopic(_) | Self::Identity(_) => true,
            Self::Config { .. }
            | Self::Secret { .. }
            | Self::Client(_)
            | Self::Login(_)
            | Self::Unfit { .. } => false,
        }
    }
}
