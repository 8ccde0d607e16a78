//! Our own API: a trace as OTLP with its certificate, search, lists, and how the regions are.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::header::ACCEPT;
use axum::http::{HeaderMap, Response, Uri};
use serde::Serialize;
use trace_model::location::SummaryQuery;
use trace_model::{Certificate, Filter, StoredSpan};

use super::certificate_json::CertificateJson;
use super::farspan_json::{MatchJson, RangeJson, StatsJson, match_json, region_json, summary_json};
use super::otlp_json::OtlpJson;
use super::params::{Params, query_context, time_of_any_unit, trace_id};
use super::reply::{ApiError, Ours, bytes_of_type, json, put_certificate, put_completeness};
use super::{filter_text, jaeger};
use crate::assembled::{Standing, TraceAnswer};
use crate::gateway::Gateway;
use crate::search::SearchRequest;

/// Traces of a search that names no limit.
const SEARCH_LIMIT_DEFAULT: usize = 20;
/// Spans above which an answer is rendered beside the runtime: it takes milliseconds.
const RENDER_BESIDE_SPANS: usize = 1_000;

type Reply = Result<Response<Body>, Ours>;

/// `/api/farspan/v1/traces/{id}`
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
    Ok(render(
        answer,
        move |answer| {
            if is_protobuf { Ok(protobuf(answer)) } else { otlp_json(answer) }
        },
    )
    .await?)
}

/// Nothing found is an error only where it says which: not there, or not known.
pub(super) fn check_standing(answer: &TraceAnswer) -> Result<(), ApiError> {
    match answer.standing() {
        Standing::Found => Ok(()),
        Standing::NotFound => {
            let line = answer.certificate.to_string();
            Err(ApiError::not_found(format!("trace not found; {line}"), &answer.certificate))
        }
        Standing::Unproven => {
            let certificate = Box::new(answer.certificate.clone());
            Err(crate::error::GatewayError::Unproven(certificate).into())
        }
    }
}

/// Renders an answer; a large one on a thread of its own, so that it holds nobody else up.
pub(super) async fn render<T: SpanCount + Send + Sync + 'static>(
    answer: Arc<T>,
    work: impl FnOnce(&T) -> Result<Response<Body>, ApiError> + Send + 'static,
) -> Result<Response<Body>, ApiError> {
    if answer.span_count() <= RENDER_BESIDE_SPANS {
        return work(&answer);
    }
    let rendered = tokio::task::spawn_blocking(move || work(&answer)).await;
    rendered.unwrap_or_else(|_| Err(ApiError::internal("the answer could not be rendered")))
}

/// How much there is to render.
pub(super) trait SpanCount {
    fn span_count(&self) -> usize;
}

impl SpanCount for TraceAnswer {
    fn span_count(&self) -> usize {
        self.spans.len()
    }
}

impl SpanCount for Vec<TraceAnswer> {
    fn span_count(&self) -> usize {
        self.iter().map(|answer| answer.spans.len()).sum()
    }
}

/// Whether the caller asks for protobuf.
pub(super) fn wants_protobuf(headers: &HeaderMap) -> bool {
    let accepted = headers.get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok());
    accepted.flat_map(|value| value.split(',')).any(|media| {
        let media = media.split(';').next().unwrap_or_default().trim();
        media == "application/protobuf" || media == "application/x-protobuf"
    })
}

/// The bytes as they were sent, spliced into one `TracesData`; the certificate is in headers.
pub(super) fn protobuf(answer: &TraceAnswer) -> Response<Body> {
    let spans: Vec<&StoredSpan> = answer.spans.iter().collect();
    let bytes = proto::resplice::traces_data(&spans);
    let mut response = bytes_of_type("application/x-protobuf", bytes);
    put_completeness(&mut response, &answer.certificate);
    put_certificate(&mut response, &answer.certificate);
    response
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct TraceBody<'a> {
    resource_spans: OtlpJson,
    completeness: CertificateJson<'a>,
}

fn otlp_json(answer: &TraceAnswer) -> Result<Response<Body>, ApiError> {
    let resource_spans = OtlpJson::read(&answer.spans).map_err(|error| {
        tracing::error!(%error, "stored spans are not OTLP");
        ApiError::internal("stored spans cannot be read; ask for application/x-protobuf")
    })?;
    let completeness = CertificateJson::new(&answer.certificate);
    let mut response = json(&TraceBody { resource_spans, completeness });
    put_completeness(&mut response, &answer.certificate);
    Ok(response)
}

/// `/api/farspan/v1/search`
pub(super) async fn search(
    State(gateway): State<Arc<Gateway>>,
    headers: HeaderMap,
    uri: Uri,
) -> Reply {
    let params = Params::of(&uri)?;
    let context = query_context(&headers, &params, &gateway.config)?;
    let config = &gateway.config;
    let request = SearchRequest {
        filter: search_filter(&params)?,
        range: params.time_range(time_of_any_unit, gateway.now(), config.search_lookback)?,
        limit: params.number_within("limit", SEARCH_LIMIT_DEFAULT, config.search_limit_max)?,
        cursor: params.text("cursor").map(str::to_owned),
    };
    let page = gateway.search(&context, &request).await?;
    let mut response = json(&SearchBody {
        traces: page.matches.iter().map(match_json).collect(),
        range: RangeJson::new(page.range),
        next_cursor: page.next.as_deref(),
        stats: StatsJson::new(&page.stats),
        completeness: CertificateJson::new(&page.certificate),
    });
    put_completeness(&mut response, &page.certificate);
    Ok(response)
}

/// The conditions of a search, all of which must hold for one span.
fn search_filter(params: &Params) -> Result<Filter, ApiError> {
    let mut parts = jaeger::filter_parts(params)?;
    if let Some(text) = params.text("q") {
        parts.push(filter_text::parse(text)?);
    }
    jaeger::all_of(parts)
}

/// `/api/farspan/v1/services`
pub(super) async fn services(
    State(gateway): State<Arc<Gateway>>,
    headers: HeaderMap,
    uri: Uri,
) -> Reply {
    let context = query_context(&headers, &Params::of(&uri)?, &gateway.config)?;
    let answer = gateway.services(&context).await?;
    Ok(list("services", &answer.found, &answer.certificate))
}

/// `/api/farspan/v1/operations?service=…`
pub(super) async fn operations(
    State(gateway): State<Arc<Gateway>>,
    headers: HeaderMap,
    uri: Uri,
) -> Reply {
    let params = Params::of(&uri)?;
    let context = query_context(&headers, &params, &gateway.config)?;
    let service = params.text("service");
    let service = service.ok_or_else(|| ApiError::bad_request("service is required"))?;
    let answer = gateway.operations(&context, service).await?;
    let found: Vec<_> =
        answer.found.iter().map(|(name, kind)| OperationJson { name, kind: kind.word() }).collect();
    Ok(list("operations", &found, &answer.certificate))
}

#[derive(Serialize)]
struct OperationJson<'a> {
    name: &'a str,
    kind: &'static str,
}

fn list<T: Serialize>(name: &str, found: &[T], certificate: &Certificate) -> Response<Body> {
    let body =
        serde_json::json!({ name: found, "completeness": CertificateJson::new(certificate) });
    let mut response = json(&body);
    put_completeness(&mut response, certificate);
    response
}

/// `/api/farspan/v1/regions`
pub(super) async fn regions(
    State(gateway): State<Arc<Gateway>>,
    headers: HeaderMap,
    uri: Uri,
) -> Reply {
    let context = query_context(&headers, &Params::of(&uri)?, &gateway.config)?;
    let regions = gateway.regions(&context).await;
    let now = gateway.now().millis();
    let regions: Vec<_> = regions.iter().map(|health| region_json(health, now)).collect();
    Ok(json(&serde_json::json!({
        "gatewayRegion": gateway.config.region.as_str(),
        "regions": regions,
    })))
}

/// `/api/farspan/v1/summaries`
pub(super) async fn summaries(
    State(gateway): State<Arc<Gateway>>,
    headers: HeaderMap,
    uri: Uri,
) -> Reply {
    let params = Params::of(&uri)?;
    let context = query_context(&headers, &params, &gateway.config)?;
    let config = &gateway.config;
    let range = params.time_range(time_of_any_unit, gateway.now(), config.search_lookback)?;
    let range = range.unwrap_or_else(|| gateway.last(config.search_lookback));
    let (min, max) = params.duration_range()?;
    let limit = params.number_within("limit", SEARCH_LIMIT_DEFAULT, config.search_limit_max)?;
    let query = SummaryQuery {
        tenant: context.tenant.clone(),
        range,
        service: params.text("service").map(Into::into),
        root_service: params.text("rootService").map(Into::into),
        root_operation: params.text("rootOperation").map(Into::into),
        duration_nanos_min: min.unwrap_or(0),
        duration_nanos_max: max,
        only_errors: only_errors(&params)?,
        limit,
    };
    let answer = gateway.summaries(&context, &query).await?;
    let mut response = json(&serde_json::json!({
        "traces": answer.traces.iter().map(summary_json).collect::<Vec<_>>(),
        "range": RangeJson::new(range),
        "rowsScanned": answer.rows_scanned,
        "completeness": CertificateJson::new(&answer.certificate),
    }));
    put_completeness(&mut response, &answer.certificate);
    Ok(response)
}

fn only_errors(params: &Params) -> Result<bool, ApiError> {
    match params.text("onlyErrors") {
        None | Some("false") => Ok(false),
        Some("true") => Ok(true),
        Some(_) => Err(ApiError::bad_request("onlyErrors must be true or false")),
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct SearchBody<'a> {
    traces: Vec<MatchJson<'a>>,
    range: RangeJson,
    next_cursor: Option<&'a str>,
    stats: StatsJson,
    completeness: CertificateJson<'a>,
}
