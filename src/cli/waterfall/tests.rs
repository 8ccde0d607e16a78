//! Tests of the waterfall: the text itself.

use serde_json::json;

use super::*;

const START: u64 = 1_790_000_000_000_000_000;
const ID: &str = "5759e988bd862e3fe1be46a994272793";

fn span(id: u64, parent: u64, name: &str, millis: (u64, u64)) -> serde_json::Value {
    let nanos = |millis: u64| (START + millis * 1_000_000).to_string();
    json!({
        "traceId": ID, "spanId": format!("{id:016x}"), "name": name, "kind": 1,
        "parentSpanId": if parent == 0 { String::new() } else { format!("{parent:016x}") },
        "startTimeUnixNano": nanos(millis.0), "endTimeUnixNano": nanos(millis.1),
    })
}

fn group(region: &str, service: &str, spans: &[serde_json::Value]) -> serde_json::Value {
    json!({
        "resource": {"attributes": [{"key": "service.name", "value": {"stringValue": service}}]},
        "scopeSpans": [{"spans": spans}],
        "farspanRegion": region,
    })
}

fn shop() -> TraceAnswer {
    let mut failed = span(3, 2, "POST /pay", (40, 90));
    failed["status"] = json!({"code": 2, "message": "card\u{1b}[2J declined"});
    serde_json::from_value(json!({
        "resourceSpans": [
            group("us-east-1", "payment", &[failed]),
            group("eu-west-1", "web", &[span(1, 0, "GET /checkout", (0, 100))]),
            group("eu-west-1", "web", &[span(2, 1, "pay", (30, 95))]),
        ],
        "completeness": {"verdict": "complete", "text": "complete: 2 of 2 regions"},
    }))
    .unwrap()
}

fn plain(answer: TraceAnswer, columns: usize) -> Vec<String> {
    draw(ID.parse().unwrap(), answer, Size { columns, lines: 100 }, Paint::plain())
}

#[test]
fn a_trace_is_one_line_a_span_with_bars_on_its_own_scale() {
    let expected = "\
trace 5759e988bd862e3fe1be46a994272793
3 spans, 2 services, 2 regions, 1 error, 100 ms, from 2026-09-21T14:13:20.000Z

eu-west-1  web GET /checkout                         100 ms  ███████████████████████████
eu-west-1    web pay                                65.0 ms          █████████████████
us-east-1      payment POST /pay ! card\u{fffd}[2J decli…  50.0 ms            █████████████

complete: 2 of 2 regions";
    assert_eq!(plain(shop(), 88).join("\n"), expected);
}

#[test]
fn no_line_is_wider_than_the_terminal() {
    for columns in [40, 60, 88, 200] {
        for line in plain(shop(), columns).iter().skip(2) {
            assert!(width(line) <= columns, "{columns}: {line}");
        }
    }
}

#[test]
fn errors_are_coloured_and_only_where_colours_are_wanted() {
    let size = Size { columns: 100, lines: 100 };
    crossterm::style::force_color_output(true);
    let lines = draw(ID.parse().unwrap(), shop(), size, Paint::colored());
    let escape = "\u{1b}[38;5;9m";
    assert!(lines.iter().any(|line| line.contains(escape) && line.contains("POST /pay")));
    assert!(lines.iter().all(|line| !line.contains(escape) || line.contains("POST /pay")));
    assert!(plain(shop(), 100).iter().all(|line| !line.contains('\u{1b}')));
}

#[test]
fn a_partial_answer_says_what_is_missing() {
    let mut answer = shop();
    answer.certificate = serde_json::from_value(json!({
        "verdict": "partial", "text": "partial: 1 of 2 regions; missing us-east-1 (unavailable)",
        "regions": [{"region": "us-east-1", "outcome": "unavailable", "reason": "refused"}],
    }))
    .unwrap();
    let lines = plain(answer, 100);
    let last: Vec<&str> = lines.iter().rev().take(2).map(String::as_str).collect();
    assert_eq!(last[1], "partial: 1 of 2 regions; missing us-east-1 (unavailable)");
    assert_eq!(last[0], "  us-east-1 unavailable: refused");
}

#[test]
fn a_deep_and_a_wide_trace_stay_readable() {
    let spans: Vec<_> = (1..=60).map(|id| span(id, id - 1, "step", (id, 200 - id))).collect();
    let answer = json!({"resourceSpans": [group("eu-west-1", "tree", &spans)]});
    let lines = plain(serde_json::from_value(answer).unwrap(), 100);
    assert!(lines.iter().any(|line| line.contains("(59) tree step")), "{lines:#?}");
    let spans: Vec<_> = (1..=1_000).map(|id| span(id, u64::from(id > 1), "x", (0, 1))).collect();
    let answer = json!({"resourceSpans": [group("", "wide", &spans)]});
    let lines = plain(serde_json::from_value(answer).unwrap(), 100);
    assert!(lines.contains(&"… and 900 more spans (--lines)".to_owned()));
    assert!(lines.contains(&"1000 spans came without their region".to_owned()));
}

#[test]
fn a_span_whose_parent_is_missing_is_marked() {
    let spans = [span(5, 4, "add", (0, 10))];
    let answer = json!({"resourceSpans": [group("eu-west-1", "cart", &spans)]});
    let lines = plain(serde_json::from_value(answer).unwrap(), 100);
    assert!(lines.iter().any(|line| line.contains("? cart add")), "{lines:?}");
}

#[test]
fn times_beyond_all_reason_draw_something() {
    let mut odd = span(1, 0, "x", (0, 0));
    odd["startTimeUnixNano"] = json!("0");
    odd["endTimeUnixNano"] = json!(u64::MAX.to_string());
    let mut back = span(2, 1, "y", (9, 3));
    back["endTimeUnixNano"] = json!("1");
    let answer = json!({"resourceSpans": [group("", "odd", &[odd, back])]});
    let lines = plain(serde_json::from_value(answer).unwrap(), 80);
    assert!(lines.iter().skip(2).all(|line| width(line) <= 80), "{lines:#?}");
}
