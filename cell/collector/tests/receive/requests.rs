//! Requests to send, and codecs to send them with.

use std::io::Write as _;

use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue, any_value};
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, ScopeSpans, Span};
use prost::Message;

pub(crate) const CODECS: [&str; 4] = ["identity", "gzip", "zstd", "deflate"];

pub(crate) fn span(trace: u8, id: u32) -> Span {
    let mut span_id = vec![1; 8];
    span_id[..4].copy_from_slice(&id.to_be_bytes());
    Span {
        trace_id: vec![trace; 16],
        span_id,
        name: format!("operation {id}"),
        start_time_unix_nano: 1_600_000_000_000_000_000,
        end_time_unix_nano: 1_600_000_000_001_000_000,
        attributes: vec![text("k", "v")],
        ..Span::default()
    }
}

pub(crate) fn text(key: &str, value: &str) -> KeyValue {
    let value = Some(any_value::Value::StringValue(value.into()));
    KeyValue { key: key.into(), value: Some(AnyValue { value }), ..KeyValue::default() }
}

pub(crate) fn request(spans: Vec<Span>) -> Vec<u8> {
    let resource =
        Some(Resource { attributes: vec![text("service.name", "shop")], ..Resource::default() });
    let scope_spans = vec![ScopeSpans { spans, ..ScopeSpans::default() }];
    let resource_spans = vec![ResourceSpans { resource, scope_spans, ..ResourceSpans::default() }];
    ExportTraceServiceRequest { resource_spans }.encode_to_vec()
}

pub(crate) fn spans(count: u32) -> Vec<Span> {
    (0..count).map(|id| span(u8::try_from(id % 7).unwrap() + 1, id)).collect()
}

/// A request of so many empty spans: two bytes each.
pub(crate) fn empty_spans(count: usize) -> Vec<u8> {
    let mut body = b"\x12\x00".repeat(count);
    for number in [2_u32, 1] {
        let mut outer = Vec::new();
        proto::wire::put_bytes_field(&mut outer, number, &body);
        body = outer;
    }
    body
}

pub(crate) fn encoded(codec: &str, body: &[u8]) -> Vec<u8> {
    match codec {
        "identity" => body.to_vec(),
        "gzip" => {
            let mut encoder =
                flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
            encoder.write_all(body).unwrap();
            encoder.finish().unwrap()
        }
        "deflate" => {
            let mut encoder =
                flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::best());
            encoder.write_all(body).unwrap();
            encoder.finish().unwrap()
        }
        "zstd" => zstd::encode_all(body, 3).unwrap(),
        other => panic!("no codec {other}"),
    }
}
