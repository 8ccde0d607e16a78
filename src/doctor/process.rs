//! The running process of the file, asked at its admin address; and the files of embedded parts.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use service_kit::config::CellConfig;

use super::finding::{Finding, Part, Reading, Verdict};
use super::limits::{CELL_LAG, QUEUE};
use crate::cli::bytes;

/// Until the process must answer.
const PATIENCE: Duration = Duration::from_secs(5);
/// Largest answer that is taken.
const ANSWER_BYTES_MAX: usize = 16 << 20;
/// A quarter of the log's retention is the most that a group may lag.
const LAG_SHARE: f64 = 0.25;

/// Whether the process is ready, its queue, and the lag of its groups.
pub(crate) async fn ask(admin: SocketAddr, lag_within: Option<Duration>) -> Vec<Finding> {
    let ready = get(admin, "/readyz").await;
    let Ok((status, report)) = ready else {
        let why = ready.err().unwrap_or_default();
        let advice = format!("no process answers at {admin}: {why}");
        let reading = Reading::Unknown(advice);
        return vec![Finding { reading, ..Finding::told(Part::Cell, "ready", "") }];
    };
    let mut findings = vec![readiness(status, &report)];
    match get(admin, "/metrics").await {
        Ok((200, metrics)) => findings.extend(figures(&metrics, lag_within)),
        Ok((status, _)) => findings.push(without_figures(&format!("/metrics answers {status}"))),
        Err(why) => findings.push(without_figures(&why)),
    }
    findings
}

fn without_figures(why: &str) -> Finding {
    let reading = Reading::Unknown(why.to_owned());
    Finding { reading, ..Finding::told(Part::Cell, "figures", "") }
}

fn readiness(status: u16, report: &str) -> Finding {
    let failing: Vec<&str> = report.lines().filter(|line| !line.ends_with(": ok")).collect();
    let (words, verdict) = match status {
        200 => ("yes".to_owned(), Verdict::Ok),
        _ => (format!("no: {}", failing.join("; ")), Verdict::Act),
    };
    Finding::fact(Part::Cell, "ready", (words, verdict), "bring back what it waits for")
}

/// What the process shows of itself. A role without a collector has no queue.
fn figures(metrics: &str, lag_within: Option<Duration>) -> Vec<Finding> {
    let mut findings = Vec::new();
    if let Some(queue) = values(metrics, "farspan_collector_queue_spans").next() {
        findings.push(Finding::of(&QUEUE, queue.1));
    }
    let Some(retention) = lag_within else { return findings };
    let edge = (retention.as_secs_f64() * LAG_SHARE).min(super::LAG_SECONDS_MAX);
    let records: Vec<(&str, f64)> = values(metrics, "farspan_ingester_lag_records").collect();
    for (labels, seconds) in values(metrics, "farspan_ingester_lag_seconds") {
        let group = labels.split('"').nth(1).unwrap_or_default();
        let behind = records.iter().find(|(other, _)| *other == labels);
        let lag = Finding::of(&CELL_LAG, seconds).about(group).with_edge(edge);
        let note = behind.map(|(_, records)| format!("{records} records"));
        findings.push(lag.noting(note.unwrap_or_default()));
    }
    findings
}

/// Labels and values of a metric.
fn values<'a>(metrics: &'a str, name: &'a str) -> impl Iterator<Item = (&'a str, f64)> + 'a {
    metrics.lines().filter_map(move |line| {
        let rest = line.strip_prefix(name)?;
        let (labels, value) = rest.rsplit_once(' ')?;
        let is_same = labels.is_empty() || labels.starts_with('{');
        Some((labels, value.parse().ok()?)).filter(|_| is_same)
    })
}

pub(super) async fn get(admin: SocketAddr, path: &str) -> Result<(u16, String), String> {
    let mut address = admin;
    if admin.ip().is_unspecified() {
        address.set_ip(std::net::Ipv4Addr::LOCALHOST.into());
    }
    let asking = async {
        let client = Client::builder(TokioExecutor::new()).build_http::<Empty<Bytes>>();
        let uri = format!("http://{address}{path}").parse().map_err(|_| "not an address")?;
        let response = client.get(uri).await.map_err(|error| cause(&error))?;
        let status = response.status().as_u16();
        let body = Limited::new(response.into_body(), ANSWER_BYTES_MAX).collect().await;
        let body = body.map_err(|error| error.to_string())?.to_bytes();
        Ok((status, String::from_utf8_lossy(&body).into_owned()))
    };
    let answer = tokio::time::timeout(PATIENCE, asking).await;
    answer.unwrap_or_else(|_| Err(format!("no answer within {PATIENCE:?}")))
}

/// The innermost reason.
fn cause(error: &dyn std::error::Error) -> String {
    let mut cause = error;
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    cause.to_string()
}

/// Sizes of the embedded parts. A log that is full of what is read, and a store that is, are well:
/// the oldest goes.
pub(crate) fn embedded(config: &CellConfig) -> Vec<Finding> {
    let stores = &config.stores;
    let size = |check, directory: &str, most: Option<u64>| {
        let taken = size_of(&config.data_dir.join(directory));
        let most = most.map(|most| format!(" of at most {}", bytes(most)));
        let words = format!("{}{}", bytes(taken), most.unwrap_or_default());
        Finding::told(Part::Embedded, check, words)
    };
    let mut findings = Vec::new();
    if stores.kafka.is_none() {
        findings.push(size("log", "log", Some(config.log.bytes_max)));
    }
    if stores.cassandra.is_none() {
        findings.push(size("spans and search", "store", Some(config.retention_bytes)));
    }
    if stores.clickhouse.is_none() {
        findings.push(size("counts", "metrics", None));
    }
    findings.push(size("origin log", "origin", None));
    findings.push(dead_letters(&config.data_dir));
    findings
}

fn dead_letters(data_dir: &Path) -> Finding {
    let taken = size_of(&data_dir.join("dead-letters"));
    let verdict = if taken > 0 { Verdict::Warn } else { Verdict::Ok };
    let words = if taken > 0 { bytes(taken) } else { "none".to_owned() };
    let advice = format!("farspan dead-letters --data-dir {} list", data_dir.display());
    Finding::fact(Part::Embedded, "dead letters", (words, verdict), &advice)
}

/// Bytes of all files below; what comes and goes meanwhile does not matter.
fn size_of(directory: &Path) -> u64 {
    let mut size = 0_u64;
    let mut waiting = vec![directory.to_owned()];
    while let Some(directory) = waiting.pop() {
        let Ok(entries) = std::fs::read_dir(directory) else { continue };
        for entry in entries.flatten() {
            let Ok(metadata) = entry.metadata() else { continue };
            if metadata.is_dir() {
                waiting.push(entry.path());
            } else {
                size = size.saturating_add(metadata.len());
            }
        }
    }
    size
}

#[cfg(test)]
mod tests {
    use super::*;

    const METRICS: &str = "# TYPE farspan_collector_queue_spans gauge\n\
        farspan_collector_queue_spans 12000\n\
        farspan_ingester_lag_records{group=\"storage-writer\"} 7\n\
        farspan_ingester_lag_seconds{group=\"storage-writer\"} 700.5\n\
        farspan_ingester_lag_seconds_other 1\n";

    #[test]
    fn a_process_shows_its_queue_and_the_lag_of_its_groups() {
        let found = figures(METRICS, Some(Duration::from_secs(14_400)));
        assert_eq!(found.len(), 2);
        assert_eq!(found[0].verdict(), Verdict::Act);
        assert_eq!(found[1].subject, "storage-writer");
        assert_eq!(
            (found[1].value().as_str(), found[1].verdict()),
            ("11.7 min (7 records)", Verdict::Ok)
        );
        // 25 % of 40 minutes are 10.
        let short = figures(METRICS, Some(Duration::from_secs(2_400)));
        assert_eq!((short[1].threshold().as_str(), short[1].verdict()), ("≤ 10 min", Verdict::Act));
        assert_eq!(figures(METRICS, None).len(), 1, "on Kafka the brokers are asked");
        assert!(figures("", Some(Duration::ZERO)).is_empty());
    }

    #[test]
    fn a_process_that_is_not_ready_says_what_it_waits_for() {
        let found = readiness(503, "cell: waits for Kafka\nspan-log: ok\n");
        assert_eq!(found.value(), "no: cell: waits for Kafka");
        assert_eq!(found.verdict(), Verdict::Act);
        assert_eq!(readiness(200, "cell: ok\n").verdict(), Verdict::Ok);
    }

    #[tokio::test]
    async fn a_process_that_is_away_is_one_line() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        drop(listener);
        let found = ask(address, None).await;
        assert_eq!(found.len(), 1);
        assert!(found[0].is_trouble());
        assert!(found[0].advice().contains(&address.to_string()), "{found:?}");
    }

    #[test]
    fn sizes_are_of_all_files_below() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(directory.path().join("a/b")).unwrap();
        std::fs::write(directory.path().join("a/b/x"), [0; 100]).unwrap();
        std::fs::write(directory.path().join("y"), [0; 11]).unwrap();
        assert_eq!(size_of(directory.path()), 111);
        assert_eq!(size_of(&directory.path().join("absent")), 0);
    }
}
