//! Whether what was sent can be read back whole through a gateway.

use std::time::Duration;

use futures_util::StreamExt;
use serde::Deserialize;
use serde_json::json;
use tokio::time::Instant;

use super::sent::{SentTrace, SentTraces};
use crate::cli::failure::{Failure, Outcome};
use crate::cli::gateway_client::GatewayClient;
use crate::cli::output::Output;

/// Traces that are read back.
const SAMPLE: usize = 100;
/// Traces read at once.
const READING_MAX: usize = 8;
/// Until the last of them must be whole: the indexes of all regions have long met by then.
const WHOLE_WITHIN: Duration = Duration::from_secs(15);
/// Between two looks at a trace that is not whole.
const LOOK_AGAIN: Duration = Duration::from_millis(250);

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Trace {
    resource_spans: Vec<ResourceSpans>,
    completeness: Certificate,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct ResourceSpans {
    scope_spans: Vec<ScopeSpans>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct ScopeSpans {
    spans: Vec<serde::de::IgnoredAny>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Certificate {
    verdict: String,
    text: String,
}

/// Reads a sample back and says how many are whole. Spans that the SDK lost are a failure too.
pub(crate) async fn run(
    sent: &SentTraces,
    lost_spans: u64,
    client: &GatewayClient,
    output: &mut Output,
) -> Result<Outcome, Failure> {
    let sample = sent.sample(SAMPLE);
    let deadline = Instant::now() + WHOLE_WITHIN;
    let reads = sample
        .iter()
        .map(|trace| async move { (*trace, read_until_whole(trace, client, deadline).await) });
    let reads: Vec<(SentTrace, Result<(), String>)> =
        futures_util::stream::iter(reads).buffer_unordered(READING_MAX).collect().await;
    let whole = reads.iter().filter(|(_, read)| read.is_ok()).count();
    let (traces, spans) = sent.totals();
    if output.is_json {
        let text = json!({ "whole": whole, "read": reads.len(), "tracesSent": traces,
            "spansSent": spans, "spansLostBySdk": lost_spans });
        output.line(&text.to_string())?;
    } else {
        output.line(&format!("sent {traces} traces, {spans} spans"))?;
        for (trace, read) in &reads {
            if let Err(reason) = read {
                output.line(&format!("not whole: {} {reason}", trace.id))?;
            }
        }
        if lost_spans > 0 {
            output.line(&format!("{lost_spans} spans were not exported by the SDK"))?;
        }
        output.line(&format!("{whole} of {} whole", reads.len()))?;
    }
    let is_well = whole == reads.len() && lost_spans == 0 && !reads.is_empty();
    Ok(if is_well { Outcome::Done } else { Outcome::CheckFailed })
}

async fn read_until_whole(
    trace: &SentTrace,
    client: &GatewayClient,
    deadline: Instant,
) -> Result<(), String> {
    loop {
        let read = read(trace, client).await;
        if read.is_ok() || Instant::now() >= deadline {
            return read;
        }
        tokio::time::sleep(LOOK_AGAIN).await;
    }
}

async fn read(trace: &SentTrace, client: &GatewayClient) -> Result<(), String> {
    let path = format!("/api/farspan/v1/traces/{}", trace.id);
    let answer = client.ask_ok(&path).await.map_err(|error| error.to_string())?;
    let read: Trace = answer.read().map_err(|error| error.to_string())?;
    let scopes = read.resource_spans.iter().flat_map(|group| &group.scope_spans);
    let spans: usize = scopes.map(|scope| scope.spans.len()).sum();
    if spans != trace.spans {
        return Err(format!("{spans} of {} spans; {}", trace.spans, read.completeness.text));
    }
    if read.completeness.verdict != "complete" {
        return Err(format!("all spans, but {}", read.completeness.text));
    }
    Ok(())
}

#[cfg(test)]
mod tests;
