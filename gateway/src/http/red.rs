//! Rates, errors and durations, the calls between services, and the traces of a call, as JSON.
//! Percentiles are read here from merged sketches, last of all.

use std::time::Duration;

use axum::body::Body;
use axum::http::Response;
use proto::DurationSketch;
use serde::Serialize;
use trace_model::{Region, StatusCode};

use super::certificate_json::CertificateJson;
use super::farspan_json::{RangeJson, SummaryJson, summary_json};
use super::question::Question;
use super::reply::{ApiError, Ours, json, put_completeness};
use crate::dependencies::DependencyLink;
use crate::port::{EdgeTraceAsk, RedAsk};
use crate::red::{EdgeTrace, MINUTE_NANOS, RedPoint, RedRequest, RedSeries};

type Reply = Result<Response<Body>, Ours>;

/// Of a step that the question does not name.
const STEP_DEFAULT: Duration = Duration::from_secs(60);

/// Quantiles of durations in nanoseconds, of merged sketches; absent where nothing was timed.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct QuantilesJson {
    p50_nanos: Option<String>,
    p90_nanos: Option<String>,
    p95_nanos: Option<String>,
    p99_nanos: Option<String>,
}

impl QuantilesJson {
    fn new(sketch: &DurationSketch) -> Self {
        let nanos = |quantile| sketch.quantile(quantile).map(|nanos| format!("{nanos:.0}"));
        Self {
            p50_nanos: nanos(0.5),
            p90_nanos: nanos(0.9),
            p95_nanos: nanos(0.95),
            p99_nanos: nanos(0.99),
        }
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct PointJson {
    start_unix_nano: String,
    spans: u64,
    spans_estimated: f64,
    durations: QuantilesJson,
    #[serde(skip_serializing_if = "Option::is_none")]
    exemplar_trace_id: Option<String>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct SeriesJson<'a> {
    service: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    operation: Option<&'a str>,
    kind: &'static str,
    status: &'static str,
    points: Vec<PointJson>,
}

/// `/api/farspan/v1/red?service=…&byOperation=true&step=5m`
pub(super) async fn red(question: Question<Ours>) -> Reply {
    let range = question.range()?;
    let step = question.params.duration("step")?.unwrap_or(STEP_DEFAULT);
    let service = question.params.text("service");
    let by_operation = question.flag("byOperation")?;
    if by_operation && service.is_none() {
        return Err(ApiError::bad_request("byOperation needs a service").into());
    }
    let ask = RedAsk { service: service.map(Into::into), by_operation, range };
    let request = RedRequest { ask, step_minutes: whole_minutes(step)? };
    let answer = question.gateway.red(&question.context, &request).await?;
    let series = answer.series.iter().map(|(series, points)| {
        let points = points.iter().map(|(start, point)| point_json(start.0, point)).collect();
        series_json(series, points)
    });
    let mut response = json(&serde_json::json!({
        "series": series.collect::<Vec<_>>(),
        "stepSeconds": request.step_minutes.saturating_mul(60),
        "range": RangeJson::new(range),
        "completeness": CertificateJson::new(&answer.certificate),
    }));
    put_completeness(&mut response, &answer.certificate);
    Ok(response)
}

fn whole_minutes(step: Duration) -> Result<u64, ApiError> {
    let nanos = u64::try_from(step.as_nanos()).unwrap_or(u64::MAX);
    if nanos > 0 && nanos.is_multiple_of(MINUTE_NANOS) {
        return Ok(nanos.div_ceil(MINUTE_NANOS));
    }
    Err(ApiError::bad_request("step must be whole minutes, such as 1m or 1h"))
}

fn series_json<'a>(series: &'a RedSeries, points: Vec<PointJson>) -> SeriesJson<'a> {
    SeriesJson {
        service: &series.service,
        operation: series.operation.as_deref(),
        kind: series.kind.word(),
        status: match series.status {
            StatusCode::Unset => "unset",
            StatusCode::Ok => "ok",
            StatusCode::Error => "error",
        },
        points,
    }
}

fn point_json(start: u64, point: &RedPoint) -> PointJson {
    PointJson {
        start_unix_nano: start.to_string(),
        spans: point.seen,
        spans_estimated: point.estimated,
        durations: QuantilesJson::new(&point.durations),
        exemplar_trace_id: point.exemplar.map(|trace_id| trace_id.to_string()),
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct EdgeJson<'a> {
    caller: &'a str,
    callee: &'a str,
    calls: u64,
    errors: u64,
    calls_estimated: f64,
    durations: QuantilesJson,
}

fn edge_json(link: &DependencyLink) -> EdgeJson<'_> {
    EdgeJson {
        caller: &link.caller,
        callee: &link.callee,
        calls: link.calls,
        errors: link.errors,
        calls_estimated: link.calls_estimated,
        durations: QuantilesJson::new(&link.durations),
    }
}

/// `/api/farspan/v1/edges`
pub(super) async fn edges(question: Question<Ours>) -> Reply {
    let range = question.range()?;
    let answer = question.gateway.dependencies(&question.context, range).await?;
    let mut response = json(&serde_json::json!({
        "edges": answer.found.iter().map(edge_json).collect::<Vec<_>>(),
        "range": RangeJson::new(range),
        "completeness": CertificateJson::new(&answer.certificate),
    }));
    put_completeness(&mut response, &answer.certificate);
    Ok(response)
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct EdgeTraceJson<'a> {
    trace_id: String,
    counted_by: Vec<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    summary: Option<SummaryJson>,
}

fn edge_trace_json(trace: &EdgeTrace) -> EdgeTraceJson<'_> {
    let is_known = !trace.entry.contributions.is_empty();
    EdgeTraceJson {
        trace_id: trace.trace_id.to_string(),
        counted_by: trace.regions.iter().map(Region::as_str).collect(),
        summary: is_known.then(|| summary_json(&(trace.trace_id, trace.entry.clone()))),
    }
}

/// `/api/farspan/v1/edges/traces?caller=…&callee=…&onlyErrors=true`
pub(super) async fn edge_traces(question: Question<Ours>) -> Reply {
    let ask = EdgeTraceAsk {
        caller: question.required("caller")?.into(),
        callee: question.required("callee")?.into(),
        only_errors: question.flag("onlyErrors")?,
        range: question.range()?,
        limit: question.limit()?,
    };
    let answer = question.gateway.edge_traces(&question.context, &ask).await?;
    let mut response = json(&serde_json::json!({
        "traces": answer.traces.iter().map(edge_trace_json).collect::<Vec<_>>(),
        "range": RangeJson::new(ask.range),
        "completeness": CertificateJson::new(&answer.certificate),
    }));
    put_completeness(&mut response, &answer.certificate);
    Ok(response)
}
