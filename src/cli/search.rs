//! `farspan search`: traces that match, newest first.

use clap::Args;
use serde::Deserialize;

use super::answer::{CertificateAnswer, number};
use super::failure::{Failure, Outcome};
use super::gateway_client::{GatewayClient, encode};
use super::output::Output;
use super::table::{clean, duration, moment, table};

/// What to look for.
#[derive(Args, Debug, Default)]
pub(super) struct SearchArguments {
    /// Traces with a span of this service.
    #[arg(long)]
    service: Option<String>,
    /// … of this operation.
    #[arg(long)]
    operation: Option<String>,
    /// … with this attribute, as key=value; may be given several times.
    #[arg(long = "tag", value_name = "KEY=VALUE")]
    tags: Vec<String>,
    /// … at least so long (1.2s, 100ms, 500us).
    #[arg(long, value_name = "DURATION")]
    min_duration: Option<String>,
    /// … at most so long.
    #[arg(long, value_name = "DURATION")]
    max_duration: Option<String>,
    /// Begin of the time range: RFC 3339. By default the gateway's (one hour back).
    #[arg(long, value_name = "TIME")]
    start: Option<String>,
    /// End of the time range: RFC 3339.
    #[arg(long, value_name = "TIME")]
    end: Option<String>,
    /// Ask the gateway's own replica of the index alone: whole traces with their roots, by
    /// service, duration and time.
    #[arg(long, conflicts_with_all = ["operation", "tags"])]
    index: bool,
    /// Only traces with errors.
    #[arg(long, requires = "index")]
    errors: bool,
    /// Traces at most.
    #[arg(long, value_name = "TRACES", default_value_t = 20)]
    limit: u32,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct SearchAnswer {
    traces: Vec<TraceSummary>,
    range: Option<SearchedRange>,
    #[serde(rename = "completeness")]
    certificate: CertificateAnswer,
}

/// The time range that was applied.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct SearchedRange {
    #[serde(deserialize_with = "number")]
    start_unix_nano: u64,
    #[serde(deserialize_with = "number")]
    end_unix_nano: u64,
}

/// What a search, or the index, says of a trace.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct TraceSummary {
    trace_id: String,
    regions: Vec<String>,
    #[serde(deserialize_with = "number")]
    newest_match_unix_nano: u64,
    #[serde(deserialize_with = "number")]
    matched_spans: u64,
    services: Vec<serde_json::Value>,
    #[serde(deserialize_with = "number")]
    start_unix_nano: u64,
    #[serde(deserialize_with = "number")]
    duration_nanos: u64,
    root_service: Option<String>,
    root_operation: Option<String>,
    #[serde(deserialize_with = "number")]
    span_count: u64,
    #[serde(deserialize_with = "number")]
    error_count: u64,
}

/// Searches.
pub(super) async fn run(
    arguments: &SearchArguments,
    client: &GatewayClient,
    output: &mut Output,
) -> Result<Outcome, Failure> {
    let path = path(arguments)?;
    let answer = client.ask_ok(&path).await?;
    let search: SearchAnswer = answer.read()?;
    if output.is_json {
        answer.print(output)?;
    } else {
        show(&search, arguments.index, output)?;
    }
    let is_complete = search.certificate.is_complete();
    Ok(match (is_complete, search.traces.is_empty()) {
        (false, _) => Outcome::Partial,
        (true, true) => Outcome::NotFound,
        (true, false) => Outcome::Done,
    })
}

fn path(arguments: &SearchArguments) -> Result<String, Failure> {
    let mut query = vec![format!("limit={}", arguments.limit)];
    for (name, value) in [
        ("service", &arguments.service),
        ("operation", &arguments.operation),
        ("minDuration", &arguments.min_duration),
        ("maxDuration", &arguments.max_duration),
    ] {
        if let Some(value) = value {
            query.push(format!("{name}={}", encode(value)));
        }
    }
    for (name, value) in [("start", &arguments.start), ("end", &arguments.end)] {
        if let Some(value) = value {
            query.push(format!("{name}={}", unix_micros(name, value)?));
        }
    }
    if !arguments.tags.is_empty() {
        query.push(format!("tags={}", encode(&tags(&arguments.tags)?)));
    }
    if arguments.errors {
        query.push("onlyErrors=true".to_owned());
    }
    let what = if arguments.index { "summaries" } else { "search" };
    Ok(format!("/api/farspan/v1/{what}?{}", query.join("&")))
}

fn unix_micros(name: &str, text: &str) -> Result<i64, Failure> {
    let moment: jiff::Timestamp = text.parse().map_err(|_| {
        Failure::Usage(format!("--{name} {text}: not a time such as 2026-11-21T12:00:00Z"))
    })?;
    Ok(moment.as_microsecond())
}

/// The tags as a JSON object of strings, as Jaeger's API takes them.
fn tags(list: &[String]) -> Result<String, Failure> {
    let mut object = serde_json::Map::new();
    for tag in list {
        let wrong = || Failure::Usage(format!("--tag {tag}: write it as key=value"));
        let (key, value) =
            tag.split_once('=').filter(|(key, _)| !key.is_empty()).ok_or_else(wrong)?;
        object.insert(key.to_owned(), value.into());
    }
    Ok(serde_json::Value::Object(object).to_string())
}

const MATCH_HEAD: [&str; 5] = ["TRACE", "NEWEST MATCH", "MATCHED", "REGIONS", "SERVICES"];
const SUMMARY_HEAD: [&str; 7] =
    ["TRACE", "START", "DURATION", "SPANS", "ERRORS", "REGIONS", "ROOT"];

fn match_row(trace: &TraceSummary) -> Vec<String> {
    let services = trace.services.iter().filter_map(serde_json::Value::as_str);
    vec![
        clean(&trace.trace_id),
        moment(trace.newest_match_unix_nano),
        trace.matched_spans.to_string(),
        clean(&trace.regions.join(",")),
        clean(&services.collect::<Vec<_>>().join(",")),
    ]
}

fn summary_row(trace: &TraceSummary) -> Vec<String> {
    let text = |text: &Option<String>| text.clone().unwrap_or_default();
    let root = format!("{} {}", text(&trace.root_service), text(&trace.root_operation));
    vec![
        clean(&trace.trace_id),
        moment(trace.start_unix_nano),
        duration(trace.duration_nanos),
        trace.span_count.to_string(),
        trace.error_count.to_string(),
        clean(&trace.regions.join(",")),
        clean(root.trim()),
    ]
}

fn show(search: &SearchAnswer, is_index: bool, output: &mut Output) -> Result<(), Failure> {
    let row = if is_index { summary_row } else { match_row };
    let rows: Vec<Vec<String>> = search.traces.iter().map(row).collect();
    let head = if is_index { &SUMMARY_HEAD[..] } else { &MATCH_HEAD };
    let paint = output.paint();
    for (index, line) in table(head, &rows, output.width).into_iter().enumerate() {
        let trace = index.checked_sub(1).and_then(|index| search.traces.get(index));
        let is_bad = trace.is_some_and(|trace| trace.error_count > 0);
        output.line(&if is_bad { paint.bad(&line) } else { line })?;
    }
    if let Some(range) = &search.range {
        let (start, end) = (moment(range.start_unix_nano), moment(range.end_unix_nano));
        output.line(&format!("searched {start} to {end}"))?;
    }
    for line in search.certificate.lines() {
        output.line(&line)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_search_becomes_one_query() {
        let arguments = SearchArguments {
            service: Some("web/ü".to_owned()),
            tags: vec!["k=a=b".to_owned()],
            start: Some("2026-11-21T12:00:00Z".to_owned()),
            limit: 5,
            ..SearchArguments::default()
        };
        assert_eq!(
            path(&arguments).unwrap(),
            "/api/farspan/v1/search?limit=5&service=web%2F%C3%BC&start=1795262400000000\
             &tags=%7B%22k%22%3A%22a%3Db%22%7D"
        );
    }

    #[test]
    fn a_wrong_tag_or_time_is_bad_usage() {
        for arguments in [
            SearchArguments { tags: vec!["k".to_owned()], ..SearchArguments::default() },
            SearchArguments { tags: vec!["=v".to_owned()], ..SearchArguments::default() },
            SearchArguments { end: Some("soon".to_owned()), ..SearchArguments::default() },
        ] {
            assert!(matches!(path(&arguments), Err(Failure::Usage(_))), "{arguments:?}");
        }
    }
}
