//! A topic of its own, filled once, and the group that takes it in.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures_util::stream::{FuturesUnordered, StreamExt as _};
use ingester::{
    ConsumerRunner, DeadLetterConfig, DeadLetters, GroupMaker, IngesterMetrics, LagBoard, Retries,
    RunnerConfig, RunnerParts,
};
use proto::LoggedBatch;
use span_log::kafka::TopicSettings;
use span_log::{KafkaConfig, KafkaLog, Seen, SpanLog};
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;
use trace_model::Clock;

use crate::measure::{Timed, timed};

/// Appends on their way at once.
const APPENDS: usize = 32;

/// Where topics are made.
pub(crate) struct Place {
    pub(crate) brokers: String,
    pub(crate) partitions: u32,
    pub(crate) clock: Arc<dyn Clock>,
}

/// A topic that holds the spans of a round.
pub(crate) struct Topic {
    config: KafkaConfig,
    partitions: u32,
    clock: Arc<dyn Clock>,
    spans: usize,
    records: u64,
}

impl Place {
    /// A new topic with these requests in it.
    pub(crate) async fn fill(&self, requests: &[LoggedBatch]) -> Topic {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let mut config = KafkaConfig::at(vec![self.brokers.clone()]);
        config.prefix = format!("bench-groups-{}-{number}-", self.clock.now().millis());
        config.tail = None;
        let settings = TopicSettings { partitions: self.partitions, ..TopicSettings::default() };
        KafkaLog::init(&config, &settings).await.expect("a topic");
        let log = KafkaLog::open(config.clone(), Seen::default(), Arc::clone(&self.clock)).await;
        let log = log.expect("a log");
        let mut running = FuturesUnordered::new();
        for request in requests {
            if running.len() >= APPENDS {
                running.next().await.map(|appended: Result<_, _>| appended.expect("appended"));
            }
            running.push(log.append(Arc::clone(&request.batch)));
        }
        while let Some(appended) = running.next().await {
            appended.expect("appended");
        }
        drop(running);
        log.close().await.expect("closed");
        Topic {
            config,
            partitions: self.partitions,
            clock: Arc::clone(&self.clock),
            spans: requests.iter().map(|request| request.batch.spans().len()).sum(),
            records: requests.iter().map(|request| request.batch.traces().len() as u64).sum(),
        }
    }
}

impl Topic {
    /// Lets a group that never read it take all of it in, from the moment in which it has all
    /// partitions until everything is durable and committed.
    pub(crate) async fn taken_by<M: GroupMaker>(&self, maker_of: impl FnOnce(u64) -> M) -> Timed {
        let clock = Arc::clone(&self.clock);
        let log = KafkaLog::open(self.config.clone(), Seen::default(), clock).await;
        let log = log.expect("a log");
        let maker = maker_of(log.identity().incarnation);
        let mut assignment = log.join(maker.group(), maker.sharing());
        let has_all = assignment.wait_for(|held| held.is_whole(self.partitions)).await;
        drop(has_all.expect("all partitions"));
        let directory = TempDir::new().expect("a directory");
        let lag = LagBoard::default();
        let runner = ConsumerRunner::new(
            maker.make().await.expect("a handler"),
            self.parts(&log, &lag, &directory),
            maker.sharing(),
        );
        let token = CancellationToken::new();
        let taken = timed(self.spans, async {
            let run = tokio::spawn(runner.run(token.clone()));
            while !lag
                .of(maker.group())
                .is_some_and(|lag| lag.partitions == self.partitions as usize && lag.records == 0)
            {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
            // Told to end, it makes everything durable and commits it.
            token.cancel();
            run.await.expect("no panic").expect("in time");
        });
        let taken = taken.await;
        let committed = |partition| log.committed(maker.group(), partition).expect("an offset");
        let committed: u64 = (0..self.partitions).map(committed).sum();
        assert_eq!(committed, self.records, "every record is committed");
        log.close().await.expect("closed");
        taken
    }

    fn parts(&self, log: &Arc<KafkaLog>, lag: &LagBoard, directory: &TempDir) -> RunnerParts {
        let letters = DeadLetterConfig::new(directory.path().join("dead"));
        RunnerParts {
            log: Arc::clone(log) as _,
            dead_letters: Arc::new(DeadLetters::open(letters).expect("a directory")),
            stepped_over: None,
            clock: Arc::clone(&self.clock),
            lag: lag.clone(),
            metrics: IngesterMetrics::default(),
            retries: Retries::default(),
            config: RunnerConfig {
                close_deadline: Duration::from_secs(60),
                ..RunnerConfig::default()
            },
        }
    }
}
