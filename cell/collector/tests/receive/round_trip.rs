//! What was sent is what reaches the log.

use proptest::prelude::*;
use proto::wire::{fields, put_bytes_field};
use sampling::HeadRules;
use tonic::Code;

use crate::requests::{request, span, spans};
use crate::running::{PROTOBUF, Running, config};

/// The span messages of a request, sorted.
fn spans_of(request: &[u8]) -> Vec<Vec<u8>> {
    let inner = |message: &[u8], number: u32| -> Vec<Vec<u8>> {
        let found = fields(message).map(|field| field.unwrap());
        let found = found.filter(|field| field.number == number);
        found.map(|field| field.value.bytes().unwrap().to_vec()).collect()
    };
    let mut spans = Vec::new();
    for resource in inner(request, 1) {
        for scope in inner(&resource, 2) {
            spans.extend(inner(&scope, 2));
        }
    }
    spans.sort();
    spans
}

#[tokio::test]
async fn a_trace_of_10008_spans_in_one_request_is_one_trace() {
    let running = Running::start().await;
    let sent = request((0..10_008).map(|id| span(1, id)).collect());
    let answer = running.export_grpc("identity", sent.clone()).await;
    assert_eq!(answer.status.code(), Code::Ok);
    let batch = running.log.batches().pop().unwrap();
    assert_eq!((batch.traces().len(), batch.traces()[0].span_count), (1, 10_008));
    assert_eq!(running.log.span_bytes(), spans_of(&sent));
}

#[tokio::test]
async fn unknown_fields_of_spans_resources_and_scopes_reach_the_log() {
    let running = Running::start().await;
    let mut sent_span = spans_of(&request(vec![span(3, 3)])).remove(0);
    put_bytes_field(&mut sent_span, 4_000, b"later");
    let mut scope_spans = Vec::new();
    put_bytes_field(&mut scope_spans, 2, &sent_span);
    put_bytes_field(&mut scope_spans, 50, b"of the scope");
    let mut resource_spans = Vec::new();
    put_bytes_field(&mut resource_spans, 2, &scope_spans);
    put_bytes_field(&mut resource_spans, 60, b"of the resource");
    let mut body = Vec::new();
    put_bytes_field(&mut body, 1, &resource_spans);
    assert_eq!(running.export_http("identity", body).await.status, 200);
    let batch = running.log.batches().pop().unwrap();
    let stored = batch.bytes_of(&batch.spans()[0]);
    assert_eq!(stored, sent_span);
    let context = batch.context_of(&batch.spans()[0]).unwrap();
    assert!(context.resource.ends_with(b"of the resource"));
    assert!(context.scope.ends_with(b"of the scope"));
    assert_eq!(&*context.service, "unknown_service");
}

#[tokio::test]
async fn a_retry_of_the_same_bytes_has_the_same_digest_in_any_codec() {
    let running = Running::start().await;
    let body = request(spans(3));
    running.export_http("identity", body.clone()).await;
    running.export_grpc("gzip", crate::requests::encoded("gzip", &body)).await;
    running.export_http("identity", request(spans(4))).await;
    let digests: Vec<_> = running.log.batches().iter().map(|batch| batch.source().digest).collect();
    assert_eq!(digests[0], digests[1]);
    assert_ne!(digests[0], digests[2]);
}

#[tokio::test]
async fn spans_left_out_by_head_sampling_are_accepted_and_counted() {
    let running = Running::with(config(), HeadRules { rate: 0.0, honour_flags: false }).await;
    let answer = running.export_http("identity", request(spans(5))).await;
    assert_eq!((answer.status, answer.body.len()), (200, 0));
    assert!(running.log.batches().is_empty());
    let metrics = running.metrics();
    assert!(metrics.contains("farspan_collector_sampled_out_spans_total{reason=\"rate\"} 5"));
    assert!(metrics.contains("farspan_collector_accepted_spans_total 5"));
}

#[tokio::test]
async fn an_unsampled_flag_is_honoured_where_that_is_configured() {
    let running = Running::with(config(), HeadRules { rate: 1.0, honour_flags: true }).await;
    let mut sent = spans(3);
    sent[0].flags = 0x100;
    sent[1].flags = 0x101;
    assert_eq!(running.export_http("identity", request(sent)).await.status, 200);
    assert_eq!(running.log.span_count(), 2);
    let counted = "sampled_out_spans_total{reason=\"unsampled_flag\"} 1";
    assert!(running.metrics().contains(counted));
}

#[tokio::test]
async fn the_threshold_of_the_rate_stands_in_the_batch() {
    let rate = 0.5;
    let running = Running::with(config(), HeadRules { rate, honour_flags: false }).await;
    let mut sent = spans(200);
    for (id, span) in sent.iter_mut().enumerate() {
        let mixed = (id as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        span.trace_id[8..].copy_from_slice(&mixed.to_be_bytes());
    }
    assert_eq!(running.export_http("identity", request(sent)).await.status, 200);
    let batch = running.log.batches().pop().unwrap();
    assert!((60..140).contains(&batch.spans().len()), "{}", batch.spans().len());
    for trace in batch.traces() {
        assert!((trace.threshold.adjusted_count() - 2.0).abs() < 1e-9);
        assert!(trace.threshold.keeps(trace.trace_id));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn damaged_requests_are_answered_and_what_is_accepted_is_what_was_sent(
        flips in proptest::collection::vec((any::<proptest::sample::Index>(), any::<u8>()), 0..6),
        cut in 0_usize..40,
    ) {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        runtime.block_on(async {
            let running = Running::start().await;
            let mut body = request(spans(12));
            for (place, value) in flips {
                let place = place.index(body.len());
                body[place] = value;
            }
            body.truncate(body.len() - cut);
            let headers = [("content-type", PROTOBUF)];
            let answer = running.post("/v1/traces", &headers, body.clone()).await;
            match answer.status {
                200 => {
                    let sent = spans_of(&body);
                    for span in running.log.span_bytes() {
                        assert!(sent.contains(&span));
                    }
                }
                400 => assert!(running.log.batches().is_empty()),
                other => panic!("answered {other}"),
            }
        });
    }
}
