//! A front that ends TLS before an engine, under an authority of the test's own, and what every
//! engine's client must do before it.

use std::sync::{Arc, Mutex};

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use service_kit::tls::ClientTls;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

#[path = "authority.rs"]
mod authority;

pub(crate) use authority::Authority;

impl Authority {
    /// A front before the engine (`host:port`), with a certificate for these hosts.
    pub(crate) async fn front(&self, engine: &str, hosts: &[&str]) -> Front {
        Front::start(server(self, hosts, false), engine).await
    }

    /// … which lets in who shows a certificate of the authority.
    pub(crate) async fn asking_front(&self, engine: &str, hosts: &[&str]) -> Front {
        Front::start(server(self, hosts, true), engine).await
    }
}

/// A server's side of TLS, with a certificate for these hosts, that asks clients for one or does not.
fn server(authority: &Authority, hosts: &[&str], asks: bool) -> ServerConfig {
    let identity = authority.identity(hosts);
    let chain = CertificateDer::pem_file_iter(identity.certificate_file).unwrap();
    let chain = chain.map(Result::unwrap).collect();
    let key = PrivateKeyDer::from_pem_file(identity.key_file).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(Arc::clone(&provider));
    let config = config.with_safe_default_protocol_versions().unwrap();
    let config = if asks {
        let mut roots = RootCertStore::empty();
        roots.add(authority.issuer.der().clone()).unwrap();
        let verifier = WebPkiClientVerifier::builder_with_provider(roots.into(), provider);
        config.with_client_cert_verifier(verifier.build().unwrap())
    } else {
        config.with_no_client_auth()
    };
    config.with_single_cert(chain, key).unwrap()
}

/// A front that runs until it is dropped.
pub(crate) struct Front {
    pub(crate) port: u16,
    sent: Arc<Mutex<Vec<u8>>>,
    _accepting: JoinSet<()>,
}

impl Front {
    async fn start(config: ServerConfig, engine: &str) -> Self {
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let sent = Arc::default();
        let mut accepting = JoinSet::new();
        accepting.spawn(accept(listener, acceptor, engine.to_owned(), Arc::clone(&sent)));
        Self { port, sent, _accepting: accepting }
    }

    /// Whether clients have sent this within TLS.
    pub(crate) fn was_sent(&self, text: &str) -> bool {
        let sent = self.sent.lock().unwrap();
        sent.windows(text.len()).any(|part| part == text.as_bytes())
    }

    fn was_sent_anything(&self) -> bool {
        !self.sent.lock().unwrap().is_empty()
    }
}

async fn accept(
    listener: TcpListener,
    acceptor: TlsAcceptor,
    engine: String,
    sent: Arc<Mutex<Vec<u8>>>,
) {
    let mut connections = JoinSet::new();
    loop {
        let (client, _) = listener.accept().await.unwrap();
        let (acceptor, engine, sent) = (acceptor.clone(), engine.clone(), Arc::clone(&sent));
        connections.spawn(async move {
            let Ok(client) = acceptor.accept(client).await else { return };
            let server = TcpStream::connect(engine).await.unwrap();
            let (from_client, to_client) = tokio::io::split(client);
            let (from_server, to_server) = server.into_split();
            tokio::select! {
                () = pass(from_client, to_server, Some(sent)) => {}
                () = pass(from_server, to_client, None) => {}
            }
        });
    }
}

/// Passes bytes on until either side ends, and keeps them.
async fn pass(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    kept: Option<Arc<Mutex<Vec<u8>>>>,
) {
    let mut buffer = vec![0; 64 << 10];
    while let Ok(length @ 1..) = from.read(&mut buffer).await {
        if let Some(kept) = &kept {
            kept.lock().unwrap().extend(&buffer[..length]);
        }
        if to.write_all(&buffer[..length]).await.is_err() || to.flush().await.is_err() {
            return;
        }
    }
}

/// What every client does before a front of an engine (`host:port`). `reach` connects to this port
/// of 127.0.0.1, writes and reads, and gives its error with all causes; with `None` it is told of no
/// authority: it has the web's, or speaks plainly.
pub(crate) async fn believes_what_it_is_told_alone(
    engine: &str,
    has_own_authorities: bool,
    reach: impl AsyncFn(u16, Option<ClientTls>) -> Result<(), String>,
) {
    let (authority, stranger) = (Authority::new(), Authority::new());
    let open = authority.front(engine, &["127.0.0.1"]).await;
    reach(open.port, Some(authority.believed())).await.unwrap();
    let unknown = "invalid peer certificate: UnknownIssuer";
    let words = reach(open.port, None).await.unwrap_err();
    assert!(!has_own_authorities || words.contains(unknown), "{words}");
    let words = reach(open.port, Some(stranger.believed())).await.unwrap_err();
    assert!(words.contains(unknown), "{words}");
    let elsewhere = authority.front(engine, &["elsewhere.internal", "10.9.8.7"]).await;
    let words = reach(elsewhere.port, Some(authority.believed())).await.unwrap_err();
    assert!(words.contains("not valid for name"), "{words}");
    assert!(!elsewhere.was_sent_anything(), "nothing is said to a stranger");
}

/// What every client does that has a certificate, before a front that asks for one. `reach` as
/// above.
pub(crate) async fn shows_its_certificate(
    engine: &str,
    reach: impl AsyncFn(u16, Option<ClientTls>) -> Result<(), String>,
) {
    let (authority, stranger) = (Authority::new(), Authority::new());
    let asking = authority.asking_front(engine, &["127.0.0.1"]).await;
    let showing = |identity| ClientTls { identity, ..authority.believed() };
    let (ours, theirs) = (authority.identity(&["a-client"]), stranger.identity(&["a-client"]));
    for identity in [None, Some(theirs)] {
        reach(asking.port, Some(showing(identity))).await.unwrap_err();
    }
    assert!(!asking.was_sent_anything(), "nothing passes a front that does not know us");
    reach(asking.port, Some(showing(Some(ours)))).await.unwrap();
}
