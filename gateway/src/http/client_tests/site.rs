//! The site that the clients of these tests ask.

use std::sync::Arc;

use axum::body::Body;
use axum::http::{Request, StatusCode};
use http_body_util::BodyExt;
use opentelemetry_proto::tonic::common::v1::any_value::Value as Any;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue};
use opentelemetry_proto::tonic::trace::v1 as otlp;
use proto::convert::query::id_bytes;
use proto::v1;
use serde_json::Value;
use tower::ServiceExt;
use trace_model::SearchQuery;

use super::check_envelope;
use crate::fakes::{FakeCell, FakeIndex, NOW, gateway_with, id, level, resource, stored};

pub(super) const TRACE: &str = "05050505050505050505050505050505";
/// A span's start, in microseconds: what Jaeger's JSON has.
pub(super) const START_MICROS: u64 = 1_790_000_000_000_000;

pub(super) struct Site {
    pub(super) cells: Vec<Arc<FakeCell>>,
    pub(super) router: axum::Router,
}

pub(super) fn attribute(key: &str, value: Any) -> KeyValue {
    let value = Some(AnyValue { value: Some(value) });
    KeyValue { key: key.to_owned(), value, ..KeyValue::default() }
}

/// A root in one region and a failed call, with everything that a span can have, in another.
pub(super) fn site() -> Site {
    let cells = ["eu", "us"].map(FakeCell::new).to_vec();
    let index = FakeIndex::with_states(vec![level("eu"), level("us")]);
    let root = otlp::Span {
        trace_id: vec![5; 16],
        span_id: vec![1; 8],
        name: "GET /cart".to_owned(),
        kind: 2,
        start_time_unix_nano: START_MICROS * 1_000,
        end_time_unix_nano: START_MICROS * 1_000 + 90_000_000,
        ..otlp::Span::default()
    };
    let call = otlp::Span {
        span_id: vec![2; 8],
        parent_span_id: vec![1; 8],
        name: "load".to_owned(),
        kind: 3,
        start_time_unix_nano: START_MICROS * 1_000 + 5_000_999,
        end_time_unix_nano: START_MICROS * 1_000 + 7_500_999,
        flags: 0x101,
        attributes: vec![
            attribute("http.status_code", Any::IntValue(503)),
            attribute("retried", Any::BoolValue(true)),
            attribute("ratio", Any::DoubleValue(0.5)),
            attribute("http.url", Any::StringValue("http://x/?a=b&c".to_owned())),
            attribute("raw", Any::BytesValue(vec![1, 2, 3])),
        ],
        events: vec![otlp::span::Event {
            time_unix_nano: START_MICROS * 1_000 + 6_000_000,
            name: "retry".to_owned(),
            ..otlp::span::Event::default()
        }],
        links: vec![otlp::span::Link {
            trace_id: vec![8; 16],
            span_id: vec![9; 8],
            ..otlp::span::Link::default()
        }],
        status: Some(otlp::Status { code: 2, message: "boom".to_owned() }),
        ..root.clone()
    };
    for (cell, (span, service)) in cells.iter().zip([(root, "shop/web"), (call, "cart")]) {
        let held = stored(&span, &resource(service), &cell.region);
        cell.spans.lock().unwrap().insert(id(5), vec![held]);
        index.know(cell.contribution(id(5)));
        *cell.matches.lock().unwrap() = vec![v1::TraceMatch {
            trace_id: id_bytes(id(5)),
            newest_match_unix_nano: NOW.0 - 1_000,
            matched_spans: 1,
            services: vec![service.to_owned()],
        }];
        *cell.services.lock().unwrap() = vec![service.to_owned()];
        *cell.edges.lock().unwrap() = vec![v1::Edge {
            caller: "shop/web".to_owned(),
            callee: "cart".to_owned(),
            calls: 2,
            ..v1::Edge::default()
        }];
    }
    Site { router: super::super::router(gateway_with(&cells, &index, |_| {})), cells }
}

impl Site {
    pub(super) async fn get(
        &self,
        path: &str,
        headers: &[(&str, &str)],
    ) -> (StatusCode, Value, String) {
        let mut request = Request::get(path);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(Body::empty()).unwrap();
        let response = self.router.clone().oneshot(request).await.unwrap();
        assert_eq!(response.headers()["content-type"], "application/json", "{path}");
        let line = response.headers().get("farspan-completeness");
        let line = line.map_or_else(String::new, |line| line.to_str().unwrap().to_owned());
        let status = response.status();
        let bytes = response.into_body().collect().await.unwrap().to_bytes();
        (status, serde_json::from_slice(&bytes).unwrap(), line)
    }

    /// As Go's HTTP client in Grafana's backend sends it.
    pub(super) async fn grafana(&self, path: &str) -> Value {
        let headers = [("user-agent", "Grafana/12.0.0"), ("accept-encoding", "gzip")];
        let (status, body, _) = self.get(path, &headers).await;
        assert_eq!(status, StatusCode::OK, "{path}: {body}");
        check_envelope(&body);
        body
    }

    /// As a browser sends it for the Jaeger UI.
    pub(super) async fn jaeger_ui(&self, path: &str) -> Value {
        let headers = [("accept", "*/*"), ("sec-fetch-mode", "same-origin")];
        let (status, body, _) = self.get(path, &headers).await;
        assert_eq!(status, StatusCode::OK, "{path}: {body}");
        check_envelope(&body);
        body
    }

    pub(super) fn searched(&self) -> SearchQuery {
        self.cells[0].searched.lock().unwrap().last().unwrap().clone()
    }
}
