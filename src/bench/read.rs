//! `farspan bench read`: traces by id, as they were acknowledged.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::Context;
use clap::Args;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use serde::Deserialize;
use service_kit::SystemClock;
use tokio::task::JoinSet;
use trace_model::Clock;

use super::Report;
use super::cell_client::CellClient;
use super::latency::Latencies;
use super::ledger::{self, Entry};
use crate::cli::failure::Failure;
use crate::cli::gateway_client::GatewayClient;

/// How to read.
#[derive(Args, Clone, Debug)]
pub(crate) struct ReadArguments {
    /// What `bench write` recorded.
    #[arg(long, value_name = "FILE")]
    ledger: PathBuf,
    /// Reads in all; each takes an entry by chance.
    #[arg(long, default_value_t = 10_000)]
    reads: u64,
    /// Read every entry of the ledger once instead.
    #[arg(long, conflicts_with = "reads")]
    all: bool,
    /// Reads at once.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=1024))]
    concurrency: u16,
    /// Ask this cell's internal gRPC and no gateway.
    #[arg(long, value_name = "URL")]
    cell: Option<String>,
    /// Chooses the entries.
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

/// Whom to ask.
#[derive(Clone, Debug)]
enum Target {
    Gateway(GatewayClient),
    Cell(CellClient),
}

#[derive(Debug, Default)]
struct Tally {
    latencies: Latencies,
    whole: u64,
    not_whole: Vec<String>,
}

/// Names shown of traces that are not whole.
const SHOWN_MAX: usize = 5;

/// Reads and reports.
pub(super) async fn run(
    arguments: ReadArguments,
    gateway: &GatewayClient,
) -> Result<Report, Failure> {
    let entries = Arc::new(ledger::read(&arguments.ledger)?);
    let target = match &arguments.cell {
        Some(url) => Target::Cell(CellClient::open(url, "default").await?),
        None => Target::Gateway(gateway.clone()),
    };
    let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
    let order = Arc::new(order(&arguments, entries.len()));
    let next = Arc::new(AtomicU64::new(0));
    let begun = clock.monotonic();
    let mut tasks = JoinSet::new();
    for _ in 0..arguments.concurrency {
        let (entries, order) = (Arc::clone(&entries), Arc::clone(&order));
        let (next, clock) = (Arc::clone(&next), Arc::clone(&clock));
        tasks.spawn(read(entries, order, next, clock, target.clone()));
    }
    let mut total = Tally::default();
    while let Some(tally) = tasks.join_next().await {
        let tally = tally.context("a reader ended early")??;
        total.latencies.merge(&tally.latencies);
        total.whole += tally.whole;
        total.not_whole.extend(tally.not_whole);
    }
    let took = clock.monotonic().saturating_sub(begun);
    let mut report = Report::new();
    report
        .add("target", if arguments.cell.is_some() { "cell" } else { "gateway" })
        .add("reads", total.latencies.len())
        .add("whole", total.whole)
        .add("not_whole", total.not_whole.len())
        .add_ratio("seconds", took.as_secs_f64())
        .add_latencies("read", &mut total.latencies);
    if !total.not_whole.is_empty() {
        let shown: Vec<String> = total.not_whole.iter().take(SHOWN_MAX).cloned().collect();
        report.add("examples", shown);
    }
    report.is_well = total.not_whole.is_empty() && total.whole > 0;
    Ok(report)
}

/// Places in the ledger, in the order in which they are read.
fn order(arguments: &ReadArguments, entries: usize) -> Vec<usize> {
    if arguments.all {
        return (0..entries).collect();
    }
    let mut rng = SmallRng::seed_from_u64(arguments.seed);
    (0..arguments.reads).map(|_| rng.random_range(0..entries.max(1))).collect()
}

async fn read(
    entries: Arc<Vec<Entry>>,
    order: Arc<Vec<usize>>,
    next: Arc<AtomicU64>,
    clock: Arc<dyn Clock>,
    target: Target,
) -> Result<Tally, Failure> {
    let mut tally = Tally::default();
    loop {
        let place = usize::try_from(next.fetch_add(1, Ordering::Relaxed)).unwrap_or(usize::MAX);
        let entry = order.get(place).and_then(|place| entries.get(*place));
        let Some(entry) = entry else { return Ok(tally) };
        let begun = clock.monotonic();
        let is_whole = match &target {
            Target::Gateway(client) => is_whole_at_gateway(entry, client).await?,
            Target::Cell(client) => client.count_spans(entry.id).await? == entry.spans,
        };
        tally.latencies.add(clock.monotonic().saturating_sub(begun));
        if is_whole {
            tally.whole += 1;
        } else {
            tally.not_whole.push(entry.id.to_string());
        }
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct TraceAnswer {
    resource_spans: Vec<ResourceSpans>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct ResourceSpans {
    scope_spans: Vec<ScopeSpans>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct ScopeSpans {
    spans: Vec<serde::de::IgnoredAny>,
}

/// Whether a gateway gives exactly the spans that were acknowledged.
pub(super) async fn is_whole_at_gateway(
    entry: &Entry,
    client: &GatewayClient,
) -> Result<bool, Failure> {
    let answer = client.ask(&format!("/api/farspan/v1/traces/{}", entry.id)).await?;
    if answer.status == 404 {
        return Ok(false);
    }
    let trace: TraceAnswer = answer.ok()?.read()?;
    let scopes = trace.resource_spans.iter().flat_map(|group| &group.scope_spans);
    Ok(scopes.map(|scope| scope.spans.len()).sum::<usize>() == entry.spans)
}
