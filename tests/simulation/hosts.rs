//! Names, clocks and channels of the simulated hosts; the replicator and the gateway of a region.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use gateway::grpc::{GrpcCellClient, GrpcMetadataIndex};
use gateway::port::CellClient;
use gateway::{Freshness, Gateway, GatewayConfig, Patience, QueryContext, SearchRequest, Standing};
use hyper_util::rt::TokioIo;
use metadata_replicator::{
    DiskThreads, Entropy, OriginEndpoint, Replica, ReplicaConfig, ReplicatorMetrics,
};
use prometheus_client::registry::Registry;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::transport::{Channel, Server, Uri};
use trace_model::{Filter, Region, TenantId, TimeRange, TraceId, Verdict};

use crate::laws::{Question, is_whole, judge_search};
use crate::ledger::{Phase, World};
use crate::network::{PORT, SimulatedClock, SimulatedDialer, incoming};

pub(crate) type Fallible = turmoil::Result<()>;

pub(crate) const REGIONS: [&str; 3] = ["ap", "eu", "us"];
/// How long a question waits: shorter than the faults last, so that answers without a region are
/// common.
const PATIENCE: Patience =
    Patience { first_frame: Duration::from_millis(900), total: Duration::from_secs(3) };

/// More than there are traces.
const SEARCH_LIMIT: usize = 1_000;

pub(crate) fn region(name: &str) -> Region {
    Region::new(name).unwrap()
}

pub(crate) fn cell(name: &str) -> String {
    format!("cell-{name}")
}

pub(crate) fn replicator(name: &str) -> String {
    format!("replicator-{name}")
}

pub(crate) fn gateway_of(name: &str) -> String {
    format!("gateway-{name}")
}

pub(crate) fn url(host: &str) -> String {
    format!("http://{host}:{PORT}")
}

/// Each region's wall clock is off by so many seconds.
pub(crate) fn clock_of(name: &str) -> Arc<SimulatedClock> {
    let place = REGIONS.iter().position(|region| *region == name).unwrap_or(0);
    Arc::new(SimulatedClock::off_by(Duration::from_secs(place as u64 * 2)))
}

/// A channel as a gateway has it, over the simulated network.
pub(crate) fn channel(host: &str) -> turmoil::Result<Channel> {
    let connector = tower::service_fn(|uri: Uri| async move {
        let host = uri.host().unwrap_or_default().to_owned();
        let port = uri.port_u16().unwrap_or(PORT);
        let stream = turmoil::net::TcpStream::connect((host, port)).await?;
        Ok::<_, io::Error>(TokioIo::new(stream))
    });
    Ok(gateway::grpc::endpoint(&url(host))?.connect_with_connector_lazy(connector))
}

/// A replicator: follows its own cell, and the other regions by their replicators or, failing
/// those, their cells.
pub(crate) async fn run_replicator(world: World, name: &'static str) -> Fallible {
    let mut origins = Vec::new();
    for origin in REGIONS {
        let hosts = [replicator(origin), cell(origin)];
        let hosts = if origin == name { &hosts[1..] } else { &hosts[..] };
        let endpoint = |host: &String| OriginEndpoint { region: region(origin), url: url(host) };
        origins.extend(hosts.iter().map(endpoint));
    }
    let config = ReplicaConfig {
        disk: DiskThreads::Inline,
        dialer: Arc::new(SimulatedDialer),
        segment_bytes_max: 6_000,
        ..ReplicaConfig::new(region(name), world.directory.join(replicator(name)), origins)
    };
    let entropy = Entropy::seeded(world.seed ^ 5);
    let replica = Replica::open(config, clock_of(name), entropy, ReplicatorMetrics::default())?;
    let replica = Arc::new(replica);
    world.note_replica(&replica);
    let (tracker, token) = (TaskTracker::new(), CancellationToken::new());
    replica.spawn(&tracker, &token);
    let services = replica.grpc_services(&token);
    let served = Server::builder()
        .add_service(services.replication)
        .add_service(services.index)
        .serve_with_incoming(incoming().await?);
    Ok(served.await?)
}

/// A gateway and its three users: they ask at random until all is settled, then for everything.
pub(crate) async fn run_gateway(world: World, name: &'static str) -> Fallible {
    let index = Arc::new(GrpcMetadataIndex::new(channel(&replicator(name))?));
    let mut cells: Vec<Arc<dyn CellClient>> = Vec::new();
    let config = GatewayConfig::new(region(name), Vec::new());
    for origin in REGIONS {
        let room = config.answer_room.clone();
        cells.push(Arc::new(GrpcCellClient::new(region(origin), channel(&cell(origin))?, room)));
    }
    let registry = &mut Registry::default();
    let gateway = Gateway::new(config, index, cells, clock_of(name), registry);
    let users = Users { world, name, gateway };
    let starts = users.world.count_start(name);
    tokio::join!(
        users.ask_at_random(starts * 3),
        users.ask_at_random(starts * 3 + 1),
        users.ask_at_random(starts * 3 + 2)
    );
    while !users.see_all_whole().await {
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    users.world.note_sees_all(&region(name));
    std::future::pending().await
}

struct Users {
    world: World,
    name: &'static str,
    gateway: Gateway,
}

impl Users {
    async fn ask_at_random(&self, number: u64) {
        let place = REGIONS.iter().position(|region| *region == self.name).unwrap_or(0) as u64;
        let mut random =
            SmallRng::seed_from_u64(self.world.seed ^ (place + 1) << 32 ^ number << 40);
        while self.world.phase() == Phase::Unrest {
            let traces = match random.random_range(0..4_u8) {
                0 => self.world.traces(),
                _ => self.world.newest(10),
            };
            let trace_id = match traces.len() {
                0 => unknown(&mut random),
                _ if random.random_range(0..10_u8) == 0 => unknown(&mut random),
                all => traces[random.random_range(0..all)],
            };
            if random.random_range(0..6_u8) == 0 {
                self.search().await;
            }
            let freshness = match random.random_range(0..5_u8) {
                0 | 1 => Freshness::Auto,
                2 => Freshness::Index,
                _ => Freshness::Now,
            };
            self.ask(trace_id, freshness).await;
            let pause = Duration::from_millis(random.random_range(10..100));
            tokio::time::sleep(pause).await;
        }
    }

    /// Asks and judges; says whether the answer was whole.
    async fn ask(&self, trace_id: TraceId, freshness: Freshness) -> bool {
        let Self { world, name, gateway } = self;
        let question = Question::begin(world, region(name), trace_id, freshness);
        let context = QueryContext::new(TenantId::default(), freshness, PATIENCE);
        let answer = match gateway.find_trace(&context, trace_id).await {
            Ok(answer) => answer,
            Err(error) => {
                world.count(|figures| figures.refused += 1);
                world.note_event(&format!("{name} {trace_id} {freshness:?}: {error}"));
                return false;
            }
        };
        let verdict = answer.certificate.verdict();
        world.count(|figures| match (answer.standing(), verdict) {
            (Standing::NotFound, _) => figures.not_found += 1,
            (_, Verdict::Complete) => figures.complete += 1,
            (_, Verdict::Partial) => figures.partial += 1,
        });
        let said = format!(
            "{name} {trace_id} {freshness:?}: {} spans, {}",
            answer.spans.len(),
            answer.certificate
        );
        if let Err(broken) = question.judge(world, &answer).await {
            world.note_violation(format!("{said}: {broken}; {question:?}"));
        }
        world.note_event(&said);
        is_whole(world, trace_id, &answer)
    }

    /// Searches for everything and judges; says whether the answer was complete.
    async fn search(&self) -> bool {
        let Self { world, name, gateway } = self;
        let freshness = Freshness::Auto;
        let context = QueryContext::new(TenantId::default(), freshness, PATIENCE);
        let request = SearchRequest {
            filter: Filter::All,
            range: Some(TimeRange::ALL),
            limit: SEARCH_LIMIT,
            cursor: None,
        };
        let page = match gateway.search(&context, &request).await {
            Ok(page) => page,
            Err(error) => {
                world.note_event(&format!("{name} search: {error}"));
                return false;
            }
        };
        let is_complete = page.certificate.verdict() == Verdict::Complete;
        world.count(|figures| {
            let counter = if is_complete {
                &mut figures.searches_complete
            } else {
                &mut figures.searches_partial
            };
            *counter += 1;
        });
        let said = format!("{name} search: {} traces, {}", page.matches.len(), page.certificate);
        if let Err(broken) = judge_search(world, &page).await {
            world.note_violation(format!("{said}: {broken}"));
        }
        world.note_event(&said);
        is_complete
    }

    /// Whether every trace is whole from here, however it is asked for.
    async fn see_all_whole(&self) -> bool {
        if !self.search().await {
            return false;
        }
        for trace_id in self.world.traces() {
            for freshness in [Freshness::Index, Freshness::Auto, Freshness::Now] {
                if !self.ask(trace_id, freshness).await {
                    return false;
                }
            }
        }
        true
    }
}

fn unknown(random: &mut SmallRng) -> TraceId {
    let mut bytes = [0xff; 16];
    bytes[8..].copy_from_slice(&random.random::<u64>().to_be_bytes());
    TraceId::from_bytes(bytes).unwrap()
}
