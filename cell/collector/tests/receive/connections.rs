//! Connections: silence, slowness and the end.

use std::sync::Arc;
use std::time::Duration;

use hyper_util::rt::{TokioExecutor, TokioIo};
use sampling::HeadRules;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tonic::Code;

use crate::fake_log::Behaviour;
use crate::requests::{request, spans};
use crate::running::{PROTOBUF, Running, config, until, within};

/// Reads until the other side closes.
async fn closed(stream: &mut TcpStream) -> Vec<u8> {
    let mut seen = Vec::new();
    let _ended = within(stream.read_to_end(&mut seen)).await;
    seen
}

#[tokio::test]
async fn silent_connections_are_closed() {
    let mut config = config();
    config.connections.idle_timeout = Duration::from_millis(100);
    let running = Running::with(config, HeadRules::default()).await;
    for address in [running.http, running.grpc] {
        let mut silent = TcpStream::connect(address).await.unwrap();
        closed(&mut silent).await;
    }
    let mut prefaced = TcpStream::connect(running.grpc).await.unwrap();
    prefaced.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await.unwrap();
    closed(&mut prefaced).await;
}

#[tokio::test]
async fn a_head_that_never_ends_is_closed() {
    let mut config = config();
    config.connections.head_timeout = Duration::from_millis(100);
    let running = Running::with(config, HeadRules::default()).await;
    let mut slow = TcpStream::connect(running.http).await.unwrap();
    slow.write_all(b"POST /v1/traces HTTP/1.1\r\nhost: c\r\nx-").await.unwrap();
    closed(&mut slow).await;
}

#[tokio::test]
async fn a_head_that_is_too_large_is_refused() {
    let running = Running::start().await;
    let mut large = TcpStream::connect(running.http).await.unwrap();
    let head = format!("POST /v1/traces HTTP/1.1\r\nx-a: {}\r\n\r\n", "x".repeat(64 << 10));
    let _sent = large.write_all(head.as_bytes()).await;
    let answer = closed(&mut large).await;
    assert!(answer.starts_with(b"HTTP/1.1 431") || answer.is_empty());
    assert!(running.log.batches().is_empty());
}

#[tokio::test]
async fn a_body_that_never_ends_is_refused_retryably() {
    let mut config = config();
    config.body_timeout = Duration::from_millis(100);
    let running = Running::with(config, HeadRules::default()).await;
    let mut slow = TcpStream::connect(running.http).await.unwrap();
    let head = format!(
        "POST /v1/traces HTTP/1.1\r\nhost: c\r\ncontent-type: {PROTOBUF}\r\ncontent-length: 99\r\n\r\nx"
    );
    slow.write_all(head.as_bytes()).await.unwrap();
    let mut answer = [0; 12];
    within(slow.read_exact(&mut answer)).await.unwrap();
    assert_eq!(&answer, b"HTTP/1.1 503");
}

#[tokio::test]
async fn further_connections_wait_for_room() {
    let mut config = config();
    config.connections.connections_max = 1;
    let running = Running::with(config, HeadRules::default()).await;
    let holder = TcpStream::connect(running.http).await.unwrap();
    until(|| running.metrics().contains("farspan_collector_connections 1")).await;
    let waiting = running.export_http("identity", request(spans(1)));
    let early = tokio::time::timeout(Duration::from_millis(100), waiting).await;
    assert!(early.is_err(), "served while the only place was taken");
    drop(holder);
    assert_eq!(running.export_http("identity", request(spans(1))).await.status, 200);
}

#[tokio::test]
async fn a_stop_lets_requests_in_flight_end_and_takes_no_more() {
    let running = Arc::new(Running::start().await);
    running.log.behave(Behaviour::Hold);
    let sender = Arc::clone(&running);
    let sent = tokio::task::JoinSet::from_iter([async move {
        sender.export_grpc("identity", request(spans(10))).await.status.code()
    }]);
    until(|| running.metrics().contains("farspan_collector_queue_spans 10")).await;
    running.stop.cancel();
    within(async {
        while TcpStream::connect(running.http).await.is_ok() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
    running.log.release(1);
    assert_eq!(sent.join_all().await, [Code::Ok]);
    within(running.tracker.wait()).await;
    assert_eq!(running.log.span_count(), 10);
}

#[tokio::test]
async fn a_drain_ends_at_its_deadline() {
    let mut config = config();
    config.drain_timeout = Duration::from_millis(100);
    let running = Arc::new(Running::with(config, HeadRules::default()).await);
    running.log.behave(Behaviour::Hold);
    let sender = Arc::clone(&running);
    let _sent = tokio::task::JoinSet::from_iter([async move {
        sender.export_http("identity", request(spans(10))).await
    }]);
    until(|| running.metrics().contains("farspan_collector_queue_spans 10")).await;
    running.stop.cancel();
    until(|| running.metrics().contains("farspan_collector_queue_spans 0")).await;
    assert_eq!(running.log.span_count(), 0);
}

#[tokio::test]
async fn an_acknowledgement_that_does_not_come_is_a_retryable_refusal() {
    let mut config = config();
    config.acknowledge_timeout = Duration::from_millis(50);
    let running = Running::with(config, HeadRules::default()).await;
    running.log.behave(Behaviour::Hold);
    let answer = running.export_grpc("identity", request(spans(10))).await;
    assert_eq!(answer.status.code(), Code::Unavailable);
    assert!(running.metrics().contains("farspan_collector_queue_spans 0"));
}

#[tokio::test]
async fn the_http_listener_speaks_http_2_too() {
    let running = Running::start().await;
    let stream = TcpStream::connect(running.http).await.unwrap();
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
            .await
            .unwrap();
    running.tracker.spawn(async move { drop(connection.await) });
    let request = http::Request::post(format!("http://{}/v1/traces", running.http))
        .header("content-type", PROTOBUF)
        .body(http_body_util::Full::new(bytes::Bytes::from(request(spans(4)))))
        .unwrap();
    let answer = within(sender.send_request(request)).await.unwrap();
    assert_eq!(answer.status(), 200);
    assert_eq!(running.log.span_count(), 4);
}
