use http::{Method, Request};
use http_body_util::Full;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceResponse;
use prost::Message;
use serde_json::json;
use span_log::port::LogError;
use tonic_types::{Status, pb};

use crate::fake_log::Behaviour;
use crate::requests::{CODECS, encoded, request, span, spans};
use crate::running::{JSON, PROTOBUF, Running, config};

fn json_request(ids: &[&str]) -> Vec<u8> {
    let spans: Vec<_> = ids
        .iter()
        .map(|id| json!({ "traceId": "0A".repeat(16), "spanId": id, "name": "n" }))
        .collect();
    json!({ "resourceSpans": [{ "scopeSpans": [{ "spans": spans }] }] }).to_string().into_bytes()
}

#[tokio::test]
async fn protobuf_in_every_codec_is_answered_in_protobuf() {
    for codec in CODECS {
        let running = Running::start().await;
        let answer = running.export_http(codec, encoded(codec, &request(spans(20)))).await;
        assert_eq!((answer.status, answer.header("content-type")), (200, PROTOBUF), "{codec}");
        let response = ExportTraceServiceResponse::decode(answer.body).unwrap();
        assert_eq!(response.partial_success, None);
        assert_eq!(running.log.span_count(), 20, "{codec}");
    }
}

#[tokio::test]
async fn json_in_every_codec_is_answered_in_json() {
    for codec in CODECS {
        let running = Running::start().await;
        let body = encoded(codec, &json_request(&["0102030405060708"]));
        let headers =
            [("content-type", "application/json; charset=utf-8"), ("content-encoding", codec)];
        let answer = running.post("/v1/traces", &headers, body).await;
        assert_eq!((answer.status, answer.header("content-type")), (200, JSON), "{codec}");
        assert_eq!(answer.json(), json!({}));
        assert_eq!(running.log.span_count(), 1);
    }
}

#[tokio::test]
async fn json_in_the_order_of_the_fields_logs_the_bytes_of_protobuf() {
    let running = Running::start().await;
    let sent = format!(
        r#"{{"resourceSpans":[{{"scopeSpans":[{{"spans":[
        {{"traceId":"{}","spanId":"0102030405060708","name":"n"}}]}}]}}]}}"#,
        "0A".repeat(16)
    );
    running.post("/v1/traces", &[("content-type", JSON)], sent.into_bytes()).await;
    let mut expected = Vec::new();
    proto::wire::put_bytes_field(&mut expected, 1, &[10; 16]);
    proto::wire::put_bytes_field(&mut expected, 2, &[1, 2, 3, 4, 5, 6, 7, 8]);
    proto::wire::put_bytes_field(&mut expected, 5, b"n");
    assert_eq!(running.log.span_bytes(), [expected]);
}

#[tokio::test]
async fn partial_success_in_json_has_its_count_as_a_string() {
    let running = Running::start().await;
    let body = json_request(&["0102030405060708", "01"]);
    let answer = running.post("/v1/traces", &[("content-type", JSON)], body).await;
    assert_eq!(answer.status, 200);
    let partial = &answer.json()["partialSuccess"];
    assert_eq!(partial["rejectedSpans"], json!("1"));
    assert!(partial["errorMessage"].as_str().unwrap().contains("span id"));
    assert_eq!(running.log.span_count(), 1);
}

#[tokio::test]
async fn empty_exports_succeed_in_both_encodings() {
    let running = Running::start().await;
    let protobuf = running.post("/v1/traces", &[("content-type", PROTOBUF)], vec![]).await;
    let json = running.post("/v1/traces", &[("content-type", JSON)], b"{}".to_vec()).await;
    assert_eq!((protobuf.status, json.status), (200, 200));
    assert!(running.log.batches().is_empty());
}

#[tokio::test]
async fn wrong_paths_methods_types_and_encodings_have_their_codes() {
    let running = Running::start().await;
    let protobuf = ("content-type", PROTOBUF);
    for (path, headers, status) in [
        ("/v1/metrics", vec![protobuf], 404),
        ("/v1/traces", vec![], 415),
        ("/v1/traces", vec![("content-type", "text/plain")], 415),
        ("/v1/traces", vec![("content-type", "application/grpc")], 415),
        ("/v1/traces", vec![protobuf, ("content-encoding", "br")], 415),
        ("/v1/traces", vec![protobuf, ("content-encoding", "gzip, gzip")], 415),
        ("/v1/traces", vec![protobuf, ("x-scope-orgid", "a/b")], 400),
        ("/api/v2/spans", vec![protobuf], 415),
    ] {
        let answer = running.post(path, &headers, request(spans(1))).await;
        assert_eq!(answer.status, status, "{path} {headers:?}");
        let is_protobuf = headers.contains(&protobuf);
        let told = if is_protobuf {
            Status::decode(answer.body).unwrap().message
        } else {
            answer.json()["message"].as_str().unwrap().to_owned()
        };
        assert!(told.len() > 10, "{path} {headers:?}: {told}");
        if path == "/api/v2/spans" {
            assert!(told.ends_with("is not supported; application/json is"), "{told}");
        }
    }
    let get = Request::builder().method(Method::GET).uri("/v1/traces");
    let answer = running.send(get.body(Full::default()).unwrap()).await;
    assert_eq!((answer.status, answer.header("allow")), (405, "POST"));
    assert!(running.log.batches().is_empty());
}

#[tokio::test]
async fn refusals_are_statuses_in_the_encoding_of_the_request() {
    let running = Running::start().await;
    let answer =
        running.post("/v1/traces", &[("content-type", PROTOBUF)], b"\xff\xff".to_vec()).await;
    assert_eq!((answer.status, answer.header("content-type")), (400, PROTOBUF));
    let status = Status::decode(answer.body).unwrap();
    assert_eq!(status.code, 3);
    assert!(status.message.contains("OTLP"));
    let answer = running.post("/v1/traces", &[("content-type", JSON)], b"{".to_vec()).await;
    assert_eq!((answer.status, answer.header("content-type")), (400, JSON));
    assert_eq!(answer.json()["code"], json!(3));
    assert_eq!(answer.header("retry-after"), "");
}

#[tokio::test]
async fn every_retryable_refusal_says_when_to_repeat() {
    let running = Running::start().await;
    for (error, status) in [(LogError::Full, 503), (LogError::Overloaded, 429)] {
        running.log.behave(Behaviour::Refuse(error));
        let answer = running.export_http("identity", request(spans(1))).await;
        assert_eq!(answer.status, status);
        assert!(answer.header("retry-after").parse::<u64>().unwrap() >= 1);
        let told = Status::decode(answer.body).unwrap();
        assert_eq!(told.code, 14);
        let detail = &told.details[0];
        assert_eq!(detail.type_url, "type.googleapis.com/google.rpc.RetryInfo");
        let retry = pb::RetryInfo::decode(detail.value.as_slice()).unwrap();
        assert!(retry.retry_delay.unwrap().seconds >= 1);
        let body = json_request(&["0102030405060708"]);
        let answer = running.post("/v1/traces", &[("content-type", JSON)], body).await;
        assert_eq!(answer.status, status);
        let detail = &answer.json()["details"][0];
        assert_eq!(detail["@type"], json!("type.googleapis.com/google.rpc.RetryInfo"));
        assert!(detail["retryDelay"].as_str().unwrap().ends_with('s'));
    }
}

#[tokio::test]
async fn zipkin_spans_are_accepted_and_logged() {
    let running = Running::start().await;
    let spans = json!([
        { "traceId": "5af7183fb1d4cf5f", "id": "6b221d5bc9e6496c", "name": "get",
          "localEndpoint": { "serviceName": "shop" } },
        { "traceId": "bad", "id": "" },
    ]);
    let body = encoded("gzip", spans.to_string().as_bytes());
    let headers = [("content-type", JSON), ("content-encoding", "gzip")];
    let answer = running.post("/api/v2/spans", &headers, body).await;
    assert_eq!(answer.status, 202);
    assert!(answer.json()["message"].as_str().unwrap().starts_with("1 of 2 spans were rejected: "));
    let batch = running.log.batches().pop().unwrap();
    assert_eq!(batch.spans().len(), 1);
    assert_eq!(batch.service_of(&batch.spans()[0]), "shop");
    assert!(running.metrics().contains("rejected_spans_total{reason=\"bad_span_id\"} 1"));
    let answer = running.post("/api/v2/spans", &[("content-type", JSON)], b"{}".to_vec()).await;
    assert_eq!(answer.status, 400);
    assert!(answer.json()["message"].as_str().unwrap().contains("Zipkin"), "{answer:?}");
}

#[tokio::test]
async fn a_zipkin_request_of_which_no_span_is_good_is_refused_with_the_reasons() {
    let running = Running::start().await;
    let post = |spans: serde_json::Value| {
        let body = spans.to_string().into_bytes();
        running.post("/api/v2/spans", &[("content-type", JSON)], body)
    };
    let answer = post(json!([{ "traceId": "0", "id": "2" }, 5])).await;
    assert_eq!(answer.status, 400);
    let told = answer.json()["message"].as_str().unwrap().to_owned();
    assert!(told.starts_with("2 of 2 spans were rejected: 1 with a trace id"), "{told}");
    let answer = post(json!([])).await;
    assert_eq!((answer.status, answer.body.len()), (202, 0));
    let good = json!([{ "traceId": "1", "id": "2" }]);
    let answer = post(good).await;
    assert_eq!((answer.status, answer.body.len()), (202, 0));
    assert!(running.metrics().contains("rejected_spans_total{reason=\"bad_trace_id\"} 1"));
}

#[tokio::test]
async fn room_for_what_is_made_of_json_is_taken_before_it_is_made() {
    let mut config = config();
    config.admission.in_flight_bytes_max = 20_000;
    let running = Running::with(config, sampling::HeadRules::default()).await;
    let note = json!({ "timestamp": 1, "value": "" });
    let of = |notes: usize| {
        let span = json!({ "traceId": "1", "id": "2", "annotations": vec![note.clone(); notes] });
        json!([span]).to_string().into_bytes()
    };
    let headers = [("content-type", JSON)];
    // Both are received whole; of the larger one more would be made than there is room for.
    for (notes, status) in [(100, 202), (400, 429), (100, 202)] {
        let body = of(notes);
        assert!(body.len() < 13_000);
        assert_eq!(running.post("/api/v2/spans", &headers, body).await.status, status, "{notes}");
    }
    let body = vec![b' '; 15_000];
    assert_eq!(running.post("/v1/traces", &headers, body).await.status, 429);
}

fn preflight(origin: &str) -> Request<Full<bytes::Bytes>> {
    Request::builder()
        .method(Method::OPTIONS)
        .uri("/v1/traces")
        .header("origin", origin)
        .header("access-control-request-method", "POST")
        .header("access-control-request-headers", "content-type,x-scope-orgid")
        .body(Full::default())
        .unwrap()
}

#[tokio::test]
async fn browsers_may_send_from_allowed_origins_only() {
    let mut config = config();
    config.cors_origins = vec!["http://localhost:*".into(), "https://shop.example".into()];
    let running = Running::with(config, sampling::HeadRules::default()).await;
    for origin in ["http://localhost:3000", "https://shop.example"] {
        let answer = running.send(preflight(origin)).await;
        assert_eq!(answer.header("access-control-allow-origin"), origin);
        assert!(answer.header("access-control-allow-headers").contains("x-scope-orgid"));
        let headers = [("content-type", PROTOBUF), ("origin", origin)];
        let answer = running.post("/v1/traces", &headers, request(vec![span(1, 1)])).await;
        assert_eq!(answer.status, 200);
        assert_eq!(answer.header("access-control-allow-origin"), origin);
    }
    let foreign = running.send(preflight("https://evil.example")).await;
    assert_eq!(foreign.header("access-control-allow-origin"), "");
    let closed = Running::start().await;
    let local = closed.send(preflight("http://localhost:3000")).await;
    assert_eq!(local.header("access-control-allow-origin"), "", "none is allowed");
}
