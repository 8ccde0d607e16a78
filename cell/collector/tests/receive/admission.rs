//! What is in flight is bounded, shown, and given back.

use std::sync::Arc;

use sampling::HeadRules;
use tonic::Code;
use tonic_types::StatusExt;

use crate::fake_log::Behaviour;
use crate::requests::{request, spans};
use crate::running::{PROTOBUF, Running, config, until};

fn value_of(metrics: &str, name: &str) -> i64 {
    let line = metrics.lines().find(|line| line.starts_with(&format!("{name} "))).unwrap();
    line.rsplit(' ').next().unwrap().parse().unwrap()
}

#[tokio::test]
async fn queue_spans_are_those_received_and_not_acknowledged() {
    let running = Arc::new(Running::start().await);
    running.log.behave(Behaviour::Hold);
    let sender = Arc::clone(&running);
    let sent = running
        .tracker
        .spawn(async move { sender.export_grpc("identity", request(spans(30))).await });
    let queued = || value_of(&running.metrics(), "farspan_collector_queue_spans");
    until(|| queued() == 30).await;
    assert!(value_of(&running.metrics(), "farspan_collector_in_flight_bytes") > 1_000);
    running.log.release(1);
    assert_eq!(sent.await.unwrap().status.code(), Code::Ok);
    assert_eq!(queued(), 0);
    assert_eq!(value_of(&running.metrics(), "farspan_collector_in_flight_bytes"), 0);
}

#[tokio::test]
async fn a_sender_that_goes_away_leaves_nothing_behind() {
    let running = Arc::new(Running::start().await);
    running.log.behave(Behaviour::Hold);
    let sender = Arc::clone(&running);
    let sent = running
        .tracker
        .spawn(async move { sender.export_http("identity", request(spans(30))).await });
    let queued = || value_of(&running.metrics(), "farspan_collector_queue_spans");
    until(|| queued() == 30).await;
    sent.abort();
    until(|| queued() == 0).await;
    until(|| value_of(&running.metrics(), "farspan_collector_in_flight_bytes") == 0).await;
}

#[tokio::test]
async fn beyond_the_bytes_in_flight_requests_are_refused_retryably() {
    let mut config = config();
    let body = request(spans(100));
    config.admission.in_flight_bytes_max = body.len() + 1_000;
    let running = Arc::new(Running::with(config, HeadRules::default()).await);
    running.log.behave(Behaviour::Hold);
    let (sender, first) = (Arc::clone(&running), body.clone());
    let sent =
        running.tracker.spawn(async move { sender.export_http("identity", first).await.status });
    until(|| value_of(&running.metrics(), "farspan_collector_queue_spans") == 100).await;
    let answer = running.export_http("identity", body.clone()).await;
    assert_eq!(answer.status, 429);
    assert!(!answer.header("retry-after").is_empty());
    let answer = running.export_grpc("identity", body.clone()).await;
    assert_eq!(answer.status.code(), Code::Unavailable);
    assert!(answer.status.get_details_retry_info().is_some());
    running.log.release(2);
    assert_eq!(sent.await.unwrap(), 200);
    assert_eq!(running.export_http("identity", body).await.status, 200);
    let refused = "farspan_collector_refused_requests_total{reason=\"overloaded\"} 2";
    assert!(running.metrics().contains(refused));
}

#[tokio::test]
async fn an_announced_length_over_the_limit_is_refused_before_the_body() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let running = Running::start().await;
    let mut stream = tokio::net::TcpStream::connect(running.http).await.unwrap();
    let head = format!(
        "POST /v1/traces HTTP/1.1\r\nhost: c\r\ncontent-type: {PROTOBUF}\r\ncontent-length: {}\r\n\r\n",
        21 << 20
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut answer = [0; 12];
    crate::running::within(stream.read_exact(&mut answer)).await.unwrap();
    assert_eq!(&answer, b"HTTP/1.1 413");
}

#[tokio::test]
async fn a_sender_that_is_refused_early_reads_the_answer_after_its_whole_body() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let running = Running::start().await;
    let body = vec![0; 24 << 20];
    for (content_type, status) in [(PROTOBUF, "413"), ("text/plain", "415")] {
        let mut stream = tokio::net::TcpStream::connect(running.http).await.unwrap();
        let head = format!(
            "POST /v1/traces HTTP/1.1\r\nhost: c\r\ncontent-type: {content_type}\r\n\
             content-length: {}\r\n\r\n",
            body.len()
        );
        stream.write_all(head.as_bytes()).await.unwrap();
        crate::running::within(stream.write_all(&body)).await.unwrap();
        let mut answer = [0; 12];
        crate::running::within(stream.read_exact(&mut answer)).await.unwrap();
        assert_eq!(std::str::from_utf8(&answer).unwrap(), format!("HTTP/1.1 {status}"));
    }
}
