//! Jaeger's JSON API, as stock Grafana and the Jaeger UI use it.
//!
//! They break on anything but a 200 with data, so an answer that lacks something is a 200 with a
//! warning on the trace and on its first span, and the completeness header; an empty search is an
//! empty list. What a list or a search lacks is said in `errors`, the place that Jaeger has for it,
//! also where the list is empty. A refusal has Jaeger's own shape.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::Path;
use axum::http::Response;
use futures_util::{StreamExt, TryStreamExt, stream};
use serde::Serialize;
use trace_model::{Certificate, SpanKind, TimeRange, UnixNanos, Verdict};

use super::farspan::{check_standing, protobuf};
use super::jaeger_filter::{all_of, filter_parts};
use super::jaeger_json::JaegerTrace;
use super::params::{parse_duration, trace_id};
use super::question::Question;
use super::render::{Form, render};
use super::reply::{ApiError, Jaegers, json, put_completeness, put_range};
use crate::assembled::{Standing, TraceAnswer};
use crate::catalog::CatalogAnswer;
use crate::dependencies::DependencyLink;
use crate::error::GatewayError;
use crate::search::SearchRequest;

/// Jaeger's own default.
const SEARCH_LIMIT_DEFAULT: usize = 100;
/// Traces fetched by `traceID=…&traceID=…`.
const TRACE_IDS_MAX: usize = 100;
/// Of them, so many are asked for at the same time.
const TRACES_AT_ONCE: usize = 8;
/// Jaeger's default look-back of the dependency graph.
const DEPENDENCY_LOOKBACK: Duration = Duration::from_secs(24 * 3_600);

type Asked = Question<Jaegers>;
type Reply = Result<Response<Body>, Jaegers>;

/// Jaeger's envelope around every answer.
#[derive(Serialize)]
struct Envelope<T> {
    data: T,
    total: usize,
    limit: usize,
    offset: usize,
    errors: Option<Vec<Missing>>,
}

/// What is missing: a trace of several, or a region's part.
#[derive(Debug, Serialize)]
struct Missing {
    code: u16,
    msg: String,
    #[serde(rename = "traceID", skip_serializing_if = "Option::is_none")]
    trace_id: Option<String>,
}

fn envelope<T: Serialize>(data: T, total: usize, missing: Vec<Missing>) -> Response<Body> {
    let errors = (!missing.is_empty()).then_some(missing);
    json(&Envelope { data, total, limit: 0, offset: 0, errors })
}

/// A list, with what it lacks.
fn certified<T: Serialize>(data: T, total: usize, certificate: &Certificate) -> Response<Body> {
    let mut response = envelope(data, total, missing_of(certificate));
    put_completeness(&mut response, certificate);
    response
}

fn missing_of(certificate: &Certificate) -> Vec<Missing> {
    match certificate.verdict() {
        Verdict::Complete => Vec::new(),
        Verdict::Partial => {
            let msg = format!("farspan: {certificate}");
            vec![Missing { code: 503, msg, trace_id: None }]
        }
    }
}

/// Of regions that found nothing while others failed: an empty list that names those. Where not one
/// region answered there is nothing to give.
fn nothing_of(error: GatewayError) -> Result<Certificate, GatewayError> {
    if let GatewayError::Unproven(certificate) = error {
        let is_nothing = certificate.has_answer();
        return if is_nothing {
            Ok(*certificate)
        } else {
            Err(GatewayError::Unproven(certificate))
        };
    }
    Err(error)
}

fn or_nothing<T>(
    answer: Result<CatalogAnswer<T>, GatewayError>,
) -> Result<CatalogAnswer<T>, GatewayError> {
    answer.or_else(|error| nothing_of(error).map(CatalogAnswer::nothing))
}

/// `/api/services`
pub(super) async fn services(question: Asked) -> Reply {
    let answer = or_nothing(question.gateway.services(&question.context).await)?;
    Ok(certified(&answer.found, answer.found.len(), &answer.certificate))
}

/// `/api/services/{service}/operations`. A service's slashes come as they are, so everything up to
/// the last `/operations` is the service.
pub(super) async fn service_operations(Path(rest): Path<String>, question: Asked) -> Reply {
    let service = rest.strip_suffix("/operations").filter(|service| !service.is_empty());
    let service = service
        .ok_or_else(|| ApiError::bad_request("the path is /api/services/{service}/operations"))?;
    let answer = or_nothing(question.gateway.operations(&question.context, service).await)?;
    let mut names: Vec<&str> = answer.found.iter().map(|(name, _)| name.as_str()).collect();
    names.dedup();
    Ok(certified(&names, names.len(), &answer.certificate))
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct OperationJson<'a> {
    name: &'a str,
    span_kind: &'static str,
}

/// `/api/operations?service=…&spanKind=…`
pub(super) async fn operations(question: Asked) -> Reply {
    let service = question.required("service")?;
    let wanted = question.params.text("spanKind");
    let answer = or_nothing(question.gateway.operations(&question.context, service).await)?;
    let found: Vec<OperationJson<'_>> = answer
        .found
        .iter()
        .map(|(name, kind)| OperationJson { name, span_kind: jaeger_kind(*kind) })
        .filter(|operation| wanted.is_none_or(|wanted| wanted == operation.span_kind))
        .collect();
    Ok(certified(&found, found.len(), &answer.certificate))
}

/// Jaeger's word for a kind; one that was not said has none.
const fn jaeger_kind(kind: SpanKind) -> &'static str {
    match kind {
        SpanKind::Unspecified => "",
        SpanKind::Internal
        | SpanKind::Server
        | SpanKind::Client
        | SpanKind::Producer
        | SpanKind::Consumer => kind.word(),
    }
}

/// `/api/traces/{id}`. `start` and `end` are hints in a unit of the caller's choice: not needed.
pub(super) async fn trace(Path(id): Path<String>, question: Asked) -> Reply {
    let Question { gateway, context, wants_protobuf, .. } = question;
    let answer = gateway.find_trace(&context, trace_id(&id)?).await?;
    check_standing(&answer)?;
    let (room, form) = (&gateway.config.answer_room, Form::of(wants_protobuf, Form::JaegerJson));
    let work = move |answer: &TraceAnswer| {
        if wants_protobuf {
            return Ok(protobuf(answer));
        }
        // What is missing stands in the trace's warnings; Grafana shows no trace beside an error.
        let mut response = envelope([JaegerTrace::new(answer)], 1, Vec::new());
        put_completeness(&mut response, &answer.certificate);
        Ok(response)
    };
    Ok(render(room, answer, form, work).await?)
}

/// `/api/traces`: a search, or the traces named by `traceID`.
pub(super) async fn traces(question: Asked) -> Reply {
    let ids: Vec<&str> = question.params.all("traceID").collect();
    if !ids.is_empty() {
        return traces_by_id(&question, &ids).await;
    }
    let Question { gateway, context, .. } = &question;
    let request = search_request(&question)?;
    let (page, answers) = match gateway.search_traces(context, &request).await {
        Ok(found) => found,
        Err(error) => {
            let nothing: [JaegerTrace; 0] = [];
            let mut response = certified(nothing, 0, &nothing_of(error)?);
            request.range.into_iter().for_each(|range| put_range(&mut response, range));
            return Ok(response);
        }
    };
    let range = page.range;
    let searched = missing_of(&page.certificate);
    let mut certificate = page.certificate;
    for answer in &answers {
        certificate.add_question(answer.certificate.clone());
    }
    let answers: Vec<_> = answers.into_iter().map(Arc::new).collect();
    let work = move |answers: &Vec<Arc<TraceAnswer>>| {
        let held = answers.iter().filter(|answer| answer.standing() == Standing::Found);
        let found: Vec<JaegerTrace> = held.map(|answer| JaegerTrace::new(answer)).collect();
        // What a trace lacks stands in its warnings, what the search lacks here.
        let mut response = envelope(&found, found.len(), searched);
        put_completeness(&mut response, &certificate);
        put_range(&mut response, range);
        Ok(response)
    };
    let room = &gateway.config.answer_room;
    Ok(render(room, Arc::new(answers), Form::JaegerJson, work).await?)
}

async fn traces_by_id(question: &Asked, ids: &[&str]) -> Reply {
    if ids.len() > TRACE_IDS_MAX {
        return Err(ApiError::bad_request(format!("more than {TRACE_IDS_MAX} traceID")).into());
    }
    let Question { gateway, context, .. } = question;
    let mut found = Vec::new();
    let mut missing = Vec::new();
    let mut certificate = Certificate::default();
    let trace_ids = ids.iter().map(|id| trace_id(id)).collect::<Result<Vec<_>, _>>()?;
    let answers: Vec<Arc<TraceAnswer>> = stream::iter(trace_ids)
        .map(|trace_id| async move { gateway.find_trace(&context.anew(), trace_id).await })
        .buffered(TRACES_AT_ONCE)
        .try_collect()
        .await?;
    for (id, answer) in ids.iter().zip(answers) {
        certificate.add_question(answer.certificate.clone());
        let (code, msg) = match answer.standing() {
            Standing::Found => {
                found.push(answer);
                continue;
            }
            Standing::NotFound => (404, "trace not found".to_owned()),
            Standing::Unproven => (503, answer.certificate.to_string()),
        };
        missing.push(Missing { code, msg, trace_id: Some((*id).to_owned()) });
    }
    let work = move |found: &Vec<Arc<TraceAnswer>>| {
        let traces: Vec<JaegerTrace> =
            found.iter().map(|answer| JaegerTrace::new(answer)).collect();
        let mut response = envelope(&traces, traces.len(), missing);
        put_completeness(&mut response, &certificate);
        Ok(response)
    };
    let room = &gateway.config.answer_room;
    Ok(render(room, Arc::new(found), Form::JaegerJson, work).await?)
}

fn search_request(question: &Asked) -> Result<SearchRequest, ApiError> {
    let Question { gateway, params, .. } = question;
    let config = &gateway.config;
    let lookback = lookback(question)?.unwrap_or(config.search_lookback);
    let range = params.time_range(UnixNanos::from_micros, gateway.now(), lookback)?;
    Ok(SearchRequest {
        filter: all_of(filter_parts(params)?)?,
        range: Some(range.unwrap_or_else(|| gateway.last(lookback))),
        limit: params.number_within("limit", SEARCH_LIMIT_DEFAULT, config.search_limit_max)?,
        cursor: None,
    })
}

/// `lookback=1h`; `custom` means that `start` and `end` say it. Beside a `start` it is not read: the
/// Jaeger UI sends both, and its look-back is the name of a choice.
fn lookback(question: &Asked) -> Result<Option<Duration>, ApiError> {
    if question.params.text("start").is_some() {
        return Ok(None);
    }
    match question.params.text("lookback") {
        None | Some("custom") => Ok(None),
        Some(text) => parse_duration(text)
            .map(Some)
            .ok_or_else(|| ApiError::bad_request("lookback must be a duration, or custom")),
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct DependencyJson<'a> {
    parent: &'a str,
    child: &'a str,
    call_count: u64,
}

/// `/api/dependencies?endTs=…&lookback=…&service=…`, times in milliseconds; with a service the calls
/// that it makes and takes.
pub(super) async fn dependencies(question: Asked) -> Reply {
    let Question { gateway, context, params, .. } = &question;
    let end = params.number("endTs")?.map_or(gateway.now(), UnixNanos::from_millis);
    let lookback = params.number("lookback")?.map(|millis| millis.saturating_mul(1_000_000));
    let default = u64::try_from(DEPENDENCY_LOOKBACK.as_nanos()).unwrap_or(u64::MAX);
    let start = end.minus(lookback.unwrap_or(default));
    if start >= end {
        return Err(ApiError::bad_request("endTs and lookback must be more than 0").into());
    }
    let range = TimeRange { start, end };
    let answer = or_nothing(gateway.dependencies(context, range).await)?;
    let service = params.text("service");
    let is_meant = |link: &&DependencyLink| {
        service.is_none_or(|service| link.caller == service || link.callee == service)
    };
    let links: Vec<_> = answer.found.iter().filter(is_meant).map(dependency_json).collect();
    // Grafana shows no graph beside an error: what a graph lacks stands in the header alone.
    let missing = if links.is_empty() { missing_of(&answer.certificate) } else { Vec::new() };
    let mut response = envelope(&links, links.len(), missing);
    put_completeness(&mut response, &answer.certificate);
    Ok(response)
}

fn dependency_json(link: &DependencyLink) -> DependencyJson<'_> {
    DependencyJson { parent: &link.caller, child: &link.callee, call_count: link.calls }
}
