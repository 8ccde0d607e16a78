//! One trace over three regions, from anywhere.

use std::time::Duration;

use opentelemetry_proto::tonic::trace::v1::TracesData;

use crate::federation::{Federation, PATIENCE};
use crate::fixture::{encode, hex, now_nanos, random_trace_id, request, span};
use crate::http::{eventually, get};
use crate::whole::{compare, spans_by_id};

const REGIONS: [&str; 3] = ["eu-west-1", "us-east-1", "ap-southeast-1"];

/// A trace that enters at the first region and goes on to the others.
async fn send_trace(federation: &Federation) -> [u8; 16] {
    let trace = random_trace_id();
    federation
        .send_spans(0, "web", vec![span(trace, 1, 0, "GET /cart"), span(trace, 2, 1, "render")])
        .await;
    federation.send_spans(1, "cart", vec![span(trace, 3, 2, "load cart")]).await;
    federation.send_spans(2, "fraud", vec![span(trace, 4, 3, "score")]).await;
    trace
}

fn ids(of: &[u64]) -> Vec<String> {
    of.iter().map(|id| hex(&id.to_be_bytes())).collect()
}

async fn until(federation: &Federation, gateway: usize, trace: &[u8], expected: (&str, &[u64])) {
    eventually("the answer", PATIENCE, || async {
        let found = federation.certified(gateway, trace).await?;
        if found.0.starts_with(expected.0) && found.1 == ids(expected.1) {
            return Ok(());
        }
        Err(format!("{found:?}\n{}", federation.last_words()))
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_trace_over_three_regions_is_whole_from_every_gateway() {
    let federation = Federation::start(&REGIONS, &[]).await;
    let trace = send_trace(&federation).await;
    for gateway in 0..3 {
        until(&federation, gateway, &trace, ("complete: 3 of 3 regions", &[1, 2, 3, 4])).await;
    }
    let jaeger = format!("{}/api/traces/{}", federation.gateway_url(1), hex(&trace));
    let answer = get(&jaeger).await.unwrap();
    assert!(answer.status.is_success(), "{answer:?}");
    assert_eq!(answer.json()["data"][0]["spans"].as_array().unwrap().len(), 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_region_that_is_cut_off_is_named_and_the_rest_is_answered() {
    let mut federation = Federation::start(&REGIONS, &[]).await;
    let trace = send_trace(&federation).await;
    until(&federation, 0, &trace, ("complete: 3 of 3 regions", &[1, 2, 3, 4])).await;

    federation.kill_cell(2);
    let line = "partial: 2 of 3 regions; missing ap-southeast-1";
    until(&federation, 0, &trace, (line, &[1, 2, 3])).await;
    let absent = random_trace_id();
    let answer = federation.trace_json(0, &absent).await.unwrap();
    assert_eq!(answer.status, 503, "never 404 while a region that may hold it is away: {answer:?}");

    federation.start_cell(2);
    federation.wait_ready(2).await;
    until(&federation, 0, &trace, ("complete: 3 of 3 regions", &[1, 2, 3, 4])).await;
    let answer = federation.trace_json(0, &absent).await.unwrap();
    assert_eq!(answer.status, 404, "{answer:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fresh_trace_is_read_at_once_through_its_own_region() {
    let federation = Federation::start(&REGIONS[..1], &[]).await;
    for _ in 0..200 {
        let trace = random_trace_id();
        federation.send_spans(0, "web", vec![span(trace, 1, 0, "GET /")]).await;
        let (line, found) = federation.certified(0, &trace).await.unwrap();
        assert_eq!((line.as_str(), found), ("complete: 1 of 1 regions", ids(&[1])));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_trace_of_10008_spans_is_stored_and_read_back_whole() {
    let mut federation = Federation::start(&REGIONS[..2], &[]).await;
    let trace = random_trace_id();
    let wide = (2..=10_006).map(|id| span(trace, id, 1, "item"));
    let here = request("web", std::iter::once(span(trace, 1, 0, "GET /")).chain(wide).collect());
    let there =
        request("cart", vec![span(trace, 10_007, 9, "a"), span(trace, 10_008, 10_007, "b")]);
    federation.export(0, encode(&here)).await.unwrap();
    federation.export(1, encode(&there)).await.unwrap();
    let sent =
        TracesData { resource_spans: [here, there].map(|sent| sent.resource_spans).concat() };
    assert_eq!(spans_by_id(&sent).len(), 10_008);
    let is_whole = async |federation: &Federation, gateway: usize| {
        eventually("the whole trace", PATIENCE, || async {
            compare(&sent, &federation.trace_spans(gateway, &trace).await?)
        })
        .await;
        let (line, found) = federation.certified(gateway, &trace).await.unwrap();
        assert_eq!((line.as_str(), found.len()), ("complete: 2 of 2 regions", 10_008));
    };
    is_whole(&federation, 0).await;
    eventually("the store has taken them in", PATIENCE, || async {
        let regions = format!("{}/api/farspan/v1/regions", federation.gateway_url(0));
        let regions = get(&regions).await?.json();
        let lag = |region: &serde_json::Value| {
            let groups = region["groups"].as_array().cloned().unwrap_or_default();
            let stored = groups.iter().find(|group| group["group"] == "storage-writer");
            stored.map(|group| group["lagRecords"] == 0)
        };
        let lags: Vec<_> = regions["regions"].as_array().unwrap().iter().map(lag).collect();
        if lags == [Some(true), Some(true)] { Ok(()) } else { Err(regions.to_string()) }
    })
    .await;
    federation.kill_cell(0);
    federation.start_cell(0);
    federation.wait_ready(0).await;
    for gateway in 0..2 {
        is_whole(&federation, gateway).await;
    }
    let jaeger = format!("{}/api/traces/{}", federation.gateway_url(1), hex(&trace));
    let shown = get(&jaeger).await.unwrap().json();
    assert_eq!(shown["data"][0]["spans"].as_array().unwrap().len(), 10_008);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_that_was_back_filled_is_in_the_lists_with_its_operations() {
    let federation = Federation::start(&REGIONS[..2], &[]).await;
    let mut old = span(random_trace_id(), 1, 0, "an operation of old");
    old.start_time_unix_nano = 1_400_000_000_000_000_000;
    old.end_time_unix_nano = old.start_time_unix_nano + 1_000;
    federation.send_spans(0, "back-filled", vec![old]).await;
    let gateway = federation.gateway_url(1);
    for (path, name) in [
        ("/api/farspan/v1/services", "back-filled"),
        ("/api/services", "back-filled"),
        ("/api/farspan/v1/operations?service=back-filled", "an operation of old"),
        ("/api/services/back-filled/operations", "an operation of old"),
    ] {
        eventually(path, PATIENCE, || async {
            let listed = get(&format!("{gateway}{path}")).await?.json().to_string();
            if listed.contains(&format!("\"{name}\"")) { Ok(()) } else { Err(listed) }
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_whole_federation_that_is_restarted_finds_everything() {
    let mut federation = Federation::start(&REGIONS, &[]).await;
    let trace = send_trace(&federation).await;
    until(&federation, 1, &trace, ("complete: 3 of 3 regions", &[1, 2, 3, 4])).await;
    for index in 0..3 {
        federation.kill_region(index);
    }
    for index in 0..3 {
        federation.start_cell(index);
        federation.start_replicator(index);
        federation.start_gateway(index);
    }
    for index in 0..3 {
        federation.wait_ready(index).await;
        until(&federation, index, &trace, ("complete: 3 of 3 regions", &[1, 2, 3, 4])).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn processes_that_are_told_to_stop_drain_and_exit_well() {
    let mut federation = Federation::start(&REGIONS[..1], &[]).await;
    let trace = random_trace_id();
    federation.send_spans(0, "web", vec![span(trace, 1, 0, "GET /")]).await;
    let region = &mut federation.regions[0];
    for process in [&mut region.gateway, &mut region.replicator, &mut region.cell] {
        let mut process = process.take().unwrap();
        let code = process.terminate(Duration::from_secs(15));
        assert_eq!(code, Some(0), "{}", process.last_words());
    }
    federation.start_cell(0);
    federation.start_replicator(0);
    federation.start_gateway(0);
    federation.wait_ready(0).await;
    until(&federation, 0, &trace, ("complete: 1 of 1 regions", &[1])).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_search_becomes_complete_as_of_a_time_behind_the_acknowledgement() {
    let federation = Federation::start(&REGIONS[..2], &[]).await;
    let trace = random_trace_id();
    federation.send_spans(1, "sought", vec![span(trace, 1, 0, "GET /")]).await;
    let acknowledged = now_nanos();
    let url = format!("{}/api/farspan/v1/search?service=sought", federation.gateway_url(0));
    eventually("the search reaches the acknowledgement", PATIENCE, || async {
        let found = get(&url).await?.json();
        let text = |place: &str| found.pointer(place).and_then(|text| text.as_str());
        let line = text("/completeness/text").unwrap_or_default().to_owned();
        // Whatever it says it reaches, it has found.
        for region in found["completeness"]["regions"].as_array().into_iter().flatten() {
            let number = |key: &str| region[key].as_str().and_then(|text| text.parse::<u64>().ok());
            let reaches = number("asOfUnixNano").unwrap_or(0) >= acknowledged;
            let is_whole = region["isWhole"] == true && region["region"] == REGIONS[1];
            if is_whole && reaches {
                assert_eq!(text("/traces/0/traceId"), Some(hex(&trace).as_str()), "{found}");
                assert!(line.contains("; as of 20"), "{line}");
                return Ok(());
            }
        }
        Err(line)
    })
    .await;
}
