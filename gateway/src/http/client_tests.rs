//! The requests of stock clients, byte for byte as they send them, and their answers field by field
//! as they read them: Grafana's Jaeger source (its backend decodes into typed structures, and takes
//! the first trace without asking whether there is one) and the Jaeger UI.

mod site;

use axum::http::StatusCode;
use serde_json::{Value, json};
use trace_model::query::{CompareOp, Field, Literal, Place};
use trace_model::{Filter, TimeRange, UnixNanos};

use site::{START_MICROS, TRACE, site};

use crate::fakes::{Manner, NOW, region};

fn check_envelope(body: &Value) {
    assert!(body["data"].is_array(), "{body}");
    for number in ["total", "limit", "offset"] {
        assert!(body[number].is_u64(), "{number}: {body}");
    }
    assert!(body["errors"].is_null() || body["errors"].is_array(), "{body}");
}

fn is_hex(value: &Value, digits: usize) -> bool {
    let text = value.as_str().unwrap();
    text.len() == digits && text.bytes().all(|byte| b"0123456789abcdef".contains(&byte))
}

fn check_tags(tags: &Value) {
    for tag in tags.as_array().unwrap() {
        assert!(tag["key"].is_string(), "{tag}");
        let value = &tag["value"];
        let is_right = match tag["type"].as_str().unwrap() {
            "string" | "binary" => value.is_string(),
            "bool" => value.is_boolean(),
            "int64" => value.is_i64() || value.is_string(),
            "float64" => value.is_number() || value.is_string(),
            _ => false,
        };
        assert!(is_right, "{tag}");
    }
}

fn check_warnings(warnings: &Value) {
    assert!(warnings.is_null() || warnings.as_array().unwrap().iter().all(Value::is_string));
}

/// Every field that Grafana's and the UI's structures have, with the type that they read.
fn check_trace(trace: &Value) {
    assert!(is_hex(&trace["traceID"], 32), "{trace}");
    check_warnings(&trace["warnings"]);
    let processes = trace["processes"].as_object().unwrap();
    for process in processes.values() {
        assert!(process["serviceName"].is_string(), "{process}");
        check_tags(&process["tags"]);
    }
    for span in trace["spans"].as_array().unwrap() {
        assert_eq!(span["traceID"], trace["traceID"]);
        assert!(is_hex(&span["spanID"], 16), "{span}");
        assert!(span["operationName"].is_string() && span["flags"].is_u64(), "{span}");
        assert!(span["startTime"].is_u64() && span["duration"].is_u64(), "{span}");
        assert!(processes.contains_key(span["processID"].as_str().unwrap()), "{span}");
        for reference in span["references"].as_array().unwrap() {
            assert!(["CHILD_OF", "FOLLOWS_FROM"].contains(&reference["refType"].as_str().unwrap()));
            assert!(is_hex(&reference["traceID"], 32) && is_hex(&reference["spanID"], 16));
        }
        check_tags(&span["tags"]);
        for log in span["logs"].as_array().unwrap() {
            assert!(log["timestamp"].is_u64(), "{log}");
            check_tags(&log["fields"]);
        }
        check_warnings(&span["warnings"]);
    }
}

fn tag<'a>(span: &'a Value, key: &str) -> &'a Value {
    let tags = span["tags"].as_array().unwrap();
    &tags.iter().find(|tag| tag["key"] == key).unwrap()["value"]
}

/// The trace of these tests, whole.
fn check_the_trace(trace: &Value) {
    check_trace(trace);
    assert_eq!(trace["warnings"], Value::Null);
    let spans = trace["spans"].as_array().unwrap();
    assert_eq!(spans.len(), 2);
    let (root, call) = (&spans[0], &spans[1]);
    assert_eq!((&root["operationName"], &root["references"]), (&json!("GET /cart"), &json!([])));
    assert_eq!(root["startTime"], START_MICROS);
    assert_eq!(root["duration"], 90_000);
    assert_eq!(trace["processes"][root["processID"].as_str().unwrap()]["serviceName"], "shop/web");
    assert_eq!(call["startTime"], START_MICROS + 5_000);
    assert_eq!((&call["duration"], &call["flags"]), (&json!(2_500), &json!(1)));
    assert_eq!(
        call["references"],
        json!([
            {"refType": "CHILD_OF", "traceID": TRACE, "spanID": "0101010101010101"},
            {"refType": "FOLLOWS_FROM", "traceID": "08".repeat(16), "spanID": "09".repeat(8)},
        ])
    );
    let process = &trace["processes"][call["processID"].as_str().unwrap()];
    assert_eq!(process["serviceName"], "cart");
    assert_eq!(
        process["tags"][0],
        json!({"key": "farspan.region", "type": "string", "value": "us"})
    );
    assert_eq!(tag(call, "http.status_code"), &json!(503));
    assert_eq!((tag(call, "error"), tag(call, "span.kind")), (&json!(true), &json!("client")));
    assert_eq!(call["logs"][0]["timestamp"], START_MICROS + 6_000);
    assert_eq!(call["logs"][0]["fields"][0]["value"], "retry");
}

fn tag_equals(key: &str, value: &str) -> Filter {
    let field = Field::Attribute { place: Place::Any, key: key.to_owned() };
    compare(field, CompareOp::Eq, Literal::Text(value.to_owned()))
}

fn compare(field: Field, op: CompareOp, literal: Literal) -> Filter {
    Filter::Compare { field, op, literal }
}

fn text_equals(field: Field, value: &str) -> Filter {
    compare(field, CompareOp::Eq, Literal::Str(value.to_owned()))
}

fn is_error() -> Filter {
    Filter::Or(vec![text_equals(Field::Status, "error"), tag_equals("error", "true")])
}

/// Filters are compared by how they look: patterns have no equality.
fn shown(filter: &Filter) -> String {
    format!("{filter:?}")
}

fn micros(start: u64, end: u64) -> TimeRange {
    TimeRange { start: UnixNanos::from_micros(start), end: UnixNanos::from_micros(end) }
}

#[tokio::test(start_paused = true)]
async fn grafanas_lists_are_lists_of_strings() {
    let site = site();
    let services = site.grafana("/api/services").await;
    assert_eq!(services["data"], json!(["cart", "shop/web"]));
    assert_eq!(services["total"], 2);
    // The service is joined to the path as it is.
    for (path, service) in [
        ("/api/services/shop/web/operations", "shop/web"),
        ("/api/services/a%20b/operations", "a b"),
        ("/api/services/test/service:1/operations", "test/service:1"),
    ] {
        let operations = site.grafana(path).await;
        assert_eq!(operations["data"], json!([format!("GET {service}")]), "{path}");
    }
}

#[tokio::test(start_paused = true)]
async fn grafanas_search_is_in_microseconds_with_tags_as_an_object_of_strings() {
    let site = site();
    let (end, start) = (NOW.micros(), NOW.micros() - 3_600_000_000);
    // Sorted and encoded as Go's url.Values does; the tags come of `http.status_code=503 error`.
    let path = format!(
        "/api/traces?end={end}&limit=20&maxDuration=1.2s&minDuration=1us&operation=GET+%2Fcart\
         &service=shop%2Fweb&start={start}\
         &tags=%7B%22error%22%3A%22true%22%2C%22http.status_code%22%3A%22503%22%7D"
    );
    let found = site.grafana(&path).await;
    assert_eq!(found["data"].as_array().unwrap().len(), 1);
    check_the_trace(&found["data"][0]);
    let query = site.searched();
    assert_eq!((query.range, query.limit), (micros(start, end), 20));
    let nanos = |nanos| Literal::Int(nanos);
    assert_eq!(
        shown(&query.filter),
        shown(&Filter::And(vec![
            text_equals(Field::Service, "shop/web"),
            text_equals(Field::Operation, "GET /cart"),
            compare(Field::Duration, CompareOp::Ge, nanos(1_000)),
            compare(Field::Duration, CompareOp::Le, nanos(1_200_000_000)),
            is_error(),
            tag_equals("http.status_code", "503"),
        ]))
    );
    // A form left empty sends the service and the times alone.
    site.grafana(&format!("/api/traces?end={end}&service=cart&start={start}")).await;
    let filter = site.searched().filter;
    assert_eq!(shown(&filter), shown(&text_equals(Field::Service, "cart")));
}

#[tokio::test(start_paused = true)]
async fn grafanas_empty_search_is_a_200_with_an_empty_list() {
    let site = site();
    let found = site.grafana("/api/traces?end=2000000&limit=20&service=web&start=1000000").await;
    assert_eq!((&found["data"], &found["errors"]), (&json!([]), &Value::Null));
}

#[tokio::test(start_paused = true)]
async fn grafanas_trace_is_the_first_of_the_list_and_its_times_are_milliseconds() {
    let site = site();
    let (start, end) = (NOW.millis() - 1_000, NOW.millis());
    for path in
        [format!("/api/traces/{TRACE}"), format!("/api/traces/{TRACE}?end={end}&start={start}")]
    {
        let found = site.grafana(&path).await;
        assert_eq!(found["data"].as_array().unwrap().len(), 1);
        check_the_trace(&found["data"][0]);
    }
    // Without a first trace its reader breaks: what is not there is no 200.
    let absent = "06".repeat(16);
    let (status, body, _) = site.get(&format!("/api/traces/{absent}"), &[]).await;
    assert_eq!(status, StatusCode::NOT_FOUND, "{body}");
}

#[tokio::test(start_paused = true)]
async fn grafanas_dependency_graph_is_in_milliseconds_and_has_no_errors_beside_calls() {
    let site = site();
    let path = format!("/api/dependencies?endTs={}&lookback=3600000", NOW.millis());
    let calls = json!([{"parent": "shop/web", "child": "cart", "callCount": 4}]);
    let found = site.grafana(&path).await;
    assert_eq!((&found["data"], &found["errors"]), (&calls, &Value::Null));
    // Grafana gives up on an answer with errors: calls are shown, the header says what they lack.
    site.cells[1].behave(Manner::Unreachable);
    let (status, found, line) = site.get(&path, &[]).await;
    assert_eq!((status, &found["errors"]), (StatusCode::OK, &Value::Null));
    assert!(
        line.starts_with("partial: 1 of 2 regions; missing us (unavailable); as of "),
        "{line}"
    );
    // Nothing to show, and the error is what it shows.
    site.cells[0].edges.lock().unwrap().clear();
    let found = site.grafana(&path).await;
    assert_eq!(found["data"], json!([]));
    assert_eq!(found["errors"][0]["code"], 503);
    assert!(found["errors"][0]["msg"].as_str().unwrap().contains("missing us (unavailable)"));
}

#[tokio::test(start_paused = true)]
async fn the_jaeger_uis_lists_and_encoded_services() {
    let site = site();
    let services = site.jaeger_ui("/api/services").await;
    assert_eq!(services["data"], json!(["cart", "shop/web"]));
    let operations = site.jaeger_ui("/api/services/shop%2Fweb/operations").await;
    assert_eq!(operations["data"], json!(["GET shop/web"]));
    let kinds = site.jaeger_ui("/api/operations?service=shop%2Fweb&spanKind=server").await;
    assert_eq!(kinds["data"], json!([{"name": "GET shop/web", "spanKind": "server"}]));
}

#[tokio::test(start_paused = true)]
async fn the_jaeger_uis_search_has_keys_without_values_and_any_look_back() {
    let site = site();
    let (end, start) = (NOW.micros(), NOW.micros() - 3_600_000_000);
    for lookback in ["1h", "2d", "2w", "4w", "custom", "1M"] {
        let path = format!(
            "/api/traces?end={end}&limit=20&lookback={lookback}&maxDuration&minDuration\
             &service=shop%2Fweb&start={start}"
        );
        let found = site.jaeger_ui(&path).await;
        check_the_trace(&found["data"][0]);
        let query = site.searched();
        assert_eq!((query.range, query.limit), (micros(start, end), 20), "{lookback}");
        assert_eq!(shown(&query.filter), shown(&text_equals(Field::Service, "shop/web")));
    }
    let path = format!(
        "/api/traces?end={end}&limit=1500&lookback=custom&maxDuration=500ms&minDuration=100us\
         &operation=GET%20%2Fcart&service=shop%2Fweb&start={start}\
         &tags=%7B%22error%22%3A%22true%22%2C%22http.url%22%3A%22http%3A%2F%2Fx%2F%3Fa%3Db%26c%22%7D"
    );
    site.jaeger_ui(&path).await;
    let query = site.searched();
    assert_eq!(query.limit, 1_500);
    let Filter::And(parts) = query.filter else { panic!("{:?}", query.filter) };
    let tags = [is_error(), tag_equals("http.url", "http://x/?a=b&c")];
    assert_eq!(parts[4..].iter().map(shown).collect::<Vec<_>>(), tags.map(|tag| shown(&tag)));
}

#[tokio::test(start_paused = true)]
async fn the_jaeger_uis_traces_by_id_and_by_several() {
    let site = site();
    check_the_trace(&site.jaeger_ui(&format!("/api/traces/{TRACE}")).await["data"][0]);
    let absent = "06".repeat(16);
    let both = site.jaeger_ui(&format!("/api/traces?traceID={TRACE}&traceID={absent}")).await;
    assert_eq!(both["data"].as_array().unwrap().len(), 1);
    check_the_trace(&both["data"][0]);
    // The comparison page names each trace that is missing by the id that it asked for.
    assert_eq!(both["errors"][0]["traceID"], absent);
    assert!(both["errors"][0]["msg"].is_string());
    // What fails is shown by the message of the first error, if its code is the status.
    let (status, body, _) = site.get(&format!("/api/traces/{absent}"), &[]).await;
    assert_eq!((status.as_u16(), &body["errors"][0]["code"]), (404, &json!(404)));
    assert!(body["errors"][0]["msg"].as_str().unwrap().contains("trace not found"));
}

#[tokio::test(start_paused = true)]
async fn the_jaeger_uis_dependencies_look_back_a_week() {
    let site = site();
    let path = format!("/api/dependencies?endTs={}&lookback=604800000", NOW.millis());
    let found = site.jaeger_ui(&path).await;
    assert_eq!(found["data"][0]["callCount"], 4);
    let of_another = site.jaeger_ui(&format!("{path}&service=nobody")).await;
    assert_eq!(of_another["data"], json!([]));
    let of_the_called = site.jaeger_ui(&format!("{path}&service=cart")).await;
    assert_eq!(of_the_called["data"][0]["parent"], "shop/web");
}

#[tokio::test(start_paused = true)]
async fn nothing_found_while_a_region_is_away_is_an_empty_list_that_says_so() {
    let site = site();
    site.cells[1].behave(Manner::Unreachable);
    for cell in &site.cells {
        cell.matches.lock().unwrap().clear();
        cell.services.lock().unwrap().clear();
    }
    let search = "/api/traces?end=2000000&limit=20&service=web&start=1000000";
    for path in [search, "/api/services"] {
        let (status, body, line) = site.get(path, &[]).await;
        assert_eq!((status, &body["data"]), (StatusCode::OK, &json!([])), "{path}");
        let error = &body["errors"][0];
        assert_eq!((&error["code"], &error["traceID"]), (&json!(503), &Value::Null), "{path}");
        let msg = error["msg"].as_str().unwrap();
        assert!(msg.contains("partial: 1 of 2 regions; missing us (unavailable)"), "{path}: {msg}");
        assert!(line.starts_with("partial: 1 of 2 regions; missing us"), "{path}: {line}");
    }
    // Where not one region answered there is nothing to give, not even an empty list.
    site.cells[0].behave(Manner::Unreachable);
    for path in [search, "/api/services", "/api/dependencies"] {
        let (status, body, _) = site.get(path, &[]).await;
        let expected = (StatusCode::SERVICE_UNAVAILABLE, &Value::Null);
        assert_eq!((status, &body["data"]), expected, "{path}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_list_that_is_cut_is_given_and_says_so_in_body_and_header() {
    let site = site();
    site.cells[1].behave(Manner::Cutting);
    let words = "partial: 1 of 2 regions; missing us (cut short: it has more names than it lists)";
    for path in ["/api/services", "/api/services/web/operations", "/api/operations?service=web"] {
        let (status, body, headers) = site.get(path, &[]).await;
        assert!(status == StatusCode::OK && body["data"].is_array(), "{path}");
        let msg = body["errors"][0]["msg"].as_str().unwrap();
        assert!(msg.starts_with(&format!("farspan: {words}")), "{path}: {msg}");
        let header = headers;
        assert!(header.starts_with(words), "{path}: {header}");
    }
    let (status, body, headers) = site.get("/api/farspan/v1/services", &[]).await;
    assert_eq!(status, StatusCode::OK);
    assert!(body["services"].as_array().unwrap().contains(&"cart".into()));
    let us = &body["completeness"]["regions"][1];
    assert_eq!(
        (&us["region"], &us["isCut"], &us["isWhole"]),
        (&"us".into(), &true.into(), &false.into())
    );
    assert!(headers.starts_with(words));
}

#[tokio::test(start_paused = true)]
async fn a_search_that_found_something_says_what_it_lacks_beside_it() {
    let site = site();
    // Its index is level and its search is behind: the trace is whole, the search is not.
    site.cells[1].behave(Manner::Behind);
    let end = NOW.micros();
    let path = format!("/api/traces?service=web&start={}&end={end}", end - 1_000_000);
    let found = site.grafana(&path).await;
    assert_eq!(found["data"].as_array().unwrap().len(), 1);
    let msg = found["errors"][0]["msg"].as_str().unwrap();
    assert!(msg.contains("missing us (behind its promise by 3 records"), "{msg}");
    assert_eq!(region("us"), site.cells[1].region);
}
