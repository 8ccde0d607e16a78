//! A trace as long as any: its shards keep their bound, and it is read piece by piece in little memory.
//!
//! A million spans by command (the figures are printed; docs/BENCHMARKS.md), fewer where nothing says so:
//! `FARSPAN_TEST_SPANS=1000000 cargo test --workspace --test engines -- cassandra::facts::long --nocapture`

use std::collections::BTreeMap;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use opentelemetry_proto::tonic::trace::v1 as otlp;
use prost::Message;
use scylla::client::session_builder::SessionBuilder;
use service_kit::ManualClock;
use trace_model::{StoredSpan, TenantId};
use trace_store::{CassandraStore, SpanWriter, TraceReader};

use crate::cassandra::cluster;
use crate::cassandra::node::Node;
use crate::fixture::{Log, NOW, Request, attribute, span, text, trace_id};

const KEYSPACE: &str = "farspan_long";
/// What no partition has more of.
const PARTITION_BYTES_MAX: u64 = 100_000_000;
/// By so much memory may grow while a trace of any length is read.
const READING_BYTES_MAX: u64 = 48 << 20;
/// As a collector cuts requests, and a consumer group calls.
const REQUEST_SPANS: u64 = 500;
const CALL_REQUESTS: u64 = 16;
/// Where a process that reads finds the trace, and how many spans it is to find.
const READER: &str = "FARSPAN_TEST_LONG_TRACE";

fn count() -> u64 {
    let set = std::env::var("FARSPAN_TEST_SPANS").ok();
    set.map_or(200_000, |text| text.parse().unwrap())
}

/// A span as long as most, of which much is its own.
fn long_span(number: u64) -> otlp::Span {
    let word = |at: u64| {
        let mixed = (number * 31 + at + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        format!("{:016x}", mixed ^ (mixed >> 29))
    };
    let statement: String = (0..16).map(word).collect();
    let start = NOW.0 - 900_000_000_000 + number * 500_000;
    let attributes = vec![
        attribute("http.route", text("/carts/{cart}/items/{item}")),
        attribute("http.request.method", text("POST")),
        attribute("user.id", text(&word(17))),
        attribute("db.query.text", text(&statement)),
    ];
    otlp::Span {
        attributes,
        start_time_unix_nano: start,
        end_time_unix_nano: start + 250_000,
        ..span(1, number, "POST /carts/{cart}/items/{item}")
    }
}

async fn open(address: &str) -> Arc<CassandraStore> {
    let mut config = cluster::config(KEYSPACE);
    config.contact_points = vec![address.to_owned()];
    cluster::open_with(config, Arc::new(ManualClock::at(NOW))).await
}

/// Writes the trace as storage-writer does, whose process begins anew three times.
async fn write(address: &str, count: u64) {
    let mut log = Log::new();
    let mut number = 0;
    for quarter in 1..=4 {
        let store = open(address).await;
        while number < count * quarter / 4 {
            let mut call = Vec::new();
            for _ in 0..CALL_REQUESTS {
                let to = count.min(number + REQUEST_SPANS);
                let spans: Vec<_> = (number..to).map(long_span).collect();
                call.push(log.append(&Request::of("web", &spans)));
                number = to;
            }
            store.write(&call).await.unwrap();
            SpanWriter::flush(&*store, NOW, false).await.unwrap();
        }
    }
}

/// The largest partition of each table, as the node tells it.
fn largest_partitions(stats: &str) -> BTreeMap<String, u64> {
    let (mut table, mut largest) = (String::new(), BTreeMap::new());
    for line in stats.lines().map(str::trim) {
        if let Some(name) = line.strip_prefix("Table: ") {
            name.clone_into(&mut table);
        }
        if let Some(bytes) = line.strip_prefix("Compacted partition maximum bytes: ") {
            largest.insert(table.clone(), bytes.parse().unwrap());
        }
    }
    largest
}

/// Bytes of each shard, as the accounts of its writers have them.
async fn accounts(address: &str) -> BTreeMap<i64, u64> {
    let session = SessionBuilder::new().known_node(address).build().await.unwrap();
    let text = format!(
        "SELECT content, bytes FROM {KEYSPACE}.spans WHERE tenant = 'default' AND trace_id = ? \
         AND shard = 0 AND part = 0"
    );
    let trace = trace_id(1);
    let rows = session
        .query_unpaged(text, (trace.as_bytes().as_slice(),))
        .await
        .unwrap()
        .into_rows_result()
        .unwrap();
    let mut shards: BTreeMap<i64, u64> = BTreeMap::new();
    for (shard, bytes) in rows.rows::<(i64, i64)>().unwrap().map(Result::unwrap) {
        *shards.entry(shard).or_default() += bytes.cast_unsigned();
    }
    shards
}

#[tokio::test]
async fn a_trace_of_a_million_spans_lies_in_bounded_shards_and_is_read_in_bounded_memory() {
    let (node, count) = (Node::start("long", &[]).await, count());
    let address = node.address();
    let begun = Instant::now();
    write(&address, count).await;
    println!("{count} spans written in {:.1} s", begun.elapsed().as_secs_f64());
    node.nodetool(&["flush", KEYSPACE]).await;
    node.nodetool(&["compact", KEYSPACE]).await;
    let largest = largest_partitions(&node.nodetool(&["tablestats", KEYSPACE]).await);
    let shards = accounts(&address).await;
    println!("largest partitions: {largest:?}; accounts: {shards:?}");
    assert!(largest["spans"] > 1_000_000 && largest["service_index"] > 1_000, "{largest:?}");
    assert!(largest.values().all(|bytes| *bytes < PARTITION_BYTES_MAX), "{largest:?}");
    assert!(shards.values().all(|bytes| *bytes < PARTITION_BYTES_MAX), "{shards:?}");
    assert!(shards.len() as u64 >= count / 50_000, "{shards:?}");
    // In a process of its own, whose memory is the reader's alone.
    let mut reader = Command::new(std::env::current_exe().unwrap());
    reader.args(["--exact", "--nocapture", "cassandra::facts::long::a_reader_stays_in_bounds"]);
    reader.env(READER, format!("{address} {count}"));
    let read = tokio::task::spawn_blocking(move || reader.output().unwrap()).await.unwrap();
    println!("{}", String::from_utf8_lossy(&read.stdout));
    assert!(read.status.success(), "{}", String::from_utf8_lossy(&read.stderr));
}

/// A line of this process's status, in bytes.
fn status_bytes(name: &str) -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1_024
}

/// Which spans were read, each once and as it was sent.
struct Seen {
    is_seen: Vec<bool>,
    bytes: u64,
    largest_piece: u64,
}

impl Seen {
    fn take(&mut self, spans: &[StoredSpan]) {
        let mut bytes = 0;
        for stored in spans {
            let number = u64::from_be_bytes(*stored.key.span_id.as_bytes()) - 1;
            assert!(!std::mem::replace(&mut self.is_seen[number as usize], true), "{number} twice");
            assert!(stored.span == long_span(number).encode_to_vec(), "{number}");
            bytes += stored.span.len() as u64;
        }
        self.bytes += bytes;
        self.largest_piece = self.largest_piece.max(bytes);
    }
}

/// What the test above starts; nothing where nobody has.
#[tokio::test]
async fn a_reader_stays_in_bounds() {
    let Ok(told) = std::env::var(READER) else { return };
    let (address, count) = told.split_once(' ').unwrap();
    let store = open(address).await;
    let is_seen = vec![false; count.parse().unwrap()];
    let mut seen = Seen { is_seen, bytes: 0, largest_piece: 0 };
    // The peak starts anew here (proc(5), clear_refs).
    std::fs::write("/proc/self/clear_refs", "5").unwrap();
    let (before, mut reading, mut number) = (status_bytes("VmRSS:"), Duration::ZERO, 0);
    let mut begun = Instant::now();
    let pieces = store.read_pieces(&TenantId::default(), trace_id(1)).await.unwrap();
    let (mut piece, mut rest) = (Some(pieces.first), pieces.rest.unwrap());
    while let Some(read) = piece.take() {
        reading += begun.elapsed();
        assert!(!read.is_damaged && !read.is_away);
        seen.take(&read.spans);
        number += 1;
        drop(read);
        begun = Instant::now();
        piece = rest.next_piece().await.unwrap();
    }
    let grown = status_bytes("VmHWM:").saturating_sub(before);
    println!(
        "{} spans of {} bytes read in {number} pieces, the largest of {} bytes, in {:.1} s; memory grew by \
         {grown} bytes at its peak, from {before}",
        seen.is_seen.len(),
        seen.bytes,
        seen.largest_piece,
        reading.as_secs_f64(),
    );
    assert!(seen.is_seen.iter().all(|is_seen| *is_seen));
    assert!(grown < READING_BYTES_MAX, "grew by {grown}");
}
