//! Calls that cross regions are edges, each counted once.

use crate::federation::{Federation, PATIENCE};
use crate::fixture::{hex, now_nanos, random_trace_id, span};
use crate::http::{eventually, get};

const REGIONS: [&str; 3] = ["eu-west-1", "us-east-1", "ap-southeast-1"];

fn edge(link: &serde_json::Value) -> String {
    let name = |key: &str| link.get(key).and_then(|name| name.as_str()).unwrap_or_default();
    let calls = link.get("callCount").and_then(serde_json::Value::as_u64).unwrap_or_default();
    format!("{}→{} {calls}", name("parent"), name("child"))
}

/// Edges as `caller→callee count`, ordered, from one gateway.
async fn edges(federation: &Federation, gateway: usize) -> Result<Vec<String>, String> {
    let millis = now_nanos() / 1_000_000 + 60_000;
    let base = federation.gateway_url(gateway);
    let url = format!("{base}/api/dependencies?endTs={millis}&lookback=7200000");
    let answer = get(&url).await?;
    if !answer.status.is_success() {
        return Err(format!("{}", answer.status));
    }
    let json = answer.json();
    let links = json.pointer("/data").and_then(serde_json::Value::as_array);
    let links = links.ok_or_else(|| json.to_string())?;
    let mut edges: Vec<String> = links.iter().map(edge).collect();
    edges.sort();
    Ok(edges)
}

async fn until(federation: &Federation, gateway: usize, expected: &[&str]) {
    eventually("the edges", PATIENCE, || async {
        let found = edges(federation, gateway).await?;
        if found == expected {
            return Ok(());
        }
        Err(format!("{found:?}\n{}", federation.last_words()))
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_into_another_region_is_one_edge_also_after_restarts() {
    let mut federation = Federation::start(&REGIONS, &[]).await;
    let trace = random_trace_id();
    // The called sides first: their parents come later than their entry spans.
    federation.send_spans(2, "fraud", vec![span(trace, 4, 3, "score")]).await;
    federation.send_spans(1, "cart", vec![span(trace, 3, 2, "load cart")]).await;
    federation
        .send_spans(0, "web", vec![span(trace, 1, 0, "GET /cart"), span(trace, 2, 1, "render")])
        .await;
    for gateway in 0..3 {
        until(&federation, gateway, &["cart→fraud 1", "web→cart 1"]).await;
    }

    // The traces of a call, and the counts behind it, from a gateway that holds neither side.
    let url = format!("{}/api/farspan/v1", federation.gateway_url(2));
    let traces = get(&format!("{url}/edges/traces?caller=web&callee=cart")).await.unwrap().json();
    let found = traces.pointer("/traces/0/traceId").and_then(serde_json::Value::as_str);
    assert_eq!(found, Some(hex(&trace).as_str()), "{traces}");
    let counted_by = traces.pointer("/traces/0/countedBy");
    assert_eq!(counted_by, Some(&serde_json::json!(["eu-west-1"])), "{traces}");
    let failed = format!("{url}/edges/traces?caller=web&callee=cart&onlyErrors=true");
    let failed = get(&failed).await.unwrap().json();
    assert_eq!(failed.pointer("/traces"), Some(&serde_json::json!([])), "{failed}");
    eventually("the spans are counted", PATIENCE, || async {
        let red = get(&format!("{url}/red?service=web&byOperation=true")).await?.json();
        let series = red.pointer("/series").and_then(serde_json::Value::as_array);
        let spans = series.into_iter().flatten().filter_map(|series| {
            let operation = series.pointer("/operation")?.as_str()?;
            Some((operation, series.pointer("/points/0/spans")?.as_u64()?))
        });
        let spans: Vec<_> = spans.collect();
        if spans == [("GET /cart", 1), ("render", 1)] { Ok(()) } else { Err(red.to_string()) }
    })
    .await;

    for index in 0..2 {
        federation.kill_cell(index);
        federation.start_cell(index);
        federation.wait_ready(index).await;
    }
    // A second call shows that the restarted cells join again; the first is still one.
    let trace = random_trace_id();
    federation.send_spans(0, "web", vec![span(trace, 1, 0, "GET /cart")]).await;
    federation.send_spans(1, "cart", vec![span(trace, 3, 1, "load cart")]).await;
    until(&federation, 0, &["cart→fraud 1", "web→cart 2"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_its_replicator_a_cell_takes_spans_and_its_edges_follow_later() {
    let mut federation = Federation::start(&REGIONS[..2], &[]).await;
    let mut replicator = federation.regions[0].replicator.take().unwrap();
    replicator.kill();
    let trace = random_trace_id();
    federation.send_spans(0, "web", vec![span(trace, 1, 0, "GET /cart")]).await;
    federation.send_spans(1, "cart", vec![span(trace, 2, 1, "load cart")]).await;
    // The called side's region sees its own half alone, and guesses nothing.
    until(&federation, 1, &[]).await;

    federation.start_replicator(0);
    federation.wait_ready(0).await;
    for gateway in 0..2 {
        until(&federation, gateway, &["web→cart 1"]).await;
    }
}
