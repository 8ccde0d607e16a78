//! The conditions of a Jaeger search as one filter: they all hold for one span.

use trace_model::Filter;
use trace_model::query::{CompareOp, Field, Literal, Place};

use super::params::Params;
use super::reply::ApiError;

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
