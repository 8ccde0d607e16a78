//! Several ingesters of one cell on the real log, which `tests/engines/` of the project starts. Its
//! address comes from the environment; a missing one fails the test.
#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a test that panics has failed")]

mod process;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use span_log::port::{SEARCH_INDEXER, STORAGE_WRITER};
use span_log::{KafkaLog, Seen, SpanLog};
use trace_model::TimeRange;
use trace_store::{MetricsStore, RedQuery, TraceReader};

use crate::process::{
    Process, Stores, Unreached, batch, brokers, clock, config_of, make_topic, tenant, trace,
};

/// Traces of one append.
const TRACES: u64 = 20;
/// Appends whenever something is sent.
const APPENDS_LEAST: u64 = 10;

/// Appends one batch after another, and remembers how many traces that are.
struct Sender {
    log: Arc<KafkaLog>,
    next: u64,
}

impl Sender {
    /// For so long, and however slow the machine is until there is something of a load.
    async fn send_for(&mut self, duration: Duration) {
        let enough = self.next + APPENDS_LEAST * TRACES;
        let sending = async {
            loop {
                self.send_one().await;
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        // Cut between two appends or within one: what is cut off is sent again, byte by byte.
        assert!(tokio::time::timeout(duration, sending).await.is_err());
        self.send_one().await;
        while self.next < enough {
            self.send_one().await;
        }
    }

    async fn send_one(&mut self) {
        let traces: Vec<u64> = (self.next..self.next + TRACES).collect();
        // A busy log refuses, and is asked again.
        until("it is acknowledged", || async { self.log.append(batch(&traces)).await.is_ok() })
            .await;
        // Counted once it is acknowledged: nothing else is promised.
        self.next += TRACES;
    }
}

async fn until<F: Future<Output = bool>>(what: &str, mut holds: impl FnMut() -> F) {
    let waiting = tokio::time::timeout(Duration::from_secs(90), async {
        while !holds().await {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    });
    assert!(waiting.await.is_ok(), "never came true: {what}");
}

async fn counted(stores: &Stores) -> u64 {
    let (service, range) = (None, TimeRange::ALL);
    let query = RedQuery { tenant: tenant(), service, by_operation: false, range };
    let rows = stores.metrics.red(&query).await.unwrap();
    rows.iter().map(|(_, row)| row.seen).sum()
}

/// Each trace has one span, and the store has it once.
async fn check_store(stores: &Stores, traces: u64) {
    for number in 0..traces {
        let found = stores.spans.read_trace(&tenant(), trace(number)).await.unwrap();
        assert_eq!(found.spans.len(), 1, "trace {number}");
    }
}

/// The one who counts dies in the middle of its work, again and again; another takes over.
#[test]
fn ingesters_that_die_in_the_middle_of_their_work_lose_nothing_and_count_nothing_twice() {
    let control = tokio::runtime::Runtime::new().unwrap();
    let prefix = control.block_on(make_topic(&brokers(), 8));
    let stores = Stores::default();
    let open = KafkaLog::open(config_of(&prefix), Seen::default(), clock());
    let mut sender = Sender { log: control.block_on(open).unwrap(), next: 0 };
    let mut oldest = Process::start(&prefix, &stores);
    for kill in 0..6_u64 {
        // Whoever comes first counts, and the next one stands by.
        control.block_on(until("the oldest counts", || async { oldest.is_counting() }));
        let newest = Process::start(&prefix, &stores);
        let sharing = until("two share the spans, and one counts", || async {
            let are_shared =
                oldest.partitions(STORAGE_WRITER) == 4 && newest.partitions(STORAGE_WRITER) == 4;
            are_shared && oldest.is_counting() && newest.stands_by()
        });
        control.block_on(async {
            sharing.await;
            sender.send_for(Duration::from_millis(700 + kill * 137)).await;
        });
        oldest.kill();
        oldest = newest;
        // What the dead one had in its hands is read again while more comes.
        control.block_on(sender.send_for(Duration::from_millis(300)));
    }
    let sent = sender.next;
    control.block_on(async {
        until("all is stored and indexed", || async {
            let log = &sender.log;
            [STORAGE_WRITER, SEARCH_INDEXER].iter().all(|group| {
                (0..8).all(|partition| {
                    let end = log.end(partition).unwrap().next;
                    log.committed(*group, partition).is_ok_and(|committed| committed == end)
                })
            })
        })
        .await;
        until("all is counted", || async { counted(&stores).await >= sent }).await;
        check_store(&stores, sent).await;
    });
    oldest.stop();
    // Nothing more was in anybody's hands.
    assert_eq!(control.block_on(counted(&stores)), sent);
}

/// The one who has the group cannot start it. Another process that can takes it over; when that one goes,
/// the first is the next.
#[test]
fn an_ingester_that_cannot_start_a_group_leaves_it_to_another_and_takes_it_when_it_can() {
    let control = tokio::runtime::Runtime::new().unwrap();
    let prefix = control.block_on(make_topic(&brokers(), 8));
    let stores = Stores::default();
    let open = KafkaLog::open(config_of(&prefix), Seen::default(), clock());
    let mut sender = Sender { log: control.block_on(open).unwrap(), next: 0 };
    let unreached = Unreached { store: Arc::clone(&stores.metrics), ..Unreached::default() };
    let unreached = Arc::new(unreached);
    let lame = Process::start_with(&prefix, &stores, Arc::clone(&unreached) as _);
    control.block_on(until("it has tried", || async {
        lame.waits_for_counts() && unreached.tries.load(Ordering::Relaxed) >= 4
    }));
    // Its other groups are at work all the while.
    control.block_on(sender.send_for(Duration::from_millis(300)));
    control.block_on(until("it stores", || async { lame.partitions(STORAGE_WRITER) == 8 }));
    let able = Process::start(&prefix, &stores);
    control.block_on(until("the other counts", || async { able.is_counting() }));
    control.block_on(sender.send_for(Duration::from_millis(300)));
    let sent = sender.next;
    let all = || async { counted(&stores).await == sent };
    control.block_on(until("all is counted", all));
    unreached.is_reached.store(true, Ordering::Relaxed);
    able.stop();
    control.block_on(sender.send_for(Duration::from_millis(300)));
    control.block_on(until("the first one counts", || async { lame.is_counting() }));
    let sent = sender.next;
    control.block_on(until("all is counted", || async { counted(&stores).await == sent }));
    lame.stop();
    assert_eq!(control.block_on(counted(&stores)), sent);
}
