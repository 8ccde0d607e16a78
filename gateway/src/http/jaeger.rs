//! Jaeger's JSON API, as stock Grafana and the Jaeger UI use it.
//!
//! They break on anything but a 200 with data, so an answer that lacks something is a 200 with a
//! warning on the trace and on its first span, and the completeness header; an empty search is an
//! empty list. A refusal has Jaeger's own shape.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, Response, Uri};
use futures_util::{StreamExt, TryStreamExt, stream};
use serde::Serialize;
use trace_model::query::{CompareOp, Field, Literal, Place};
use trace_model::{Certificate, Filter, SpanKind, TimeRange, UnixNanos};

use super::farspan::{check_standing, protobuf, render, wants_protobuf};
use super::jaeger_json::JaegerTrace;
use super::params::{Params, parse_duration, query_context, trace_id};
use super::reply::{ApiError, Jaegers, json, put_completeness};
use crate::assembled::{Standing, TraceAnswer};
use crate::catalog::DependencyLink;
use crate::config::QueryContext;
use crate::gateway::Gateway;
use crate::search::SearchRequest;

/// Jaeger's own default.
const SEARCH_LIMIT_DEFAULT: usize = 100;
/// Traces fetched by `traceID=…&traceID=…`.
const TRACE_IDS_MAX: usize = 100;
/// Of them, so many are asked for at the same time.
const TRACES_AT_ONCE: usize = 8;
/// Jaeger's default look-back of the dependency graph.
const DEPENDENCY_LOOKBACK: Duration = Duration::from_secs(24 * 3_600);

type Reply = Result<Response<Body>, Jaegers>;

/// Jaeger's envelope around every answer.
#[derive(Serialize)]
struct Envelope<T> {
    data: T,
    total: usize,
    limit: usize,
    offset: usize,
    errors: Option<Vec<TraceError>>,
}

/// A trace of several that is missing.
#[derive(Debug, Serialize)]
struct TraceError {
    code: u16,
    msg: String,
    #[serde(rename = "traceID")]
    trace_id: String,
}

fn envelope<T: Serialize>(data: T, total: usize, errors: Vec<TraceError>) -> Response<Body> {
    let errors = (!errors.is_empty()).then_some(errors);
    json(&Envelope { data, total, limit: 0, offset: 0, errors })
}

/// `/api/services`
pub(super) async fn services(
    State(gateway): State<Arc<Gateway>>,
    headers: HeaderMap,
    uri: Uri,
) -> Reply {
    let context = query_context(&headers, &Params::of(&uri)?, &gateway.config)?;
    let answer = gateway.services(&context).await?;
    Ok(certified(&answer.found, answer.found.len(), &answer.certificate))
}

/// `/api/services/{service}/operations`. A service's slashes come as they are, so everything up to
/// the last `/operations` is the service.
pub(super) async fn service_operations(
    State(gateway): State<Arc<Gateway>>,
    Path(rest): Path<String>,
    headers: HeaderMap,
    uri: Uri,
) -> Reply {
    let service = rest.strip_suffix("/operations").filter(|service| !service.is_empty());
    let service = service
        .ok_or_else(|| ApiError::bad_request("the path is /api/services/{service}/operations"))?;
    let context = query_context(&headers, &Params::of(&uri)?, &gateway.config)?;
    let answer = gateway.operations(&context, service).await?;
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
pub(super) async fn operations(
    State(gateway): State<Arc<Gateway>>,
    headers: HeaderMap,
    uri: Uri,
) -> Reply {
    let params = Params::of(&uri)?;
    let service = params.text("service");
    let service = service.ok_or_else(|| ApiError::bad_request("service is required"))?;
    let wanted = params.text("spanKind");
    let context = query_context(&headers, &params, &gateway.config)?;
    let answer = gateway.operations(&context, service).await?;
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

fn certified<T: Serialize>(found: T, total: usize, certificate: &Certificate) -> Response<Body> {
    let mut response = envelope(found, total, Vec::new());
    put_completeness(&mut response, certificate);
    response
}

/// `/api/traces/{id}`. `start` and `end` are hints in a unit of the caller's choice: not needed.
pub(super) async fn trace(
    State(gateway): State<Arc<Gateway>>,
    Path(id): Path<String>,
    headers: HeaderMap,
    uri: Uri,
) -> Reply {
    let params = Params::of(&uri)?;
    let context = query_context(&headers, &params, &gateway.config)?;
    let answer = gateway.find_trace(&context, trace_id(&id)?).await?;
    check_standing(&answer)?;
    let is_protobuf = wants_protobuf(&headers);
    let rendered = render(answer, move |answer| {
        if is_protobuf {
            return Ok(protobuf(answer));
        }
        Ok(certified([JaegerTrace::new(answer)], 1, &answer.certificate))
    });
    Ok(rendered.await?)
}

/// `/api/traces`: a search, or the traces named by `traceID`.
pub(super) async fn traces(
    State(gateway): State<Arc<Gateway>>,
    headers: HeaderMap,
    uri: Uri,
) -> Reply {
    let params = Params::of(&uri)?;
    let context = query_context(&headers, &params, &gateway.config)?;
    let ids: Vec<&str> = params.all("traceID").collect();
    if !ids.is_empty() {
        return traces_by_id(&gateway, &context, &ids).await;
    }
    let request = search_request(&gateway, &params)?;
    let (page, answers) = gateway.search_traces(&context, &request).await?;
    let mut certificate = page.certificate;
    for answer in &answers {
        certificate.add_question(answer.certificate.clone());
    }
    let rendered = render(Arc::new(answers), move |answers: &Vec<TraceAnswer>| {
        let held = answers.iter().filter(|answer| answer.standing() == Standing::Found);
        let found: Vec<JaegerTrace> = held.map(JaegerTrace::new).collect();
        Ok(certified(&found, found.len(), &certificate))
    });
    Ok(rendered.await?)
}

async fn traces_by_id(gateway: &Gateway, context: &QueryContext, ids: &[&str]) -> Reply {
    if ids.len() > TRACE_IDS_MAX {
        return Err(ApiError::bad_request(format!("more than {TRACE_IDS_MAX} traceID")).into());
    }
    let mut found = Vec::new();
    let mut errors = Vec::new();
    let mut certificate = Certificate::default();
    let trace_ids = ids.iter().map(|id| trace_id(id)).collect::<Result<Vec<_>, _>>()?;
    let answers: Vec<Arc<TraceAnswer>> = stream::iter(trace_ids)
        .map(|trace_id| gateway.find_trace(context, trace_id))
        .buffered(TRACES_AT_ONCE)
        .try_collect()
        .await?;
    for (id, answer) in ids.iter().zip(answers) {
        certificate.add_question(answer.certificate.clone());
        let (code, msg) = match answer.standing() {
            Standing::Found => {
                found.push((*answer).clone());
                continue;
            }
            Standing::NotFound => (404, "trace not found".to_owned()),
            Standing::Unproven => (503, answer.certificate.to_string()),
        };
        errors.push(TraceError { code, msg, trace_id: (*id).to_owned() });
    }
    let rendered = render(Arc::new(found), move |found: &Vec<TraceAnswer>| {
        let traces: Vec<JaegerTrace> = found.iter().map(JaegerTrace::new).collect();
        let mut response = envelope(&traces, traces.len(), errors);
        put_completeness(&mut response, &certificate);
        Ok(response)
    });
    Ok(rendered.await?)
}

fn search_request(gateway: &Gateway, params: &Params) -> Result<SearchRequest, ApiError> {
    let config = &gateway.config;
    let lookback = lookback(params)?.unwrap_or(config.search_lookback);
    let range = params.time_range(UnixNanos::from_micros, gateway.now(), lookback)?;
    Ok(SearchRequest {
        filter: all_of(filter_parts(params)?)?,
        range: Some(range.unwrap_or_else(|| gateway.last(lookback))),
        limit: params.number_within("limit", SEARCH_LIMIT_DEFAULT, config.search_limit_max)?,
        cursor: None,
    })
}

/// `lookback=1h`; `custom` means that `start` and `end` say it.
fn lookback(params: &Params) -> Result<Option<Duration>, ApiError> {
    match params.text("lookback") {
        None | Some("custom") => Ok(None),
        Some(text) => parse_duration(text)
            .map(Some)
            .ok_or_else(|| ApiError::bad_request("lookback must be a duration, or custom")),
    }
}

/// The conditions of a Jaeger search, all on one span.
pub(super) fn filter_parts(params: &Params) -> Result<Vec<Filter>, ApiError> {
    let mut parts = Vec::new();
    let equals = |field, text: &str| compare(field, CompareOp::Eq, Literal::Str(text.to_owned()));
    if let Some(service) = params.text("service") {
        parts.push(equals(Field::Service, service));
    }
    if let Some(operation) = params.text("operation").filter(|name| *name != "all") {
        parts.push(equals(Field::Operation, operation));
    }
    let (min, max) = params.duration_range()?;
    let nanos = |nanos: u64| Literal::Int(i64::try_from(nanos).unwrap_or(i64::MAX));
    parts.extend(min.map(|min| compare(Field::Duration, CompareOp::Ge, nanos(min))));
    parts.extend(max.map(|max| compare(Field::Duration, CompareOp::Le, nanos(max))));
    for (key, value) in tags(params)? {
        parts.push(tag_filter(&key, value));
    }
    Ok(parts)
}

/// One filter of several conditions, checked for its size.
pub(super) fn all_of(mut parts: Vec<Filter>) -> Result<Filter, ApiError> {
    let filter = match (parts.len(), parts.pop()) {
        (1, Some(only)) => only,
        (_, Some(last)) => {
            parts.push(last);
            Filter::And(parts)
        }
        (_, None) => Filter::All,
    };
    filter.check_size().map_err(|error| ApiError::bad_request(error.to_string()))?;
    Ok(filter)
}

const fn compare(field: Field, op: CompareOp, literal: Literal) -> Filter {
    Filter::Compare { field, op, literal }
}

/// `tags={"key":"value"}` and `tag=key:value`.
fn tags(params: &Params) -> Result<Vec<(String, String)>, ApiError> {
    let mut tags = Vec::new();
    for text in params.all("tags") {
        let object: serde_json::Map<String, serde_json::Value> = serde_json::from_str(text)
            .map_err(|_| ApiError::bad_request("tags must be a JSON object of strings"))?;
        for (key, value) in object {
            let value = match value {
                serde_json::Value::String(text) => text,
                serde_json::Value::Bool(_) | serde_json::Value::Number(_) => value.to_string(),
                serde_json::Value::Null
                | serde_json::Value::Array(_)
                | serde_json::Value::Object(_) => {
                    return Err(ApiError::bad_request("tags must be a JSON object of strings"));
                }
            };
            tags.push((key, value));
        }
    }
    for text in params.all("tag") {
        let (key, value) = text
            .split_once(':')
            .ok_or_else(|| ApiError::bad_request("tag must be written key:value"))?;
        tags.push((key.to_owned(), value.to_owned()));
    }
    Ok(tags)
}

/// A tag finds an attribute that prints so in any place; the tags that Jaeger makes of OTLP's own
/// fields find those fields.
fn tag_filter(key: &str, value: String) -> Filter {
    let attribute = Field::Attribute { place: Place::Any, key: key.to_owned() };
    let is_error = || compare(Field::Status, CompareOp::Eq, Literal::Str("error".to_owned()));
    match (key, value.as_str()) {
        ("error", "true") => {
            let said = compare(attribute, CompareOp::Eq, Literal::Text(value));
            Filter::Or(vec![is_error(), said])
        }
        ("error", "false") => Filter::Not(Box::new(is_error())),
        ("span.kind", _) => compare(Field::Kind, CompareOp::Eq, Literal::Str(value)),
        ("otel.status_code", _) => {
            let word = value.to_ascii_lowercase();
            compare(Field::Status, CompareOp::Eq, Literal::Str(word))
        }
        ("otel.status_description", _) => {
            compare(Field::StatusMessage, CompareOp::Eq, Literal::Str(value))
        }
        _ => compare(attribute, CompareOp::Eq, Literal::Text(value)),
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct DependencyJson<'a> {
    parent: &'a str,
    child: &'a str,
    call_count: u64,
}

/// `/api/dependencies?endTs=…&lookback=…`, both in milliseconds.
pub(super) async fn dependencies(
    State(gateway): State<Arc<Gateway>>,
    headers: HeaderMap,
    uri: Uri,
) -> Reply {
    let params = Params::of(&uri)?;
    let context = query_context(&headers, &params, &gateway.config)?;
    let end = params.number("endTs")?.map_or(gateway.now(), UnixNanos::from_millis);
    let lookback = params.number("lookback")?.map(|millis| millis.saturating_mul(1_000_000));
    let default = u64::try_from(DEPENDENCY_LOOKBACK.as_nanos()).unwrap_or(u64::MAX);
    let start = end.minus(lookback.unwrap_or(default));
    if start >= end {
        return Err(ApiError::bad_request("endTs and lookback must be more than 0").into());
    }
    let answer = gateway.dependencies(&context, TimeRange { start, end }).await?;
    let links: Vec<DependencyJson<'_>> = answer.found.iter().map(dependency_json).collect();
    Ok(certified(&links, links.len(), &answer.certificate))
}

fn dependency_json(link: &DependencyLink) -> DependencyJson<'_> {
    DependencyJson { parent: &link.caller, child: &link.callee, call_count: link.calls }
}
