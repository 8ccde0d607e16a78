//! Locality, as a caller in another region meets it.

use crate::federation::{Federation, PATIENCE};
use crate::fixture::{hex, now_nanos, random_trace_id, span};
use crate::http::{eventually, get};

const REGIONS: [&str; 2] = ["eu-west-1", "us-east-1"];

#[tokio::test(flavor = "multi_thread")]
async fn a_closed_region_is_forbidden_to_others_and_open_to_itself() {
    let closed = "locality:\n  spans: closed\n";
    let federation = Federation::start(&REGIONS, &[("eu-west-1", closed)]).await;
    let trace = random_trace_id();
    federation.send_spans(0, "secret-service", vec![span(trace, 1, 0, "canary-operation")]).await;
    federation.send_spans(1, "cart", vec![span(trace, 2, 1, "load")]).await;
    eventually("the closed region says forbidden", PATIENCE, || async {
        let (line, found) = federation.certified(1, &trace).await?;
        let is_said = line.contains("withheld by eu-west-1 (forbidden)");
        if is_said && found == [hex(&2_u64.to_be_bytes())] { Ok(()) } else { Err(line) }
    })
    .await;
    eventually("the closed region answers itself", PATIENCE, || async {
        let (line, found) = federation.certified(0, &trace).await?;
        if found.len() == 2 { Ok(()) } else { Err(line) }
    })
    .await;
    let search =
        format!("{}/api/farspan/v1/search?service=secret-service", federation.gateway_url(1));
    let answer = get(&search).await.unwrap();
    assert!(answer.json()["traces"].as_array().is_none_or(Vec::is_empty), "{answer:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_region_without_an_index_is_not_provable_and_turns_no_answer_partial() {
    let silent = "locality:\n  index: none\n";
    let mut federation = Federation::start(&REGIONS, &[("eu-west-1", silent)]).await;
    federation.restart_gateway_with(1, "unindexed: [eu-west-1]\n").await;
    let trace = random_trace_id();
    federation.send_spans(1, "cart", vec![span(trace, 1, 0, "load")]).await;
    eventually("the answer is complete", PATIENCE, || async {
        let (line, found) = federation.certified(1, &trace).await?;
        if line.starts_with("complete") && found.len() == 1 { Ok(()) } else { Err(line) }
    })
    .await;
    let hidden = random_trace_id();
    federation.send_spans(0, "web", vec![span(hidden, 1, 0, "GET /")]).await;
    let (line, found) = federation.certified(0, &hidden).await.unwrap();
    assert!(line.starts_with("complete") && found.len() == 1, "{line}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_region_whose_index_gives_routes_alone_is_redacted_in_summaries() {
    let routing = "locality:\n  index: routing\n";
    let federation = Federation::start(&REGIONS, &[("eu-west-1", routing)]).await;
    let trace = random_trace_id();
    federation.send_spans(0, "secret-service", vec![span(trace, 1, 0, "GET /")]).await;
    for gateway in 0..2 {
        let url = format!("{}/api/farspan/v1", federation.gateway_url(gateway));
        let by_time = format!("{url}/summaries");
        eventually("the route is in the index", PATIENCE, || async {
            let body = get(&by_time).await?.json();
            let is_there = body["traces"][0]["traceId"] == hex(&trace);
            if is_there { Ok(()) } else { Err(body.to_string()) }
        })
        .await;
        let body = get(&format!("{url}/summaries?service=secret-service")).await.unwrap().json();
        assert_eq!(body["traces"].as_array().map(Vec::len), Some(0), "{body}");
        let line = body["completeness"]["text"].as_str().unwrap();
        assert!(line.contains("withheld by eu-west-1 (redacted)"), "{line}");
        let found = get(&format!("{url}/search?service=secret-service")).await.unwrap().json();
        assert_eq!(found["traces"][0]["traceId"], hex(&trace), "{found}");
    }
}

/// Whether a list or count holds the service, and the time as of which it says to be complete.
async fn listed(url: &str, service: &str) -> Result<(bool, Option<u64>), String> {
    let body = get(url).await?.json();
    let names = body["services"].as_array().into_iter().flatten();
    let series = body["series"].as_array().into_iter().flatten();
    let is_held = names
        .chain(series.map(|series| &series["service"]))
        .any(|name| name.as_str() == Some(service));
    let regions = body["completeness"]["regions"].as_array().into_iter().flatten();
    let times = regions.map(|region| region["asOfUnixNano"].as_str()?.parse::<u64>().ok());
    let times: Option<Vec<u64>> = times.collect();
    Ok((is_held, times.and_then(|times| times.into_iter().min())))
}

#[tokio::test(flavor = "multi_thread")]
async fn lists_and_counts_hold_all_that_was_acknowledged_by_the_time_that_they_say() {
    let federation = Federation::start(&REGIONS, &[]).await;
    for (number, what) in [(1_u64, "services"), (2, "red"), (3, "red")] {
        let service = format!("service-{number}");
        let (sent, trace) = (now_nanos(), random_trace_id());
        federation.send_spans(0, &service, vec![span(trace, number, 0, "GET /")]).await;
        let acknowledged = now_nanos();
        let url = format!("{}/api/farspan/v1/{what}", federation.gateway_url(1));
        eventually("the service is listed or counted", PATIENCE, || async {
            let (is_held, as_of) = listed(&url, &service).await?;
            let as_of = as_of.ok_or("no time is said")?;
            assert!(is_held || as_of < acknowledged, "{what} lacks what it claims");
            if is_held && as_of >= sent { Ok(()) } else { Err(format!("{is_held} {as_of}")) }
        })
        .await;
    }
}
