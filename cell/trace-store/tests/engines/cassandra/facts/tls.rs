//! Through TLS, by a front before the cluster and by a node that speaks it itself and asks for a
//! password.

use std::sync::Arc;
use std::time::Duration;

use service_kit::SystemClock;
use service_kit::tls::ClientTls;
use trace_store::cassandra::{CassandraConfig, CassandraCredentials};
use trace_store::{CassandraStore, SpanWriter, StoreError};

use super::away::{fresh, unavailable, until_ok};
use super::{Bench, read};
use crate::cassandra::cluster;
use crate::cassandra::node::Node;
use crate::fixture::{Log, span, trace_id};
use crate::tls_front::{Authority, believes_what_it_is_told_alone, shows_its_certificate};

async fn write_and_read(store: &CassandraStore) -> Result<(), StoreError> {
    let batch = Log::new().append(&fresh(&[span(1, 0, "a")]));
    store.write(&[batch]).await?;
    assert_eq!(read(store, trace_id(1)).await.len(), 1);
    Ok(())
}

/// The driver goes on asking at the address that it was told, so a front carries all of it.
#[tokio::test]
async fn cassandra_is_believed_by_the_authority_that_is_named_alone() {
    let bench = Bench::new("tls-front").await;
    let reach = async |port: u16, tls: Option<ClientTls>| {
        let config = CassandraConfig {
            contact_points: vec![format!("127.0.0.1:{port}")],
            connect_timeout: Duration::from_secs(10),
            tls,
            ..cluster::config(&bench.keyspace)
        };
        let store = CassandraStore::connect(config, Arc::new(SystemClock::new())).await;
        let store = store.map_err(|error| error.to_string())?;
        store.connection()?;
        write_and_read(&store).await.map_err(|error| error.to_string())
    };
    believes_what_it_is_told_alone(&cluster::address(), false, &reach).await;
    shows_its_certificate(&cluster::address(), &reach).await;
}

#[tokio::test]
async fn a_cluster_that_asks_for_a_password_and_a_certificate_is_answered() {
    let authority = Authority::new();
    let key_stores = key_stores(&authority);
    let encryption = format!(
        "client_encryption_options: {{ enabled: true, optional: false, keystore: {}, \
         keystore_password: changeit, store_type: PKCS12, require_client_auth: true, truststore: \
         {}, truststore_password: changeit }}",
        key_stores.0, key_stores.1
    );
    let node = Node::start("tls", &[("CASS_EXTRA", &encryption), ("CASS_AUTH", "1")]).await;
    let mut config = cluster::config("farspan_tls");
    config.contact_points = vec![node.address()];
    let clock = Arc::new(SystemClock::new());
    unavailable(CassandraStore::init(&config).await);
    config.tls = Some(authority.believed());
    unavailable(CassandraStore::init(&config).await);
    let identity = Some(authority.identity(&["a-client"]));
    config.tls = Some(ClientTls { identity, ..authority.believed() });
    let refused = CassandraStore::connect(config.clone(), clock.clone()).await.unwrap_err();
    assert!(refused.to_string().contains("uthentication"), "{refused}");
    let password_file = authority.file("password", "cassandra\n");
    let user = "cassandra".to_owned();
    config.credentials = Some(CassandraCredentials { user, password_file });
    until_ok("init", async || CassandraStore::init(&config).await).await;
    let store = CassandraStore::connect(config.clone(), clock.clone()).await.unwrap();
    write_and_read(&store).await.unwrap();
    // Another authority's word is not taken.
    config.tls.as_mut().unwrap().ca_file = Authority::new().believed().ca_file;
    let missing = CassandraStore::connect(config.clone(), clock.clone()).await.unwrap_err();
    assert!(missing.to_string().contains("cannot read"), "{missing}");
    let stranger = Authority::new();
    config.tls.as_mut().unwrap().ca_file = stranger.believed().ca_file;
    let store = CassandraStore::connect(config, clock).await.unwrap();
    let words = store.connection().unwrap_err();
    assert!(words.contains("invalid peer certificate"), "{words}");
}

/// Files as a Java program wants them: a certificate for 127.0.0.1 with its key, and the authority.
fn key_stores(authority: &Authority) -> (String, String) {
    let node = authority.identity(&["127.0.0.1"]);
    let ca_file = authority.believed().ca_file;
    let [keys, trusted] = ["node.p12", "trusted.p12"].map(|name| ca_file.with_file_name(name));
    let text = |path: &std::path::Path| path.display().to_string();
    run(
        "openssl",
        &["pkcs12", "-export", "-passout", "pass:changeit", "-in"],
        &[&text(&node.certificate_file), "-inkey", &text(&node.key_file), "-out", &text(&keys)],
    );
    run(
        "keytool",
        &["-importcert", "-noprompt", "-storetype", "PKCS12", "-alias", "ca"],
        &["-storepass", "changeit", "-file", &text(&ca_file), "-keystore", &text(&trusted)],
    );
    (text(&keys), text(&trusted))
}

fn run(program: &str, first: &[&str], then: &[&str]) {
    let done = std::process::Command::new(program).args(first).args(then).output().unwrap();
    assert!(done.status.success(), "{program}: {done:?}");
}
