//! An instrumented application: its spans go to the collectors of all regions, in any order, some of
//! them twice, and each until it is acknowledged.

use std::time::Duration;

use bytes::Bytes;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::collector::trace::v1::trace_service_client::TraceServiceClient;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue, any_value};
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, ScopeSpans, Span};
use prost::Message;
use rand::rngs::SmallRng;
use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};
use trace_model::{SpanId, TraceId};

use crate::hosts::{Fallible, REGIONS, cell, channel, region};
use crate::ledger::World;

/// Traces of a run.
const TRACES: u64 = 40;
/// Most spans of a trace: request ids fit below.
const SPANS_MAX: u64 = 9;
/// An acknowledgement that takes longer is taken for lost.
const ACKNOWLEDGED_WITHIN: Duration = Duration::from_secs(1);

/// What a run sends to one region, in order.
fn plan(seed: u64, name: &str) -> Vec<Vec<Span>> {
    let mut random = SmallRng::seed_from_u64(seed ^ 0x5eed);
    let mut spans = Vec::new();
    for trace in 1..=TRACES {
        for number in 1..=random.random_range(1..=SPANS_MAX) {
            let home = random.random_range(0..REGIONS.len());
            // Now and then a sender gives up on its region and takes the next one, too.
            let spill = random.random_range(0..8_u8) == 0;
            let next = (home + 1) % REGIONS.len();
            if REGIONS[home] == name || (spill && REGIONS[next] == name) {
                spans.push(span(trace, number));
            }
        }
    }
    // Out of order, but older traces come rather before younger ones.
    let mut window: Vec<(u64, Span)> = Vec::new();
    for (place, span) in spans.into_iter().enumerate() {
        window.push((place as u64 + random.random_range(0..40_u64), span));
    }
    window.sort_by_key(|(place, _)| *place);
    let mut rest: Vec<Span> = window.into_iter().map(|(_, span)| span).collect();
    let mut requests = Vec::new();
    while !rest.is_empty() {
        let size = random.random_range(1..=4).min(rest.len());
        let mut request: Vec<Span> = rest.drain(..size).collect();
        request.shuffle(&mut random);
        requests.push(request);
    }
    requests
}

fn span(trace: u64, number: u64) -> Span {
    let start = 1_790_000_000_000_000_000 + trace * 300_000_000 + number * 1_000_000;
    let parent = if number == 1 { Vec::new() } else { vec![(number / 2) as u8; 8] };
    Span {
        trace_id: u128::from(trace).to_be_bytes().to_vec(),
        span_id: vec![number as u8; 8],
        parent_span_id: parent,
        name: format!("step {number}"),
        start_time_unix_nano: start,
        end_time_unix_nano: start + 5_000_000,
        ..Span::default()
    }
}

fn request_of(spans: &[Span]) -> ExportTraceServiceRequest {
    let name = AnyValue { value: Some(any_value::Value::StringValue("shop".to_owned())) };
    let attribute =
        KeyValue { key: "service.name".to_owned(), value: Some(name), ..KeyValue::default() };
    let resource = Resource { attributes: vec![attribute], ..Resource::default() };
    let scope = ScopeSpans { spans: spans.to_vec(), ..ScopeSpans::default() };
    let spans = ResourceSpans {
        resource: Some(resource),
        scope_spans: vec![scope],
        ..ResourceSpans::default()
    };
    ExportTraceServiceRequest { resource_spans: vec![spans] }
}

fn ids(span: &Span) -> (TraceId, SpanId) {
    let trace_id = TraceId::try_from(span.trace_id.as_slice()).unwrap();
    (trace_id, SpanId::try_from(span.span_id.as_slice()).unwrap())
}

/// Sends all there is to all regions at once.
pub(crate) async fn run_application(world: World) -> Fallible {
    let sending = REGIONS.map(|name| send_to(&world, name));
    futures_util::future::try_join_all(sending).await?;
    std::future::pending().await
}

async fn send_to(world: &World, name: &'static str) -> Fallible {
    let mut random = SmallRng::seed_from_u64(world.seed ^ name.len() as u64 ^ 0xabcd);
    for spans in plan(world.seed, name) {
        send(world, name, &spans).await?;
        if random.random_range(0..5_u8) == 0 {
            world.count(|figures| figures.repeats += 1);
            send(world, name, &spans).await?;
        }
        tokio::time::sleep(Duration::from_millis(random.random_range(20..400))).await;
    }
    world.note_all_sent(&region(name));
    Ok(())
}

/// The same request until it is acknowledged, each time over a fresh connection.
async fn send(world: &World, name: &'static str, spans: &[Span]) -> Fallible {
    let to = region(name);
    for span in spans {
        let (trace_id, span_id) = ids(span);
        world.note_sent(trace_id, span_id, &Bytes::from(span.encode_to_vec()), &to);
    }
    loop {
        let mut client = TraceServiceClient::new(channel(&cell(name))?);
        let sent = client.export(request_of(spans));
        if let Ok(Ok(_)) = tokio::time::timeout(ACKNOWLEDGED_WITHIN, sent).await {
            break;
        }
        world.count(|figures| figures.repeats += 1);
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
    for span in spans {
        let (trace_id, span_id) = ids(span);
        world.note_acknowledged(trace_id, span_id, &to);
    }
    world.note_event(&format!("{name} acknowledged {}", spans.len()));
    Ok(())
}
