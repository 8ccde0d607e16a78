//! How the store on Elasticsearch is set up.

use std::path::PathBuf;
use std::time::Duration;

use service_kit::tls::ClientTls;

use super::tiers::TierPolicy;
use crate::port::{NAMES_MAX, StoreError};

/// Settings of an [`super::ElasticsearchStore`]. [`ElasticsearchConfig::at`] gives the defaults.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ElasticsearchConfig {
    /// Addresses of nodes, `http://` or `https://`; taken in turn, the next one where one is away.
    pub urls: Vec<String>,
    /// First part of the name of every index of this cell: 1 to 60 of `a-z0-9-`, the first no dash.
    /// Cells that share a cluster have one each.
    pub index_prefix: String,
    /// Who we are.
    pub credentials: EngineCredentials,
    /// Whom we believe over `https://` **beside the authorities of the web**, which this engine's
    /// client always believes, and what we show.
    pub tls: Option<ClientTls>,
    /// How long spans are kept. A span that is placed earlier than this before its arrival goes to
    /// the outlying index.
    pub retention: Duration,
    /// Primary shards of a day's index.
    pub shards: u32,
    /// Copies of each; `None`: 1, and 0 where the cluster has one node for data.
    pub replicas: Option<u32>,
    /// How days grow old, and who moves and removes them.
    pub tiers: TierPolicy,
    /// Largest body of a bulk request, in bytes; a single document may be larger.
    pub bulk_bytes_max: usize,
    /// Most bulk requests at once.
    pub bulk_in_flight_max: usize,
    /// Most tries of items that the engine was too busy for, within one call.
    pub bulk_tries_max: u32,
    /// Shortest wait before such items are sent again; doubles with each try.
    pub backoff_min: Duration,
    /// Longest such wait.
    pub backoff_max: Duration,
    /// Longest wait for the answer to a write.
    pub write_timeout: Duration,
    /// Longest wait for the answer to one request of a search.
    pub search_timeout: Duration,
    /// Most documents that a search looks at; one that needs more is refused and says so.
    pub candidates_max: u64,
    /// No Jaeger beside us writes tags as fields (`es.tags-as-fields`), so that the engine may look
    /// for the tags of its documents; otherwise each of them is fetched and looked at.
    pub jaeger_tags_are_nested: bool,
    /// Longest wait of an erasure until the engine lets go of what was deleted.
    pub expunge_timeout: Duration,
    /// Most services of a tenant, and most operations of a service, in one list.
    pub names_max: usize,
}

/// How the engine knows us. Secrets stand in files and are read once, when the store connects.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum EngineCredentials {
    /// It does not ask.
    #[default]
    None,
    /// A user and a file that holds the password.
    Basic {
        /// The user.
        user: String,
        /// The file.
        password_file: PathBuf,
    },
    /// A file that holds an API key in its encoded form.
    ApiKey {
        /// The file.
        file: PathBuf,
    },
}

impl ElasticsearchConfig {
    /// The defaults, for one node and a prefix.
    #[must_use]
    pub fn at(url: impl Into<String>, index_prefix: impl Into<String>) -> Self {
        Self {
            urls: vec![url.into()],
            index_prefix: index_prefix.into(),
            credentials: EngineCredentials::None,
            tls: None,
            retention: Duration::from_secs(30 * 24 * 3_600),
            shards: 5,
            replicas: None,
            tiers: TierPolicy::default(),
            bulk_bytes_max: 5 << 20,
            bulk_in_flight_max: 2,
            bulk_tries_max: 6,
            backoff_min: Duration::from_millis(100),
            backoff_max: Duration::from_secs(5),
            write_timeout: Duration::from_secs(60),
            search_timeout: Duration::from_secs(10),
            candidates_max: 100_000,
            jaeger_tags_are_nested: false,
            expunge_timeout: Duration::from_secs(90),
            names_max: NAMES_MAX,
        }
    }

    /// Refuses what cannot work, all faults in one text.
    pub fn check(&self) -> Result<(), StoreError> {
        let faults: Vec<&str> = [
            (self.urls.is_empty(), "no url"),
            (
                !is_prefix(&self.index_prefix),
                "an index prefix is 1 to 60 of a-z 0-9 -, no dash first",
            ),
            (self.shards == 0, "no shards"),
            (self.bulk_bytes_max == 0, "bulk requests of 0 bytes"),
            (self.bulk_in_flight_max == 0, "no bulk request at once"),
            (self.bulk_tries_max == 0, "no try of a bulk request"),
            (self.candidates_max == 0, "no candidate for a search"),
        ]
        .into_iter()
        .filter_map(|(is_fault, fault)| is_fault.then_some(fault))
        .chain(self.tiers.faults())
        .collect();
        if faults.is_empty() {
            return Ok(());
        }
        Err(StoreError::Unsupported(format!("elasticsearch is set up with {}", faults.join(", "))))
    }
}

/// No dot: it ends the prefix in an index's name.
fn is_prefix(name: &str) -> bool {
    let fits = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    (1..=60).contains(&name.len()) && name.bytes().all(fits) && !name.starts_with('-')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_work_and_all_faults_are_told_at_once() {
        let good = ElasticsearchConfig::at("http://127.0.0.1:9200", "farspan-eu-west-1");
        assert!(good.check().is_ok());
        let bad = ElasticsearchConfig { urls: vec![], shards: 0, ..good };
        let error = bad.check().unwrap_err().to_string();
        assert!(error.contains("no url") && error.contains("no shards"), "{error}");
        for prefix in ["", "-a", "a.b", "A", "a_b", "a*", &"x".repeat(61)] {
            assert!(ElasticsearchConfig::at("http://x", prefix).check().is_err(), "{prefix}");
        }
    }
}
