//! Our own API: a trace as OTLP with its certificate, search, lists, and how the regions are.

use axum::body::Body;
use axum::extract::Path;
use axum::http::Response;
use serde::Serialize;
use trace_model::location::SummaryQuery;
use trace_model::{Certificate, Filter, StoredSpan};

use super::certificate_json::CertificateJson;
use super::farspan_json::{MatchJson, RangeJson, StatsJson, match_json, region_json, summary_json};
use super::otlp_json::OtlpJson;
use super::params::{Params, time_of_any_unit, trace_id};
use super::question::Question;
use super::render::{Form, render};
use super::reply::{
    ApiError, Ours, bytes_of_type, json, put_certificate, put_completeness, put_range,
};
use super::{filter_text, jaeger_filter};
use crate::assembled::{Standing, TraceAnswer};
use crate::search::SearchRequest;

type Reply = Result<Response<Body>, Ours>;

/// `/api/farspan/v1/traces/{id}`
pub(super) async fn trace(Path(id): Path<String>, question: Question<Ours>) -> Reply {
    let Question { gateway, context, wants_protobuf, .. } = question;
    let answer = gateway.find_trace(&context, trace_id(&id)?).await?;
    check_standing(&answer)?;
    let (room, form) = (&gateway.config.answer_room, Form::of(wants_protobuf, Form::OtlpJson));
    let work = move |answer: &TraceAnswer| {
        if wants_protobuf { Ok(protobuf(answer)) } else { otlp_json(answer) }
    };
    Ok(render(room, answer, form, work).await?)
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
    #[serde(skip_serializing_if = "Option::is_none")]
    warning: Option<String>,
    completeness: CertificateJson<'a>,
}

fn otlp_json(answer: &TraceAnswer) -> Result<Response<Body>, ApiError> {
    let resource_spans = OtlpJson::read(&answer.spans);
    let unreadable = resource_spans.unreadable;
    let warning = (unreadable > 0).then(|| {
        tracing::error!(spans = unreadable, "stored spans are not OTLP");
        format!(
            "{unreadable} spans cannot be read and are not shown; ask for application/x-protobuf"
        )
    });
    let completeness = CertificateJson::new(&answer.certificate);
    let mut response = json(&TraceBody { resource_spans, warning, completeness });
    put_completeness(&mut response, &answer.certificate);
    Ok(response)
}

/// `/api/farspan/v1/search`
pub(super) async fn search(question: Question<Ours>) -> Reply {
    let Question { gateway, context, params, .. } = &question;
    let lookback = gateway.config.search_lookback;
    let request = SearchRequest {
        filter: search_filter(params)?,
        range: params.time_range(time_of_any_unit, gateway.now(), lookback)?,
        limit: question.limit()?,
        cursor: params.text("cursor").map(str::to_owned),
    };
    let page = gateway.search(context, &request).await?;
    let mut response = json(&SearchBody {
        traces: page.matches.iter().map(match_json).collect(),
        range: RangeJson::new(page.range),
        next_cursor: page.next.as_deref(),
        stats: StatsJson::new(&page.stats),
        completeness: CertificateJson::new(&page.certificate),
    });
    put_completeness(&mut response, &page.certificate);
    put_range(&mut response, page.range);
    Ok(response)
}

/// The conditions of a search, all of which must hold for one span.
fn search_filter(params: &Params) -> Result<Filter, ApiError> {
    let mut parts = jaeger_filter::filter_parts(params)?;
    if let Some(text) = params.text("q") {
        parts.push(filter_text::parse(text)?);
    }
    jaeger_filter::all_of(parts)
}

/// `/api/farspan/v1/services`
pub(super) async fn services(question: Question<Ours>) -> Reply {
    let answer = question.gateway.services(&question.context).await?;
    Ok(list("services", &answer.found, &answer.certificate))
}

/// `/api/farspan/v1/operations?service=…`
pub(super) async fn operations(question: Question<Ours>) -> Reply {
    let service = question.required("service")?;
    let answer = question.gateway.operations(&question.context, service).await?;
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
pub(super) async fn regions(question: Question<Ours>) -> Reply {
    let Question { gateway, context, .. } = question;
    let regions = gateway.regions(&context).await;
    let now = gateway.now().millis();
    let regions: Vec<_> = regions.iter().map(|health| region_json(health, now)).collect();
    Ok(json(&serde_json::json!({
        "gatewayRegion": gateway.config.region.as_str(),
        "regions": regions,
    })))
}

/// `/api/farspan/v1/summaries`
pub(super) async fn summaries(question: Question<Ours>) -> Reply {
    let Question { gateway, context, params, .. } = &question;
    let range = question.range()?;
    let (min, max) = params.duration_range()?;
    let query = SummaryQuery {
        tenant: context.tenant.clone(),
        range,
        service: params.text("service").map(Into::into),
        root_service: params.text("rootService").map(Into::into),
        root_operation: params.text("rootOperation").map(Into::into),
        duration_nanos_min: min.unwrap_or(0),
        duration_nanos_max: max,
        only_errors: question.flag("onlyErrors")?,
        limit: question.limit()?,
    };
    let answer = gateway.summaries(context, &query).await?;
    let mut response = json(&serde_json::json!({
        "traces": answer.traces.iter().map(summary_json).collect::<Vec<_>>(),
        "range": RangeJson::new(range),
        "rowsScanned": answer.rows_scanned,
        "completeness": CertificateJson::new(&answer.certificate),
    }));
    put_completeness(&mut response, &answer.certificate);
    put_range(&mut response, range);
    Ok(response)
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
