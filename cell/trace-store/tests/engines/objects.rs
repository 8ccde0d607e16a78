//! Cold spans on an S3 server: the suites with everything moved, and what only a server has. Each test
//! has a bucket of its own.

mod killed;
mod spoilt;

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use futures_util::future::BoxFuture;
use service_kit::{ManualClock, SystemClock};
use trace_model::{Clock, TenantId};
use trace_store::{
    ColdConfig, ColdCredentials, ColdLimits, ColdTier, EmbeddedStore, EmbeddedStoreConfig, Eraser,
    ObjectStorage, SpanWriter, StoreError, TraceReader, TraceSearch,
};

use crate::cold_store::AlwaysCold;
use crate::fixture::{Log, NOW, Request, attribute, span, text, trace_id};
use crate::harness::{Adapter, Store, query, small_config, tag};
use crate::tls_front::{Authority, believes_what_it_is_told_alone};

/// The address of a server that runs.
#[expect(clippy::disallowed_methods, reason = "a test is configured by its environment")]
fn server() -> String {
    std::env::var("FARSPAN_TEST_OBJECTS").expect(
        "FARSPAN_TEST_OBJECTS is not set; \
         start a server: tests/engines/objects.sh start && tests/engines/objects.sh wait, \
         then FARSPAN_TEST_OBJECTS=http://127.0.0.1:19500",
    )
}

/// A bucket that no other test has.
fn bucket(server: &str) -> String {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    let now = SystemClock::new().now().millis();
    let name = format!("farspan-{}-{count}-{now}", std::process::id());
    let put = format!("PUT /{name} HTTP/1.1");
    let answer = ask(server.strip_prefix("http://").unwrap(), &put);
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    name
}

fn ask(address: &str, request: &str) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    let head =
        format!("{request}\r\nHost: {address}\r\nConnection: close\r\nContent-Length: 0\r\n\r\n");
    stream.write_all(head.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

/// A bucket of a test's own, and what anybody else sees in it.
struct Bucket {
    server: String,
    name: String,
}

impl Bucket {
    fn new() -> Self {
        let server = server();
        let name = bucket(&server);
        Self { server, name }
    }

    fn ask(&self, what: &str) -> String {
        let address = self.server.strip_prefix("http://").unwrap();
        let answer = ask(address, &format!("GET /{}?{what} HTTP/1.1", self.name));
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        answer
    }

    /// Objects beside the owner's mark.
    fn objects(&self) -> usize {
        let listed = self.ask("list-type=2");
        listed.matches("<Key>").count() - listed.matches("/owner</Key>").count()
    }

    /// Uploads in parts that are neither complete nor given up.
    fn uploads(&self) -> usize {
        self.ask("uploads").matches("<UploadId>").count()
    }
}

/// A file with a secret, in the directory.
fn secret(directory: &Path) -> PathBuf {
    std::fs::create_dir_all(directory).unwrap();
    let path = directory.join("secret");
    std::fs::write(&path, "a-secret\n").unwrap();
    path
}

fn settings(server: &str, bucket: &str, directory: &Path) -> ColdConfig {
    ColdConfig {
        url: format!("s3://{bucket}/farspan/spans"),
        region: "eu-west-1".to_owned(),
        endpoint: Some(server.to_owned()),
        bucket_region: Some("us-east-1".to_owned()),
        credentials: ColdCredentials::Keys {
            access_key_id: "a-key".to_owned(),
            secret_access_key_file: secret(directory),
        },
        ca_file: None,
        is_http_allowed: server.starts_with("http://"),
        limits: ColdLimits { read_timeout: Duration::from_secs(5), ..ColdLimits::default() },
    }
}

fn tier(settings: &ColdConfig, clock: &Arc<dyn Clock>) -> ColdTier {
    let objects = ObjectStorage::connect(settings, Arc::clone(clock)).unwrap();
    ColdTier::new(Arc::new(objects), Duration::ZERO, 1 << 20, rand::random())
}

fn open(directory: PathBuf, clock: Arc<dyn Clock>) -> BoxFuture<'static, Arc<dyn Store>> {
    Box::pin(async move {
        let server = server();
        // The same after a restart.
        let note = directory.join("bucket");
        let name = std::fs::read_to_string(&note).unwrap_or_else(|_| bucket(&server));
        std::fs::write(&note, &name).unwrap();
        let tier = tier(&settings(&server, &name, &directory.join("keys")), &clock);
        let config = small_config(&directory.join("store"));
        let store = EmbeddedStore::open_tiered(config, tier, clock).unwrap();
        Arc::new(AlwaysCold(store)) as Arc<dyn Store>
    })
}

const ON_S3: Adapter = Adapter { open, is_durable: true };

crate::suite::every_fact!(ON_S3);

fn request(first: u64, count: u64) -> Request {
    let order = |trace: u64| {
        let mut span = span(trace, 0, "order");
        span.attributes = vec![attribute("order", text(&format!("o-{trace}")))];
        // What compresses badly, so that an object has several parts.
        let noise: String = (0..400).map(|at| char::from(b'a' + noise(trace, at))).collect();
        span.attributes.push(attribute("note", text(&noise)));
        span
    };
    Request::of("shop", &(first..first + count).map(order).collect::<Vec<_>>())
}

fn noise(trace: u64, at: u64) -> u8 {
    let mixed = (trace << 16 ^ at).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    u8::try_from((mixed ^ (mixed >> 27)) % 26).unwrap()
}

/// So many traces make an object of more than one part of 5 MiB.
const LARGE: u64 = 30_000;

/// Seals one segment with so many traces.
async fn filled(store: &EmbeddedStore, traces: u64) {
    filled_from(store, 0, traces).await;
}

/// … from this one on.
async fn filled_from(store: &EmbeddedStore, start: u64, traces: u64) {
    let mut log = Log { next: start, ..Log::new() };
    let end = start + traces;
    for first in (start..end).step_by(1_000) {
        let batch = log.append(&request(first, (end - first).min(1_000)));
        store.write(&[batch]).await.unwrap();
    }
    SpanWriter::flush(store, NOW, true).await.unwrap();
}

#[tokio::test]
async fn a_large_segment_moves_in_parts_and_is_read_by_ranges() {
    let directory = tempfile::tempdir().unwrap();
    let clock: Arc<dyn Clock> = Arc::new(ManualClock::at(NOW));
    let server = server();
    let mut settings = settings(&server, &bucket(&server), directory.path());
    settings.limits.part_bytes = 5 << 20;
    let tier = tier(&settings, &clock);
    let config = EmbeddedStoreConfig::at(directory.path().join("store"));
    let store = EmbeddedStore::open_tiered(config, tier, clock).unwrap();
    filled(&store, LARGE).await;
    assert_eq!(store.move_cold().await.unwrap(), 1);
    let cold = &store.metrics().cold;
    let bytes = cold.moved_bytes.get();
    assert!(bytes > 6 << 20, "{bytes}");
    let read = store.read_trace(&TenantId::default(), trace_id(12_345)).await.unwrap();
    assert_eq!((read.spans.len(), read.is_damaged, read.is_away), (1, false, false));
    let found = store.search(&query(tag("order", "o-23456"))).await.unwrap();
    assert_eq!((found.matches.len(), found.is_damaged), (1, false));
    assert!(cold.reads.get() <= 3 && cold.read_bytes.get() < bytes / 4);
    store.erase(&TenantId::default(), trace_id(12_345)).await.unwrap();
    assert_eq!(cold.deleted_objects.get(), 1);
    assert_eq!(store.move_cold().await.unwrap(), 1);
    let read = store.read_trace(&TenantId::default(), trace_id(12_346)).await.unwrap();
    assert_eq!(read.spans.len(), 1);
}

#[tokio::test]
async fn a_second_store_on_the_same_prefix_is_refused_by_the_server() {
    let server = server();
    let bucket = bucket(&server);
    let mut claims = Vec::new();
    let directories = [(); 4].map(|()| tempfile::tempdir().unwrap());
    for directory in &directories {
        let clock: Arc<dyn Clock> = Arc::new(ManualClock::at(NOW));
        let tier = tier(&settings(&server, &bucket, directory.path()), &clock);
        let config = small_config(&directory.path().join("store"));
        let store = EmbeddedStore::open_tiered(config, tier, clock).unwrap();
        claims.push(tokio::spawn(async move { store.claim_cold().await }));
    }
    let mut won = 0;
    for claim in claims {
        match claim.await.unwrap() {
            Ok(()) => won += 1,
            Err(error) => assert!(matches!(error, StoreError::Refused(_)), "{error}"),
        }
    }
    assert_eq!(won, 1);
}

#[tokio::test]
async fn a_bucket_that_is_not_there_is_told_and_nothing_moves() {
    let directory = tempfile::tempdir().unwrap();
    let clock: Arc<dyn Clock> = Arc::new(ManualClock::at(NOW));
    let tier = tier(&settings(&server(), "no-such-bucket", directory.path()), &clock);
    let config = small_config(&directory.path().join("store"));
    let store = EmbeddedStore::open_tiered(config, tier, clock).unwrap();
    filled(&store, 10).await;
    store.move_cold().await.unwrap_err();
    let read = store.read_trace(&TenantId::default(), trace_id(3)).await.unwrap();
    assert_eq!((read.spans.len(), read.is_damaged, read.is_away), (1, false, false));
}

/// A server of the test's own, with TLS by an authority of its own.
struct OwnServer {
    name: String,
    port: u16,
    tls: tempfile::TempDir,
}

impl OwnServer {
    fn start() -> Self {
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let tls = tempfile::tempdir().unwrap();
        let authority = Authority::new();
        let identity = authority.identity(&["127.0.0.1"]);
        for (file, name) in [
            (identity.certificate_file, "server.crt"),
            (identity.key_file, "server.key"),
            (authority.believed().ca_file, "ca.pem"),
        ] {
            std::fs::copy(file, tls.path().join(name)).unwrap();
        }
        let server = Self { name: format!("own-{}-{port}", std::process::id()), port, tls };
        server.script("start");
        server.script("wait");
        server
    }

    fn script(&self, what: &str) {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/engines/objects.sh");
        let done = Command::new(script)
            .arg(what)
            .env("OBJECTS_NAME", &self.name)
            .env("OBJECTS_PORT", self.port.to_string())
            .env("OBJECTS_TLS", self.tls.path())
            .output()
            .unwrap();
        assert!(done.status.success(), "{what}: {}", String::from_utf8_lossy(&done.stderr));
    }

    fn ca_file(&self) -> PathBuf {
        self.tls.path().join("ca.pem")
    }
}

impl Drop for OwnServer {
    fn drop(&mut self) {
        self.script("wipe");
    }
}

#[tokio::test]
async fn over_tls_by_a_private_authority_and_when_the_server_dies_answers_say_so() {
    let server = OwnServer::start();
    let directory = tempfile::tempdir().unwrap();
    let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
    let address = format!("https://127.0.0.1:{}", server.port);
    let bucket = {
        let made = Command::new("curl")
            .args(["-sf", "--cacert", server.ca_file().to_str().unwrap(), "-X", "PUT"])
            .arg(format!("{address}/spans"))
            .status();
        assert!(made.unwrap().success());
        "spans"
    };
    let trusting = ColdConfig {
        ca_file: Some(server.ca_file()),
        is_http_allowed: false,
        ..settings(&address, bucket, directory.path())
    };
    let open = |settings: &ColdConfig, name: &str| {
        let config = EmbeddedStoreConfig {
            retention: Duration::from_secs(50 * 365 * 24 * 3_600),
            ..small_config(&directory.path().join(name))
        };
        EmbeddedStore::open_tiered(config, tier(settings, &clock), Arc::clone(&clock)).unwrap()
    };
    // The machine's own authorities know nothing of this one.
    let strict = open(&ColdConfig { ca_file: None, ..trusting.clone() }, "strict");
    let error = strict.claim_cold().await.unwrap_err();
    assert!(matches!(error, StoreError::Unavailable(_)), "{error}");
    let store = open(&trusting, "store");
    filled(&store, 100).await;
    assert_eq!(store.move_cold().await.unwrap(), 1);
    let tenant = TenantId::default();
    let read = store.read_trace(&tenant, trace_id(3)).await.unwrap();
    assert_eq!((read.spans.len(), read.is_away), (1, false));
    server.script("stop");
    let asked = Instant::now();
    let read = store.read_trace(&tenant, trace_id(99)).await.unwrap();
    assert!(read.is_away && !read.is_damaged && read.spans.is_empty());
    assert!(asked.elapsed() < Duration::from_secs(6));
    let found = store.search(&query(tag("order", "o-99"))).await.unwrap();
    assert!(found.is_away && !found.is_damaged && found.matches.is_empty());
    let read = store.read_trace(&tenant, trace_id(3_000)).await.unwrap();
    assert!(!read.is_away, "the filter here says that it is nowhere");
}

#[tokio::test(flavor = "multi_thread")]
async fn objects_are_believed_by_the_authority_that_is_named_alone() {
    let clock: Arc<dyn Clock> = Arc::new(ManualClock::at(NOW));
    let (server, directory) = (server(), tempfile::tempdir().unwrap());
    let address = server.strip_prefix("http://").unwrap().to_owned();
    believes_what_it_is_told_alone(&address, true, async |port, tls| {
        let place = directory.path().join(port.to_string());
        let settings = ColdConfig {
            ca_file: tls.map(|tls| tls.ca_file),
            is_http_allowed: false,
            ..settings(&format!("https://127.0.0.1:{port}"), &bucket(&server), &place)
        };
        let config = small_config(&place.join("store"));
        let store = EmbeddedStore::open_tiered(config, tier(&settings, &clock), Arc::clone(&clock));
        let store = store.map_err(|error| error.to_string())?;
        store.claim_cold().await.map_err(|error| error.to_string())?;
        filled(&store, 10).await;
        assert_eq!(store.move_cold().await.map_err(|error| error.to_string())?, 1);
        let read = store.read_trace(&TenantId::default(), trace_id(3)).await.unwrap();
        assert_eq!((read.spans.len(), read.is_away), (1, false));
        Ok(())
    })
    .await;
}
