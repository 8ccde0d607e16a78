//! Through TLS, with a certificate authority of one's own, a password and an API key from files.

use std::sync::Arc;

use base64::Engine as _;
use service_kit::ManualClock;
use service_kit::tls::ClientTls;
use trace_model::Filter;
use trace_store::elasticsearch::{ElasticsearchConfig, ElasticsearchStore, EngineCredentials};
use trace_store::{SearchIndexer, StoreError, TraceSearch};

use super::documents::ids;
use super::engine::{Tidy, config, url};
use crate::fixture::{Log, NOW, Request, span, trace_id};
use crate::harness::query;
use crate::tls_front::{Authority, believes_what_it_is_told_alone, shows_its_certificate};

/// Indices of a test's own behind a front.
struct Behind {
    config: ElasticsearchConfig,
    _directory: tempfile::TempDir,
    _tidy: Tidy,
}

impl Behind {
    fn new(engine: &str, port: u16, tls: Option<ClientTls>) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let front = format!("https://127.0.0.1:{port}");
        let config = ElasticsearchConfig { tls, ..config(&front, directory.path()) };
        let tidy = Tidy {
            url: engine.to_owned(),
            prefix: config.index_prefix.clone(),
            directory: directory.path().to_owned(),
        };
        Self { config, _directory: directory, _tidy: tidy }
    }

    async fn write_and_read(&self) -> Result<(), StoreError> {
        ElasticsearchStore::init(&self.config).await?;
        let clock = Arc::new(ManualClock::at(NOW));
        let store = ElasticsearchStore::connect(self.config.clone(), clock).await?;
        let batch = Log::new().append(&Request::of("web", &[span(1, 0, "a")]));
        store.index(&[batch]).await?;
        SearchIndexer::flush(&*store, NOW, true).await?;
        let found = store.search(&query(Filter::All)).await?;
        assert_eq!(ids(&found.matches), [trace_id(1)]);
        Ok(())
    }
}

fn address(engine: &str) -> &str {
    engine.strip_prefix("http://").unwrap().trim_end_matches('/')
}

async fn believes(variable: &str) {
    let engine = url(variable);
    let reach = async |port: u16, tls: Option<ClientTls>| {
        let behind = Behind::new(&engine, port, tls);
        behind.write_and_read().await.map_err(|error| error.to_string())
    };
    believes_what_it_is_told_alone(address(&engine), true, &reach).await;
    shows_its_certificate(address(&engine), &reach).await;
}

#[tokio::test]
async fn elasticsearch_is_believed_by_the_authority_that_is_named_or_by_the_webs() {
    believes("FARSPAN_TEST_ELASTICSEARCH").await;
}

#[tokio::test]
async fn opensearch_is_believed_by_the_authority_that_is_named_or_by_the_webs() {
    believes("FARSPAN_TEST_OPENSEARCH").await;
}

#[tokio::test]
async fn a_password_or_an_api_key_is_read_from_its_file_and_sent_beside_a_certificate() {
    let engine = url("FARSPAN_TEST_ELASTICSEARCH");
    let authority = Authority::new();
    let front = authority.asking_front(address(&engine), &["127.0.0.1"]).await;
    let showing =
        ClientTls { identity: Some(authority.identity(&["a-client"])), ..authority.believed() };
    let mut behind = Behind::new(&engine, front.port, Some(showing));
    let basic = |password_file| EngineCredentials::Basic { user: "me".to_owned(), password_file };
    behind.config.credentials = basic(authority.file("password", "a-secret-pass\r\n"));
    behind.write_and_read().await.unwrap();
    let sent = base64::prelude::BASE64_STANDARD.encode("me:a-secret-pass");
    assert!(front.was_sent(&format!("authorization: Basic {sent}\r\n")));
    let key = EngineCredentials::ApiKey { file: authority.file("key", "bWU6a2V5\n") };
    behind.config.credentials = key;
    behind.write_and_read().await.unwrap();
    assert!(front.was_sent("authorization: ApiKey bWU6a2V5\r\n"));

    let missing = authority.file("key", "").with_file_name("nothing");
    let rubbish = Some(ClientTls::believing(authority.file("rubbish", "no PEM")));
    let good = behind.config.clone();
    for (config, words) in [
        (ElasticsearchConfig { credentials: basic(missing), ..good.clone() }, "cannot read"),
        (ElasticsearchConfig { tls: rubbish, ..good.clone() }, "holds no certificate"),
        (
            ElasticsearchConfig {
                credentials: EngineCredentials::ApiKey { file: authority.file("two", "a\nb") },
                ..good
            },
            "holds no key of one line",
        ),
    ] {
        let fault = ElasticsearchStore::init(&config).await.unwrap_err();
        assert!(!fault.is_retryable() && fault.to_string().contains(words), "{fault}");
    }
}
