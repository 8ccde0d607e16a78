//! The page at `/`: what this gateway serves, with links to try.

use std::fmt::Write as _;
use std::sync::Arc;

use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderValue, Response};

use super::reply::bytes_of_type;
use crate::gateway::Gateway;

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
pub(super) async fn index(State(gateway): State<Arc<Gateway>>) -> Response<Body> {
    let mut page = HEAD.to_owned();
    let region = escape(gateway.config.region.as_str());
    let mut cells = String::new();
    for cell in &gateway.footing.reachable {
        let separator = if cells.is_empty() { "" } else { ", " };
        push(&mut cells, format_args!("{separator}{}", escape(cell.as_str())));
    }
    push(&mut page, format_args!("<h1>Farspan gateway of {region}</h1><p>Cells: {cells}.</p>"));
    page.push_str("<table>");
    for (path, gives, is_link) in ENDPOINTS {
        let path = escape(path);
        let name = if is_link {
            format!("<a href=\"{path}\"><code>{path}</code></a>")
        } else {
            format!("<code>{path}</code>")
        };
        push(&mut page, format_args!("<tr><td>{name}</td><td>{}</td></tr>", escape(gives)));
    }
    page.push_str("</table></body></html>\n");
    let mut response = bytes_of_type("text/html; charset=utf-8", page.into_bytes());
    let policy = HeaderValue::from_static("default-src 'none'; style-src 'unsafe-inline'");
    response.headers_mut().insert("content-security-policy", policy);
    response
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
