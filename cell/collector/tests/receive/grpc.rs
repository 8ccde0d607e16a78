use std::time::Duration;

use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use opentelemetry_proto::tonic::trace::v1::Span;
use prost::Message;
use span_log::port::LogError;
use tonic::Code;
use tonic::codec::CompressionEncoding;
use tonic_types::StatusExt;

use crate::fake_log::Behaviour;
use crate::requests::{CODECS, encoded, request, span, spans};
use crate::running::{EXPORT, Running, framed};

#[tokio::test]
async fn an_export_in_every_codec_is_logged_and_acknowledged() {
    for codec in CODECS {
        let running = Running::start().await;
        let answer = running.export_grpc(codec, encoded(codec, &request(spans(20)))).await;
        assert_eq!(answer.status.code(), Code::Ok, "{codec}: {:?}", answer.status);
        assert!(answer.message.is_empty(), "full success leaves partial_success unset");
        assert_eq!(running.log.span_count(), 20, "{codec}");
    }
}

#[tokio::test]
async fn an_empty_export_succeeds_and_nothing_is_appended() {
    let running = Running::start().await;
    let answer = running.export_grpc("identity", Vec::new()).await;
    assert_eq!(answer.status.code(), Code::Ok);
    assert!(running.log.batches().is_empty());
}

#[tokio::test]
async fn rejected_spans_are_told_with_count_and_reason() {
    let running = Running::start().await;
    let mut sent = spans(5);
    sent[2].trace_id = vec![1; 3];
    let answer = running.export_grpc("identity", request(sent)).await;
    assert_eq!(answer.status.code(), Code::Ok);
    let response = ExportTraceServiceResponse::decode(answer.message).unwrap();
    let partial = response.partial_success.unwrap();
    assert_eq!(partial.rejected_spans, 1);
    assert!(partial.error_message.contains("1 of 5 spans"), "{}", partial.error_message);
    assert!(partial.error_message.contains("trace id"), "{}", partial.error_message);
    assert_eq!(running.log.span_count(), 4);
    let counted = "farspan_collector_rejected_spans_total{reason=\"bad_trace_id\"} 1";
    assert!(running.metrics().contains(counted));
}

#[tokio::test]
async fn a_span_larger_than_the_log_keeps_is_rejected_alone() {
    let running = Running::start().await;
    running.log.keep_spans_of(1_000);
    let mut sent = spans(5);
    sent[2].name = "x".repeat(1_000);
    let answer = running.export_grpc("identity", request(sent)).await;
    assert_eq!(answer.status.code(), Code::Ok);
    let response = ExportTraceServiceResponse::decode(answer.message).unwrap();
    let partial = response.partial_success.unwrap();
    assert_eq!((partial.rejected_spans, running.log.span_count()), (1, 4));
    assert!(partial.error_message.contains("than can be kept"), "{}", partial.error_message);
    let counted = "farspan_collector_rejected_spans_total{reason=\"span_too_large\"} 1";
    assert!(running.metrics().contains(counted));
}

#[tokio::test]
async fn a_full_log_is_unavailable_with_retry_info_and_mends() {
    let running = Running::start().await;
    for error in
        [LogError::Full, LogError::Overloaded, LogError::Closed, LogError::Disk("x".into())]
    {
        running.log.behave(Behaviour::Refuse(error));
        let answer = running.export_grpc("identity", request(spans(3))).await;
        assert_eq!(answer.status.code(), Code::Unavailable);
        let retry = answer.status.get_details_retry_info().unwrap().retry_delay.unwrap();
        assert!(retry >= Duration::from_secs(1));
    }
    running.log.behave(Behaviour::Keep);
    let answer = running.export_grpc("identity", request(spans(3))).await;
    assert_eq!(answer.status.code(), Code::Ok);
    assert_eq!(running.log.span_count(), 3);
}

#[tokio::test]
async fn spans_of_a_refused_request_are_counted_when_it_is_taken() {
    let running = Running::start().await;
    let mut sent = spans(3);
    sent[0].span_id = vec![];
    running.log.behave(Behaviour::Refuse(LogError::Full));
    running.export_grpc("identity", request(sent.clone())).await;
    assert!(!running.metrics().contains("rejected_spans_total{reason"));
    assert!(running.metrics().contains("refused_requests_total{reason=\"log\"} 1"));
    running.log.behave(Behaviour::Keep);
    running.export_grpc("identity", request(sent)).await;
    assert!(running.metrics().contains("rejected_spans_total{reason=\"bad_span_id\"} 1"));
    assert!(running.metrics().contains("farspan_collector_accepted_spans_total 2"));
}

#[tokio::test]
async fn what_no_retry_mends_has_no_retry_info() {
    let running = Running::start().await;
    let refused = LogError::TooLarge { bytes: 2, bytes_max: 1 };
    running.log.behave(Behaviour::Refuse(refused));
    let answer = running.export_grpc("identity", request(spans(3))).await;
    assert_eq!(answer.status.code(), Code::ResourceExhausted);
    assert!(answer.status.get_details_retry_info().is_none());
}

#[tokio::test]
async fn the_tenant_of_the_metadata_stands_in_the_envelope() {
    let running = Running::start().await;
    let body = || framed(false, &request(vec![span(1, 1)]));
    for (headers, tenant) in [
        (&[][..], "default"),
        (&[("x-scope-orgid", "team-a")], "team-a"),
        // As a proxy sends it that has nothing to put there.
        (&[("x-scope-orgid", "")], "default"),
    ] {
        let answer = running.call(EXPORT, headers, body()).await;
        assert_eq!(answer.status.code(), Code::Ok);
        let batch = running.log.batches().pop().unwrap();
        assert_eq!(batch.source().tenant.as_str(), tenant);
        assert_eq!(batch.source().region.as_str(), "eu-west-1");
        assert_eq!(&*batch.source().collector, "c1");
    }
    for bad in [" ", "..", "a/b"] {
        let answer = running.call(EXPORT, &[("x-scope-orgid", bad)], body()).await;
        assert_eq!(answer.status.code(), Code::InvalidArgument, "{bad:?}");
    }
    let twice = [("x-scope-orgid", "a"), ("x-scope-orgid", "b")];
    let answer = running.call(EXPORT, &twice, body()).await;
    assert_eq!(answer.status.code(), Code::InvalidArgument);
    assert_eq!(running.log.batches().len(), 3);
}

#[tokio::test]
async fn framing_that_is_not_one_message_is_refused() {
    let running = Running::start().await;
    let good = framed(false, &request(vec![span(1, 1)]));
    let mut longer = good.clone();
    longer.extend_from_slice(&good);
    let mut flagged = good.clone();
    flagged[0] = 7;
    let unsaid = framed(true, &request(vec![span(1, 1)]));
    for body in
        [vec![], good[..3].to_vec(), good[..good.len() - 1].to_vec(), longer, flagged, unsaid]
    {
        let answer = running.call(EXPORT, &[], body).await;
        assert_eq!(answer.status.code(), Code::InvalidArgument);
    }
    assert!(running.log.batches().is_empty());
}

#[tokio::test]
async fn unknown_methods_and_encodings_are_unimplemented() {
    let running = Running::start().await;
    let body = framed(false, &request(vec![span(1, 1)]));
    let answer = running.call("/other.Service/Method", &[], body.clone()).await;
    assert_eq!(answer.status.code(), Code::Unimplemented);
    let answer = running.call(EXPORT, &[("grpc-encoding", "snappy")], body).await;
    assert_eq!(answer.status.code(), Code::Unimplemented);
    assert!(answer.headers["grpc-accept-encoding"].to_str().unwrap().contains("gzip"));
}

#[tokio::test]
async fn what_is_not_grpc_is_an_unsupported_media_type() {
    let running = Running::start().await;
    let answer = running.call_as("text/plain", EXPORT, &[], vec![]).await;
    assert_eq!(answer.http_status, 415);
}

/// A client that knows nothing of how the server frames.
async fn export_with_tonic(
    running: &Running,
    codec: Option<CompressionEncoding>,
    spans: Vec<Span>,
) -> Result<ExportTraceServiceResponse, tonic::Status> {
    let endpoint = tonic::transport::Endpoint::new(format!("http://{}", running.grpc)).unwrap();
    let mut client = tonic::client::Grpc::new(endpoint.connect().await.unwrap());
    if let Some(codec) = codec {
        client = client.send_compressed(codec).accept_compressed(codec);
    }
    client.ready().await.unwrap();
    let request = ExportTraceServiceRequest::decode(request(spans).as_slice()).unwrap();
    let path = http::uri::PathAndQuery::from_static(EXPORT);
    let codec = tonic_prost::ProstCodec::default();
    client.unary(tonic::Request::new(request), path, codec).await.map(tonic::Response::into_inner)
}

#[tokio::test]
async fn a_stock_grpc_client_is_understood_in_every_codec_that_it_has() {
    let running = Running::start().await;
    for codec in [None, Some(CompressionEncoding::Gzip), Some(CompressionEncoding::Zstd)] {
        let response = export_with_tonic(&running, codec, spans(3_000)).await.unwrap();
        assert_eq!(response.partial_success, None);
    }
    assert_eq!(running.log.span_count(), 9_000);
    running.log.behave(Behaviour::Refuse(LogError::Full));
    let status = export_with_tonic(&running, None, spans(3)).await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable);
    assert!(status.get_details_retry_info().is_some());
}
