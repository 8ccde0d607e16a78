//! The page at `/`: what this gateway serves, with links to try.

use std::fmt::Write as _;

use axum::body::Body;
use axum::http::{HeaderValue, Response};
use trace_model::TraceId;
use trace_model::location::{SummaryQuery, TraceEntry};

use super::question::Question;
use super::reply::{Ours, bytes_of_type};
use crate::config::CollectorEndpoint;
use crate::examples::Example;

/// Newest traces among which the example is looked for.
const EXAMPLE_AMONG: usize = 50;

/// Path, what it gives, and whether the path works as a link.
const ENDPOINTS: [(&str, &str, bool); 15] = [
    ("/api/farspan/v1/regions", "every region: health, watermark, lag", true),
    ("/api/farspan/v1/search", "search: service, operation, q, minDuration, start, end", true),
    ("/api/farspan/v1/summaries", "newest traces, from the index alone", true),
    ("/api/farspan/v1/services", "services of all regions", true),
    ("/api/farspan/v1/operations?service=web", "operations of a service", true),
    ("/api/farspan/v1/red", "rates, errors and durations by service", true),
    ("/api/farspan/v1/edges", "calls between services, with errors and durations", true),
    ("/api/farspan/v1/edges/traces?caller=web&callee=cart", "traces of a call", true),
    ("/api/farspan/v1/traces/{id}", "a trace as OTLP JSON, or protobuf by Accept", false),
    ("/api/services", "Jaeger: services", true),
    ("/api/services/{service}/operations", "Jaeger: operation names", false),
    ("/api/operations?service=web", "Jaeger: operations with kinds", true),
    ("/api/traces?service=web&limit=20", "Jaeger: search", true),
    ("/api/traces/{id}", "Jaeger: a trace", false),
    ("/api/dependencies", "Jaeger: which services call which", true),
];

const HEAD: &str = "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\">\
    <title>Farspan</title><style>body{font:16px system-ui;margin:3em;max-width:60em}\
    td{padding:.2em 1em .2em 0}code{font-size:.95em}</style></head><body>";

/// The page. Nothing on it runs: its policy allows inline style and nothing else.
pub(super) async fn index(question: Question<Ours>) -> Response<Body> {
    let gateway = &question.gateway;
    let mut page = HEAD.to_owned();
    let region = escape(gateway.config.region.as_str());
    let mut cells = String::new();
    for cell in &gateway.footing.reachable {
        let separator = if cells.is_empty() { "" } else { ", " };
        push(&mut cells, format_args!("{separator}{}", escape(cell.as_str())));
    }
    push(&mut page, format_args!("<h1>Farspan gateway of {region}</h1><p>Cells: {cells}.</p>"));
    put_collectors(&mut page, &gateway.config.collectors);
    match example(&question).await {
        Ok(found) => put_example(&mut page, found.as_ref()),
        Err(why) => push(
            &mut page,
            format_args!("<h2>A trace</h2><p>The index gives none now: {}.</p>", escape(&why)),
        ),
    }
    page.push_str("<h2>Questions</h2>");
    put_endpoints(&mut page);
    page.push_str("</body></html>\n");
    let mut response = bytes_of_type("text/html; charset=utf-8", page.into_bytes());
    let policy = HeaderValue::from_static("default-src 'none'; style-src 'unsafe-inline'");
    response.headers_mut().insert("content-security-policy", policy);
    response
}

fn put_collectors(page: &mut String, collectors: &[CollectorEndpoint]) {
    page.push_str("<h2>Send spans to</h2>");
    if collectors.is_empty() {
        page.push_str("<p>A region's collector: <code>collectors</code> of this gateway's configuration names none.</p>");
        return;
    }
    page.push_str("<table><tr><td></td><td>OTLP gRPC</td><td>OTLP HTTP</td></tr>");
    for CollectorEndpoint { region, otlp_grpc, otlp_http } in collectors {
        push(page, format_args!("<tr><td>{}</td>", escape(region.as_str())));
        let http = otlp_http.as_ref().map(|url| format!("{}/v1/traces", url.trim_end_matches('/')));
        for url in [otlp_grpc, &http] {
            let text = escape(url.as_deref().unwrap_or("\u{2013}"));
            push(page, format_args!("<td><code>{text}</code></td>"));
        }
        page.push_str("</tr>");
    }
    page.push_str("</table>");
}

/// Of the newest traces the one that lies in most regions; the newest among such.
async fn example(question: &Question<Ours>) -> Example {
    let (gateway, tenant) = (&question.gateway, &question.context.tenant);
    // Balancers that probe the page neither load the index nor wait for it each time.
    if let Some(shown) = gateway.examples.shown(tenant, gateway.clock.monotonic()) {
        return shown;
    }
    let found = look_for_example(question).await;
    gateway.examples.show(tenant, gateway.clock.monotonic(), found.clone());
    found
}

async fn look_for_example(question: &Question<Ours>) -> Example {
    let gateway = &question.gateway;
    let range = gateway.last(gateway.config.search_lookback);
    let limit = EXAMPLE_AMONG.min(gateway.config.search_limit_max);
    let query = SummaryQuery::newest(question.context.tenant.clone(), range, limit);
    let answer = gateway.summaries(&question.context, &query).await;
    let traces = answer.map_err(|error| error.to_string())?.traces;
    // `max_by_key` takes the last of equals, and the newest come first.
    Ok(traces.into_iter().rev().max_by_key(|(_, entry)| entry.summary().regions.len()))
}

fn put_example(page: &mut String, found: Option<&(TraceId, TraceEntry)>) {
    page.push_str("<h2>A trace</h2>");
    let Some((id, entry)) = found else {
        page.push_str(
            "<p>The index knows none of the last hour (or of <code>query.lookback</code>).</p>",
        );
        return;
    };
    let summary = entry.summary();
    let root = summary.root.as_ref().map_or_else(String::new, |root| {
        format!(" {} {},", escape(&root.service), escape(&root.operation))
    });
    let regions: Vec<String> = summary.regions.iter().map(|one| escape(one.as_str())).collect();
    push(
        page,
        format_args!(
            "<p>One of the newest, of the most regions:{root} {} spans in {}.</p><table>",
            summary.span_count,
            regions.join(", ")
        ),
    );
    for (path, gives) in [
        (format!("/api/farspan/v1/traces/{id}"), "as OTLP JSON, and how complete it is"),
        (format!("/api/traces/{id}"), "as Jaeger's JSON"),
    ] {
        push(
            page,
            format_args!(
                "<tr><td><a href=\"{path}\"><code>{path}</code></a></td><td>{gives}</td></tr>"
            ),
        );
    }
    push(
        page,
        format_args!(
            "<tr><td><code>farspan trace {id}</code></td><td>in a terminal</td></tr></table>"
        ),
    );
}

fn put_endpoints(page: &mut String) {
    page.push_str("<table>");
    for (path, gives, is_link) in ENDPOINTS {
        let path = escape(path);
        let name = if is_link {
            format!("<a href=\"{path}\"><code>{path}</code></a>")
        } else {
            format!("<code>{path}</code>")
        };
        push(page, format_args!("<tr><td>{name}</td><td>{}</td></tr>", escape(gives)));
    }
    page.push_str("</table>");
}

/// Writing to a string cannot fail.
fn push(page: &mut String, text: std::fmt::Arguments<'_>) {
    let written = page.write_fmt(text);
    debug_assert!(written.is_ok());
}

fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            other => escaped.push(other),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_shown_is_escaped() {
        assert_eq!(escape("<a b=\"c\">'&"), "&lt;a b=&quot;c&quot;&gt;&#39;&amp;");
    }
}
