//! Truncated, garbage and bomb bodies, in every codec, on both transports.

use sampling::HeadRules;
use tonic::Code;

use crate::requests::{CODECS, empty_spans, encoded, request, spans};
use crate::running::{JSON, Running, config};

/// A body, and the codes that it is refused with.
struct Hostile {
    what: &'static str,
    body: Vec<u8>,
    http: u16,
    grpc: Code,
}

fn hostile(codec: &str) -> Vec<Hostile> {
    let good = request(spans(50));
    let malformed = |what, body| Hostile { what, body, http: 400, grpc: Code::InvalidArgument };
    let over = |what, body| Hostile { what, body, http: 413, grpc: Code::ResourceExhausted };
    let mut all = vec![
        malformed("a truncated message", encoded(codec, &good[..good.len() - 7])),
        malformed("noise", encoded(codec, &[0xff; 300])),
        malformed("text", encoded(codec, b"hello, this is no protobuf")),
        over("a bomb of zeros", encoded(codec, &vec![0; 1 << 20])),
        over("a bomb of empty spans", encoded(codec, &empty_spans(101))),
    ];
    if codec != "identity" {
        let mut truncated = encoded(codec, &good);
        truncated.truncate(truncated.len() / 2);
        all.push(malformed("a truncated stream", truncated));
        all.push(malformed("not the codec", b"neither gzip, zlib nor zstd".to_vec()));
        let mut flipped = encoded(codec, &good);
        let middle = flipped.len() / 2;
        flipped[..middle].reverse();
        all.push(malformed("a damaged stream", flipped));
    }
    all
}

async fn small() -> Running {
    let mut config = config();
    config.grpc_body_bytes_max = 100_000;
    config.http_body_bytes_max = 100_000;
    config.limits.spans_max = 100;
    Running::with(config, HeadRules::default()).await
}

#[tokio::test]
async fn hostile_bodies_are_refused_over_http_with_their_codes() {
    let running = small().await;
    for codec in CODECS {
        for Hostile { what, body, http, .. } in hostile(codec) {
            let answer = running.export_http(codec, body).await;
            assert_eq!(answer.status, http, "{codec}: {what}");
        }
    }
    assert!(running.log.batches().is_empty());
    assert_eq!(running.export_http("gzip", encoded("gzip", &request(spans(3)))).await.status, 200);
}

#[tokio::test]
async fn hostile_bodies_are_refused_over_grpc_with_their_codes() {
    let running = small().await;
    for codec in CODECS {
        for Hostile { what, body, grpc, .. } in hostile(codec) {
            let answer = running.export_grpc(codec, body).await;
            assert_eq!(answer.status.code(), grpc, "{codec}: {what}");
        }
    }
    assert!(running.log.batches().is_empty());
    let answer = running.export_grpc("zstd", encoded("zstd", &request(spans(3)))).await;
    assert_eq!(answer.status.code(), Code::Ok);
}

#[tokio::test]
async fn a_gzip_bomb_in_many_members_is_stopped_at_the_limit() {
    let running = small().await;
    let body = encoded("gzip", &[0; 60_000]).repeat(3);
    assert_eq!(running.export_http("gzip", body.clone()).await.status, 413);
    assert_eq!(running.export_grpc("gzip", body).await.status.code(), Code::ResourceExhausted);
}

#[tokio::test]
async fn gzip_members_and_zstd_frames_after_one_another_are_one_body() {
    let running = small().await;
    let body = request(spans(10));
    let (first, second) = body.split_at(100);
    for codec in ["gzip", "zstd"] {
        let sent = [encoded(codec, first), encoded(codec, second)].concat();
        assert_eq!(running.export_http(codec, sent).await.status, 200, "{codec}");
    }
    assert_eq!(running.log.span_count(), 20);
}

#[tokio::test]
async fn a_zstd_frame_that_wants_a_huge_window_is_refused() {
    let running = small().await;
    // Magic, a frame header without content size, a window of 2^31 bytes, one empty last block.
    let frame = [0x28, 0xb5, 0x2f, 0xfd, 0x00, 21 << 3, 0x01, 0x00, 0x00];
    assert_eq!(running.export_http("zstd", frame.to_vec()).await.status, 400);
    let modest = [0x28, 0xb5, 0x2f, 0xfd, 0x00, 10 << 3, 0x01, 0x00, 0x00];
    assert_eq!(running.export_http("zstd", modest.to_vec()).await.status, 200);
}

#[tokio::test]
async fn a_body_of_just_the_limit_passes_and_one_byte_more_does_not() {
    let body = request(spans(20));
    for codec in CODECS {
        for (bytes_max, http, grpc) in
            [(body.len(), 200, Code::Ok), (body.len() - 1, 413, Code::ResourceExhausted)]
        {
            let mut config = config();
            config.grpc_body_bytes_max = bytes_max;
            config.http_body_bytes_max = bytes_max;
            let running = Running::with(config, HeadRules::default()).await;
            let sent = encoded(codec, &body);
            assert_eq!(running.export_http(codec, sent.clone()).await.status, http, "{codec}");
            let answer = running.export_grpc(codec, sent).await;
            assert_eq!(answer.status.code(), grpc, "{codec}");
        }
    }
}

#[tokio::test]
async fn hostile_json_is_refused_in_every_codec() {
    let running = small().await;
    let deep = format!("{{\"x\":{}", "[".repeat(10_000));
    let many = format!(
        "{{\"resourceSpans\":[{{\"scopeSpans\":[{{\"spans\":[{}]}}]}}]}}",
        ["{}"; 101].join(",")
    );
    for codec in CODECS {
        for (json, status) in [("{", 400), ("[1]", 400), (deep.as_str(), 400), (many.as_str(), 413)]
        {
            let headers = [("content-type", JSON), ("content-encoding", codec)];
            let body = encoded(codec, json.as_bytes());
            let answer = running.post("/v1/traces", &headers, body).await;
            assert_eq!(answer.status, status, "{codec}");
        }
    }
    assert!(running.log.batches().is_empty());
}
