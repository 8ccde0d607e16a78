#![expect(clippy::cast_possible_truncation, reason = "numbers of a test are small")]

use std::net::SocketAddr;

use service_kit::SystemClock;
use tokio::net::TcpListener;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::transport::Server;
use trace_model::location::{Detail, Keep, ServiceCount};
use trace_model::{Contribution, UnixNanos, Watermark, WriterId};

use super::*;
use crate::feed::grpc::endpoint;
use crate::origin_log::{
    ContributionLog, MemoryOriginLog, MemoryRecords, OriginLog, OriginLogConfig, OriginPeer,
    ReplicatorPeer, RowKey, recover_from_peer,
};

const PATIENCE: Duration = Duration::from_secs(30);

fn clock() -> Arc<dyn Clock> {
    Arc::new(SystemClock::new())
}

fn region(name: &str) -> Region {
    Region::new(name).unwrap()
}

fn row(origin: &str, trace: u8, version: u64) -> Contribution {
    let services = vec![ServiceCount { service: "web".into(), spans: 1, errors: 0 }];
    let now = clock().now();
    Contribution {
        version,
        tenant: TenantId::default(),
        trace_id: TraceId::from_bytes([trace; 16]).unwrap(),
        writer: WriterId { region: region(origin), incarnation: 1, partition: 0 },
        last_append: now,
        keep: Keep::Keep,
        is_erased: false,
        detail: Some(Detail {
            min_start: now,
            max_end: now.plus(5),
            span_count: version as u32,
            services,
            ..Detail::default()
        }),
    }
}

fn watermark(origin: &str, next: u64) -> Watermark {
    Watermark {
        region: region(origin),
        incarnation: 1,
        as_of: clock().now(),
        next: [(0, next)].into(),
        holes: Vec::new(),
    }
}

/// Tasks and servers of one process, ended together.
struct Process {
    tracker: TaskTracker,
    token: CancellationToken,
    address: SocketAddr,
}

impl Process {
    async fn serve(feeds: Vec<Arc<dyn OriginFeed>>, replica: Option<&Arc<Replica>>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (tracker, token) = (TaskTracker::new(), CancellationToken::new());
        let mut server = Server::builder();
        let router = match replica {
            Some(replica) => {
                let services = replica.grpc_services(&token);
                replica.spawn(&tracker, &token);
                server.add_service(services.replication).add_service(services.index)
            }
            None => {
                let limits = ServerLimits::default();
                let serving = ReplicationServer::new(feeds, clock(), limits, token.clone());
                server.add_service(serving.into_service())
            }
        };
        let stopped = token.clone();
        tracker.spawn(async move {
            let incoming = TcpListenerStream::new(listener);
            let stop = stopped.cancelled_owned();
            router.serve_with_incoming_shutdown(incoming, stop).await.unwrap();
        });
        Self { tracker, token, address }
    }

    fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    async fn stop(self) {
        self.token.cancel();
        self.tracker.close();
        tokio::time::timeout(PATIENCE, self.tracker.wait()).await.expect("every task ends");
    }
}

fn memory_log(origin: &str) -> Arc<MemoryOriginLog> {
    let records = Arc::new(MemoryRecords::new(region(origin)));
    Arc::new(MemoryOriginLog::open(records, clock(), Entropy::seeded(1)))
}

fn open(own: &str, directory: &std::path::Path, origins: &[(&str, String)]) -> Arc<Replica> {
    let origins = origins
        .iter()
        .map(|(origin, url)| OriginEndpoint { region: region(origin), url: url.clone() });
    let config = ReplicaConfig::new(region(own), directory, origins.collect());
    let metrics = ReplicatorMetrics::default();
    Arc::new(Replica::open(config, clock(), Entropy::seeded(2), metrics).unwrap())
}

async fn until(what: &str, condition: impl Fn() -> bool) {
    let poll = async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, poll).await.unwrap_or_else(|_| panic!("waited for: {what}"));
}

fn version_in(replica: &Replica, trace: u8) -> u64 {
    let entries =
        replica.look_up(&TenantId::default(), &[TraceId::from_bytes([trace; 16]).unwrap()]);
    entries[0].contributions.values().map(|row| row.version).sum()
}

#[tokio::test]
async fn a_contribution_reaches_a_replica_and_outlives_its_restart() {
    let log = memory_log("eu-west-1");
    let cell = Process::serve(vec![log.clone()], None).await;
    let directory = tempfile::tempdir().unwrap();
    let origins = [("eu-west-1", cell.url())];
    let replica = open("us-east-1", directory.path(), &origins);
    let process = Process::serve(vec![], Some(&replica)).await;
    log.append(&[row("eu-west-1", 1, 3)], Some(&watermark("eu-west-1", 3))).await.unwrap();
    until("the row", || version_in(&replica, 1) == 3).await;
    until("the whole log", || replica.list_regions()[0].cursor == log.end()).await;
    let state = replica.list_regions().remove(0);
    assert!(state.is_connected);
    assert_eq!(state.watermark.unwrap().next, [(0, 3)].into());
    process.stop().await;
    let digest = replica.digest();
    drop(replica);

    log.append(&[row("eu-west-1", 2, 4)], None).await.unwrap();
    let replica = open("us-east-1", directory.path(), &origins);
    assert_eq!((replica.digest(), version_in(&replica, 1)), (digest, 3));
    assert!(!replica.list_regions()[0].is_connected);
    let process = Process::serve(vec![], Some(&replica)).await;
    until("what came meanwhile", || version_in(&replica, 2) == 4).await;
    process.stop().await;
    cell.stop().await;
}

#[tokio::test]
async fn a_refused_stream_is_told_until_a_good_frame_comes() {
    let directory = tempfile::tempdir().unwrap();
    let nobody = ("eu-west-1", "http://127.0.0.1:1".to_owned());
    let replica = open("us-east-1", directory.path(), &[nobody]);
    let is_refused = || replica.list_regions()[0].is_refused;
    assert!(!is_refused());
    let origin = Arc::clone(&replica.origins[&region("eu-west-1")]);
    origin.note_refused();
    // A stream that is up again has not been good yet.
    origin.note_connected(true);
    assert!(is_refused());
    let log = memory_log("eu-west-1");
    let cell = Process::serve(vec![log.clone()], None).await;
    let other = tempfile::tempdir().unwrap();
    let replica = open("us-east-1", other.path(), &[("eu-west-1", cell.url())]);
    replica.origins[&region("eu-west-1")].note_refused();
    let process = Process::serve(vec![], Some(&replica)).await;
    log.append(&[row("eu-west-1", 1, 3)], None).await.unwrap();
    until("a good frame", || !replica.list_regions()[0].is_refused).await;
    process.stop().await;
    cell.stop().await;
}

#[tokio::test]
async fn a_replica_serves_on_what_it_holds_and_answers_over_grpc() {
    let log = memory_log("eu-west-1");
    let cell = Process::serve(vec![log.clone()], None).await;
    let first_directory = tempfile::tempdir().unwrap();
    let first = open("eu-west-1", first_directory.path(), &[("eu-west-1", cell.url())]);
    let first_process = Process::serve(vec![], Some(&first)).await;
    log.append(&[row("eu-west-1", 1, 1)], Some(&watermark("eu-west-1", 1))).await.unwrap();
    until("the first replica", || version_in(&first, 1) == 1).await;
    cell.stop().await;

    let second_directory = tempfile::tempdir().unwrap();
    let origins = [("eu-west-1", first_process.url())];
    let second = open("us-east-1", second_directory.path(), &origins);
    let second_process = Process::serve(vec![], Some(&second)).await;
    until("the second replica", || version_in(&second, 1) == 1).await;
    assert_eq!(first.digest(), second.digest());

    let channel = endpoint(&second_process.url()).unwrap().connect().await.unwrap();
    let mut client = proto::v1::metadata_index_client::MetadataIndexClient::new(channel);
    let asked = proto::v1::LookUpRequest {
        tenant: "default".to_owned(),
        trace_ids: vec![vec![1; 16].into(), vec![2; 16].into()],
    };
    let answer = client.look_up(asked).await.unwrap().into_inner();
    assert_eq!(answer.entries.len(), 2);
    assert_eq!(answer.entries[0].contributions.len(), 1);
    assert!(answer.entries[1].contributions.is_empty());
    assert_eq!(answer.regions.len(), 1);
    let bad = proto::v1::LookUpRequest {
        tenant: "default".to_owned(),
        trace_ids: vec![vec![1; 3].into()],
    };
    assert_eq!(client.look_up(bad).await.unwrap_err().code(), tonic::Code::InvalidArgument);
    let summaries = proto::v1::ListSummariesRequest {
        tenant: "default".to_owned(),
        end_unix_nano: u64::MAX,
        service: "web".to_owned(),
        ..Default::default()
    };
    let answer = client.list_summaries(summaries).await.unwrap().into_inner();
    assert_eq!((answer.entries.len(), answer.rows_scanned), (1, 1));
    let answer = client.list_regions(proto::v1::ListRegionsRequest {}).await.unwrap().into_inner();
    assert_eq!((answer.own_region.as_str(), answer.traces_held), ("us-east-1", 1));
    second_process.stop().await;
    first_process.stop().await;
}

#[tokio::test]
async fn an_origin_that_lost_its_disk_takes_its_rows_back_from_a_replica() {
    let lost = tempfile::tempdir().unwrap();
    let files = |directory: &std::path::Path| {
        let config = OriginLogConfig::new(directory, region("eu-west-1"));
        Arc::new(OriginLog::open(config, clock(), Entropy::seeded(1)).unwrap())
    };
    let log = files(lost.path());
    let rows: Vec<_> = (1..200).map(|trace| row("eu-west-1", trace, 7)).collect();
    log.append(&rows, Some(&watermark("eu-west-1", 7))).await.unwrap();
    let cell = Process::serve(vec![log.clone()], None).await;
    let directory = tempfile::tempdir().unwrap();
    let replica = open("us-east-1", directory.path(), &[("eu-west-1", cell.url())]);
    let process = Process::serve(vec![], Some(&replica)).await;
    until("all rows", || replica.traces_held() == rows.len()).await;
    until("the watermark", || replica.list_regions()[0].watermark.is_some()).await;
    cell.stop().await;
    let digest = replica.digest();

    let empty = tempfile::tempdir().unwrap();
    let log = files(empty.path());
    let channel = endpoint(&process.url()).unwrap().connect().await.unwrap();
    let recovered = recover_from_peer(log.as_ref(), channel).await.unwrap();
    assert_eq!((recovered.rows, recovered.is_behind), (rows.len(), true));
    let watermark = recovered.watermark.unwrap();
    assert_eq!(watermark.next, [(0, 7)].into());
    assert!(log.history().missing().is_some());
    log.append(&[], Some(&watermark)).await.unwrap();
    log.note_mended(recovered.end).await.unwrap();
    assert!(log.epoch() > replica.list_regions()[0].cursor.unwrap().epoch);
    let keys: Vec<_> = rows.iter().map(RowKey::of).collect();
    assert!(log.own_rows(&keys).await.unwrap().iter().all(Option::is_some));
    process.stop().await;

    let cell = Process::serve(vec![log.clone()], None).await;
    drop(replica);
    let replica = open("us-east-1", directory.path(), &[("eu-west-1", cell.url())]);
    let process = Process::serve(vec![], Some(&replica)).await;
    until("the new epoch", || replica.list_regions()[0].cursor == log.end()).await;
    assert_eq!(replica.digest(), digest, "mending changed nothing");
    process.stop().await;
    cell.stop().await;
}

#[tokio::test]
async fn a_level_subscriber_hears_a_heartbeat_and_no_flood() {
    let log = memory_log("eu-west-1");
    let cell = Process::serve(vec![log.clone()], None).await;
    for is_filled in [false, true] {
        if is_filled {
            log.append(&[row("eu-west-1", 1, 1)], None).await.unwrap();
        }
        let channel = endpoint(&cell.url()).unwrap().connect().await.unwrap();
        let (origin, asker) = (region("eu-west-1"), region("us-east-1"));
        let stream = crate::feed::grpc::subscribe(channel, &origin, &asker, None).await;
        let mut frames = stream.unwrap();
        let counted = async {
            for _ in 0..3 {
                frames.message().await.unwrap().expect("the stream goes on");
            }
        };
        let quick = Duration::from_millis(400);
        assert!(tokio::time::timeout(quick, counted).await.is_err(), "three frames at once");
        let heartbeat = tokio::time::timeout(PATIENCE, frames.message()).await;
        assert!(heartbeat.unwrap().unwrap().unwrap().records.is_empty());
    }
    cell.stop().await;
}

#[tokio::test]
async fn an_evicted_row_makes_a_hole_in_every_watermark() {
    let log = memory_log("eu-west-1");
    let rows: Vec<_> = (1..40).map(|trace| row("eu-west-1", trace, 1)).collect();
    log.append(&rows, Some(&watermark("eu-west-1", 1))).await.unwrap();
    let cell = Process::serve(vec![log], None).await;
    let directory = tempfile::tempdir().unwrap();
    let endpoint = OriginEndpoint { region: region("eu-west-1"), url: cell.url() };
    let config = ReplicaConfig {
        rows_max: 10,
        ..ReplicaConfig::new(region("us-east-1"), directory.path(), vec![endpoint])
    };
    let metrics = ReplicatorMetrics::default();
    let replica = Arc::new(Replica::open(config, clock(), Entropy::seeded(2), metrics).unwrap());
    let process = Process::serve(vec![], Some(&replica)).await;
    until("the watermark", || replica.list_regions()[0].watermark.is_some()).await;
    assert!(replica.traces_held() <= 10);
    let hole = replica.list_regions()[0].watermark.as_ref().unwrap().holes[0];
    assert_eq!(hole.start, UnixNanos(0));
    assert!(hole.contains(rows[0].last_append));
    process.stop().await;
    cell.stop().await;
}

#[tokio::test]
async fn a_search_that_finds_nothing_lets_writers_in() {
    let directory = tempfile::tempdir().unwrap();
    let replica = open("us-east-1", directory.path(), &[]);
    let rows = 20_000_u32;
    for number in 0..rows {
        let mut id = [1; 16];
        id[..4].copy_from_slice(&number.to_le_bytes());
        let row =
            Contribution { trace_id: TraceId::from_bytes(id).unwrap(), ..row("eu-west-1", 1, 1) };
        replica.index.write().unwrap().join(&row);
    }
    // All of its traces are too short by a nanosecond, and in the same order as those that are not.
    let query = SummaryQuery {
        service: Some("web".into()),
        duration_nanos_min: 6,
        duration_nanos_max: Some(7),
        ..SummaryQuery::newest(TenantId::default(), trace_model::TimeRange::ALL, 20)
    };
    let mut writes = 0_u64;
    let found = {
        let search = replica.list_summaries(&query);
        let write = async {
            loop {
                // Whoever writes between two steps does not wait for the search to end.
                drop(replica.index.try_write().expect("the search holds the index over a yield"));
                writes += 1;
                tokio::task::yield_now().await;
            }
        };
        tokio::select! {
            biased;
            found = search => found,
            () = write => unreachable!("it goes on for ever"),
        }
    };
    assert_eq!((found.entries.len(), found.rows_scanned), (0, u64::from(rows)));
    assert!(found.steps >= u64::from(rows) / SEARCH_ROWS as u64, "{} steps", found.steps);
    assert!(writes + 1 >= found.steps, "{writes} writes in {} steps", found.steps);
}

mod mending;
mod retention;
