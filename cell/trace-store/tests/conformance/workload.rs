//! Requests as a busy cell receives them: 512 spans of six services, traces of 8 to 24 spans, ten
//! attributes a span, about 500 bytes a span, every id unique. Times advance at a given rate.

use std::sync::Arc;

use opentelemetry_proto::tonic::common::v1::{
    AnyValue, InstrumentationScope, KeyValue, any_value::Value,
};
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::tonic::trace::v1 as otlp;
use prost::Message;
use proto::{BatchSource, LoggedBatch, SpanBatchBuilder};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use trace_model::sampling_threshold::Threshold;
use trace_model::{LogRange, Region, TenantId, TraceId, UnixNanos};

/// Spans of a request.
pub(crate) const REQUEST_SPANS: usize = 512;
/// When the workload begins.
pub(crate) const BEGIN: UnixNanos = UnixNanos(1_790_000_400_000_000_000);
/// The services.
pub(crate) const SERVICES: [&str; 6] = ["web", "cart", "payment", "inventory", "fraud", "shipping"];

/// A source of requests.
#[derive(Debug)]
pub(crate) struct Workload {
    random: SmallRng,
    /// The time that it has reached.
    pub(crate) now: u64,
    nanos_per_request: u64,
    next: u64,
    frames: Vec<(Vec<u8>, Vec<u8>)>,
    /// Ids of the traces made, every hundredth.
    pub(crate) sample: Vec<TraceId>,
}

fn attribute(key: &str, value: Value) -> KeyValue {
    let value = Some(AnyValue { value: Some(value) });
    KeyValue { key: key.to_owned(), value, ..KeyValue::default() }
}

fn text(value: impl Into<String>) -> Value {
    Value::StringValue(value.into())
}

impl Workload {
    /// A workload of so many spans a second.
    pub(crate) fn new(seed: u64, spans_per_second: u64) -> Self {
        let frames = SERVICES.iter().map(|service| (resource(service), scope(service))).collect();
        Self {
            random: SmallRng::seed_from_u64(seed),
            now: BEGIN.0,
            nanos_per_request: 1_000_000_000 * REQUEST_SPANS as u64 / spans_per_second,
            next: 0,
            frames,
            sample: Vec::new(),
        }
    }

    /// The next request, as the log gives it.
    pub(crate) fn request(&mut self) -> LoggedBatch {
        self.now += self.nanos_per_request;
        let mut spans: Vec<(TraceId, usize, Vec<u8>)> = Vec::with_capacity(REQUEST_SPANS);
        while spans.len() < REQUEST_SPANS {
            let count = self.random.random_range(8..=24).min(REQUEST_SPANS - spans.len());
            self.trace(count, &mut spans);
        }
        let mut builder = SpanBatchBuilder::new();
        let scopes: Vec<u32> = self
            .frames
            .iter()
            .map(|(resource, scope)| {
                let resource = builder.add_resource(resource.clone());
                builder.add_scope(resource, scope.clone())
            })
            .collect();
        for (trace_id, service, bytes) in &spans {
            builder.add_span(*trace_id, Threshold::KEEP_ALL, scopes[*service], bytes);
        }
        let source = BatchSource {
            tenant: TenantId::default(),
            region: Region::new("eu-west-1").expect("a region"),
            collector: "collector-1".into(),
            receive_time: UnixNanos(self.now),
            digest: self.next,
        };
        let batch = builder.finish(source).expect("valid spans");
        let first = self.next;
        self.next += batch.traces().len() as u64;
        LoggedBatch {
            incarnation: 1,
            range: LogRange { partition: 0, first, next: self.next },
            append_time: UnixNanos(self.now),
            batch: Arc::new(batch),
        }
    }

    fn trace(&mut self, count: usize, spans: &mut Vec<(TraceId, usize, Vec<u8>)>) {
        let trace_id = TraceId::from_bytes(self.random.random()).expect("not zero");
        if self.random.random_range(0..100) == 0 {
            self.sample.push(trace_id);
        }
        let mut ids: Vec<[u8; 8]> = Vec::with_capacity(count);
        let start = self.now - self.random.random_range(0..2_000_000_000);
        for place in 0..count {
            let service = if place == 0 { 0 } else { self.random.random_range(0..SERVICES.len()) };
            let id: [u8; 8] = self.random.random();
            let parent =
                if place == 0 { None } else { Some(ids[self.random.random_range(0..place)]) };
            let start = start + place as u64 * self.random.random_range(20_000..900_000);
            spans.push((trace_id, service, self.span(trace_id, id, parent, service, start)));
            ids.push(id);
        }
    }

    fn span(
        &mut self,
        trace_id: TraceId,
        id: [u8; 8],
        parent: Option<[u8; 8]>,
        service: usize,
        start: u64,
    ) -> Vec<u8> {
        let random = &mut self.random;
        let route = random.random_range(0..24_u32);
        let is_error = random.random_range(0..50) == 0;
        let duration = 1_u64 << random.random_range(14..27_u32);
        let span = otlp::Span {
            trace_id: trace_id.as_bytes().to_vec(),
            span_id: id.to_vec(),
            parent_span_id: parent.map(|parent| parent.to_vec()).unwrap_or_default(),
            name: format!(
                "{} /api/v1/{}/{route}",
                ["GET", "POST"][(route % 2) as usize],
                SERVICES[service]
            ),
            kind: 1 + i32::from(random.random_range(0..3_u8)),
            start_time_unix_nano: start,
            end_time_unix_nano: start + duration + random.random_range(0..duration),
            attributes: attributes(random, route, is_error),
            status: Some(otlp::Status {
                code: if is_error { 2 } else { 0 },
                message: String::new(),
            }),
            flags: 0x101,
            ..otlp::Span::default()
        };
        span.encode_to_vec()
    }
}

fn attributes(random: &mut SmallRng, route: u32, is_error: bool) -> Vec<KeyValue> {
    let code =
        if is_error { 500 } else { [200, 200, 200, 201, 204, 404][random.random_range(0..6)] };
    vec![
        attribute("http.request.method", text(["GET", "POST"][(route % 2) as usize])),
        attribute("http.route", text(format!("/api/v1/resource/{route}/{{id}}"))),
        attribute("http.response.status_code", Value::IntValue(code)),
        attribute(
            "url.path",
            text(format!("/api/v1/resource/{route}/{}", random.random_range(0..400_000))),
        ),
        attribute("user.id", text(format!("user-{:06}", random.random_range(0..200_000)))),
        attribute(
            "server.address",
            text(format!("10.0.{}.{}", random.random_range(0..4), random.random_range(0..24))),
        ),
        attribute(
            "db.query.text",
            text(format!(
                "SELECT * FROM t{} WHERE id = ? AND kind = {}",
                route % 12,
                random.random_range(0..9)
            )),
        ),
        attribute("thread.id", Value::IntValue(random.random_range(1..64))),
        attribute("http.response.body.size", Value::IntValue(random.random_range(120..60_000))),
        attribute("customer.tier", text(["free", "team", "enterprise"][random.random_range(0..3)])),
    ]
}

fn resource(service: &str) -> Vec<u8> {
    let attributes = vec![
        attribute("service.name", text(service)),
        attribute("service.version", text("1.42.0")),
        attribute("deployment.environment.name", text("production")),
        attribute("host.name", text(format!("node-{service}-7"))),
        attribute("k8s.pod.name", text(format!("{service}-5d8f7c9b6-x2x7p"))),
        attribute("telemetry.sdk.language", text("rust")),
    ];
    let resource = Resource { attributes, ..Resource::default() };
    otlp::ResourceSpans { resource: Some(resource), ..otlp::ResourceSpans::default() }
        .encode_to_vec()
}

fn scope(service: &str) -> Vec<u8> {
    let scope = InstrumentationScope {
        name: format!("{service}-instrumentation"),
        version: "0.31.0".to_owned(),
        ..InstrumentationScope::default()
    };
    otlp::ScopeSpans { scope: Some(scope), ..otlp::ScopeSpans::default() }.encode_to_vec()
}
