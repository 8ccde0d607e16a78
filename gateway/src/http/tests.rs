//! The HTTP surface, from the request to the bytes of the answer.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::http::request::Builder;
use axum::http::{Request, Response, StatusCode};
use http_body_util::BodyExt;
use prost::Message;
use proto::v1;
use serde_json::{Value, json};
use tower::ServiceExt;
use trace_model::location::RegionState;
use trace_model::{Forgotten, Region, UnixNanos};

use crate::config::{CollectorEndpoint, GatewayConfig};
use crate::fakes::{FakeCell, FakeIndex, Manner, NOW, gateway_and_clock, gateway_with, id, level};
use crate::room::AnswerRoom;

struct Site {
    cells: Vec<Arc<FakeCell>>,
    router: axum::Router,
}

fn site() -> Site {
    site_with(|_| {})
}

/// Two cells, each with two spans of trace 5.
fn site_with(adjust: impl FnOnce(&mut GatewayConfig)) -> Site {
    let cells = ["eu", "us"].map(FakeCell::new).to_vec();
    let index = FakeIndex::with_states(vec![level("eu"), level("us")]);
    for (place, cell) in (0_u16..).zip(&cells) {
        cell.hold(id(5), place * 2..place * 2 + 2);
        index.know(cell.contribution(id(5)));
        *cell.matches.lock().unwrap() = vec![v1::TraceMatch {
            trace_id: proto::convert::query::id_bytes(id(5)),
            newest_match_unix_nano: NOW.0,
            matched_spans: 1,
            services: vec!["web".to_owned()],
        }];
        *cell.services.lock().unwrap() = vec!["web".to_owned(), format!("shop/{place}")];
    }
    let router = super::router(gateway_with(&cells, &index, adjust));
    Site { cells, router }
}

impl Site {
    async fn ask(&self, path: &str) -> Response<Body> {
        self.send(Request::get(path)).await
    }

    async fn send(&self, request: Builder) -> Response<Body> {
        let request = request.body(Body::empty()).unwrap();
        self.router.clone().oneshot(request).await.unwrap()
    }

    async fn json(&self, path: &str) -> (StatusCode, Value) {
        let response = self.ask(path).await;
        let status = response.status();
        let bytes = response.into_body().collect().await.unwrap().to_bytes();
        (status, serde_json::from_slice(&bytes).unwrap())
    }
}

const TRACE: &str = "05050505050505050505050505050505";
const ABSENT: &str = "06060606060606060606060606060606";

#[tokio::test(start_paused = true)]
async fn a_trace_is_otlp_json_with_its_certificate() {
    let site = site();
    let response = site.ask(&format!("/api/farspan/v1/traces/{TRACE}")).await;
    assert_eq!(response.headers()["farspan-completeness"], "complete: 2 of 2 regions");
    let (status, body) = site.json(&format!("/api/farspan/v1/traces/{TRACE}")).await;
    assert_eq!(status, StatusCode::OK);
    assert_eq!(body["resourceSpans"].as_array().unwrap().len(), 2);
    assert_eq!(body["completeness"]["verdict"], "complete");
    assert_eq!(body["completeness"]["regions"][0]["outcome"], "answered");
    assert_eq!(body["completeness"]["regions"][0]["promised"][0]["offset"], "2");
}

#[tokio::test(start_paused = true)]
async fn protobuf_is_the_bytes_as_sent_with_the_certificate_in_headers() {
    let site = site();
    for media in ["application/x-protobuf", "application/protobuf"] {
        for path in ["/api/farspan/v1/traces/", "/api/traces/"] {
            let request = Request::get(format!("{path}{TRACE}")).header("accept", media);
            let response = site.send(request).await;
            let certificate = response.headers()["farspan-certificate"].to_str().unwrap();
            let certificate: Value = serde_json::from_str(certificate).unwrap();
            assert_eq!(certificate["verdict"], "complete");
            let bytes = response.into_body().collect().await.unwrap().to_bytes();
            let traces = opentelemetry_proto::tonic::trace::v1::TracesData::decode(bytes).unwrap();
            let spans = traces.resource_spans.iter().flat_map(|held| &held.scope_spans);
            assert_eq!(spans.map(|scope| scope.spans.len()).sum::<usize>(), 4);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn every_pasted_form_of_an_id_finds_the_trace() {
    let site = site();
    for form in ["05050505-0505-0505-0505-050505050505", "1-05050505-050505050505050505050505"] {
        let (status, _) = site.json(&format!("/api/farspan/v1/traces/{form}")).await;
        assert_eq!(status, StatusCode::OK, "{form}");
        let (status, _) = site.json(&format!("/api/traces/{form}?start=1&end=x")).await;
        assert_eq!(status, StatusCode::OK, "{form}");
    }
}

#[tokio::test(start_paused = true)]
async fn statuses_say_found_not_found_and_not_known() {
    for (manner, id, status) in [
        (Manner::Honest, TRACE, 200),
        (Manner::Honest, ABSENT, 404),
        (Manner::Unreachable, TRACE, 200),
        (Manner::Unreachable, ABSENT, 503),
        (Manner::Hanging, ABSENT, 503),
        (Manner::Garbage, ABSENT, 503),
        (Manner::Forbidding, ABSENT, 404),
    ] {
        let site = site();
        site.cells[1].behave(manner);
        for path in ["/api/farspan/v1/traces/", "/api/traces/"] {
            let response = site.ask(&format!("{path}{id}")).await;
            assert_eq!(response.status().as_u16(), status, "{manner:?} {path}");
            assert!(response.headers().contains_key("farspan-completeness"), "{manner:?}");
            assert_eq!(response.headers().contains_key("retry-after"), status == 503);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn errors_have_our_shape_and_jaegers() {
    let site = site();
    let (status, body) = site.json("/api/farspan/v1/traces/xyz").await;
    assert_eq!((status.as_u16(), &body["error"]["code"]), (400, &json!(400)));
    assert!(body["error"]["message"].as_str().unwrap().contains("not a trace id"));
    let (status, body) = site.json(&format!("/api/traces/{ABSENT}")).await;
    assert_eq!((status.as_u16(), &body["errors"][0]["code"]), (404, &json!(404)));
    assert_eq!(body["data"], Value::Null);
    let (status, _) = site.json("/api/nothing").await;
    assert_eq!(status, StatusCode::NOT_FOUND);
}

#[tokio::test(start_paused = true)]
async fn a_partial_trace_is_a_200_with_warnings_for_jaegers_readers() {
    let site = site();
    site.cells[1].behave(Manner::Unreachable);
    let (status, body) = site.json(&format!("/api/traces/{TRACE}")).await;
    assert_eq!(status, StatusCode::OK);
    assert_eq!(body["errors"], Value::Null);
    let warning = body["data"][0]["warnings"][0].as_str().unwrap();
    assert_eq!(warning, "farspan: partial: 1 of 2 regions; missing us (unavailable)");
    assert_eq!(body["data"][0]["spans"].as_array().unwrap().len(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_search_of_grafana_gives_whole_traces() {
    let site = site();
    let end = NOW.micros() + 1;
    let path = format!(
        "/api/traces?service=web&operation=all&tags=%7B%22http.status%22%3A%22500%22%7D\
         &minDuration=1us&maxDuration=1.5s&limit=20&start={}&end={end}",
        end - 3_600_000_000
    );
    let (status, body) = site.json(&path).await;
    assert_eq!(status, StatusCode::OK, "{body}");
    assert_eq!(body["data"].as_array().unwrap().len(), 1);
    assert_eq!(body["data"][0]["spans"].as_array().unwrap().len(), 4);
}

#[tokio::test(start_paused = true)]
async fn an_empty_search_is_a_200_with_an_empty_list() {
    let site = site();
    for path in ["/api/traces?service=web&start=0&end=1000", "/api/dependencies"] {
        let (status, body) = site.json(path).await;
        assert_eq!((status, &body["data"]), (StatusCode::OK, &json!([])), "{path}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_services_slashes_may_come_unescaped_in_the_path() {
    let site = site();
    for (path, service) in [
        ("/api/services/shop/web/operations", "shop/web"),
        ("/api/services/shop%2Fweb/operations", "shop/web"),
        ("/api/services//x/operations", "/x"),
        ("/api/services/web/operations", "web"),
    ] {
        let (status, body) = site.json(path).await;
        assert_eq!(status, StatusCode::OK, "{path}");
        assert_eq!(body["data"], json!([format!("GET {service}")]), "{path}");
    }
    let (status, _) = site.json("/api/services/web").await;
    assert_eq!(status, StatusCode::BAD_REQUEST);
    let (_, body) = site.json("/api/operations?service=web&spanKind=server").await;
    assert_eq!(body["data"], json!([{"name": "GET web", "spanKind": "server"}]));
    let (_, body) = site.json("/api/services").await;
    assert_eq!(body["data"], json!(["shop/0", "shop/1", "web"]));
}

#[tokio::test(start_paused = true)]
async fn every_parameter_is_refused_by_name_when_it_cannot_be_read() {
    let site = site();
    for (path, named) in [
        ("/api/farspan/v1/search?limit=0", "limit"),
        ("/api/farspan/v1/search?limit=18446744073709551615", "limit"),
        ("/api/farspan/v1/search?limit=-1", "limit"),
        ("/api/farspan/v1/search?start=-1", "start"),
        ("/api/farspan/v1/search?start=5&end=5", "start"),
        ("/api/farspan/v1/search?q=((", "q"),
        ("/api/farspan/v1/search?cursor=zz", "cursor"),
        ("/api/farspan/v1/search?minDuration=5", "minDuration"),
        ("/api/farspan/v1/search?minDuration=5s&maxDuration=4s", "maxDuration"),
        ("/api/farspan/v1/search?tags=%5B%5D", "tags"),
        ("/api/farspan/v1/search?tag=x", "tag"),
        ("/api/farspan/v1/search?timeout=0s", "timeout"),
        ("/api/farspan/v1/search?freshness=never", "freshness"),
        ("/api/farspan/v1/summaries?limit=0", "limit"),
        ("/api/farspan/v1/summaries?onlyErrors=1", "onlyErrors"),
        ("/api/farspan/v1/operations", "service"),
        ("/api/farspan/v1/red?step=90s", "step"),
        ("/api/farspan/v1/red?step=0s", "step"),
        ("/api/farspan/v1/red?byOperation=true", "byOperation"),
        ("/api/farspan/v1/red?byOperation=yes", "byOperation"),
        ("/api/farspan/v1/red?start=1&end=9000000000", "minutes"),
        ("/api/farspan/v1/edges?start=5&end=5", "start"),
        ("/api/farspan/v1/edges/traces?callee=cart", "caller"),
        ("/api/farspan/v1/edges/traces?caller=web", "callee"),
        ("/api/farspan/v1/edges/traces?caller=a&callee=b&limit=0", "limit"),
    ] {
        let (status, body) = site.json(path).await;
        assert_eq!(status, StatusCode::BAD_REQUEST, "{path}");
        assert!(body["error"]["message"].as_str().unwrap().contains(named), "{path}: {body}");
    }
    for path in [
        "/api/traces?limit=99999",
        "/api/traces?lookback=soon",
        "/api/traces?traceID=xyz",
        "/api/dependencies?endTs=0",
        "/api/dependencies?lookback=0",
        "/api/dependencies?lookback=-5",
        "/api/operations",
    ] {
        let (status, body) = site.json(path).await;
        assert_eq!((status, &body["data"]), (StatusCode::BAD_REQUEST, &Value::Null), "{path}");
    }
}

#[tokio::test(start_paused = true)]
async fn several_ids_give_what_is_there_and_name_what_is_not() {
    let site = site();
    let (status, body) = site.json(&format!("/api/traces?traceID={TRACE}&traceID={ABSENT}")).await;
    assert_eq!(status, StatusCode::OK);
    assert_eq!(body["data"].as_array().unwrap().len(), 1);
    assert_eq!(body["errors"][0]["traceID"], ABSENT);
}

#[tokio::test(start_paused = true)]
async fn dependencies_are_summed_over_regions_and_errors() {
    let site = site();
    for cell in &site.cells {
        *cell.edges.lock().unwrap() = [(3, 0), (2, 2)]
            .map(|(calls, errors)| v1::Edge {
                caller: "web".to_owned(),
                callee: "cart".to_owned(),
                calls,
                errors,
                ..v1::Edge::default()
            })
            .to_vec();
    }
    let millis = NOW.millis();
    let (_, body) = site.json(&format!("/api/dependencies?endTs={millis}&lookback=3600000")).await;
    assert_eq!(body["data"], json!([{"parent": "web", "child": "cart", "callCount": 10}]));
}

#[tokio::test(start_paused = true)]
async fn regions_show_health_watermark_and_lags() {
    let site = site();
    site.cells[1].behave(Manner::Unreachable);
    let (_, body) = site.json("/api/farspan/v1/regions").await;
    let (eu, us) = (&body["regions"][0], &body["regions"][1]);
    assert_eq!((&eu["isHealthy"], &us["isHealthy"]), (&json!(true), &json!(false)));
    assert_eq!(eu["watermarkUnixNano"], NOW.0.to_string());
    assert_eq!(eu["groups"][0]["lagRecords"], 3);
    assert_eq!(us["reason"], "gone");
}

#[tokio::test(start_paused = true)]
async fn regions_show_a_refused_stream_and_what_the_index_keeps() {
    let hour = Duration::from_secs(3_600);
    let forgotten = Forgotten { expired_until: Some(UnixNanos(7)), evicted_until: None };
    let refused = RegionState {
        is_refused: true,
        retention: Some(2 * hour),
        kept_for: hour,
        forgotten,
        rows_without_detail: 4,
        ..level("eu")
    };
    let index = FakeIndex::with_states(vec![refused]);
    let cells = vec![FakeCell::new("eu")];
    let router = super::router(gateway_with(&cells, &index, |_| {}));
    let (_, body) = Site { cells, router }.json("/api/farspan/v1/regions").await;
    let eu = &body["regions"][0];
    assert_eq!((&eu["isIndexRefused"], &eu["watermarkAgeMillis"]), (&json!(true), &json!(0)));
    assert_eq!(eu["indexRetentionMillis"], 7_200_000);
    assert_eq!(eu["indexKeptMillis"], 3_600_000);
    assert_eq!(eu["indexExpiredUntilUnixNano"], "7");
    assert_eq!(eu["indexEvictedUntilUnixNano"], Value::Null);
    assert_eq!(eu["indexRowsWithoutDetail"], 4);
}

#[tokio::test(start_paused = true)]
async fn summaries_come_from_the_index_without_asking_a_cell() {
    let site = site();
    let (status, body) = site.json("/api/farspan/v1/summaries").await;
    assert_eq!(status, StatusCode::OK);
    assert_eq!(body["traces"][0]["regions"], json!(["eu", "us"]));
    assert_eq!(body["completeness"]["regions"][0]["outcome"], "pruned");
    assert!(site.cells.iter().all(|cell| cell.ask_count() == 0));
}

#[tokio::test(start_paused = true)]
async fn a_search_shows_its_range_and_pages() {
    let site = site();
    let (status, body) = site.json("/api/farspan/v1/search?service=web&q=duration%3E1ms").await;
    assert_eq!(status, StatusCode::OK);
    assert_eq!(body["traces"][0]["traceId"], TRACE);
    assert_eq!(body["traces"][0]["regions"], json!(["eu", "us"]));
    assert_eq!(body["range"]["endUnixNano"], (NOW.0 + 1).to_string());
    assert_eq!(body["nextCursor"], Value::Null);
}

#[tokio::test(start_paused = true)]
async fn every_search_says_in_a_header_which_range_was_applied() {
    let site = site();
    let (end, hour) = (NOW.plus(1), 3_600_000_000_000);
    let last_hour = format!("{}/{end}", NOW.minus(hour));
    for path in ["/api/farspan/v1/search", "/api/farspan/v1/summaries", "/api/traces"] {
        let response = site.ask(path).await;
        assert_eq!(response.headers()["farspan-range"], last_hour, "{path}");
    }
    let asked = "/api/traces?start=1000000&end=2500000";
    for manner in [Manner::Honest, Manner::Unreachable] {
        site.cells[1].behave(manner);
        let response = site.ask(asked).await;
        let range = "1970-01-01T00:00:01.000Z/1970-01-01T00:00:02.500Z";
        assert_eq!(response.headers()["farspan-range"], range, "{manner:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn too_many_requests_from_one_address_are_told_when_to_come_back() {
    let site = site_with(|config| config.requests_burst = 3);
    for _ in 0..3 {
        assert_eq!(site.ask("/").await.status(), StatusCode::OK);
    }
    let response = site.ask("/").await;
    assert_eq!(response.status(), StatusCode::TOO_MANY_REQUESTS);
    assert!(response.headers()["retry-after"].to_str().unwrap().parse::<u64>().unwrap() >= 1);
    assert_eq!(response.headers()["content-type"], "application/json");
}

#[tokio::test(start_paused = true)]
async fn more_requests_at_once_than_allowed_are_refused() {
    let site = site_with(|config| config.requests_running_max = 1);
    site.cells[1].behave(Manner::Hanging);
    let path = format!("/api/farspan/v1/traces/{TRACE}");
    let (first, second) = tokio::join!(site.ask(&path), site.ask("/"));
    assert_eq!(first.status(), StatusCode::OK);
    assert_eq!(second.status(), StatusCode::SERVICE_UNAVAILABLE);
}

#[tokio::test(start_paused = true)]
async fn the_page_runs_nothing_and_lists_the_endpoints() {
    let (response, page) = page_of(&site()).await;
    assert!(response["content-security-policy"].to_str().unwrap().contains("'none'"));
    assert!(page.contains("/api/farspan/v1/regions") && !page.contains("<script"));
}

async fn page_of(site: &Site) -> (axum::http::HeaderMap, String) {
    let response = site.ask("/").await;
    assert_eq!(response.status(), StatusCode::OK);
    let headers = response.headers().clone();
    let bytes = response.into_body().collect().await.unwrap().to_bytes();
    (headers, String::from_utf8(bytes.to_vec()).unwrap())
}

#[tokio::test(start_paused = true)]
async fn the_page_shows_where_to_send_and_a_trace_to_look_at() {
    let site = site_with(|config| {
        config.collectors = vec![
            CollectorEndpoint {
                region: Region::new("eu").unwrap(),
                otlp_grpc: Some("http://eu:4317".to_owned()),
                otlp_http: Some("http://eu:4318/".to_owned()),
            },
            CollectorEndpoint {
                region: Region::new("us").unwrap(),
                otlp_grpc: Some("http://us:4317/<b>".to_owned()),
                otlp_http: None,
            },
        ];
    });
    let (_, page) = page_of(&site).await;
    for part in ["http://eu:4317<", "http://eu:4318/v1/traces<", "http://us:4317/&lt;b&gt;"] {
        assert!(page.contains(part), "{part}: {page}");
    }
    for path in ["/api/farspan/v1/traces", "/api/traces"] {
        assert!(page.contains(&format!("href=\"{path}/{TRACE}\"")), "{path}: {page}");
    }
    assert!(page.contains("spans in eu, us."), "{page}");
}

#[tokio::test(start_paused = true)]
async fn the_page_stands_while_the_index_is_down_or_empty() {
    let cells = ["eu"].map(FakeCell::new).to_vec();
    let index = FakeIndex::with_states(vec![level("eu")]);
    let (gateway, clock) = gateway_and_clock(&cells, &index, |_| {});
    let site = Site { cells, router: super::router(gateway) };
    let (_, page) = page_of(&site).await;
    assert!(page.contains("knows none") && page.contains("/api/farspan/v1/regions"), "{page}");
    *index.is_down.lock().unwrap() = true;
    let (_, page) = page_of(&site).await;
    assert!(page.contains("knows none"), "the index is not asked each time: {page}");
    clock.advance(Duration::from_secs(5));
    let (_, page) = page_of(&site).await;
    assert!(page.contains("gives none now") && page.contains("/api/farspan/v1/regions"), "{page}");
}

#[tokio::test(start_paused = true)]
async fn a_body_takes_room_until_its_reader_has_it() {
    let room = AnswerRoom::new(8 << 20);
    let own = room.clone();
    let site = site_with(move |config| config.answer_room = own);
    let path = format!("/api/farspan/v1/traces/{TRACE}");
    let response = site.ask(&path).await;
    let bytes = response.into_body().collect().await.unwrap().to_bytes();
    assert_eq!(room.used(), bytes.len() as u64);
    drop(bytes);
    assert_eq!(room.used(), 0);
    // A reader that does not read holds others up, and is not answered beyond the room.
    let unread = site.ask(&path).await;
    let rest = room.take(room.bytes_max() - room.used() - 100).unwrap();
    let refused = site.ask(&path).await;
    assert_eq!(refused.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert!(refused.headers().contains_key("retry-after"));
    drop((unread, rest, refused));
    assert_eq!(room.used(), 0);
    assert_eq!(site.ask(&path).await.status(), StatusCode::OK);
}

#[tokio::test(start_paused = true)]
async fn red_edges_and_traces_of_a_call_are_json_with_a_certificate() {
    let site = site();
    let mut durations = proto::DurationSketch::default();
    (1..=100_u64).for_each(|millis| durations.add(millis * 1_000_000));
    let sketch = || Some(v1::Sketch { ddsketch: durations.to_bytes().into() });
    let minute = NOW.0 - NOW.0 % 60_000_000_000;
    for cell in &site.cells {
        *cell.red.lock().unwrap() = vec![v1::RedPoint {
            service: "web".to_owned(),
            operation: "GET /".to_owned(),
            kind: 2,
            status: 2,
            minute_unix_nano: minute,
            seen: 100,
            estimated: 250.0,
            durations: sketch(),
            exemplar_trace_id: proto::convert::query::id_bytes(id(5)),
        }];
        *cell.edges.lock().unwrap() = vec![v1::Edge {
            caller: "web".to_owned(),
            callee: "cart".to_owned(),
            calls: 100,
            errors: 7,
            calls_estimated: 250.0,
            durations: sketch(),
        }];
        *cell.edge_traces.lock().unwrap() = vec![id(5)];
    }
    let (status, body) =
        site.json("/api/farspan/v1/red?service=web&byOperation=true&step=1m").await;
    assert_eq!(status, StatusCode::OK, "{body}");
    let series = &body["series"][0];
    assert_eq!((&series["service"], &series["operation"]), (&json!("web"), &json!("GET /")));
    assert_eq!((&series["kind"], &series["status"]), (&json!("server"), &json!("error")));
    let point = &series["points"][0];
    assert_eq!(point["startUnixNano"], minute.to_string());
    assert_eq!((&point["spans"], &point["spansEstimated"]), (&json!(200), &json!(500.0)));
    assert_eq!(point["exemplarTraceId"], TRACE);
    let p99: f64 = point["durations"]["p99Nanos"].as_str().unwrap().parse().unwrap();
    assert!((p99 / 99e6 - 1.0).abs() < 0.02, "{p99}");
    assert_eq!(body["completeness"]["verdict"], "complete");
    assert_eq!(body["stepSeconds"], 60);

    let (_, body) = site.json("/api/farspan/v1/edges").await;
    let edge = &body["edges"][0];
    assert_eq!((&edge["calls"], &edge["errors"]), (&json!(200), &json!(14)));
    assert!(edge["durations"]["p50Nanos"].is_string());

    let path = "/api/farspan/v1/edges/traces?caller=web&callee=cart&onlyErrors=true";
    let (status, body) = site.json(path).await;
    assert_eq!(status, StatusCode::OK, "{body}");
    let found = &body["traces"][0];
    assert_eq!((&found["traceId"], &found["countedBy"]), (&json!(TRACE), &json!(["eu", "us"])));
    assert_eq!(found["summary"]["regions"], json!(["eu", "us"]));

    site.cells[1].behave(Manner::Unreachable);
    for path in ["/api/farspan/v1/red", "/api/farspan/v1/edges", path] {
        let response = site.ask(path).await;
        assert_eq!(response.status(), StatusCode::OK, "{path}");
        let line = response.headers()["farspan-completeness"].to_str().unwrap();
        assert!(
            line.starts_with("partial: 1 of 2 regions; missing us (unavailable); as of "),
            "{line}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn two_gateways_that_share_counters_let_an_address_have_one_limit() {
    use crate::shared_state::{MemoryCounters, SharedState};
    let clock = Arc::new(service_kit::ManualClock::at(NOW));
    let counters = Arc::new(MemoryCounters::new(clock));
    let gateway = || {
        let cells = ["eu", "us"].map(FakeCell::new).to_vec();
        let index = FakeIndex::with_states(vec![level("eu"), level("us")]);
        let gateway = gateway_with(&cells, &index, |config| config.requests_burst = 10);
        let shared = SharedState { counters: Some(counters.clone()), ..SharedState::default() };
        let gateway = Arc::into_inner(gateway).unwrap().with_shared_state(shared);
        super::router(Arc::new(gateway))
    };
    let (one, other) = (gateway(), gateway());
    let mut admitted = 0;
    for _ in 0..10 {
        for router in [&one, &other] {
            let request = Request::get("/").body(Body::empty()).unwrap();
            let response = router.clone().oneshot(request).await.unwrap();
            if response.status() == StatusCode::OK {
                admitted += 1;
                continue;
            }
            assert_eq!(response.status(), StatusCode::TOO_MANY_REQUESTS);
            assert_eq!(response.headers()["retry-after"], "1");
            let bytes = response.into_body().collect().await.unwrap().to_bytes();
            let body: Value = serde_json::from_slice(&bytes).unwrap();
            let message = body["error"]["message"].as_str().unwrap();
            assert!(message.ends_with("to the region's gateways"), "{message}");
        }
    }
    assert_eq!(admitted, 10);
}
