//! Tests of the read-back, against a gateway that answers what the test says.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use trace_model::TraceId;

use super::*;

/// Answers like a gateway: `spans` says how many spans of the trace the n-th request gets.
async fn gateway(spans: fn(usize) -> usize, verdict: &'static str) -> GatewayClient {
    let asked = Arc::new(AtomicUsize::new(0));
    let answer = move || {
        let count = spans(asked.fetch_add(1, Ordering::Relaxed));
        let list = vec![json!({}); count];
        let body = json!({
            "resourceSpans": [{"scopeSpans": [{"spans": list}]}],
            "completeness": {"verdict": verdict, "text": "words"},
        });
        std::future::ready(body.to_string())
    };
    let router =
        axum::Router::new().route("/api/farspan/v1/traces/{id}", axum::routing::get(answer));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let server = axum::serve(listener, router).into_future();
    drop(tokio_util::task::TaskTracker::new().spawn(server));
    GatewayClient::new(&format!("http://{address}"), None).unwrap()
}

fn trace(spans: usize) -> SentTrace {
    let id = TraceId::from_bytes([7; 16]).unwrap();
    SentTrace { id, spans, regions: 3, at_millis: 0 }
}

#[tokio::test]
async fn a_trace_that_becomes_whole_in_time_is_whole() {
    let client = gateway(|asked| if asked == 0 { 2 } else { 5 }, "complete").await;
    let deadline = Instant::now() + Duration::from_secs(10);
    assert_eq!(read_until_whole(&trace(5), &client, deadline).await, Ok(()));
}

#[tokio::test]
async fn a_lost_or_a_doubled_span_or_a_partial_answer_is_not_whole() {
    let now = Instant::now();
    let whole = gateway(|_| 5, "complete").await;
    let fewer = read_until_whole(&trace(6), &whole, now).await.unwrap_err();
    assert_eq!(fewer, "5 of 6 spans; words");
    assert!(read_until_whole(&trace(4), &whole, now).await.is_err());
    let partial = gateway(|_| 5, "partial").await;
    let said = read_until_whole(&trace(5), &partial, now).await.unwrap_err();
    assert_eq!(said, "all spans, but words");
}
