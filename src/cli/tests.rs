//! Tests of the command line as a whole: what is printed and which code the shell sees, against a
//! gateway that answers what the test says.

use axum::http::{StatusCode, Uri};
use clap::CommandFactory;
use serde_json::json;

use super::output::Output;
use super::*;

const ID: &str = "5759e988bd862e3fe1be46a994272793";

/// Serves one answer for every path, and gives its URL. The answer may look at the path.
async fn gateway(answer: fn(&Uri) -> (u16, serde_json::Value)) -> String {
    let handler = move |uri: Uri| {
        let (status, body) = answer(&uri);
        std::future::ready((StatusCode::from_u16(status).unwrap(), body.to_string()))
    };
    let router = axum::Router::new().fallback(handler);
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let server = axum::serve(listener, router).into_future();
    drop(tokio_util::task::TaskTracker::new().spawn(server));
    format!("http://{address}")
}

/// Runs a line and gives what it printed and how it ended.
async fn farspan(gateway: &str, line: &[&str]) -> (String, Result<Outcome, Failure>) {
    let line = ["farspan", "--gateway", gateway].into_iter().chain(line.iter().copied());
    let arguments = Arguments::try_parse_from(line).unwrap();
    let (mut output, buffer) = Output::to_buffer(arguments.global.json);
    let ended = dispatch(&arguments.global, arguments.command, &mut output).await;
    (buffer.text(), ended)
}

fn completeness(verdict: &str) -> serde_json::Value {
    json!({"verdict": verdict, "text": format!("{verdict}: of 3 regions")})
}

fn one_span(verdict: &str) -> serde_json::Value {
    let span = json!({"traceId": ID, "spanId": "00000000000000a1", "name": "GET /",
        "startTimeUnixNano": "1790000000000000000", "endTimeUnixNano": "1790000000005000000"});
    json!({
        "resourceSpans": [{"scopeSpans": [{"spans": [span]}], "farspanRegion": "eu-west-1"}],
        "completeness": completeness(verdict),
    })
}

#[test]
fn the_command_line_is_consistent() {
    Arguments::command().debug_assert();
}

#[test]
fn bad_usage_is_code_2() {
    for line in [&["farspan"][..], &["farspan", "tarce"], &["farspan", "demo", "--rate", "x"]] {
        let error = Arguments::try_parse_from(line).unwrap_err();
        assert_eq!(error.exit_code(), 2, "{line:?}");
    }
}

#[test]
fn a_demo_of_no_time_or_rate_is_told_what_may_be_asked_for() {
    for (flag, value, range) in [
        ("--seconds", "0", "at least 1"),
        ("--seconds", "-1", "at least 1"),
        ("--rate", "-4", "from 0.01 to 10000"),
    ] {
        let error = Arguments::try_parse_from(["farspan", "demo", flag, value]).unwrap_err();
        assert_eq!(error.exit_code(), 2);
        assert!(error.to_string().contains(range), "{flag} {value}: {error}");
    }
}

#[test]
fn what_is_global_may_stand_behind_the_subcommand() {
    let line = ["farspan", "regions", "--json", "--gateway", "http://h:1"];
    let arguments = Arguments::try_parse_from(line).unwrap();
    assert!(arguments.global.json);
    assert_eq!(arguments.global.gateway, "http://h:1");
}

#[tokio::test]
async fn a_whole_trace_is_done_and_a_partial_one_says_so() {
    let whole = gateway(|_| (200, one_span("complete"))).await;
    let (text, ended) = farspan(&whole, &["trace", ID]).await;
    assert_eq!(ended.unwrap(), Outcome::Done);
    assert!(text.contains("unknown_service GET /") && text.ends_with("complete: of 3 regions\n"));
    let partial = gateway(|_| (200, one_span("partial"))).await;
    let (text, ended) = farspan(&partial, &["trace", ID]).await;
    assert_eq!(ended.unwrap(), Outcome::Partial);
    assert!(text.ends_with("partial: of 3 regions\n"), "{text}");
}

#[tokio::test]
async fn json_is_passed_on_as_it_came() {
    let url = gateway(|_| (200, one_span("complete"))).await;
    let (text, ended) = farspan(&url, &["trace", ID, "--json"]).await;
    assert_eq!(ended.unwrap(), Outcome::Done);
    assert_eq!(text, format!("{}\n", one_span("complete")));
}

#[tokio::test]
async fn not_found_is_an_outcome_and_not_proven_is_a_failure() {
    let nothing = gateway(|_| {
        (404, json!({"error": {"message": "x"}, "completeness": completeness("complete")}))
    })
    .await;
    let (text, ended) = farspan(&nothing, &["trace", ID]).await;
    assert_eq!(ended.unwrap(), Outcome::NotFound);
    assert_eq!(text, format!("no trace {ID}\ncomplete: of 3 regions\n"));
    let unproven = gateway(|_| (503, json!({"error": {"message": "ap did not answer"}}))).await;
    let (text, ended) = farspan(&unproven, &["trace", ID]).await;
    assert!(text.is_empty());
    let failure = ended.unwrap_err();
    assert!(failure.to_string().contains("ap did not answer"), "{failure}");
    assert_eq!(failure::report(&failure), std::process::ExitCode::from(3));
}

#[tokio::test]
async fn an_id_that_is_none_is_bad_usage_before_anybody_is_asked() {
    let (_, ended) = farspan("http://127.0.0.1:1", &["trace", "xyz"]).await;
    let failure = ended.unwrap_err();
    assert!(failure.to_string().contains("`xyz` is not a trace id"), "{failure}");
    assert_eq!(failure::report(&failure), std::process::ExitCode::from(2));
}

#[tokio::test]
async fn what_a_gateway_refuses_is_said_in_its_words() {
    let url = gateway(|_| (429, json!({"error": {"message": "too many requests"}}))).await;
    let (_, ended) = farspan(&url, &["services"]).await;
    let failure = ended.unwrap_err();
    assert_eq!(failure.to_string(), "the gateway answered 429: too many requests");
    assert_eq!(failure::report(&failure), std::process::ExitCode::from(4));
    let nonsense = gateway(|_| (200, json!("nonsense"))).await;
    let (_, ended) = farspan(&nonsense, &["regions"]).await;
    assert!(matches!(ended, Err(Failure::Unreadable(_))));
}

#[tokio::test]
async fn searches_print_a_table_and_an_empty_one_is_not_found() {
    let url = gateway(|uri| {
        let traces = if uri.query().unwrap_or_default().contains("service=web") {
            json!([{"traceId": ID, "newestMatchUnixNano": "1790000000000000000",
                "matchedSpans": 3, "services": ["web", "cart"], "regions": ["eu-west-1"]}])
        } else {
            json!([])
        };
        (200, json!({"traces": traces, "completeness": completeness("complete")}))
    })
    .await;
    let (text, ended) = farspan(&url, &["search", "--service", "web"]).await;
    assert_eq!(ended.unwrap(), Outcome::Done);
    let row = text.lines().nth(1).unwrap();
    assert!(row.starts_with(ID) && row.ends_with("eu-west-1  web,cart"), "{text}");
    let (_, ended) = farspan(&url, &["search", "--service", "nobody"]).await;
    assert_eq!(ended.unwrap(), Outcome::NotFound);
}

#[tokio::test]
async fn the_index_alone_answers_with_whole_traces() {
    let url = gateway(|uri| {
        assert_eq!(uri.path(), "/api/farspan/v1/summaries");
        assert_eq!(uri.query(), Some("limit=20&onlyErrors=true"));
        let trace = json!({"traceId": ID, "regions": ["a", "b"], "rootService": "web",
            "rootOperation": "GET /", "startUnixNano": "1790000000000000000",
            "durationNanos": "2000000", "spanCount": 7, "errorCount": 1,
            "services": [{"service": "web", "spans": 7, "errors": 1}]});
        (200, json!({"traces": [trace], "completeness": completeness("complete")}))
    })
    .await;
    let (text, ended) = farspan(&url, &["search", "--index", "--errors"]).await;
    assert_eq!(ended.unwrap(), Outcome::Done);
    assert!(text.contains("2.00 ms   7      1       a,b      web GET /"), "{text}");
}

#[tokio::test]
async fn services_and_operations_are_listed() {
    let url = gateway(|uri| match uri.path() {
        "/api/farspan/v1/services" => {
            (200, json!({"services": ["cart", "web"], "completeness": completeness("complete")}))
        }
        _ => {
            assert_eq!(uri.query(), Some("service=a%2Fb"));
            let operations = json!([{"name": "GET /", "kind": "server"}]);
            (200, json!({"operations": operations, "completeness": completeness("partial")}))
        }
    })
    .await;
    let (text, ended) = farspan(&url, &["services"]).await;
    assert_eq!((text.as_str(), ended.unwrap()), ("cart\nweb\n", Outcome::Done));
    let (text, ended) = farspan(&url, &["services", "a/b"]).await;
    assert_eq!(ended.unwrap(), Outcome::Partial);
    assert_eq!(text, "GET /  (server)\npartial: of 3 regions\n");
}

#[tokio::test]
async fn a_service_that_is_not_there_is_not_found() {
    let url =
        gateway(|_| (200, json!({"operations": [], "completeness": completeness("complete")})))
            .await;
    let (text, ended) = farspan(&url, &["services", "nope"]).await;
    assert_eq!(ended.unwrap(), Outcome::NotFound);
    assert_eq!(text, "no operations of nope in what is kept\ncomplete: of 3 regions\n");
    let (_, ended) = farspan(&url, &["services", "nope", "--json"]).await;
    assert_eq!(ended.unwrap(), Outcome::NotFound);
    let partial =
        gateway(|_| (200, json!({"services": [], "completeness": completeness("partial")}))).await;
    let (text, ended) = farspan(&partial, &["services"]).await;
    assert_eq!((text.as_str(), ended.unwrap()), ("partial: of 3 regions\n", Outcome::Partial));
}

#[tokio::test]
async fn a_search_prints_the_range_that_was_applied() {
    let nothing = gateway(|_| (200, ranged(&[]))).await;
    let something = gateway(|_| (200, ranged(&[json!({"traceId": ID})]))).await;
    for url in [nothing, something] {
        for line in [&["search"][..], &["search", "--index"]] {
            let (text, _) = farspan(&url, line).await;
            let range = "searched 2026-09-21T13:13:20.000Z to 2026-09-21T14:13:20.000Z";
            assert!(text.lines().any(|line| line == range), "{text}");
        }
    }
}

fn ranged(traces: &[serde_json::Value]) -> serde_json::Value {
    let range = json!({"startUnixNano": "1789996400000000000",
        "endUnixNano": "1790000000000000001"});
    json!({"traces": traces, "range": range, "completeness": completeness("complete")})
}

#[tokio::test]
async fn a_faulty_configuration_is_bad_usage_with_every_line() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("cell.yaml");
    std::fs::write(&file, "kind: cell\nregion: a\nretenton: 1d\nhead: {rate: 7}\n").unwrap();
    let file = file.to_str().unwrap();
    let (_, ended) = farspan("http://127.0.0.1:1", &["config", "check", file]).await;
    let failure = ended.unwrap_err();
    let text = failure.to_string();
    assert!(text.contains(":3:1: retenton: is not known; did you mean retention?"), "{text}");
    assert!(text.contains(":4:14: head.rate: 7 is not within 0 to 1"), "{text}");
    assert_eq!(failure::report(&failure), std::process::ExitCode::from(2));
    let (text, ended) = farspan("http://127.0.0.1:1", &["config", "check", file, "--json"]).await;
    assert_eq!(ended.unwrap(), Outcome::BadInput);
    let faults: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(faults["faults"][1]["line"], 4);
}

#[tokio::test]
async fn a_configuration_in_order_is_printed_with_its_origins() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("cell.yaml");
    std::fs::write(&file, "kind: cell\nregion: a\nretention: 2d\n").unwrap();
    let file = file.to_str().unwrap();
    let (text, ended) = farspan("http://127.0.0.1:1", &["config", "check", file]).await;
    assert_eq!(ended.unwrap(), Outcome::Done);
    assert!(text.ends_with("no faults\n"), "{text}");
    let (text, _) = farspan("http://127.0.0.1:1", &["config", "print", file]).await;
    assert!(
        text.lines().any(|line| line.starts_with("retention: 2d ") && line.ends_with("line 3"))
    );
    assert!(text.lines().any(|line| line.starts_with("log.segment: 128MiB ")), "{text}");
}

#[tokio::test]
async fn a_role_refuses_the_file_of_another_and_to_run_in_parts() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("cell.yaml");
    std::fs::write(&file, "kind: cell\nregion: a\n").unwrap();
    let file = file.to_str().unwrap();
    let (_, ended) = farspan("http://127.0.0.1:1", &["gateway", "--config", file]).await;
    assert!(matches!(ended, Err(Failure::Usage(_))));
    let line = ["cell", "--config", file, "--role", "querier"];
    let (_, ended) = farspan("http://127.0.0.1:1", &line).await;
    assert!(ended.unwrap_err().to_string().contains("cannot run apart"));
}
