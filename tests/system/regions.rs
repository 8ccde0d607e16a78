//! Locality, as a caller in another region meets it.

use crate::federation::{Federation, PATIENCE};
use crate::fixture::{hex, random_trace_id, span};
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
