//! A process that runs out of file descriptors: nothing that listens ends, and it goes on when some
//! are free again.

use std::net::TcpStream;
use std::process::Command;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, StatusCode};

use crate::federation::PATIENCE;
use crate::http::{eventually, get, send};
use crate::process::{Process, free_ports};

/// Open files that the cell may have: enough to start, and as many as there are connections.
const FILES_MAX: usize = 160;

/// A cell under a limit that it cannot raise.
fn start_limited(directory: &std::path::Path, ports: &[u16]) -> Process {
    let [grpc, http, zipkin, internal, admin] = ports else { panic!("five ports") };
    let data = directory.join("cell");
    let config = format!(
        "kind: cell\nregion: eu\ndata_dir: {}\nlisten:\n  otlp_grpc: 127.0.0.1:{grpc}\n  \
         otlp_http: 127.0.0.1:{http}\n  zipkin: 127.0.0.1:{zipkin}\n  internal: \
         127.0.0.1:{internal}\n  admin: 127.0.0.1:{admin}\n",
        data.display()
    );
    let file = directory.join("cell.yaml");
    std::fs::write(&file, config).unwrap();
    let mut shell = Command::new("sh");
    shell.arg("-c");
    shell.arg(format!("ulimit -n {FILES_MAX} && exec \"$0\" cell --config \"$1\""));
    shell.arg(env!("CARGO_BIN_EXE_farspan")).arg(&file);
    Process::run("limited", directory, shell)
}

#[tokio::test(flavor = "multi_thread")]
async fn without_descriptors_every_listener_waits_and_goes_on() {
    let directory = tempfile::tempdir().unwrap();
    let ports = free_ports(5);
    let (internal, admin) = (ports[3], ports[4]);
    let process = start_limited(directory.path(), &ports);
    let ready = format!("http://127.0.0.1:{admin}/readyz");
    let is_ready = || async {
        let answer = get(&ready).await?;
        let text = String::from_utf8_lossy(&answer.body).into_owned();
        if answer.status == StatusCode::OK { Ok(()) } else { Err(text) }
    };
    eventually("ready", PATIENCE, is_ready).await;
    // Idle connections to the server of gateways and replicators take every descriptor there is; the
    // few beyond wait in the system's backlog, which must not overflow.
    let connect = |_| TcpStream::connect(("127.0.0.1", internal)).unwrap();
    let held: Vec<TcpStream> = (0..FILES_MAX).map(connect).collect();
    let exhausted = "connections cannot be accepted and wait";
    eventually("no descriptor is left", PATIENCE, || async {
        if process.output().contains(exhausted) { Ok(()) } else { Err(process.last_words()) }
    })
    .await;
    drop(held);
    eventually("ready again", PATIENCE, is_ready).await;
    let export = format!("http://127.0.0.1:{}/v1/traces", ports[1]);
    eventually("takes spans again", PATIENCE, || async {
        let json = [("content-type", "application/json")];
        let body = Bytes::from_static(b"{\"resourceSpans\":[]}");
        let answer = send(Method::POST, &export, &json, body).await?;
        if answer.status == StatusCode::OK { Ok(()) } else { Err(answer.status.to_string()) }
    })
    .await;
    // The server whose accepts failed is there as well.
    let again =
        TcpStream::connect_timeout(&([127, 0, 0, 1], internal).into(), Duration::from_secs(5));
    assert!(again.is_ok(), "{again:?} {}", process.last_words());
    let output = process.output();
    assert!(!output.contains("gRPC server has ended"), "{output}");
    // At most once for each of the five listeners in half a minute.
    assert!((1..=5).contains(&output.matches(exhausted).count()), "{output}");
    assert!(output.contains("below what this process can need"), "{output}");
}
