//! Several collectors' logs behind one front, over real sockets.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use proto::v1::collector_log_client::CollectorLogClient;
use service_kit::ManualClock;
use span_log::direct::{
    self, CellName, CollectorConfig, CollectorLog, DirectError, FrontConfig, FrontLog, INCARNATION,
    RetireError, Standing,
};
use span_log::port::{METADATA_PUBLISHER, METRICS_AGGREGATOR, SEARCH_INDEXER, STORAGE_WRITER};
use span_log::{
    EmbeddedConfig, ForgetLost, GroupId, LogError, LostCause, LostRun, MissedRun, Seen, SpanLog,
    TailAnswer,
};
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio::task::JoinSet;
use tonic::Code;
use tonic::transport::server::TcpIncoming;
use tonic::transport::{Endpoint, Server};
use trace_model::{Coverage, LogRange, Region, UnixNanos};

use crate::batches::{batch, eventually, tenant, trace};
use crate::laws::{NOW, SECOND};
use crate::ports::free_run;

/// A cell of collectors; what runs ends with it.
pub(crate) struct Collectors {
    directory: TempDir,
    pub(crate) clock: Arc<ManualClock>,
    addresses: Vec<SocketAddr>,
    running: Vec<Option<(oneshot::Sender<()>, JoinSet<()>)>>,
    /// Of fronts that are opened; longer than what most tests advance their clock by.
    pub(crate) lease: Duration,
    /// … and their region.
    region: String,
}

fn cell_name(region: &str) -> CellName {
    CellName { region: Region::new(region).unwrap(), keyspace: "spans".to_owned() }
}

impl Collectors {
    /// So many, none of which runs yet.
    pub(crate) fn new(count: usize) -> Self {
        let free = || SocketAddr::from(([127, 0, 0, 1], free_run(1)));
        Self {
            directory: tempfile::tempdir().unwrap(),
            clock: Arc::new(ManualClock::at(NOW)),
            addresses: (0..count).map(|_| free()).collect(),
            running: (0..count).map(|_| None).collect(),
            lease: 1_000_000 * SECOND,
            region: "eu".to_owned(),
        }
    }

    /// One that runs, and a front that knows it.
    pub(crate) async fn of_one() -> (Self, Arc<CollectorLog>, Arc<FrontLog>) {
        Self::new(1).known().await
    }

    /// The same with a lease.
    pub(crate) async fn of_one_leased(lease: Duration) -> (Self, Arc<CollectorLog>, Arc<FrontLog>) {
        Self { lease, ..Self::new(1) }.known().await
    }

    async fn known(mut self) -> (Self, Arc<CollectorLog>, Arc<FrontLog>) {
        let log = self.start(0).await;
        let front = self.open_front().await;
        self.until_registered(&front, 0).await;
        (self, log, front)
    }

    fn place(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn config(&self, number: u32, place: &str, seen: Seen) -> CollectorConfig {
        let mut log = EmbeddedConfig::at(self.place(place).join("log"));
        log.disk_reserve_bytes = 0;
        log.seen = seen;
        let file = self.place(place).join("collector.json");
        CollectorConfig { cell: cell_name("eu"), number, file, log }
    }

    pub(crate) fn open(
        &self,
        number: u32,
        place: &str,
        seen: Seen,
    ) -> Result<Arc<CollectorLog>, DirectError> {
        CollectorLog::open(self.config(number, place, seen), Arc::clone(&self.clock) as _)
    }

    /// Starts a collector, and serves its log.
    pub(crate) async fn start(&mut self, number: u32) -> Arc<CollectorLog> {
        let log = self.open(number, &format!("c{number}"), Seen::default()).unwrap();
        let address = self.addresses[number as usize];
        let incoming = TcpIncoming::from(TcpListener::bind(address).await.unwrap());
        let service = direct::server(Arc::clone(&log));
        let mut running = JoinSet::new();
        let (stop, stopped) = oneshot::channel::<()>();
        running.spawn(async move {
            let server = Server::builder().add_service(service);
            let stopped = async move { drop(stopped.await) };
            server.serve_with_incoming_shutdown(incoming, stopped).await.unwrap();
        });
        self.running[number as usize] = Some((stop, running));
        log
    }

    /// It is gone, with what it had open.
    pub(crate) async fn stop(&mut self, number: u32, log: Arc<CollectorLog>) {
        let (stop, running) = self.running[number as usize].take().unwrap();
        stop.send(()).unwrap();
        running.join_all().await;
        log.close().await.unwrap();
    }

    pub(crate) async fn open_front(&self) -> Arc<FrontLog> {
        self.open_front_that_has(Seen::default()).await.unwrap()
    }

    pub(crate) async fn open_front_that_has(
        &self,
        seen: Seen,
    ) -> Result<Arc<FrontLog>, DirectError> {
        let collectors = self.addresses.iter().map(|address| format!("http://{address}"));
        let file = self.place("front.json");
        let (collectors, lease) = (collectors.collect(), self.lease);
        let cell = cell_name(&self.region);
        let config = FrontConfig { cell, collectors, file, seen, lease };
        FrontLog::open(config, Arc::clone(&self.clock) as _).await
    }

    /// Asks the first collector how it is, in the name of a front.
    async fn ask_as(&self, front: proto::v1::Front) -> Result<(), Code> {
        let url = format!("http://{}", self.addresses[0]);
        let channel = Endpoint::from_shared(url).unwrap().connect().await.unwrap();
        let request = proto::v1::WatchLogRequest { front: Some(front), ..Default::default() };
        let answer = CollectorLogClient::new(channel).watch_log(request).await;
        answer.map(drop).map_err(|status| status.code())
    }

    /// Until the collector takes spans: its clock has to pass what was vouched for.
    pub(crate) async fn until_registered(&self, front: &FrontLog, number: u32) {
        eventually("the front knows a collector", || {
            self.clock.advance(Duration::from_millis(1));
            front.standings()[number as usize].standing == Standing::Up
        })
        .await;
    }
}

/// A front of the cell that knows no log yet.
fn introduced(epoch: u64, collector: u32) -> proto::v1::Front {
    let (region, keyspace) = ("eu".to_owned(), "spans".to_owned());
    proto::v1::Front { epoch, collector, log: 0, region, keyspace }
}

fn is_away(front: &FrontLog, number: u32) -> bool {
    matches!(front.standings()[number as usize].standing, Standing::Away(_))
}

pub(crate) async fn end_is(front: &FrontLog, partition: u32, next: u64) {
    eventually("the front knows the end", || front.end(partition).unwrap().next == next).await;
}

pub(crate) fn cover(number: u32, next: u64) -> Seen {
    let mut covered = Coverage::none(INCARNATION);
    covered.extend(number, next);
    Seen { stored: covered.clone(), covered, append_time: UnixNanos(0) }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_collector_takes_no_span_before_its_front_knows_it() {
    let mut cell = Collectors::new(1);
    let log = cell.start(0).await;
    let refused = log.append(batch(&[1])).await.unwrap_err();
    assert!(refused.is_retryable() && refused.to_string().contains("does not know"), "{refused}");
    assert!(log.health().is_err());
    let front = cell.open_front().await;
    cell.until_registered(&front, 0).await;
    log.append(batch(&[1])).await.unwrap();
    assert!(log.health().is_ok());
    // Nothing was appended at a time that a front may have vouched for before.
    let first = log.read(0, 0, 1).await.unwrap().remove(0);
    assert!(first.append_time > NOW);
    // A front that is away stops nobody that is known, also over a restart.
    front.close().await.unwrap();
    cell.stop(0, log).await;
    let log = cell.start(0).await;
    log.append(batch(&[2])).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_front_reads_every_collector_and_its_tail_has_what_any_of_them_acknowledged() {
    let mut cell = Collectors::new(2);
    let (one, two) = (cell.start(0).await, cell.start(1).await);
    let front = cell.open_front().await;
    for number in 0..2 {
        cell.until_registered(&front, number).await;
    }
    one.append(batch(&[1, 2])).await.unwrap();
    two.append(batch(&[2, 3, 4])).await.unwrap();
    // At once, before the front has heard of new ends.
    let tail = front.tail(&tenant("default"), trace(2)).await.unwrap();
    assert_eq!(tail.spans.len(), 2);
    assert_eq!(
        (tail.covered.next_in(INCARNATION, 0), tail.covered.next_in(INCARNATION, 1)),
        (2, 3)
    );
    assert!(!tail.is_behind && !tail.is_damaged && tail.silent.is_empty());
    let begins = tail.begins.unwrap();
    assert_eq!((begins.next_in(INCARNATION, 0), begins.next_in(INCARNATION, 1)), (0, 0));
    for (partition, next) in [(0, 2), (1, 3)] {
        end_is(&front, partition, next).await;
        let read = front.read(partition, 0, 1 << 20).await.unwrap();
        assert_eq!((read[0].range.partition, read[0].range.next), (partition, next));
        assert_eq!(read[0].incarnation, INCARNATION);
        assert!(front.read(partition, next, 1 << 20).await.unwrap().is_empty());
    }
    // A tail says how far storage-writer is by then; a grace later it is without what lies below.
    two.commit(STORAGE_WRITER, 1, 3).await.unwrap();
    let tail_of_two = async || front.tail(&tenant("default"), trace(2)).await.unwrap();
    // … and says where it begins, which is where it was for as long as it gives all from there on.
    let begins = |tail: TailAnswer| tail.begins.unwrap().next_in(INCARNATION, 1);
    assert_eq!(begins(tail_of_two().await), 0);
    assert_eq!(front.committed(STORAGE_WRITER, 1).unwrap(), 3);
    let shrunk = async {
        while tail_of_two().await.spans.len() != 1 {
            cell.clock.advance(SECOND);
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let shrunk = tokio::time::timeout(Duration::from_secs(10), shrunk).await;
    assert!(shrunk.is_ok(), "what was committed stays in the tail");
    assert_eq!(begins(tail_of_two().await), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn commits_of_the_front_reach_the_collector_and_stay_over_a_restart() {
    let (mut cell, log, front) = Collectors::of_one().await;
    log.append(batch(&[1, 2, 3])).await.unwrap();
    end_is(&front, 0, 3).await;
    front.commit(METADATA_PUBLISHER, 0, 2).await.unwrap();
    front.commit(METRICS_AGGREGATOR, 0, 1).await.unwrap();
    let analytics = GroupId("analytics-writer");
    front.commit(analytics, 0, 2).await.unwrap();
    assert!(front.commit(METADATA_PUBLISHER, 0, 1).await.is_err());
    let told =
        || [METADATA_PUBLISHER, METRICS_AGGREGATOR].map(|one| log.committed(one, 0).unwrap());
    eventually("the collector is told", || told() == [2, 1]).await;
    assert_eq!(log.committed(analytics, 0).unwrap(), 2);
    front.close().await.unwrap();
    // Also where the front has lost its directory.
    std::fs::remove_file(cell.place("front.json")).unwrap();
    let front = cell.open_front().await;
    assert_eq!(front.committed(METADATA_PUBLISHER, 0).unwrap(), 2);
    assert_eq!(front.committed(METRICS_AGGREGATOR, 0).unwrap(), 1);
    assert_eq!(front.committed(analytics, 0).unwrap(), 2);
    cell.stop(0, log).await;
    front.close().await.unwrap();
    let front = cell.open_front().await;
    assert_eq!(front.committed(METADATA_PUBLISHER, 0).unwrap(), 2);
    assert_eq!(front.end(0).unwrap().next, 3, "the end as it was last heard");
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_does_not_answer_is_named_and_holds_the_end_where_it_was() {
    let mut cell = Collectors::new(2);
    let (one, two) = (cell.start(0).await, cell.start(1).await);
    let front = cell.open_front().await;
    for number in 0..2 {
        cell.until_registered(&front, number).await;
    }
    two.append(batch(&[1])).await.unwrap();
    end_is(&front, 1, 1).await;
    cell.stop(1, two).await;
    eventually("the front finds it away", || is_away(&front, 1)).await;
    let held = front.end(1).unwrap();
    cell.clock.advance(60 * SECOND);
    one.append(batch(&[1, 2])).await.unwrap();
    end_is(&front, 0, 2).await;
    assert_eq!(front.end(1).unwrap(), held);
    assert!(front.end(0).unwrap().append_time > held.append_time);
    let tail = front.tail(&tenant("default"), trace(1)).await.unwrap();
    assert_eq!((tail.spans.len(), tail.is_behind, tail.silent), (1, true, vec![1]));
    assert_eq!(tail.covered.next.get(&1), None, "nothing is said of it");
    assert_eq!(front.away(), [1]);
    assert!(matches!(front.read(1, 0, 1).await, Err(LogError::Unavailable(_))));
    // Nobody waits for it to date what was not read of it.
    assert!(front.dated(1, 0).is_some_and(|since| since >= NOW && since <= held.append_time));
    assert!(front.read(1, 1, 1).await.unwrap().is_empty(), "what was read of it holds nobody up");
    // It comes back, and everything is there again.
    let two = cell.start(1).await;
    eventually("the front hears it", || !is_away(&front, 1)).await;
    two.append(batch(&[1])).await.unwrap();
    let tail = front.tail(&tenant("default"), trace(1)).await.unwrap();
    assert_eq!((tail.spans.len(), tail.is_behind, front.away()), (3, false, vec![]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_number_is_one_logs_for_ever() {
    let (mut cell, log, front) = Collectors::of_one().await;
    log.append(batch(&[1, 2])).await.unwrap();
    end_is(&front, 0, 2).await;
    cell.stop(0, log).await;
    // Another number over this directory, another directory under this number.
    let refused = cell.open(1, "c0", Seen::default()).unwrap_err();
    assert!(matches!(refused, DirectError::OtherNumber { number: 1, known: 0 }), "{refused}");
    let refused = cell.open(0, "elsewhere", cover(0, 2)).unwrap_err();
    assert!(matches!(refused, DirectError::NumberTaken { number: 0, next: 2 }), "{refused}");
    // A disk that was lost but for the note; then the note as well, before any store had a record.
    std::fs::remove_dir_all(cell.place("c0").join("log")).unwrap();
    cell.clock.advance(SECOND);
    let refused = cell.open(0, "c0", cover(0, 2)).unwrap_err();
    assert!(matches!(refused, DirectError::OtherLog { number: 0 }), "{refused}");
    std::fs::remove_dir_all(cell.place("c0")).unwrap();
    let log = cell.start(0).await;
    eventually("the front refuses it", || {
        let standing = front.standings().remove(0).standing;
        matches!(standing, Standing::Away(reason) if reason.contains("another log"))
    })
    .await;
    assert!(log.append(batch(&[1])).await.is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn stores_and_directories_of_other_logs_are_refused() {
    let cell = Collectors::new(1);
    let of_another = Seen { covered: Coverage::none(NOW.millis()), ..Seen::default() };
    let refused = cell.open(0, "c0", of_another.clone()).unwrap_err();
    assert!(matches!(refused, DirectError::OtherStores { .. }), "{refused}");
    let refused = cell.open_front_that_has(of_another).await.unwrap_err();
    assert!(matches!(refused, DirectError::OtherStores { .. }), "{refused}");
    let config = cell.config(0, "c0", Seen::default()).log;
    let log = span_log::EmbeddedLog::open(config, Arc::clone(&cell.clock) as _).unwrap();
    log.append(batch(&[1])).await.unwrap();
    log.close().await.unwrap();
    drop(log);
    let refused = cell.open(0, "c0", Seen::default()).unwrap_err();
    assert!(matches!(refused, DirectError::NotNew), "{refused}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_that_is_shorter_than_what_readers_have_seen_is_refused_by_a_front_without_directory()
 {
    let mut cell = Collectors::new(1);
    let _log = cell.start(0).await;
    // Readers have seen records of the second one, which is not in the list any more.
    let refused = cell.open_front_that_has(cover(1, 5)).await.unwrap_err();
    assert!(
        refused.to_string().contains("2 collectors are known, and the list has 1"),
        "{refused}"
    );
    assert!(!cell.place("front.json").exists(), "nothing is noted by one that is refused");
    // What is counted of calls across borders comes from no collector.
    let front = cell.open_front_that_has(cover(u32::MAX, 9)).await.unwrap();
    cell.until_registered(&front, 0).await;
    // Nor does it get shorter where the directory is there.
    front.close().await.unwrap();
    cell.addresses.clear();
    let refused = cell.open_front_that_has(Seen::default()).await.unwrap_err();
    assert!(
        refused.to_string().contains("1 collectors are known, and the list has 0"),
        "{refused}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_older_copy_of_a_log_is_not_read_on() {
    let (cell, log, front) = Collectors::of_one().await;
    front.close().await.unwrap();
    // Somebody has read five records of it.
    let front = cell.open_front_that_has(cover(0, 5)).await.unwrap();
    eventually("it is found to be behind", || {
        let standing = front.standings().remove(0).standing;
        matches!(standing, Standing::Away(reason) if reason.contains("older copy"))
    })
    .await;
    assert_eq!(front.end(0).unwrap().next, 5);
    drop(log);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_later_front_fences_the_one_before() {
    let mut cell = Collectors::new(1);
    let log = cell.start(0).await;
    let first = cell.open_front().await;
    cell.until_registered(&first, 0).await;
    let second = cell.open_front().await;
    // It does not know yet; and a collector that refuses it is no silent one.
    assert_eq!(first.retire(0).await, Err(RetireError::Fenced));
    eventually("the first one is void", || first.health().is_err()).await;
    second.health().unwrap();
    log.append(batch(&[1])).await.unwrap();
    end_is(&second, 0, 1).await;
    second.commit(METADATA_PUBLISHER, 0, 1).await.unwrap();
    // A stranger under a number that is not this one's is refused, and fences nobody.
    let stranger = introduced(u64::MAX, 4);
    assert_eq!(cell.ask_as(stranger).await, Err(Code::FailedPrecondition));
    assert!(second.health().is_ok() && log.append(batch(&[2])).await.is_ok());
    // A collector that is started again takes no earlier front's word, whoever asks it first.
    second.close().await.unwrap();
    cell.stop(0, log).await;
    let _log = cell.start(0).await;
    let earlier = introduced(1, 0);
    assert_eq!(cell.ask_as(earlier).await, Err(Code::PermissionDenied));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_front_of_another_cell_is_refused_and_fences_nobody() {
    let (cell, log, front) = Collectors::of_one().await;
    // Another region lists the same address, under the same number, and starts later.
    let (directory, region) = (tempfile::tempdir().unwrap(), "us".to_owned());
    let (clock, addresses) = (Arc::clone(&cell.clock), cell.addresses.clone());
    let (running, lease) = (Vec::new(), cell.lease);
    let other = Collectors { directory, clock, addresses, running, lease, region };
    cell.clock.advance(SECOND);
    let foreign = other.open_front().await;
    eventually("it is refused", || {
        let standing = foreign.standings().remove(0).standing;
        matches!(standing, Standing::Away(reason) if reason.contains("region eu"))
    })
    .await;
    log.append(batch(&[1])).await.unwrap();
    end_is(&front, 0, 1).await;
    assert!(front.health().is_ok() && foreign.end(0).unwrap().next == 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_collectors_groups_lack_is_known_to_the_front_before_they_go_on() {
    let (mut cell, log, front) = Collectors::of_one().await;
    log.append(batch(&[1, 2])).await.unwrap();
    end_is(&front, 0, 2).await;
    let range = LogRange { partition: 0, first: 0, next: 1 };
    let times = (NOW, NOW.plus(5));
    log.note_set_aside(SEARCH_INDEXER, range, times).await.unwrap();
    let missed = front.lost().missed;
    assert_eq!((missed.len(), missed[0].group, missed[0].run.range), (1, SEARCH_INDEXER, range));
    assert_eq!((missed[0].run.cause, front.lost().runs), (LostCause::SetAside, vec![]));
    log.note_set_aside(STORAGE_WRITER, range, times).await.unwrap();
    assert_eq!(front.lost().runs[0].range, range);
    // What a group of the front misses it keeps itself, also over a restart.
    let run = LostRun { cause: LostCause::Dropped, ..missed[0].run.clone() };
    front.note_missed(MissedRun { group: METRICS_AGGREGATOR, run }).await.unwrap();
    let groups = |front: &FrontLog| {
        let mut groups: Vec<GroupId> = front.lost().missed.iter().map(|one| one.group).collect();
        groups.sort();
        groups
    };
    assert_eq!(groups(&front), [METRICS_AGGREGATOR, SEARCH_INDEXER]);
    front.close().await.unwrap();
    cell.stop(0, log).await;
    let front = cell.open_front().await;
    assert_eq!(groups(&front), [METRICS_AGGREGATOR, SEARCH_INDEXER]);
    let _log = cell.start(0).await;
    eventually("the front hears it", || !is_away(&front, 0)).await;
    for group in [SEARCH_INDEXER, METRICS_AGGREGATOR] {
        let which = ForgetLost::Missed { group, incarnation: INCARNATION, partition: 0, first: 0 };
        assert_eq!(front.forget_lost(which).await.unwrap(), 1);
    }
    eventually("they are forgotten", || front.lost().missed.is_empty()).await;
}
