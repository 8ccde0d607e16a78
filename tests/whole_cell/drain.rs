//! A store stands while spans arrive at a fifth of what the cell can take: no sender notices it, and
//! when it is back what has gathered goes at three times the rate of what arrives, or faster.

#![allow(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "rates of a run, far below 2^52"
)]

use std::process::Command;
use std::time::{Duration, Instant};

use crate::counts::{Names, until_each_holds};
use crate::federation::Federation;
use crate::http::{eventually, get};
use crate::outage::lasts;
use crate::running_engines::{Engine, Engines, have_engines_alone};
use crate::whole_cell::start;

/// By how many times the arrival a backlog drains, on a machine that does nothing else; and where others
/// may have taken a part of it since the peak was measured.
const TIMES: f64 = 3.0;
const TIMES_ANYWHERE: f64 = 1.0;
/// Spans of a trace, which is a record of the log.
const TRACE_SPANS: u64 = 8;
/// Spans of a request, the same at every rate: smaller ones cost stores more.
const REQUEST_SPANS: u64 = 80;
/// What is sent to see how much the cell can take: first what warms it up.
const WARM_UP: u64 = 8_000;
const PEAK: u64 = 16_000;
const GROUPS: [&str; 4] =
    ["storage-writer", "search-indexer", "metrics-aggregator", "analytics-writer"];
/// A store that is back is asked again after five seconds at the latest. Then it takes up to 8 MiB before a lag falls,
/// while everything else that waited for it asks as well.
const BEGINS_WITHIN: Duration = Duration::from_secs(60);
const SETTLES_WITHIN: Duration = Duration::from_secs(240);

/// What is to stand how long, and drain by how many times the arrival.
struct Outages {
    stands: Duration,
    engines: Vec<Engine>,
    times: f64,
}

/// Where `FARSPAN_TEST_OUTAGE` says how long engines stand, all four do (or the one that
/// `FARSPAN_TEST_OUTAGE_OF` names), and the whole rate is asked for.
fn outages() -> Outages {
    let stands = lasts();
    if std::env::var("FARSPAN_TEST_OUTAGE").is_err() {
        return Outages { stands, engines: vec![Engine::Cassandra], times: TIMES_ANYWHERE };
    }
    let mut all = vec![Engine::Cassandra, Engine::Elasticsearch, Engine::Clickhouse, Engine::Kafka];
    if let Ok(name) = std::env::var("FARSPAN_TEST_OUTAGE_OF") {
        all.retain(|engine| format!("{engine:?}").eq_ignore_ascii_case(&name));
        assert!(!all.is_empty(), "FARSPAN_TEST_OUTAGE_OF: no engine is called {name}");
    }
    Outages { stands, engines: all, times: TIMES }
}

/// What `farspan bench write` says of its run.
struct Written {
    spans: u64,
    refusals: u64,
}

/// Sends with the load generator, to its end.
fn write(federation: &Federation, arguments: &[String]) -> tokio::task::JoinHandle<Written> {
    let mut command = Command::new(env!("CARGO_BIN_EXE_farspan"));
    let collector = format!("http://127.0.0.1:{}", federation.regions[0].ports.otlp_grpc);
    let spans = TRACE_SPANS.to_string();
    command.args(["bench", "write", "--json", "--collector", &collector, "--trace-spans", &spans]);
    command.args(arguments);
    tokio::task::spawn_blocking(move || {
        let output = command.output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let said: serde_json::Value =
            serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {output:?}"));
        let number = |key: &str| said[key].as_u64().unwrap_or_else(|| panic!("{key}: {said}"));
        assert_eq!(number("rejected_spans"), 0, "{said}");
        Written { spans: number("acknowledged_spans"), refusals: number("refused_requests") }
    })
}

fn arguments(pairs: &[(&str, u64)]) -> Vec<String> {
    pairs.iter().flat_map(|(key, value)| [format!("--{key}"), value.to_string()]).collect()
}

/// Records that a group has not handled yet.
async fn lag(federation: &Federation, group: &str) -> Result<u64, String> {
    let url = format!("http://127.0.0.1:{}/metrics", federation.regions[0].ports.cell_admin);
    let text = String::from_utf8_lossy(&get(&url).await?.body).into_owned();
    let name = format!("farspan_ingester_lag_records{{group=\"{group}\"}} ");
    let found = text.lines().find_map(|line| line.strip_prefix(&name));
    found.and_then(|lag| lag.parse().ok()).ok_or_else(|| format!("no lag of {group}"))
}

async fn until_nothing_lags(federation: &Federation) {
    for group in GROUPS {
        eventually("nothing lags", SETTLES_WITHIN, || async {
            let lag = lag(federation, group).await?;
            if lag == 0 { Ok(()) } else { Err(format!("{group} lags by {lag}")) }
        })
        .await;
    }
}

/// Sends so many spans at once; gives how many a second go through all groups.
async fn rate_through(federation: &Federation, spans: u64) -> f64 {
    let begun = Instant::now();
    let sent = arguments(&[("spans", spans), ("request-spans", REQUEST_SPANS)]);
    assert_eq!(write(federation, &sent).await.unwrap().spans, spans);
    until_nothing_lags(federation).await;
    spans as f64 / begun.elapsed().as_secs_f64()
}

/// Waits until a group has read what had gathered; gives the records a second by which its lag fell
/// while ever more arrived.
async fn drained(federation: &Federation, group: &str, arrival: f64) -> f64 {
    let most = lag(federation, group).await.unwrap();
    let back = Instant::now();
    let mut last = (back, most);
    // It rises until the store is asked again.
    loop {
        let now = lag(federation, group).await.unwrap();
        if now < last.1 {
            break;
        }
        last = (Instant::now(), now);
        assert!(back.elapsed() < BEGINS_WITHIN, "{group}: {now} records wait after {most}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let (begun, most) = last;
    let rest = eventually("the backlog is gone", SETTLES_WITHIN, || async {
        let now = lag(federation, group).await?;
        // What arrives within a second is no backlog.
        if now as f64 <= arrival { Ok(now) } else { Err(format!("{now} of {most} records wait")) }
    })
    .await;
    let took = begun.elapsed();
    println!("{group}: {most} records in {took:?}, begun after {:?}", begun - back);
    most.saturating_sub(rest) as f64 / took.as_secs_f64()
}

/// One engine stands, under a fifth of the load that the cell can take; gives the spans sent.
async fn stand(
    (engines, federation): (&Engines, &Federation),
    (engine, outages): (Engine, &Outages),
    peak: f64,
) -> u64 {
    let stands = outages.stands;
    let arrival = peak / 5.0;
    let seconds = stands + stands / 3 + BEGINS_WITHIN;
    let sending = arguments(&[
        ("seconds", seconds.as_secs()),
        ("spans", 1 << 40),
        ("rate", arrival as u64),
        ("request-spans", REQUEST_SPANS),
        ("connections", 1),
    ]);
    let load = write(federation, &sending);
    tokio::time::sleep(Duration::from_secs(2)).await;
    engines.stop(engine);
    tokio::time::sleep(stands).await;
    engines.go_on(engine);
    let group = match engine {
        Engine::Cassandra => "storage-writer",
        Engine::Elasticsearch => "search-indexer",
        // The aggregator counts in memory while it waits: the backlog is this one's.
        Engine::Clickhouse => "analytics-writer",
        // Without a log nothing gathers here: the senders hold it, and repeat what was refused.
        Engine::Kafka => {
            let written = load.await.unwrap();
            assert!(written.refusals > 0, "senders hold what the log does not take");
            return written.spans;
        }
    };
    let records = arrival / TRACE_SPANS as f64;
    let rate = drained(federation, group, records).await;
    println!("{engine:?}: {records:.0} records/s arrive, {:.1} times that drain", rate / records);
    assert!(
        rate >= outages.times * records,
        "{group} drains {rate:.0} records/s while {records:.0} arrive"
    );
    let written = load.await.unwrap();
    assert_eq!(written.refusals, 0, "no sender noticed that {engine:?} stood");
    written.spans
}

#[tokio::test(flavor = "multi_thread")]
async fn what_gathers_while_an_engine_stands_drains_faster_than_more_arrives_and_is_there_once() {
    let turn = have_engines_alone().await;
    let names = Names::new("drain");
    let federation = start(&turn.engines, &names).await;
    rate_through(&federation, WARM_UP).await;
    let peak = rate_through(&federation, PEAK).await;
    println!("{peak:.0} spans/s go through the cell");
    let mut spans = WARM_UP + PEAK;
    let outages = outages();
    for engine in &outages.engines {
        spans += stand((&turn.engines, &federation), (*engine, &outages), peak).await;
        until_nothing_lags(&federation).await;
    }
    until_each_holds(&turn.engines, &names, spans).await;
}
