//! A request encoded once, with the places that change from request to request marked.
//!
//! Shape: spans of about 500 bytes with ten attributes each, several spans a trace, all traces over
//! six resources (services). Trace, span and session ids are random in every request; users, URLs
//! and peers vary over the spans of several templates.

use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::common::v1::{AnyValue, InstrumentationScope, KeyValue};
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::tonic::trace::v1::status::StatusCode;
use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, ScopeSpans, Span, Status};
use prost::Message;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use trace_model::{TraceId, UnixNanos};

/// Services, one resource each.
pub(super) const SERVICES: [&str; 6] =
    ["bench-web", "bench-cart", "bench-catalog", "bench-payment", "bench-stock", "bench-mail"];
/// The attribute whose value is unique for each trace.
pub(super) const RARE_KEY: &str = "session.id";
/// First byte of every mark: in no text of the template.
const MARK: u8 = b'~';

/// The shape of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Shape {
    /// Spans of a request.
    pub(super) spans: usize,
    /// Spans of a trace.
    pub(super) spans_per_trace: usize,
}

impl Shape {
    const fn traces(self) -> usize {
        self.spans.div_ceil(if self.spans_per_trace == 0 { 1 } else { self.spans_per_trace })
    }
}

/// What stands at a marked place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mark {
    Trace,
    Session,
    Span,
    Parent,
    Start,
    End,
}

const MARKS: [(u8, Mark); 6] = [
    (b'I', Mark::Trace),
    (b'R', Mark::Session),
    (b'S', Mark::Span),
    (b'P', Mark::Parent),
    (b'B', Mark::Start),
    (b'E', Mark::End),
];

/// An encoded request and its marked places.
#[derive(Clone, Debug)]
pub(super) struct Template {
    bytes: Vec<u8>,
    places: Vec<(usize, Mark, usize)>,
    shape: Shape,
}

/// A trace of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct WrittenTrace {
    /// Its id.
    pub(super) id: TraceId,
    /// Its spans.
    pub(super) spans: usize,
    /// The value of [`RARE_KEY`].
    pub(super) session: [u8; 16],
}

/// Eight bytes: `~`, a letter, and a number of six digits.
fn mark(letter: char, number: usize) -> [u8; 8] {
    let text = format!("~{letter}{number:06}");
    text.as_bytes().try_into().unwrap_or(*b"~~~~~~~~")
}

impl Template {
    /// Encodes a request of this shape.
    pub(super) fn new(shape: Shape, seed: u64) -> Self {
        let mut rng = SmallRng::seed_from_u64(seed);
        let mut groups: Vec<Vec<Span>> = vec![Vec::new(); SERVICES.len()];
        for index in 0..shape.spans {
            let span = span(index, shape, &mut rng);
            if let Some(group) = groups.get_mut(index % SERVICES.len()) {
                group.push(span);
            }
        }
        let resource_spans = SERVICES.iter().zip(groups).filter(|(_, spans)| !spans.is_empty());
        let request = ExportTraceServiceRequest {
            resource_spans: resource_spans.map(|(name, spans)| group(name, spans)).collect(),
        };
        let bytes = request.encode_to_vec();
        let places = find_marks(&bytes);
        Self { bytes, places, shape }
    }

    /// Bytes of a request.
    pub(super) fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Writes a request with ids of its own behind `buffer`, and its traces into `traces`.
    pub(super) fn write(
        &self,
        now: UnixNanos,
        rng: &mut SmallRng,
        buffer: &mut Vec<u8>,
        traces: &mut Vec<WrittenTrace>,
    ) {
        traces.clear();
        for index in 0..self.shape.traces() {
            let first = index * self.shape.spans_per_trace;
            let spans = self.shape.spans_per_trace.min(self.shape.spans - first);
            let session = hex(rng.random::<u64>());
            // All zero is the one id that is none: one in 2^128 requests sends the last id twice.
            let Ok(id) = TraceId::from_bytes(rng.random()) else { continue };
            traces.push(WrittenTrace { id, spans, session });
        }
        let span_base: u64 = rng.random();
        let begin = buffer.len();
        buffer.extend_from_slice(&self.bytes);
        let Some(request) = buffer.get_mut(begin..) else { return };
        for (place, mark, number) in &self.places {
            self.patch(request, *place, (*mark, *number), (now, span_base, traces));
        }
    }

    fn patch(
        &self,
        request: &mut [u8],
        place: usize,
        (mark, number): (Mark, usize),
        (now, span_base, traces): (UnixNanos, u64, &[WrittenTrace]),
    ) {
        let Some(target) = request.get_mut(place..) else { return };
        let number64 = u64::try_from(number).unwrap_or(0);
        let span_id = || scramble(span_base.wrapping_add(number64)).to_le_bytes();
        let start = now.minus(1_000_000_000).plus(number64 % 1_000 * 10_000);
        let trace = traces.get(number);
        match mark {
            Mark::Trace => put(target, trace.map_or(&[0; 16], |trace| trace.id.as_bytes())),
            Mark::Session => put(target, trace.map_or(&[b'0'; 16], |trace| &trace.session)),
            Mark::Span | Mark::Parent => put(target, &span_id()),
            Mark::Start => put(target, &start.0.to_le_bytes()),
            Mark::End => {
                let length = 50_000 + scramble(span_base ^ number64) % 20_000_000;
                put(target, &start.plus(length).0.to_le_bytes());
            }
        }
    }
}

fn put(target: &mut [u8], bytes: &[u8]) {
    for (slot, byte) in target.iter_mut().zip(bytes) {
        *slot = *byte;
    }
}

/// A bijection that spreads its input over 64 bits (the finalizer of SplitMix64, Steele et al.
/// 2014): ids of one request never meet, and look random.
const fn scramble(number: u64) -> u64 {
    let number = (number ^ (number >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let number = (number ^ (number >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    number ^ (number >> 31)
}

fn hex(number: u64) -> [u8; 16] {
    format!("{number:016x}").as_bytes().try_into().unwrap_or([b'0'; 16])
}

fn find_marks(bytes: &[u8]) -> Vec<(usize, Mark, usize)> {
    let mut places = Vec::new();
    for (place, window) in bytes.windows(8).enumerate() {
        let [MARK, letter, digits @ ..] = window else { continue };
        let Some((_, mark)) = MARKS.iter().find(|(known, _)| known == letter) else { continue };
        let number = std::str::from_utf8(digits).ok().and_then(|text| text.parse().ok());
        if let Some(number) = number {
            places.push((place, *mark, number));
        }
    }
    places
}

fn group(service: &str, spans: Vec<Span>) -> ResourceSpans {
    ResourceSpans {
        resource: Some(Resource {
            attributes: vec![
                text("service.name", service),
                text("service.version", "4.17.2"),
                text("deployment.environment.name", "production"),
                text("k8s.pod.name", &format!("{service}-7f9c6d5b8-x2x9q")),
                text("host.name", "ip-10-24-117-33.internal"),
                text("telemetry.sdk.language", "rust"),
            ],
            ..Resource::default()
        }),
        scope_spans: vec![ScopeSpans {
            scope: Some(InstrumentationScope {
                name: "farspan-bench".to_owned(),
                version: "1.0.0".to_owned(),
                ..InstrumentationScope::default()
            }),
            spans,
            schema_url: String::new(),
        }],
        schema_url: "https://opentelemetry.io/schemas/1.30.0".to_owned(),
    }
}

/// One of a few, by chance.
fn any(choices: &[&'static str], rng: &mut SmallRng) -> &'static str {
    choices.get(rng.random_range(0..choices.len().max(1))).copied().unwrap_or_default()
}

/// A span of trace `index / spans_per_trace`: its first span is the root, the others hang below
/// the one at half their place.
fn span(index: usize, shape: Shape, rng: &mut SmallRng) -> Span {
    let within = index % shape.spans_per_trace.max(1);
    let trace = index / shape.spans_per_trace.max(1);
    let parent = (index - within) + within / 2;
    let is_error = rng.random_bool(0.02);
    let time = |letter| u64::from_le_bytes(mark(letter, index));
    Span {
        trace_id: [mark('I', trace), [0; 8]].concat(),
        span_id: mark('S', index).to_vec(),
        parent_span_id: if within == 0 { Vec::new() } else { mark('P', parent).to_vec() },
        flags: 0x101,
        name: format!("{} /api/v1/{}", method(within), any(&ROUTES, rng)),
        kind: if within.is_multiple_of(2) { 2 } else { 3 },
        start_time_unix_nano: time('B'),
        end_time_unix_nano: time('E'),
        attributes: attributes(trace, within, rng),
        status: Some(Status {
            code: if is_error { StatusCode::Error.into() } else { StatusCode::Unset.into() },
            message: if is_error { "upstream timed out".to_owned() } else { String::new() },
        }),
        ..Span::default()
    }
}

const METHODS: [&str; 4] = ["GET", "POST", "PUT", "DELETE"];
const ROUTES: [&str; 8] =
    ["products", "cart", "checkout", "orders", "users", "search", "reviews", "stock"];
const QUERIES: [&str; 4] = [
    "SELECT id, name, price FROM products WHERE category = $1 ORDER BY rank LIMIT 20",
    "UPDATE cart SET quantity = $1 WHERE user_id = $2 AND sku = $3",
    "INSERT INTO orders (user_id, total, currency) VALUES ($1, $2, $3)",
    "SELECT count(*) FROM stock WHERE sku = $1 AND warehouse = $2",
];

fn method(within: usize) -> &'static str {
    METHODS.get(within % METHODS.len()).copied().unwrap_or_default()
}

fn attributes(trace: usize, within: usize, rng: &mut SmallRng) -> Vec<KeyValue> {
    let route = any(&ROUTES, rng);
    let session = [mark('R', trace), *b"00000000"].concat();
    let session = String::from_utf8(session).unwrap_or_default();
    let status = if rng.random_bool(0.7) { 200 } else { rng.random_range(201..=599) };
    let peer = format!("10.{}.{}.{}", within, rng.random::<u8>(), rng.random::<u8>());
    let url = format!("https://shop.example.com/api/v1/{route}/{}", rng.random::<u32>());
    vec![
        text("http.request.method", method(within)),
        text("http.route", &format!("/api/v1/{route}/{{id}}")),
        number("http.response.status_code", status),
        text("url.full", &url),
        text("server.address", "shop.internal.example.com"),
        text("network.peer.address", &peer),
        number("enduser.id", rng.random_range(0..1_000_000)),
        text("db.query.text", any(&QUERIES, rng)),
        number("thread.id", rng.random_range(1..64)),
        text(RARE_KEY, &session),
    ]
}

fn text(key: &str, value: &str) -> KeyValue {
    pair(key, Value::StringValue(value.to_owned()))
}

fn number(key: &str, value: i64) -> KeyValue {
    pair(key, Value::IntValue(value))
}

fn pair(key: &str, value: Value) -> KeyValue {
    KeyValue {
        key: key.to_owned(),
        value: Some(AnyValue { value: Some(value) }),
        ..KeyValue::default()
    }
}

#[cfg(test)]
mod tests;
