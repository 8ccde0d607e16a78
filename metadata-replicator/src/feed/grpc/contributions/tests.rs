use std::time::Duration;

use service_kit::SystemClock;
use tokio::net::TcpListener;
use tokio_stream::wrappers::TcpListenerStream;
use tokio_util::task::TaskTracker;
use tonic::transport::Server;
use trace_model::location::{Detail, Keep, ServiceCount};
use trace_model::{Clock, TenantId, TraceId, WriterId};

use super::*;
use crate::feed::OriginFeed;
use crate::feed::grpc::{ReplicationServer, ServerLimits, TcpDialer};
use crate::metrics::ReplicatorMetrics;
use crate::origin_log::{ContributionLog, MemoryOriginLog, MemoryRecords};
use crate::replica::{OriginEndpoint, Replica, ReplicaConfig};

const PATIENCE: Duration = Duration::from_secs(30);

fn clock() -> Arc<dyn Clock> {
    Arc::new(SystemClock::new())
}

fn region(name: &str) -> Region {
    Region::new(name).unwrap()
}

fn row(trace: u8, service: &str) -> Contribution {
    let services = vec![ServiceCount { service: service.into(), spans: 1, errors: 0 }];
    Contribution {
        version: 1,
        tenant: TenantId::default(),
        trace_id: TraceId::from_bytes([trace; 16]).unwrap(),
        writer: WriterId { region: region("eu-west-1"), incarnation: 1, partition: 0 },
        last_append: clock().now(),
        keep: Keep::Keep,
        is_erased: false,
        detail: Some(Detail { services, ..Detail::default() }),
    }
}

fn log() -> Arc<MemoryOriginLog> {
    let records = Arc::new(MemoryRecords::new(region("eu-west-1")));
    Arc::new(MemoryOriginLog::open(records, clock(), Entropy::seeded(1)))
}

/// A served log or replica.
struct Served {
    tracker: TaskTracker,
    token: CancellationToken,
    url: String,
}

impl Served {
    async fn start(
        router: impl FnOnce(&CancellationToken) -> tonic::transport::server::Router,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let (tracker, token) = (TaskTracker::new(), CancellationToken::new());
        let (router, stop) = (router(&token), token.clone().cancelled_owned());
        tracker.spawn(async move {
            let incoming = TcpListenerStream::new(listener);
            router.serve_with_incoming_shutdown(incoming, stop).await.unwrap();
        });
        Self { tracker, token, url }
    }

    async fn log(log: &Arc<MemoryOriginLog>) -> Self {
        let feed: Arc<dyn OriginFeed> = Arc::clone(log) as _;
        Self::start(|token| {
            let limits = ServerLimits::default();
            let serving = ReplicationServer::new([feed], clock(), limits, token.clone());
            Server::builder().add_service(serving.into_service())
        })
        .await
    }

    async fn stop(self) {
        self.token.cancel();
        self.tracker.close();
        tokio::time::timeout(PATIENCE, self.tracker.wait()).await.expect("every task ends");
    }

    fn follower(&self, from: Option<Cursor>) -> Follower {
        Follower {
            origin: region("eu-west-1"),
            subscriber: region("us-east-1"),
            urls: vec![self.url.clone()],
            from,
            dialer: Arc::new(TcpDialer),
            entropy: Arc::new(Entropy::seeded(3)),
        }
    }
}

/// Keeps what it took; refuses as often as it is told to.
#[derive(Debug, Default)]
struct Taken {
    state: Mutex<(Vec<String>, Option<Cursor>, u32)>,
}

impl Taken {
    fn refusing(times: u32) -> Arc<Self> {
        Arc::new(Self { state: Mutex::new((Vec::new(), None, times)) })
    }

    fn services(&self) -> Vec<String> {
        self.state.lock().unwrap().0.clone()
    }

    fn cursor(&self) -> Option<Cursor> {
        self.state.lock().unwrap().1
    }
}

#[async_trait]
impl ContributionSink for Taken {
    async fn take(
        &self,
        contributions: Vec<Contribution>,
        next: Cursor,
    ) -> Result<(), ReplicatorError> {
        let mut state = self.state.lock().unwrap();
        if state.2 > 0 {
            state.2 -= 1;
            return Err(ReplicatorError::Closed);
        }
        for contribution in contributions {
            let detail = contribution.detail.unwrap();
            state.0.extend(detail.services.iter().map(|count| count.service.to_string()));
        }
        state.1 = Some(next);
        Ok(())
    }
}

/// Follows until the sink has so many services.
async fn follow_until(follower: Follower, taken: &Arc<Taken>, expected: &[&str]) {
    let token = CancellationToken::new();
    let following = follow_contributions(follower, Arc::clone(taken) as _, token.clone());
    let watching = async {
        while taken.services() != expected {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        token.cancel();
    };
    let both = async { tokio::join!(following, watching) };
    tokio::time::timeout(PATIENCE, both).await.unwrap_or_else(|_| panic!("{taken:?}"));
}

#[tokio::test]
async fn contributions_come_with_their_services_also_from_a_cursor_midway() {
    let log = log();
    let served = Served::log(&log).await;
    log.append(&[row(1, "web"), row(2, "cart")], None).await.unwrap();
    let first = Taken::refusing(0);
    follow_until(served.follower(None), &first, &["web", "cart"]).await;
    let cursor = first.cursor();
    assert_eq!(cursor, log.end());

    log.append(&[row(3, "web"), row(4, "fraud")], None).await.unwrap();
    let second = Taken::refusing(0);
    follow_until(served.follower(cursor), &second, &["web", "fraud"]).await;
    served.stop().await;
}

#[tokio::test]
async fn names_that_fill_many_frames_come_before_the_rows_that_use_them() {
    let log = log();
    let served = Served::log(&log).await;
    let long = |number: usize| format!("{number:0>2000}");
    let rows: Vec<_> = (0..3_000).map(|number| row(1, &long(number))).collect();
    log.append(&rows, None).await.unwrap();
    let from_the_start = Taken::refusing(0);
    let names: Vec<String> = (0..3_000).map(long).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    follow_until(served.follower(None), &from_the_start, &names).await;

    log.append(&[row(2, &long(17))], None).await.unwrap();
    let midway = Taken::refusing(0);
    follow_until(served.follower(from_the_start.cursor()), &midway, &names[17..18]).await;
    assert_eq!(midway.cursor(), log.end());
    served.stop().await;
}

#[tokio::test]
async fn a_replica_takes_names_that_fill_many_frames_and_keeps_them() {
    let log = log();
    let served = Served::log(&log).await;
    let long = |number: usize| format!("{number:0>2000}");
    let rows: Vec<_> = (0..3_000).map(|number| row(1, &long(number))).collect();
    log.append(&rows, None).await.unwrap();
    let directory = tempfile::tempdir().unwrap();
    let open = || {
        let origin = OriginEndpoint { region: region("eu-west-1"), url: served.url.clone() };
        let config = ReplicaConfig::new(region("us-east-1"), directory.path(), vec![origin]);
        let metrics = ReplicatorMetrics::default();
        Arc::new(Replica::open(config, clock(), Entropy::seeded(2), metrics).unwrap())
    };
    for round in 0..2_u8 {
        let replica = open();
        log.append(&[row(10 + round, &long(5))], None).await.unwrap();
        let (tracker, token) = (TaskTracker::new(), CancellationToken::new());
        replica.spawn(&tracker, &token);
        let cursor = || replica.list_regions().into_iter().find_map(|state| state.cursor);
        let watching = async {
            while cursor() != log.end() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(PATIENCE, watching).await.expect("the replica is level");
        token.cancel();
        tracker.close();
        tokio::time::timeout(PATIENCE, tracker.wait()).await.expect("every task ends");
    }
    served.stop().await;
}

#[tokio::test]
async fn what_the_sink_refused_comes_again() {
    let log = log();
    let served = Served::log(&log).await;
    log.append(&[row(1, "web")], None).await.unwrap();
    let taken = Taken::refusing(2);
    follow_until(served.follower(None), &taken, &["web"]).await;
    served.stop().await;
}

#[tokio::test]
async fn a_replicator_names_the_origins_that_it_holds() {
    let directory = tempfile::tempdir().unwrap();
    let origins = ["eu-west-1", "us-east-1"]
        .map(|name| OriginEndpoint { region: region(name), url: "http://127.0.0.1:9".to_owned() });
    let config = ReplicaConfig::new(region("us-east-1"), directory.path(), origins.into());
    let metrics = ReplicatorMetrics::default();
    let replica = Arc::new(Replica::open(config, clock(), Entropy::seeded(2), metrics).unwrap());
    let served =
        Served::start(|token| Server::builder().add_service(replica.grpc_services(token).index))
            .await;
    let listed = list_origins(&TcpDialer, &served.url).await.unwrap();
    assert_eq!(listed, [region("eu-west-1"), region("us-east-1")]);
    let url = served.url.clone();
    served.stop().await;
    let error = list_origins(&TcpDialer, &url).await.unwrap_err();
    assert!(error.is_retryable(), "{error}");
}
