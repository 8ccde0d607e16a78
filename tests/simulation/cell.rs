//! A cell on the simulated network: collector, span log, consumer groups, stores, querier and origin
//! log, wired as the binary wires them. A crash takes the process; the log and the store stand for
//! what a disk keeps.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use bytes::Bytes;
use collector::{Collector, CollectorConfig, ExportRequest, Rejections};
use ingester::metadata_publisher::{
    FixedPolicy, PublisherConfig, PublisherMaker, PublisherMetrics,
};
use ingester::{
    DeadLetterConfig, DeadLetters, GroupMaker, IngesterMetrics, IngesterParts, IngesterService,
    LagBoard, Retries, RunnerConfig, RunnerParts, StorageWriterMaker,
};
use metadata_replicator::feed::grpc::{ReplicationServer, ServerLimits};
use metadata_replicator::{
    DiskThreads, Entropy, OriginFeed, OriginLog, OriginLogConfig, ReplicatorPeer,
};
use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{
    TraceService, TraceServiceServer,
};
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use prometheus_client::registry::Registry;
use prost::Message;
use querier::{Querier, QuerierConfig, QuerierPorts};
use sampling::{HeadRules, RateSampler};
use span_log::SpanLog;
use span_log::memory::{MemoryConfig, MemoryLog};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::transport::Server;
use tonic::{Request, Response, Status};
use trace_model::locality::IndexMode;
use trace_model::{Clock, TenantId};
use trace_store::{MemoryMetricsStore, MemoryStore};

use crate::hosts::{Fallible, cell, clock_of, region, replicator, url};
use crate::late_writer::LateWriter;
use crate::ledger::{Disk, World};
use crate::network::{SimulatedDialer, incoming};
use crate::ports::{LogAndGroups, LogTail};

/// OTLP into the collector's stages: the collector's own listeners want real sockets.
struct Receiver(Arc<Collector>);

#[tonic::async_trait]
impl TraceService for Receiver {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        let body = Bytes::from(request.into_inner().encode_to_vec());
        let mut digest = DefaultHasher::new();
        body.hash(&mut digest);
        let pipeline = self.0.pipeline();
        let refused = |error: collector::ExportError| Status::unavailable(error.to_string());
        let admitted = pipeline.admit(body.len()).map_err(refused)?;
        let (tenant, digest) = (TenantId::default(), digest.finish());
        let request = ExportRequest {
            tenant,
            body,
            rejected: Rejections::default(),
            digest,
            received: None,
            admitted,
        };
        pipeline.export(request).await.map_err(refused)?;
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

/// What a cell's process opens when it starts.
struct Opened {
    disk: Disk,
    origin: Arc<OriginLog>,
    dead_letters: Arc<DeadLetters>,
    clock: Arc<dyn Clock>,
    registry: Registry,
}

impl Opened {
    fn open(world: &World, name: &'static str) -> turmoil::Result<Self> {
        let clock: Arc<dyn Clock> = clock_of(name);
        let disk = world.disk(&region(name), || Disk {
            log: MemoryLog::new(MemoryConfig::default(), Arc::clone(&clock)),
            store: Arc::new(MemoryStore::new()),
        });
        let directory = world.directory.join(cell(name));
        let origin = OriginLogConfig {
            disk: DiskThreads::Inline,
            segment_bytes_max: 4_000,
            ..OriginLogConfig::new(directory.join("origin"), region(name))
        };
        let entropy = Entropy::seeded(world.seed);
        let origin = Arc::new(OriginLog::open(origin, Arc::clone(&clock), entropy)?);
        let dead_letters = DeadLetters::open(DeadLetterConfig::new(directory.join("dead")))?;
        let dead_letters = Arc::new(dead_letters);
        Ok(Self { disk, origin, dead_letters, clock, registry: Registry::default() })
    }

    fn log(&self) -> Arc<dyn SpanLog> {
        Arc::clone(&self.disk.log) as _
    }

    fn querier(&mut self, name: &'static str, lag: LagBoard) -> Querier {
        let status =
            LogAndGroups { log: self.log(), lag, dead_letters: Arc::clone(&self.dead_letters) };
        let tail = LogTail { log: self.log(), dead_letters: Arc::clone(&self.dead_letters) };
        let ports = QuerierPorts {
            traces: Arc::clone(&self.disk.store) as _,
            search: Arc::clone(&self.disk.store) as _,
            catalog: Arc::clone(&self.disk.store) as _,
            metrics: Arc::new(MemoryMetricsStore::new()),
            tail: Arc::new(tail),
            status: Arc::new(status),
            clock: Arc::clone(&self.clock),
        };
        Querier::new(QuerierConfig::new(region(name)), ports, &mut self.registry)
    }

    fn collector(&mut self, name: &'static str) -> turmoil::Result<Arc<Collector>> {
        let settings = CollectorConfig::new(region(name), &cell(name));
        let sampler = Arc::new(RateSampler::new(HeadRules::default())?);
        let clock = Arc::clone(&self.clock);
        Ok(Collector::new(settings, self.log(), sampler, clock, &mut self.registry))
    }

    fn groups(&self, name: &'static str) -> Vec<Arc<dyn GroupMaker>> {
        let incarnation = self.disk.log.identity().incarnation;
        let publisher = PublisherMaker {
            config: PublisherConfig::new(region(name)),
            span_log: self.log(),
            origin: Arc::clone(&self.origin) as _,
            peer: Some(Arc::new(ReplicatorPeer {
                url: url(&replicator(name)),
                dialer: Arc::new(SimulatedDialer),
            })),
            policy: Arc::new(FixedPolicy(IndexMode::Full)),
            clock: Arc::clone(&self.clock),
            metrics: PublisherMetrics::default(),
        };
        let store = &self.disk.store;
        let writer = Arc::new(LateWriter::new(Arc::clone(store), Arc::clone(&self.clock)));
        vec![Arc::new(StorageWriterMaker { writer, incarnation }), Arc::new(publisher)]
    }
}

/// Opens what is there, goes on with it, serves.
pub(crate) async fn run_cell(world: World, name: &'static str) -> Fallible {
    let mut opened = Opened::open(&world, name)?;
    let (tracker, token) = (TaskTracker::new(), CancellationToken::new());
    let lag = LagBoard::default();
    let runner = RunnerParts {
        stepped_over: None,
        log: opened.log(),
        dead_letters: Arc::clone(&opened.dead_letters),
        clock: Arc::clone(&opened.clock),
        lag: lag.clone(),
        metrics: IngesterMetrics::default(),
        retries: Retries::default(),
        config: RunnerConfig::default(),
    };
    let parts = IngesterParts { runner, groups: opened.groups(name) };
    let _groups = IngesterService::start(&tracker, &token, parts).await?;
    let feed = Arc::clone(&opened.origin) as Arc<dyn OriginFeed>;
    let clock = Arc::clone(&opened.clock);
    let feeds = ReplicationServer::new([feed], clock, ServerLimits::default(), token.clone());
    let receiver = TraceServiceServer::new(Receiver(opened.collector(name)?));
    let served = Server::builder()
        .add_service(querier::server(opened.querier(name, lag)))
        .add_service(feeds.into_service())
        .add_service(receiver)
        .serve_with_incoming(incoming().await?);
    Ok(served.await?)
}
