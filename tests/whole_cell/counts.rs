//! What each engine holds of a cell, counted by the plainest client there is.

use bytes::Bytes;
use http::Method;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::federation::PATIENCE;
use crate::http::{eventually, send};
use crate::running_engines::{Engine, Engines};

/// The names of one region in all engines.
#[derive(Clone, Debug)]
pub(crate) struct Names {
    pub(crate) name: String,
}

impl Names {
    pub(crate) fn new(name: &str) -> Self {
        Self { name: name.to_owned() }
    }

    /// The topic of the span log.
    pub(crate) fn topic(&self) -> String {
        format!("{}.spans-raw", self.name)
    }
}

/// Raw spans, each once.
pub(crate) const DISTINCT: &str = "uniqExact(TraceId, SpanId)";

/// What may have become of the process that writes raw spans.
#[derive(Clone, Copy, Debug, PartialEq)]
enum AnalyticsWriter {
    /// It knows what senders repeat: every span is a row.
    Lives,
    /// It was killed, and what it knew with it: a request whose first try was stored before the kill and that
    /// is repeated behind it has its rows twice.
    WasKilled,
}

/// Waits until every store holds exactly so many spans, each once.
pub(crate) async fn until_each_holds(engines: &Engines, names: &Names, spans: u64) {
    until_all_hold(engines, &[engines.address(Engine::Cassandra)], names, spans).await;
}

/// The same where Cassandra's nodes are these, each of which has every row.
pub(crate) async fn until_all_hold(engines: &Engines, nodes: &[String], names: &Names, spans: u64) {
    until_counted(engines, names, (spans, AnalyticsWriter::Lives)).await;
    until_stored(engines, nodes, names, spans).await;
}

/// The same where the cell was killed while senders repeated, or it took records of others again: raw spans
/// are compared as distinct ones.
pub(crate) async fn until_each_holds_after_kills(engines: &Engines, names: &Names, spans: u64) {
    until_counted(engines, names, (spans, AnalyticsWriter::WasKilled)).await;
    until_stored(engines, &[engines.address(Engine::Cassandra)], names, spans).await;
}

/// Waits until ClickHouse holds exactly so many spans.
async fn until_counted(engines: &Engines, names: &Names, (spans, writer): (u64, AnalyticsWriter)) {
    let name = &names.name;
    let mut questions = vec![
        ("distinct otel_traces", format!("SELECT {DISTINCT} FROM {name}.otel_traces")),
        ("red_services", format!("SELECT sum(seen) FROM {name}.red_services")),
        ("red_operations", format!("SELECT sum(seen) FROM {name}.red_operations")),
    ];
    if writer == AnalyticsWriter::Lives {
        questions.push(("otel_traces", format!("SELECT count() FROM {name}.otel_traces")));
    }
    for (what, sql) in questions {
        eventually(what, PATIENCE, || async {
            let found = clickhouse(engines, &sql).await?;
            if found == spans { Ok(()) } else { Err(format!("{found} of {spans}")) }
        })
        .await;
    }
}

/// Waits until Cassandra and Elasticsearch hold exactly so many spans.
pub(crate) async fn until_stored(engines: &Engines, nodes: &[String], names: &Names, spans: u64) {
    let name = &names.name;
    for node in nodes {
        eventually("Cassandra's rows", PATIENCE, || async {
            let cql = format!("SELECT count(*) FROM {name}.spans WHERE part = 2 ALLOW FILTERING");
            let found = cassandra(node, &cql).await?;
            if found == spans { Ok(()) } else { Err(format!("{node}: {found} of {spans}")) }
        })
        .await;
    }
    eventually("Elasticsearch's documents", PATIENCE, || async {
        let found = elasticsearch(engines, name).await?;
        if found == spans { Ok(()) } else { Err(format!("{found} of {spans}")) }
    })
    .await;
}

/// Dashboards never see one record of the log twice, and what a sender repeats around a kill they may: where
/// senders repeat seconds later at the earliest, the time of the append tells them apart.
pub(crate) async fn assert_no_record_was_inserted_twice(engines: &Engines, names: &Names) {
    let sql = format!(
        "SELECT count() FROM (SELECT 1 FROM {}.otel_traces GROUP BY TraceId, SpanId, AppendTime \
         HAVING count() > 1)",
        names.name
    );
    assert_eq!(clickhouse(engines, &sql).await, Ok(0));
}

/// A statement, or a question with one number for an answer (0 where there is none).
pub(crate) async fn clickhouse(engines: &Engines, sql: &str) -> Result<u64, String> {
    let url = format!("http://{}", engines.address(Engine::Clickhouse));
    Ok(clickhouse_text(&url, sql).await?.trim().parse().unwrap_or(0))
}

/// An answer of ClickHouse as it is.
pub(crate) async fn clickhouse_text(url: &str, sql: &str) -> Result<String, String> {
    let answer = send(Method::POST, &format!("{url}/"), &[], Bytes::from(sql.to_owned())).await?;
    let text = String::from_utf8_lossy(&answer.body).into_owned();
    if answer.status.is_success() { Ok(text) } else { Err(format!("{sql}: {text}")) }
}

/// All series and all edges of a database, as ClickHouse at this address says them. Of slowest spans that
/// are equally slow, either may be named.
pub(crate) async fn all_counts(url: &str, database: &str) -> [String; 2] {
    let red = format!(
        "SELECT tenant, service, operation, minute, kind, status, sum(seen), sum(estimated), \
         sumMap(buckets), max(exemplar.nanos) FROM {database}.red_operations GROUP BY ALL ORDER BY ALL"
    );
    let edges = format!(
        "SELECT tenant, bucket, caller, callee, is_error, sum(seen), sumMap(buckets) \
         FROM {database}.edges GROUP BY ALL ORDER BY ALL"
    );
    [clickhouse_text(url, &red).await.unwrap(), clickhouse_text(url, &edges).await.unwrap()]
}

/// Documents of a cell's spans, after a refresh.
pub(crate) async fn elasticsearch(engines: &Engines, name: &str) -> Result<u64, String> {
    let indices =
        format!("http://{}/{name}.*-jaeger-span-*", engines.address(Engine::Elasticsearch));
    send(Method::POST, &format!("{indices}/_refresh"), &[], Bytes::new()).await?;
    let counted = send(Method::GET, &format!("{indices}/_count"), &[], Bytes::new()).await?.json();
    counted["count"].as_u64().ok_or_else(|| counted.to_string())
}

/// A CQL question (native protocol v4) whose answer is one bigint.
pub(crate) async fn cassandra(address: &str, cql: &str) -> Result<u64, String> {
    let failed = |error: std::io::Error| error.to_string();
    let mut stream = TcpStream::connect(address).await.map_err(failed)?;
    // STARTUP: a map of one pair.
    let mut startup = vec![0, 1];
    for text in ["CQL_VERSION", "3.0.0"] {
        startup.extend(u16::try_from(text.len()).unwrap().to_be_bytes());
        startup.extend(text.as_bytes());
    }
    exchange(&mut stream, 1, &startup).await?;
    // QUERY: long string, consistency ONE, no flags.
    let mut query = u32::try_from(cql.len()).unwrap().to_be_bytes().to_vec();
    query.extend(cql.as_bytes());
    query.extend([0, 1, 0]);
    let (opcode, body) = exchange(&mut stream, 7, &query).await?;
    let words = || String::from_utf8_lossy(&body).into_owned();
    // RESULT; the only cell of the only row stands last.
    let count = body.last_chunk::<8>().filter(|_| opcode == 8).ok_or_else(words)?;
    Ok(u64::from_be_bytes(*count))
}

async fn exchange(
    stream: &mut TcpStream,
    opcode: u8,
    body: &[u8],
) -> Result<(u8, Vec<u8>), String> {
    let failed = |error: std::io::Error| error.to_string();
    let mut frame = vec![4, 0, 0, 0, opcode];
    frame.extend(u32::try_from(body.len()).unwrap().to_be_bytes());
    frame.extend(body);
    stream.write_all(&frame).await.map_err(failed)?;
    let mut head = [0; 9];
    stream.read_exact(&mut head).await.map_err(failed)?;
    let length = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
    let mut answer = vec![0; length as usize];
    stream.read_exact(&mut answer).await.map_err(failed)?;
    Ok((head[4], answer))
}

/// Records that a group has committed, over all partitions of a topic: Kafka's `OffsetFetch`, version 1.
pub(crate) async fn committed(
    broker: &str,
    (group, topic): (&str, &str),
    partitions: u32,
) -> Result<u64, String> {
    let failed = |error: std::io::Error| error.to_string();
    let text = |text: &str| {
        let mut bytes = u16::try_from(text.len()).unwrap().to_be_bytes().to_vec();
        bytes.extend(text.as_bytes());
        bytes
    };
    // Key, version, correlation, client.
    let mut request = vec![0, 9, 0, 1, 0, 0, 0, 7, 0xff, 0xff];
    request.extend(text(group));
    request.extend(1_u32.to_be_bytes());
    request.extend(text(topic));
    request.extend(partitions.to_be_bytes());
    request.extend((0..partitions).flat_map(u32::to_be_bytes));
    let mut stream = TcpStream::connect(broker).await.map_err(failed)?;
    stream.write_u32(u32::try_from(request.len()).unwrap()).await.map_err(failed)?;
    stream.write_all(&request).await.map_err(failed)?;
    let length = stream.read_u32().await.map_err(failed)?;
    let mut answer = vec![0; length as usize];
    stream.read_exact(&mut answer).await.map_err(failed)?;
    offsets_in(&answer[4 + 4 + 2 + topic.len() + 4..], partitions)
        .ok_or_else(|| format!("{answer:?}"))
}

/// Sums partitions of an answer: number, offset, text, error.
fn offsets_in(mut answer: &[u8], partitions: u32) -> Option<u64> {
    let mut sum = 0;
    for _ in 0..partitions {
        let offset = i64::from_be_bytes(answer.get(4..12)?.try_into().ok()?);
        let text = i16::from_be_bytes(answer.get(12..14)?.try_into().ok()?);
        answer = &answer[14 + usize::try_from(text).unwrap_or(0)..];
        let error = i16::from_be_bytes(answer.get(..2)?.try_into().ok()?);
        answer = &answer[2..];
        if error != 0 {
            return None;
        }
        // None yet is -1.
        sum += u64::try_from(offset).unwrap_or(0);
    }
    Some(sum)
}
