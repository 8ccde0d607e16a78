//! Tests of the admin endpoints, over a real socket.

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;
use crate::process;

async fn ask(address: std::net::SocketAddr, path: &str) -> String {
    let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

async fn serve(readiness: Readiness) -> std::net::SocketAddr {
    let mut registry = Registry::default();
    process::register(&mut registry, Arc::new(crate::SystemClock::new()));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let router = router(readiness, registry.into());
    let server = axum::serve(listener, router).into_future();
    tokio_util::task::TaskTracker::new().spawn(server);
    address
}

#[tokio::test]
async fn a_process_is_ready_when_every_check_holds_and_names_those_that_do_not() {
    let readiness = Readiness::default();
    let (log, store) = (readiness.check("span-log"), readiness.check("trace-store"));
    let address = serve(readiness).await;
    log.pass();
    let answer = ask(address, "/readyz").await;
    assert!(answer.starts_with("HTTP/1.1 503"), "{answer}");
    assert!(answer.contains("span-log: ok") && answer.contains("trace-store: starting"));
    store.pass();
    assert!(ask(address, "/readyz").await.starts_with("HTTP/1.1 200"));
    log.fail("the disk is full");
    assert!(ask(address, "/readyz").await.contains("span-log: the disk is full"));
    assert!(ask(address, "/livez").await.starts_with("HTTP/1.1 200"));
}

#[tokio::test]
async fn a_probe_is_looked_at_with_every_question() {
    let readiness = Readiness::default();
    let is_well = Arc::new(std::sync::atomic::AtomicBool::new(true));
    let seen = Arc::clone(&is_well);
    readiness.probe("groups", move || match seen.load(std::sync::atomic::Ordering::SeqCst) {
        true => Ok(()),
        false => Err("storage-writer is down".to_owned()),
    });
    let address = serve(readiness.clone()).await;
    assert!(ask(address, "/readyz").await.starts_with("HTTP/1.1 200") && readiness.is_ready());
    is_well.store(false, std::sync::atomic::Ordering::SeqCst);
    let answer = ask(address, "/readyz").await;
    assert!(answer.starts_with("HTTP/1.1 503"), "{answer}");
    assert!(answer.contains("groups: storage-writer is down") && !readiness.is_ready());
}

#[tokio::test]
async fn metrics_are_open_metrics_with_the_process_in_them() {
    let answer = ask(serve(Readiness::default()).await, "/metrics").await;
    assert!(answer.contains("application/openmetrics-text"), "{answer}");
    assert!(answer.trim_end().ends_with("# EOF"), "{answer}");
    for name in [
        "farspan_process_resident_memory_bytes",
        "farspan_process_anonymous_memory_bytes",
        "farspan_process_cpu_seconds_total",
        "farspan_build_info{version=",
    ] {
        assert!(answer.contains(name), "{name} is missing in {answer}");
    }
}

#[test]
fn a_warning_is_said_while_it_lasts_and_leaves_the_process_ready() {
    let readiness = Readiness::default();
    readiness.check("cell").pass();
    let lasts = Arc::new(std::sync::atomic::AtomicBool::new(true));
    let asked = Arc::clone(&lasts);
    let warning = move || {
        asked.load(std::sync::atomic::Ordering::SeqCst).then(|| "storage-writer lags".to_owned())
    };
    readiness.warn("storage-writer", warning);
    assert!(readiness.is_ready());
    assert_eq!(readiness.report(), "cell: ok\nwarning: storage-writer lags\n");
    lasts.store(false, std::sync::atomic::Ordering::SeqCst);
    assert_eq!(readiness.report(), "cell: ok\n");
}
