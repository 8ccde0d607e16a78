//! Through TLS, with a certificate authority of one's own and a password from a file.

use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tempfile::TempDir;
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use trace_store::clickhouse::init;
use trace_store::{ClickhouseMetricsStore, MetricsStore, StoreError};

use super::{Database, clock, engine, is_unavailable};

fn openssl(directory: &Path, arguments: &str) {
    let done =
        Command::new("openssl").args(arguments.split(' ')).current_dir(directory).output().unwrap();
    assert!(done.status.success(), "{done:?}");
}

/// An authority, and a certificate of it for 127.0.0.1.
fn certificates() -> TempDir {
    let directory = TempDir::new().unwrap();
    let at = directory.path();
    openssl(
        at,
        "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -keyout ca.key \
         -out ca.pem -days 2 -subj /CN=authority",
    );
    openssl(
        at,
        "req -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -keyout key.pem -out csr.pem \
         -subj /CN=engine",
    );
    std::fs::write(at.join("names"), "subjectAltName=IP:127.0.0.1").unwrap();
    openssl(
        at,
        "x509 -req -in csr.pem -CA ca.pem -CAkey ca.key -CAcreateserial -out cert.pem -days 2 \
         -extfile names",
    );
    directory
}

/// A front that ends TLS before the engine.
async fn front(certificates: &Path, engine: &str) -> String {
    let chain = CertificateDer::pem_file_iter(certificates.join("cert.pem")).unwrap();
    let chain: Vec<_> = chain.map(Result::unwrap).collect();
    let key = PrivateKeyDer::from_pem_file(certificates.join("key.pem")).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("https://{}", listener.local_addr().unwrap());
    let engine = engine.strip_prefix("http://").unwrap().to_owned();
    tokio::spawn(async move {
        loop {
            let (client, _) = listener.accept().await.unwrap();
            let (acceptor, engine) = (acceptor.clone(), engine.clone());
            tokio::spawn(async move {
                let Ok(mut client) = acceptor.accept(client).await else { return };
                let mut server = TcpStream::connect(engine).await.unwrap();
                let _ended = copy_bidirectional(&mut client, &mut server).await;
            });
        }
    });
    url
}

#[tokio::test]
async fn a_private_authority_is_trusted_when_it_is_named_and_not_otherwise() {
    let certificates = certificates();
    let mut database = Database::named();
    database.config.url = front(certificates.path(), &engine()).await;
    let stranger = ClickhouseMetricsStore::connect(database.config.clone(), clock()).await;
    assert!(is_unavailable(&stranger), "{stranger:?}");
    database.config.ca_file = Some(certificates.path().join("ca.pem"));
    database.config.user = Some("default".to_owned());
    std::fs::write(certificates.path().join("password"), "secret\n").unwrap();
    database.config.password_file = Some(certificates.path().join("password"));
    init(&database.config).await.unwrap();
    let store = database.metrics().await;
    assert_eq!(store.checkpoint().await.unwrap().1, b"");
    assert!(!format!("{store:?}").contains("secret"));
    database.config.ca_file = Some(certificates.path().join("password"));
    let unfit = ClickhouseMetricsStore::connect(database.config.clone(), clock()).await;
    assert!(matches!(unfit, Err(StoreError::Unsupported(_))), "{unfit:?}");
    database.config.password_file = Some(certificates.path().join("nothing"));
    database.config.ca_file = None;
    let missing = ClickhouseMetricsStore::connect(database.config.clone(), clock()).await;
    assert!(is_unavailable(&missing), "{missing:?}");
}
