//! `farspan bench write`: spans as fast as a collector acknowledges them.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::Context;
use bytes::Bytes;
use clap::Args;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use service_kit::{BackOff, Drain, SystemClock};
use tokio::task::JoinSet;
use tokio_util::task::TaskTracker;
use trace_model::Clock;

use super::Report;
use super::latency::Latencies;
use super::ledger::{self, Entry};
use super::read::is_whole_at_gateway;
use super::server::{NamedProcess, Server};
use super::template::{Shape, Template, WrittenTrace};
use super::wire::{Connection, Exported, GRPC_PREFIX_BYTES, Transport, put_grpc_prefix};
use crate::cli::failure::Failure;
use crate::cli::gateway_client::GatewayClient;

/// Templates of different content: what a store compresses must not repeat too soon.
const TEMPLATES: u64 = 16;
/// Every so many traces one is written to the ledger.
const LEDGER_EVERY: usize = 16;
/// Between two attempts of a request that was refused.
const RETRY_WAIT: (Duration, Duration) = (Duration::from_millis(20), Duration::from_secs(1));
/// Bytes that a probe of fdatasync writes.
const PROBE_BYTES: usize = 4_096;

/// How to write.
#[derive(Args, Clone, Debug)]
pub(crate) struct WriteArguments {
    /// The collector; 4317 speaks gRPC, 4318 HTTP.
    #[arg(long, value_name = "URL", default_value = "http://127.0.0.1:4317")]
    collector: String,
    /// How to send.
    #[arg(long, value_enum, default_value_t)]
    transport: Transport,
    /// Connections.
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..=1024))]
    connections: u16,
    /// Requests under way on each connection (over HTTP: more connections).
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u16).range(1..=1024))]
    in_flight: u16,
    /// Spans to send in all.
    #[arg(long, default_value_t = 1_000_000)]
    spans: u64,
    /// End after so long, whatever was sent.
    #[arg(long, value_name = "SECONDS")]
    seconds: Option<u64>,
    /// Spans a second at most.
    #[arg(long, value_name = "SPANS_PER_S", value_parser = clap::value_parser!(u64).range(1..))]
    rate: Option<u64>,
    /// Spans of a request.
    #[arg(long, default_value_t = 512, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    request_spans: u32,
    /// Spans of a trace.
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    trace_spans: u32,
    /// A process of the server, as often as it has some: their processor time and memory are
    /// reported, together and by name.
    #[arg(long, value_name = "[NAME=]PID")]
    server_pid: Vec<NamedProcess>,
    /// Wait so long at most until the server has settled, and report it then as well.
    #[arg(long, value_name = "SECONDS", requires = "server_pid")]
    settle: Option<u64>,
    /// Record acknowledged traces here, for `bench read` and `bench search`.
    #[arg(long, value_name = "FILE")]
    ledger: Option<PathBuf>,
    /// After each acknowledgement read one of its traces through the gateway, so many in all.
    #[arg(long, value_name = "READS", default_value_t = 0)]
    first_reads: u64,
    /// After each acknowledgement measure an fdatasync in this directory (one worker).
    #[arg(long, value_name = "DIRECTORY")]
    fsync_probe: Option<PathBuf>,
    /// Chooses ids and content; by default another one in each run.
    #[arg(long)]
    seed: Option<u64>,
}

/// What all workers share.
#[derive(Debug)]
struct Shared {
    arguments: WriteArguments,
    templates: Vec<Template>,
    clock: Arc<dyn Clock>,
    gateway: GatewayClient,
    /// Requests not taken by a worker yet.
    requests_left: AtomicU64,
    first_reads_left: AtomicU64,
    ends_at: Option<Duration>,
}

/// What a worker did.
#[derive(Debug, Default)]
struct Tally {
    acknowledged_spans: u64,
    rejected_spans: u64,
    refusals: u64,
    latencies: Latencies,
    probes: Latencies,
    entries: Vec<Entry>,
    whole_reads: u64,
    broken_reads: u64,
}

/// Writes and reports.
pub(super) async fn run(
    arguments: WriteArguments,
    gateway: &GatewayClient,
) -> Result<Report, Failure> {
    let workers = u64::from(arguments.connections) * u64::from(arguments.in_flight);
    if arguments.fsync_probe.is_some() && workers != 1 {
        let text = "--fsync-probe: measured with --connections 1 --in-flight 1 only";
        return Err(Failure::Usage(text.to_owned()));
    }
    let seed = arguments.seed.unwrap_or_else(|| rand::rng().random());
    let drain = Drain::default();
    let stage = drain.stage("watch");
    let shared = Arc::new(Shared::new(arguments, seed, gateway));
    let links = connect(&shared.arguments).await?;
    let server = Server::watch(&shared.arguments.server_pid, &stage)?;
    let begun = shared.clock.monotonic();
    let mut tasks = JoinSet::new();
    for (index, connection) in (0_u64..).zip(links) {
        let rng = SmallRng::seed_from_u64(seed.wrapping_add(index.wrapping_mul(0x9e37_79b9)));
        tasks.spawn(work(Arc::clone(&shared), connection, rng, workers));
    }
    let mut total = Tally::default();
    while let Some(tally) = tasks.join_next().await {
        total.merge(tally.context("a worker ended early")??);
    }
    let took = shared.clock.monotonic().saturating_sub(begun);
    let report = finish(&shared, total, took, server.as_ref()).await;
    // The watch holds nothing but a reading of /proc.
    drop(drain.drain(Duration::from_secs(1)).await);
    report
}

impl Shared {
    fn new(arguments: WriteArguments, seed: u64, gateway: &GatewayClient) -> Self {
        let size = |number: u32| usize::try_from(number).unwrap_or(1);
        let shape = Shape {
            spans: size(arguments.request_spans),
            spans_per_trace: size(arguments.trace_spans),
        };
        let template = |index: u64| Template::new(shape, seed.wrapping_add(index));
        let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
        let seconds = arguments.seconds.map(Duration::from_secs);
        Self {
            templates: (0..TEMPLATES).map(template).collect(),
            requests_left: arguments.spans.div_ceil(u64::from(arguments.request_spans)).into(),
            first_reads_left: arguments.first_reads.into(),
            ends_at: seconds.map(|seconds| clock.monotonic().saturating_add(seconds)),
            gateway: gateway.clone(),
            clock,
            arguments,
        }
    }

    /// Takes one from a counter; false where it is empty.
    fn take(counter: &AtomicU64) -> bool {
        let less = |left: u64| left.checked_sub(1);
        counter.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less).is_ok()
    }

    fn is_time_over(&self) -> bool {
        self.ends_at.is_some_and(|end| self.clock.monotonic() >= end)
    }
}

/// One connection for each worker: those over gRPC share, those over HTTP/1 do not.
async fn connect(arguments: &WriteArguments) -> Result<Vec<Connection>, Failure> {
    let tasks = TaskTracker::new();
    let mut links = Vec::new();
    for _ in 0..arguments.connections {
        let open = || Connection::open(&arguments.collector, arguments.transport, &tasks);
        let first = open().await?;
        for _ in 1..arguments.in_flight {
            links.push(match arguments.transport {
                Transport::Grpc => first.clone(),
                Transport::Http => open().await?,
            });
        }
        links.push(first);
    }
    Ok(links)
}

/// Sends requests until there are none left.
async fn work(
    shared: Arc<Shared>,
    connection: Connection,
    mut rng: SmallRng,
    workers: u64,
) -> Result<Tally, Failure> {
    let mut tally = Tally::default();
    let mut traces = Vec::new();
    let mut pace = pace(&shared.arguments, workers);
    let mut number = rng.random_range(0..shared.templates.len());
    while !shared.is_time_over() && Shared::take(&shared.requests_left) {
        if let Some(pace) = &mut pace {
            pace.tick().await;
        }
        number = (number + 1) % shared.templates.len();
        let Some(template) = shared.templates.get(number) else { break };
        let body = encode(&shared, template, &mut rng, &mut traces);
        if send(&shared, &connection, &body, &mut tally, &mut rng).await? {
            after_acknowledgement(&shared, &traces, &mut tally).await?;
        }
    }
    Ok(tally)
}

fn pace(arguments: &WriteArguments, workers: u64) -> Option<tokio::time::Interval> {
    let rate = arguments.rate?;
    let nanos = u64::from(arguments.request_spans)
        .saturating_mul(workers)
        .saturating_mul(1_000_000_000)
        .checked_div(rate)?;
    let mut pace = tokio::time::interval(Duration::from_nanos(nanos.max(1)));
    pace.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    Some(pace)
}

fn encode(
    shared: &Shared,
    template: &Template,
    rng: &mut SmallRng,
    traces: &mut Vec<WrittenTrace>,
) -> Bytes {
    let mut buffer = Vec::with_capacity(template.len() + GRPC_PREFIX_BYTES);
    if shared.arguments.transport == Transport::Grpc {
        put_grpc_prefix(&mut buffer, template.len());
    }
    template.write(shared.clock.now(), rng, &mut buffer, traces);
    buffer.into()
}

/// Sends a request until it is acknowledged; false where a part was rejected or time is over.
async fn send(
    shared: &Shared,
    connection: &Connection,
    body: &Bytes,
    tally: &mut Tally,
    rng: &mut SmallRng,
) -> Result<bool, Failure> {
    let spans = u64::from(shared.arguments.request_spans);
    let mut back_off = BackOff::new(RETRY_WAIT.0, RETRY_WAIT.1, rng.random());
    loop {
        let begun = shared.clock.monotonic();
        let exported = connection.export(body.clone()).await?;
        match exported {
            Exported::Acknowledged => {
                tally.latencies.add(shared.clock.monotonic().saturating_sub(begun));
                tally.acknowledged_spans += spans;
                return Ok(true);
            }
            Exported::Rejected { spans: rejected } => {
                let rejected = u64::try_from(rejected).unwrap_or(0).min(spans);
                tally.rejected_spans += rejected;
                tally.acknowledged_spans += spans - rejected;
                return Ok(false);
            }
            Exported::Refused(reason) => {
                tracing::debug!(reason, "refused");
                tally.refusals += 1;
                if shared.is_time_over() {
                    return Ok(false);
                }
                tokio::time::sleep(back_off.next_wait()).await;
            }
        }
    }
}

async fn after_acknowledgement(
    shared: &Shared,
    traces: &[WrittenTrace],
    tally: &mut Tally,
) -> Result<(), Failure> {
    if shared.arguments.ledger.is_some() {
        tally.entries.extend(traces.iter().step_by(LEDGER_EVERY).map(Entry::from));
    }
    if let Some(trace) = traces.last()
        && Shared::take(&shared.first_reads_left)
    {
        let is_whole = is_whole_at_gateway(&Entry::from(trace), &shared.gateway).await?;
        tally.whole_reads += u64::from(is_whole);
        tally.broken_reads += u64::from(!is_whole);
    }
    if let Some(directory) = &shared.arguments.fsync_probe {
        let (path, clock) = (directory.join("fsync-probe"), Arc::clone(&shared.clock));
        let probe = tokio::task::spawn_blocking(move || probe(&path, clock.as_ref()));
        tally.probes.add(probe.await.context("the probe ended early")??);
    }
    Ok(())
}

/// Writes a block behind a file and measures its fdatasync.
fn probe(path: &std::path::Path, clock: &dyn Clock) -> std::io::Result<Duration> {
    use std::io::Write;
    let mut file = std::fs::OpenOptions::new().create(true).append(true).open(path)?;
    file.write_all(&[0x5a; PROBE_BYTES])?;
    let begun = clock.monotonic();
    file.sync_data()?;
    Ok(clock.monotonic().saturating_sub(begun))
}

impl Tally {
    fn merge(&mut self, other: Self) {
        self.acknowledged_spans += other.acknowledged_spans;
        self.rejected_spans += other.rejected_spans;
        self.refusals += other.refusals;
        self.whole_reads += other.whole_reads;
        self.broken_reads += other.broken_reads;
        self.latencies.merge(&other.latencies);
        self.probes.merge(&other.probes);
        self.entries.extend(other.entries);
    }
}

async fn finish(
    shared: &Shared,
    mut total: Tally,
    took: Duration,
    server: Option<&Server>,
) -> Result<Report, Failure> {
    let arguments = &shared.arguments;
    let mut report = Report::new();
    let bytes = shared.templates.first().map_or(0, Template::len);
    let spans = total.acknowledged_spans;
    #[expect(clippy::cast_precision_loss, reason = "spans of a run, far below 2^52")]
    let rate = spans as f64 / took.as_secs_f64().max(0.001);
    report
        .add("transport", if arguments.transport == Transport::Grpc { "grpc" } else { "http" })
        .add("request_spans", arguments.request_spans)
        .add("request_bytes", bytes)
        .add("acknowledged_spans", spans)
        .add("rejected_spans", total.rejected_spans)
        .add("refused_requests", total.refusals)
        .add_ratio("seconds", took.as_secs_f64())
        .add_ratio("spans_per_s", rate.round())
        .add_latencies("ack", &mut total.latencies);
    if let Some(server) = server {
        server.report(&mut report, "acknowledged", &server.cpu(), spans);
        if let Some(seconds) = arguments.settle {
            let is_settled = server.settle(Duration::from_secs(seconds)).await;
            report.add("server_is_settled", is_settled);
            server.report(&mut report, "settled", &server.cpu(), spans);
        }
    }
    if total.probes.len() > 0 {
        report.add_latencies("fdatasync", &mut total.probes);
    }
    if arguments.first_reads > 0 {
        report.add("first_reads_whole", total.whole_reads);
        report.add("first_reads_not_whole", total.broken_reads);
    }
    if let Some(path) = &arguments.ledger {
        ledger::append(path, &total.entries)?;
        report.add("ledger_entries", total.entries.len());
    }
    report.is_well = total.broken_reads == 0 && total.rejected_spans == 0 && spans > 0;
    Ok(report)
}

#[cfg(test)]
mod tests;
