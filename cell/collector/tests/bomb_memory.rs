//! Four kilobytes of gzip can hold two million empty spans: they are refused cheaply. Stands alone,
//! since the peak of memory is the process's.

#[cfg(test)]
#[path = "receive/fake_log.rs"]
#[expect(dead_code, reason = "shared with the other tests")]
mod fake_log;
#[cfg(test)]
#[path = "receive/requests.rs"]
#[expect(dead_code, reason = "shared with the other tests")]
mod requests;
#[cfg(test)]
#[path = "receive/running.rs"]
#[expect(dead_code, reason = "shared with the other tests")]
mod running;

use tonic::Code;

use crate::requests::{empty_spans, encoded};
use crate::running::{JSON, Running};

/// The largest resident memory of this process so far, in bytes.
#[cfg(test)]
fn peak() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<usize>().unwrap() * 1_024
}

#[tokio::test]
async fn bombs_of_each_kind_cost_at_most_32_mebibytes() {
    let running = Running::start().await;
    let bombs: Vec<_> = ["gzip", "zstd", "deflate"]
        .map(|codec| (codec, encoded(codec, &empty_spans(2_000_000))))
        .into();
    let note = r#"{"timestamp":1,"value":""},"#.repeat(700_000);
    let noted = format!(r#"[{{"traceId":"1","id":"1","annotations":[{note}{{}}]}}]"#);
    let noted = encoded("gzip", noted.as_bytes());
    let zeros: Vec<_> = bombs.iter().map(|(codec, _)| encoded(codec, &vec![0; 64 << 20])).collect();
    for ((_, bomb), zeros) in bombs.iter().zip(&zeros) {
        assert!(bomb.len() < 20_000 && zeros.len() < 100_000);
    }
    let warm = running.export_grpc("gzip", encoded("gzip", &requests::request(vec![]))).await;
    assert_eq!(warm.status.code(), Code::Ok);
    // What building the bombs took is no growth: the peak starts anew here (proc(5), clear_refs).
    std::fs::write("/proc/self/clear_refs", "5").unwrap();
    let before = peak();
    for ((codec, bomb), zeros) in bombs.into_iter().zip(zeros) {
        for body in [bomb, zeros] {
            let answer = running.export_grpc(codec, body.clone()).await;
            assert_eq!(answer.status.code(), Code::ResourceExhausted, "{codec}");
            assert_eq!(running.export_http(codec, body).await.status, 413, "{codec}");
        }
    }
    // Seven hundred thousand annotations of Zipkin: they are counted while they are read.
    let headers = [("content-type", JSON), ("content-encoding", "gzip")];
    assert!(noted.len() < 100_000);
    let answer = running.post("/api/v2/spans", &headers, noted).await;
    assert_eq!(answer.status, 400);
    assert!(answer.json()["message"].as_str().unwrap().contains("too many events"), "{answer:?}");
    let grown = peak().saturating_sub(before);
    assert!(grown <= 32 << 20, "grew by {grown} bytes");
}
