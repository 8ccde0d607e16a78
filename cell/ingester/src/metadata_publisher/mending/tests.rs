//! Against a real origin log in files and a real replica, over gRPC.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use metadata_replicator::feed::grpc::{ReplicationServer, ServerLimits, TcpDialer};
use metadata_replicator::{
    Entropy, OriginEndpoint, OriginFeed, OriginLog, OriginLogConfig, Replica, ReplicaConfig,
    ReplicatorError, ReplicatorMetrics, ReplicatorPeer,
};
use service_kit::ManualClock;
use span_log::LogIdentity;
use tokio::net::TcpListener;
use tokio_stream::wrappers::TcpListenerStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::service::Routes;
use tonic::transport::Server;
use trace_model::locality::IndexMode;
use trace_model::{Absence, Region, Sought, TenantId, TraceId};

use super::super::FixedPolicy;
use super::super::tests::{NOW, batch_of, region, span};
use super::*;

const WAIT: Duration = Duration::from_secs(30);

/// A gRPC server and what runs beside it.
struct Process {
    url: String,
    tracker: TaskTracker,
    token: CancellationToken,
}

impl Process {
    async fn serve(routes: impl FnOnce(&TaskTracker, &CancellationToken) -> Routes) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let (tracker, token) = (TaskTracker::new(), CancellationToken::new());
        let router = Server::builder().add_routes(routes(&tracker, &token));
        let stop = token.clone().cancelled_owned();
        tracker.spawn(async move {
            let incoming = TcpListenerStream::new(listener);
            router.serve_with_incoming_shutdown(incoming, stop).await.unwrap();
        });
        Self { url, tracker, token }
    }

    async fn stop(self) {
        self.token.cancel();
        self.tracker.close();
        tokio::time::timeout(WAIT, self.tracker.wait()).await.expect("every task ends");
    }
}

/// A region: the files of its origin log, and the replica of its replicator.
struct World {
    directory: tempfile::TempDir,
    clock: Arc<ManualClock>,
    /// Offset of the next record of the span log, and what the group has committed of it.
    next: u64,
    committed: u64,
}

impl World {
    fn new() -> Self {
        let clock = Arc::new(ManualClock::at(NOW));
        Self { directory: tempfile::tempdir().unwrap(), clock, next: 0, committed: 0 }
    }

    fn origin_at(&self) -> PathBuf {
        self.directory.path().join("origin")
    }

    fn open_log(&self) -> Arc<OriginLog> {
        let config = OriginLogConfig::new(self.origin_at(), region());
        let clock = Arc::clone(&self.clock) as Arc<dyn Clock>;
        Arc::new(OriginLog::open(config, clock, Entropy::from_system()).unwrap())
    }

    fn open_replica(&self, cell: &str) -> Arc<Replica> {
        let origins = vec![OriginEndpoint { region: region(), url: cell.to_owned() }];
        let own = Region::new("eu-west-1").unwrap();
        let config = ReplicaConfig::new(own, self.directory.path().join("replica"), origins);
        let clock = Arc::clone(&self.clock) as Arc<dyn Clock>;
        let metrics = ReplicatorMetrics::default();
        Arc::new(Replica::open(config, clock, Entropy::from_system(), metrics).unwrap())
    }

    fn parts(&self, log: &Arc<OriginLog>) -> PublisherParts {
        PublisherParts {
            config: PublisherConfig::new(region()),
            source: SpanLogState {
                identity: LogIdentity { incarnation: 1, partitions: 1 },
                ends: BTreeMap::from([(0, self.next)]),
                committed: BTreeMap::from([(0, self.committed)]),
                end_time: self.clock.now(),
            },
            log: Arc::clone(log) as Arc<dyn ContributionLog>,
            policy: Arc::new(FixedPolicy(IndexMode::Full)),
            clock: Arc::clone(&self.clock) as Arc<dyn Clock>,
            metrics: PublisherMetrics::default(),
        }
    }

    fn publisher(
        &self,
        log: &Arc<OriginLog>,
        peer: Option<Arc<dyn OriginPeer>>,
    ) -> MendingPublisher {
        MendingPublisher::new(self.parts(log), peer).unwrap()
    }

    /// One span of each trace, published and committed.
    async fn publish(&mut self, publisher: &mut MendingPublisher, traces: &[u8], id: u8) {
        let spans: Vec<_> = traces.iter().map(|trace| span(*trace, id, 0)).collect();
        let batch = batch_of(&spans, self.next, 0, u64::from(id) + 1_000 * self.next);
        self.next = batch.range.next;
        publisher.handle(std::slice::from_ref(&batch)).await.unwrap();
        self.clock.advance(Duration::from_secs(2));
        let log_end = Some(self.clock.now());
        publisher.tick(self.clock.now(), log_end, false).await.unwrap();
        self.committed = publisher.durable().next[&0];
        assert_eq!(self.committed, self.next, "all of it is published");
    }

    /// What the group does until it may go on: each try is due a moment later.
    async fn until_ready(&self, publisher: &mut MendingPublisher) -> u32 {
        let mut tries = 0;
        while publisher.tick(self.clock.now(), None, false).await.is_err() {
            tries += 1;
            assert!(tries < 1_000, "it waits for ever");
            self.clock.advance(TRY_EVERY);
        }
        tries
    }
}

fn serve_log(log: &Arc<OriginLog>, token: &CancellationToken, clock: Arc<dyn Clock>) -> Routes {
    let feeds = [Arc::clone(log) as Arc<dyn OriginFeed>];
    let server = ReplicationServer::new(feeds, clock, ServerLimits::default(), token.clone());
    Routes::new(server.into_service())
}

async fn serve_cell(world: &World, log: &Arc<OriginLog>) -> Process {
    let clock = Arc::clone(&world.clock) as Arc<dyn Clock>;
    Process::serve(|_, token| serve_log(log, token, clock)).await
}

async fn serve_replica(replica: &Arc<Replica>) -> Process {
    Process::serve(|tracker, token| {
        let services = replica.grpc_services(token);
        replica.spawn(tracker, token);
        Routes::new(services.replication).add_service(services.index)
    })
    .await
}

fn peer_at(url: &str) -> Option<Arc<dyn OriginPeer>> {
    Some(Arc::new(ReplicatorPeer { url: url.to_owned(), dialer: Arc::new(TcpDialer) }))
}

async fn until(what: &str, condition: impl Fn() -> bool) {
    let poll = async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(WAIT, poll).await.unwrap_or_else(|_| panic!("waited for: {what}"));
}

async fn until_level(replica: &Replica, log: &OriginLog) {
    until("the replica is level", || replica.list_regions()[0].cursor == log.end()).await;
}

fn spans_in(replica: &Replica, trace: u8) -> u64 {
    let id = TraceId::from_bytes([trace; 16]).unwrap();
    let entry = replica.look_up(&TenantId::default(), &[id]).remove(0);
    entry.summary().span_count
}

fn judge(replica: &Replica) -> Absence {
    replica.list_regions()[0].judge_absence(&Sought::UNKNOWN)
}

fn copy_files(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        std::fs::copy(&path, to.join(path.file_name().unwrap())).unwrap();
    }
}

/// A cell and a replica that are level: the group has published and committed all of its span log.
async fn level(world: &mut World) -> (Arc<OriginLog>, Arc<Replica>, Process, Process) {
    let log = world.open_log();
    let cell = serve_cell(world, &log).await;
    let replica = world.open_replica(&cell.url);
    let replicator = serve_replica(&replica).await;
    let mut publisher = world.publisher(&log, peer_at(&replicator.url));
    assert!(publisher.publisher.is_some(), "a new log waits for nobody");
    world.publish(&mut publisher, &[1, 2, 3, 4, 5], 1).await;
    until_level(&replica, &log).await;
    (log, replica, cell, replicator)
}

#[tokio::test]
async fn a_lost_log_is_taken_back_before_late_spans_are_folded_onto_it() {
    let mut world = World::new();
    let (log, replica, cell, replicator) = level(&mut world).await;
    cell.stop().await;
    drop(log);
    std::fs::remove_dir_all(world.origin_at()).unwrap();

    let log = world.open_log();
    let mut publisher = world.publisher(&log, peer_at(&replicator.url));
    assert!(publisher.publisher.is_none());
    assert!(publisher.durable().next.is_empty(), "nothing is committed meanwhile");
    world.until_ready(&mut publisher).await;
    assert_eq!(publisher.parts.metrics.rows_taken_back.get(), 5);
    assert_eq!(log.history().missing(), None);
    world.publish(&mut publisher, &[3, 9], 2).await;
    let published = log.published().unwrap();
    assert_eq!((published.next[&0], published.holes), (world.next, vec![]), "nothing is missing");
    replicator.stop().await;
    drop(replica);

    let cell = serve_cell(&world, &log).await;
    let replica = world.open_replica(&cell.url);
    let replicator = serve_replica(&replica).await;
    until_level(&replica, &log).await;
    assert_eq!((spans_in(&replica, 3), spans_in(&replica, 1), spans_in(&replica, 9)), (2, 1, 1));
    assert_eq!(judge(&replica), Absence::Proven);
    replicator.stop().await;
    cell.stop().await;
}

#[tokio::test]
async fn what_the_copy_had_not_got_either_is_a_hole() {
    let mut world = World::new();
    let (log, replica, cell, replicator) = level(&mut world).await;
    cell.stop().await;
    let level_at = world.clock.now();
    // Published and committed, and never followed.
    let mut publisher = world.publisher(&log, peer_at(&replicator.url));
    world.publish(&mut publisher, &[6, 7], 1).await;
    drop((publisher, log));
    std::fs::remove_dir_all(world.origin_at()).unwrap();

    let log = world.open_log();
    let mut publisher = world.publisher(&log, peer_at(&replicator.url));
    world.until_ready(&mut publisher).await;
    assert_eq!(publisher.parts.metrics.rows_taken_back.get(), 5);
    let holes = log.published().unwrap().holes;
    assert_eq!(holes.len(), 1, "{holes:?}");
    assert!(holes[0].start <= level_at && holes[0].start > NOW, "what was taken back is whole");
    assert!(holes[0].end > world.clock.now().minus(TRY_EVERY.as_secs() * 9_000_000_000));
    replicator.stop().await;
    drop(replica);
}

#[tokio::test]
async fn an_old_copy_is_recognised_by_the_commit_and_brought_up_to_date() {
    let mut world = World::new();
    let (log, replica, cell, replicator) = level(&mut world).await;
    let old = world.directory.path().join("old");
    copy_files(&world.origin_at(), &old);
    let mut publisher = world.publisher(&log, peer_at(&replicator.url));
    world.publish(&mut publisher, &[1, 8], 2).await;
    until_level(&replica, &log).await;
    cell.stop().await;
    drop((publisher, log));
    std::fs::remove_dir_all(world.origin_at()).unwrap();
    copy_files(&old, &world.origin_at());

    let log = world.open_log();
    let mut publisher = world.publisher(&log, peer_at(&replicator.url));
    assert!(publisher.publisher.is_none());
    world.until_ready(&mut publisher).await;
    assert_eq!(publisher.parts.metrics.rows_taken_back.get(), 2);
    world.publish(&mut publisher, &[1], 3).await;
    assert_eq!(log.published().unwrap().holes, []);
    let cell = serve_cell(&world, &log).await;
    replicator.stop().await;
    drop(replica);
    let replica = world.open_replica(&cell.url);
    let replicator = serve_replica(&replica).await;
    until_level(&replica, &log).await;
    assert_eq!((spans_in(&replica, 1), spans_in(&replica, 8)), (3, 1));
    replicator.stop().await;
    cell.stop().await;
}

#[tokio::test]
async fn a_whole_cell_that_was_restored_learns_of_its_loss_from_its_reader() {
    let mut world = World::new();
    let (log, replica, cell, replicator) = level(&mut world).await;
    let (old, old_next) = (world.directory.path().join("old"), world.next);
    copy_files(&world.origin_at(), &old);
    let restored_at = log.published().unwrap().as_of;
    let mut publisher = world.publisher(&log, peer_at(&replicator.url));
    world.publish(&mut publisher, &[1, 8], 2).await;
    until_level(&replica, &log).await;
    cell.stop().await;
    replicator.stop().await;
    drop((publisher, log, replica));
    std::fs::remove_dir_all(world.origin_at()).unwrap();
    copy_files(&old, &world.origin_at());
    // The span log came from the same day.
    (world.next, world.committed) = (old_next, old_next);

    let log = world.open_log();
    let cell = serve_cell(&world, &log).await;
    let replica = world.open_replica(&cell.url);
    let replicator = serve_replica(&replica).await;
    let mut publisher = world.publisher(&log, peer_at(&replicator.url));
    assert!(publisher.publisher.is_some(), "nothing in the cell tells of the loss");
    until("the reader has shown it", || log.history().missing().is_some()).await;
    world.clock.advance(TRY_EVERY);
    publisher.tick(world.clock.now(), None, false).await.unwrap();
    assert_eq!(publisher.parts.metrics.rows_taken_back.get(), 2);
    assert_eq!(log.history().missing(), None);
    let hole = log.published().unwrap().holes[0];
    assert!(hole.start <= restored_at && hole.contains(world.clock.now()), "{hole:?}");
    // It goes on, and what was lost stays a hole.
    world.publish(&mut publisher, &[11], 1).await;
    assert_eq!(log.published().unwrap().holes, [hole]);
    until_level(&replica, &log).await;
    assert_eq!((spans_in(&replica, 8), spans_in(&replica, 11)), (1, 1));
    assert_eq!(judge(&replica), Absence::Hole);
    replicator.stop().await;
    cell.stop().await;
}

#[tokio::test]
async fn without_an_answer_it_goes_on_with_a_hole_and_mends_when_the_replicator_is_back() {
    let mut world = World::new();
    let (log, replica, cell, replicator) = level(&mut world).await;
    cell.stop().await;
    replicator.stop().await;
    drop((log, replica));
    std::fs::remove_dir_all(world.origin_at()).unwrap();

    let log = world.open_log();
    let mut publisher = world.publisher(&log, peer_at("http://127.0.0.1:1"));
    let tries = world.until_ready(&mut publisher).await;
    assert!(TRY_EVERY * tries >= PATIENCE, "{tries}");
    let hole = log.published().unwrap().holes[0];
    assert_eq!(hole.start, UnixNanos(0));
    world.publish(&mut publisher, &[9], 2).await;

    let cell = serve_cell(&world, &log).await;
    let replica = world.open_replica(&cell.url);
    let replicator = serve_replica(&replica).await;
    publisher.peer = peer_at(&replicator.url);
    until("its reader shows what is missing", || log.history().missing().is_some()).await;
    world.clock.advance(TRY_AGAIN_EVERY);
    publisher.tick(world.clock.now(), None, false).await.unwrap();
    assert_eq!(publisher.parts.metrics.rows_taken_back.get(), 5);
    let holes = log.published().unwrap().holes;
    assert_eq!((holes.len(), holes[0].start), (1, UnixNanos(0)), "the hole stays: {holes:?}");
    until_level(&replica, &log).await;
    assert_eq!((spans_in(&replica, 1), spans_in(&replica, 9)), (1, 1));
    replicator.stop().await;
    cell.stop().await;
}

/// A peer that fails until it is told not to, and notes that it was asked.
#[derive(Debug)]
struct Counting {
    answers: AtomicBool,
    asked: Mutex<u32>,
}

#[async_trait]
impl OriginPeer for Counting {
    async fn give_back(&self, _log: &dyn ContributionLog) -> Result<Recovered, ReplicatorError> {
        *self.asked.lock().unwrap() += 1;
        if self.answers.load(Ordering::SeqCst) {
            return Ok(Recovered::default());
        }
        Err(ReplicatorError::Peer("away".to_owned()))
    }
}

#[tokio::test]
async fn a_commit_ahead_of_the_watermark_waits_for_an_answer_and_makes_no_hole() {
    let mut world = World::new();
    let log = world.open_log();
    let mut publisher = world.publisher(&log, None);
    world.publish(&mut publisher, &[1], 1).await;
    drop((publisher, log));
    // Repeats are committed and not published.
    (world.next, world.committed) = (world.next + 1, world.committed + 1);
    let log = world.open_log();
    let peer = Arc::new(Counting { answers: AtomicBool::new(false), asked: Mutex::new(0) });
    let mut publisher = world.publisher(&log, Some(Arc::clone(&peer) as Arc<dyn OriginPeer>));
    for _ in 0..20 {
        assert!(publisher.tick(world.clock.now(), None, false).await.is_err());
    }
    assert_eq!(*peer.asked.lock().unwrap(), 1, "one try at a time");
    assert!(publisher.tick(world.clock.now(), None, true).await.is_ok(), "it may stop at any time");
    peer.answers.store(true, Ordering::SeqCst);
    world.until_ready(&mut publisher).await;
    world.publish(&mut publisher, &[2], 1).await;
    assert_eq!(log.published().unwrap().holes, []);
    // Without a replicator nobody is waited for.
    (world.next, world.committed) = (world.next + 1, world.committed + 1);
    drop((publisher, log));
    let log = world.open_log();
    assert!(world.publisher(&log, None).publisher.is_some());
}
