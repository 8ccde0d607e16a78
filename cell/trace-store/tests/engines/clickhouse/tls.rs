//! Through TLS, with a certificate authority of one's own and a password from a file.

use service_kit::tls::ClientTls;
use trace_store::clickhouse::init;
use trace_store::{ClickhouseConfig, ClickhouseMetricsStore, MetricsStore, SpanWriter, StoreError};

use super::spans::{logged, today};
use super::{Database, clock, engine};
use crate::fixture::{NOW, Request};
use crate::tls_front::{Authority, believes_what_it_is_told_alone, shows_its_certificate};

/// Behind a front at this port.
fn behind(port: u16, tls: Option<ClientTls>) -> Database {
    let mut database = Database::named();
    database.config = ClickhouseConfig {
        url: format!("https://127.0.0.1:{port}"),
        tls,
        ..database.config.clone()
    };
    database
}

async fn write_and_read(database: &Database) -> Result<(), StoreError> {
    init(&database.config).await?;
    let spans = database.spans().await;
    let batch = Request::of("web", &[today(1, 1, "GET /")]).batch();
    spans.write(&[logged(0, 0, batch)]).await?;
    spans.flush(NOW, true).await?;
    assert_eq!(database.number("SELECT count() FROM otel_traces").await, 1);
    Ok(())
}

#[tokio::test]
async fn clickhouse_is_believed_by_the_authority_that_is_named_alone() {
    let engine = engine();
    let address = engine.strip_prefix("http://").unwrap();
    let reach = async |port: u16, tls: Option<ClientTls>| {
        let database = behind(port, tls);
        write_and_read(&database).await.map_err(|error| error.to_string())
    };
    believes_what_it_is_told_alone(address, true, &reach).await;
    shows_its_certificate(address, &reach).await;
}

#[tokio::test]
async fn a_password_is_read_from_its_file_and_a_file_of_no_use_is_named() {
    let engine = engine();
    let authority = Authority::new();
    let front = authority.front(engine.strip_prefix("http://").unwrap(), &["127.0.0.1"]).await;
    let mut database = behind(front.port, Some(authority.believed()));
    database.config.user = Some("farspan".to_owned());
    database.config.password_file = Some(authority.file("password", "a-secret-pass\n"));
    write_and_read(&database).await.unwrap();
    let sent = front.was_sent("x-clickhouse-key: a-secret-pass\r\n");
    assert!(sent && front.was_sent("x-clickhouse-user: farspan\r\n"));
    let store = database.metrics().await;
    assert_eq!(store.checkpoint().await.unwrap().1, b"");
    assert!(!format!("{store:?}{:?}", database.config).contains("a-secret-pass"));

    let missing = authority.file("password", "").with_file_name("nothing");
    let of = ClickhouseConfig { password_file: Some(missing.clone()), ..database.config.clone() };
    let tls = Some(ClientTls::believing(authority.file("rubbish", "no PEM")));
    for (config, words) in [
        (of, "cannot read"),
        (ClickhouseConfig { tls, ..database.config.clone() }, "holds no certificate"),
    ] {
        let fault = ClickhouseMetricsStore::connect(config, clock()).await.unwrap_err();
        assert!(!fault.is_retryable() && fault.to_string().contains(words), "{fault}");
    }
}
