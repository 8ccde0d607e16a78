//! One trace over three regions, from anywhere.

use std::time::Duration;

use crate::federation::{Federation, PATIENCE};
use crate::fixture::{hex, now_nanos, random_trace_id, span};
use crate::http::{eventually, get};

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
