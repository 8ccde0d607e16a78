//! Replication lag and CPU: an origin log, its server, and replicas that are 40 and 110 ms away, over
//! loopback with every byte held for that long.
//!
//! `cargo run --release -p metadata-replicator --example replication_lag -- [CONTRIBUTIONS_PER_S] [SECONDS]`
//!
//! Every 100 ms, as a publisher does, what has come is appended with a watermark; measured is from
//! the call of the append to the moment at which each replica answers for the last of it. A
//! publisher's pass adds up to 100 ms before.
#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::cast_precision_loss,
    reason = "a measurement may stop where it fails"
)]

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use metadata_replicator::feed::grpc::{ReplicationServer, ServerLimits};
use metadata_replicator::{
    ContributionLog, Entropy, OriginEndpoint, OriginFeed, OriginLog, OriginLogConfig, Replica,
    ReplicaConfig, ReplicatorMetrics,
};
use service_kit::SystemClock;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_stream::wrappers::TcpListenerStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::transport::Server;
use trace_model::location::{Detail, Keep, RootSpan, ServiceCount};
use trace_model::{Clock, Contribution, Region, SpanId, TenantId, TraceId, Watermark, WriterId};

/// One-way delays of the replicas.
const DELAYS: [Duration; 2] = [Duration::from_millis(40), Duration::from_millis(110)];
/// A publisher's pass.
const PASS: Duration = Duration::from_millis(100);

fn contribution(number: u64, clock: &dyn Clock) -> Contribution {
    let id = u128::from(number.wrapping_mul(0x9e37_79b9_7f4a_7c15)) << 64 | u128::from(number + 1);
    let start = clock.now();
    let count = |name: &str| ServiceCount { service: name.into(), spans: 3, errors: 0 };
    Contribution {
        version: number + 1,
        tenant: TenantId::default(),
        trace_id: TraceId::from_bytes(id.to_be_bytes()).unwrap(),
        writer: WriterId {
            region: Region::new("eu-west-1").unwrap(),
            incarnation: 1,
            partition: 0,
        },
        last_append: start,
        keep: Keep::Keep,
        is_erased: false,
        detail: Some(Detail {
            min_start: start,
            max_end: start.plus(80_000_000),
            span_count: 9,
            services: ["cart", "payment", "web"].map(count).to_vec(),
            root: Some(RootSpan {
                service: "web".into(),
                operation: format!("GET /resource/{}", number % 50).as_str().into(),
                start,
                span_id: SpanId::from_bytes((number + 1).to_be_bytes()).unwrap(),
                duration_nanos: 80_000_000,
                is_error: false,
            }),
            ..Detail::default()
        }),
    }
}

/// Forwards one direction of a connection, each piece when its time has come.
async fn forward(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, delay: Duration) {
    let (sender, mut line) = mpsc::channel::<(Instant, Vec<u8>)>(4_096);
    let reading = async move {
        let mut buffer = vec![0; 64 << 10];
        while let Ok(length @ 1..) = from.read(&mut buffer).await {
            let piece = buffer.get(..length).unwrap_or_default().to_vec();
            if sender.send((Instant::now() + delay, piece)).await.is_err() {
                return;
            }
        }
    };
    let writing = async move {
        while let Some((due, piece)) = line.recv().await {
            tokio::time::sleep_until(due).await;
            if to.write_all(&piece).await.is_err() {
                return;
            }
        }
    };
    tokio::join!(reading, writing);
}

/// An address behind which `upstream` is so far away.
async fn far(upstream: SocketAddr, delay: Duration, tasks: &TaskTracker) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let spawner = tasks.clone();
    tasks.spawn(async move {
        while let Ok((near, _)) = listener.accept().await {
            let remote = TcpStream::connect(upstream).await.unwrap();
            near.set_nodelay(true).unwrap();
            remote.set_nodelay(true).unwrap();
            let ((near_read, near_write), (far_read, far_write)) =
                (near.into_split(), remote.into_split());
            spawner.spawn(forward(near_read, far_write, delay));
            spawner.spawn(forward(far_read, near_write, delay));
        }
    });
    url
}

async fn serve(log: &Arc<OriginLog>, clock: &Arc<dyn Clock>, tasks: &TaskTracker) -> SocketAddr {
    let feeds = [Arc::clone(log) as Arc<dyn OriginFeed>];
    let limits = ServerLimits::default();
    let server = ReplicationServer::new(feeds, Arc::clone(clock), limits, CancellationToken::new());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let router = Server::builder().add_service(server.into_service());
    let serving = router.serve_with_incoming(TcpListenerStream::new(listener));
    tasks.spawn(async move { serving.await.unwrap() });
    address
}

/// CPU of this process so far. Linux counts it in hundredths of a second.
fn cpu() -> Duration {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let (_, behind_name) = stat.rsplit_once(')').unwrap();
    let times = behind_name.split_whitespace().skip(11).take(2);
    let ticks: u64 = times.map(|ticks| ticks.parse::<u64>().unwrap()).sum();
    Duration::from_millis(ticks * 10)
}

/// Waits until a replica knows a trace; gives how long after `since`.
async fn seen(replica: &Replica, trace_id: TraceId, since: Instant) -> Duration {
    let tenant = TenantId::default();
    loop {
        let entries = replica.look_up(&tenant, &[trace_id]);
        if entries.iter().any(|entry| !entry.contributions.is_empty()) {
            return since.elapsed();
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

fn report(delay: Duration, lags: &mut [Duration]) {
    lags.sort_unstable();
    let at = |percent: usize| {
        let place = (lags.len() * percent / 100).min(lags.len().saturating_sub(1));
        lags.get(place).copied().unwrap_or_default().as_millis()
    };
    println!(
        "one-way delay {} ms: lag P50 {} ms, P99 {} ms, largest {} ms (goal: P99 within {} ms)",
        delay.as_millis(),
        at(50),
        at(99),
        at(100),
        1_000 + delay.as_millis(),
    );
}

#[tokio::main]
async fn main() {
    let mut arguments = std::env::args().skip(1).map(|argument| argument.parse::<u64>().unwrap());
    let rate = arguments.next().unwrap_or(5_000);
    let seconds = arguments.next().unwrap_or(30);
    let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
    let directory = tempfile::tempdir().unwrap();
    let own = Region::new("eu-west-1").unwrap();
    let config = OriginLogConfig::new(directory.path().join("origin"), own.clone());
    let log = OriginLog::open(config, Arc::clone(&clock), Entropy::from_system()).unwrap();
    let (log, tasks) = (Arc::new(log), TaskTracker::new());
    let address = serve(&log, &clock, &tasks).await;
    let mut replicas = Vec::new();
    for (number, delay) in DELAYS.into_iter().enumerate() {
        let url = far(address, delay, &tasks).await;
        let origins = vec![OriginEndpoint { region: own.clone(), url }];
        let name = Region::new(&format!("far-{number}")).unwrap();
        let config =
            ReplicaConfig::new(name.clone(), directory.path().join(name.as_str()), origins);
        let metrics = ReplicatorMetrics::default();
        let replica = Replica::open(config, Arc::clone(&clock), Entropy::from_system(), metrics);
        let replica = Arc::new(replica.unwrap());
        replica.spawn(&tasks, &CancellationToken::new());
        replicas.push((delay, replica));
    }
    let per_pass = rate / 10;
    let mut lags: BTreeMap<Duration, Vec<Duration>> = BTreeMap::new();
    let mut passes = tokio::time::interval(PASS);
    let mut waiting = Vec::new();
    let before = cpu();
    for pass in 0..seconds * 10 {
        passes.tick().await;
        let numbers = pass * per_pass..(pass + 1) * per_pass;
        let next = numbers.end;
        let rows: Vec<_> = numbers.map(|number| contribution(number, clock.as_ref())).collect();
        let watermark = Watermark {
            region: own.clone(),
            incarnation: 1,
            as_of: clock.now(),
            next: BTreeMap::from([(0, next)]),
            holes: Vec::new(),
        };
        let since = Instant::now();
        log.append(&rows, Some(&watermark)).await.unwrap();
        let last = rows.last().unwrap().trace_id;
        for (delay, replica) in &replicas {
            let (delay, replica) = (*delay, Arc::clone(replica));
            waiting.push(tasks.spawn(async move { (delay, seen(&replica, last, since).await) }));
        }
    }
    for wait in waiting {
        let (delay, lag) = wait.await.unwrap();
        lags.entry(delay).or_default().push(lag);
    }
    let used = cpu().saturating_sub(before);
    for (delay, lags) in &mut lags {
        report(*delay, lags);
    }
    let contributions = seconds * 10 * per_pass;
    println!(
        "{contributions} contributions: {:.1} µs CPU each for one origin (append, fsync, feed), {} \
         replicas (take, write, join), the delays and this generator",
        used.as_micros() as f64 / contributions as f64,
        DELAYS.len(),
    );
}
