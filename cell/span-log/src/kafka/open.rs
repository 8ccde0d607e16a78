//! Opens a log on Kafka: find the topic, learn its ends, settle its identity, learn the commits,
//! start what follows and keeps house.

use std::sync::atomic::AtomicBool;
use std::sync::mpsc::{Receiver, sync_channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rdkafka::error::KafkaError;
use rdkafka::error::RDKafkaErrorCode::UnknownTopicOrPartition;
use tokio::task::JoinSet;
use trace_model::Clock;

use super::KafkaLog;
use super::appender::Appender;
use super::client::Voice;
use super::commits::Commits;
use super::config::KafkaConfig;
use super::core::Core;
use super::ends::Ends;
use super::error::KafkaOpenError;
use super::group_offsets::Lineage;
use super::identity::{IdentityKeeper, Texts};
use super::identity_text::IdentityText;
use super::init::check_fit;
use super::lane::Place;
use super::lanes::Lanes;
use super::losses::Losses;
use super::lost::LostBoard;
use super::missed::MissedKeeper;
use super::questions::{EndKeeper, Questions, TopicShape};
use super::required::Watch;
use super::tail::{Tail, follow};
use super::upkeep::{Upkeep, keep_commits, keep_ends};
use crate::metrics::LogMetrics;
use crate::port::{LogError, LogIdentity, STORAGE_WRITER, Seen};

/// A failed question is asked again after this.
const RETRY_AFTER: Duration = Duration::from_millis(200);

/// What the opening has found.
struct Found {
    questions: Arc<Questions>,
    ends: Arc<Ends>,
    end_keeper: EndKeeper,
    identity_keeper: Arc<IdentityKeeper>,
    texts: Texts,
    missed: MissedKeeper,
}

impl KafkaLog {
    /// Opens the log of a topic, given what its readers have seen. Call it on the runtime that the
    /// log is to use.
    pub async fn open(
        config: KafkaConfig,
        seen: Seen,
        clock: Arc<dyn Clock>,
    ) -> Result<Arc<Self>, KafkaOpenError> {
        config.check()?;
        let voice = Voice::default();
        let (asked, asked_clock) = (config.clone(), Arc::clone(&clock));
        let questions = Questions::new(&config, config.topic_name(), &voice)?;
        let greeting = move || greet(&asked, &asked_clock, questions);
        let questions = tokio::task::spawn_blocking(greeting).await;
        let questions = questions.map_err(|error| KafkaOpenError::Client(error.to_string()))??;
        check_fit(&config, &voice).await?;
        let (asked, asked_clock) = (config.clone(), Arc::clone(&clock));
        let blocking = move || {
            let found = find((&asked, &voice), questions, &seen, &asked_clock)?;
            let (core, end_keeper) = core_of(&asked, &voice, asked_clock, found);
            let core = Arc::new(core);
            load_commits(&core)?;
            let appender = Appender::new(&asked, Arc::clone(&core.ends), voice);
            Ok((core, appender, end_keeper))
        };
        let opened = tokio::task::spawn_blocking(blocking).await;
        let (core, appender, end_keeper) =
            opened.map_err(|error| KafkaOpenError::Client(error.to_string()))??;
        let watch = Watch::begin(&core).await;
        start(core, appender, end_keeper, watch)
    }
}

/// Asks until there is an answer or the time for opening is over.
fn insist<T, E: ToString>(
    config: &KafkaConfig,
    clock: &Arc<dyn Clock>,
    mut ask: impl FnMut() -> Result<T, E>,
) -> Result<T, KafkaOpenError> {
    let deadline = clock.monotonic().saturating_add(config.open_timeout);
    let (_hold, pause) = sync_channel::<()>(0);
    loop {
        match ask() {
            Ok(answer) => return Ok(answer),
            Err(error) if clock.monotonic() >= deadline => {
                return Err(KafkaOpenError::Unreachable(error.to_string()));
            }
            Err(_) => drop(pause.recv_timeout(RETRY_AFTER)),
        }
    }
}

/// Asks the first question until a broker answers. A login that is refused is told at once. Blocks.
fn greet(
    config: &KafkaConfig,
    clock: &Arc<dyn Clock>,
    questions: Questions,
) -> Result<Arc<Questions>, KafkaOpenError> {
    let greeted = insist(config, clock, || match questions.shape() {
        Ok(_) => Ok(Ok(())),
        Err(error) => {
            let failure = questions.failure(&error);
            if let KafkaOpenError::Unreachable(words) = failure {
                Err(words)
            } else {
                Ok(Err(failure))
            }
        }
    })?;
    greeted.map(|()| Arc::new(questions))
}

/// Finds the topic, its ends and its identity. Blocks.
fn find(
    (config, voice): (&KafkaConfig, &Voice),
    questions: Arc<Questions>,
    seen: &Seen,
    clock: &Arc<dyn Clock>,
) -> Result<Found, KafkaOpenError> {
    let TopicShape { leaders, .. } = insist(config, clock, || {
        // It exists: a broker that does not know it yet will.
        questions.shape()?.ok_or(KafkaError::MetadataFetch(UnknownTopicOrPartition))
    })?;
    let partitions = u32::try_from(leaders.len()).unwrap_or(u32::MAX);
    let ends = Arc::new(Ends::new(partitions));
    let error_max = config.clock_error_max;
    let (asked, kept) = (Arc::clone(&questions), Arc::clone(&ends));
    let mut end_keeper = EndKeeper::new(asked, kept, Arc::clone(clock), error_max);
    let identity_keeper =
        IdentityKeeper::open(config, Arc::clone(&questions), voice, Arc::clone(clock), partitions)?;
    let texts = identity_keeper.settle(seen)?;
    let incarnation = texts.first().map_or(0, |text| text.incarnation);
    for partition in 0..partitions {
        let covered = seen.covered.next_in(incarnation, partition);
        ends.go_on_from(partition, covered, seen.append_time);
    }
    insist(config, clock, || end_keeper.ask_ends())?;
    insist(config, clock, || end_keeper.ask_firsts())?;
    let missed = MissedKeeper::open(config, voice, partitions)?;
    insist(config, clock, || missed.learn())?;
    let identity_keeper = Arc::new(identity_keeper);
    Ok(Found { questions, ends, end_keeper, identity_keeper, texts, missed })
}

fn core_of(
    config: &KafkaConfig,
    voice: &Voice,
    clock: Arc<dyn Clock>,
    found: Found,
) -> (Core, EndKeeper) {
    let lineage = |text: &IdentityText| Lineage {
        incarnation: text.incarnation,
        last: text.last,
        cut: text.cut,
    };
    let lineages: Vec<Lineage> = found.texts.iter().map(lineage).collect();
    let incarnation = lineages.first().map_or(0, |lineage| lineage.incarnation);
    let mut lost = LostBoard::default();
    lost.learn(&found.texts, false);
    let (keeper, ends) = (Arc::clone(&found.identity_keeper), Arc::clone(&found.ends));
    let losses = Arc::new(Losses::new(keeper, ends, incarnation, lost));
    let place = Arc::new(Place {
        topic: config.topic_name(),
        incarnation,
        ends: Arc::clone(&found.ends),
        questions: Arc::clone(&found.questions),
        timeout: config.request_timeout,
    });
    let core = Core {
        config: config.clone(),
        lanes: Lanes::new(config, voice.clone(), place, Arc::clone(&clock)),
        clock,
        identity: LogIdentity { incarnation, partitions: found.ends.count() },
        identity_keeper: found.identity_keeper,
        metrics: LogMetrics::default(),
        ends: found.ends,
        questions: found.questions,
        commits: Commits::new(config, voice.clone(), lineages, Arc::clone(&losses)),
        damaged: Mutex::default(),
        losses,
        missed: found.missed,
        fatal: Mutex::default(),
        is_closed: AtomicBool::new(false),
    };
    (core, found.end_keeper)
}

/// Learns what the groups have committed. Blocks.
fn load_commits(core: &Core) -> Result<(), KafkaOpenError> {
    let mut groups = [&core.config.groups[..], &core.config.required_groups].concat();
    if core.config.tail.is_some() {
        groups.push(STORAGE_WRITER);
    }
    for group in groups {
        insist(&core.config, &core.clock, || core.commits.load(group))?;
    }
    Ok(())
}

/// Starts the followers and the threads.
fn start(
    core: Arc<Core>,
    appender: Appender,
    end_keeper: EndKeeper,
    watch: Watch,
) -> Result<Arc<KafkaLog>, KafkaOpenError> {
    let failed = |error: &dyn ToString| KafkaOpenError::Client(error.to_string());
    let tail = tail_of(&core).map_err(|error| failed(&error))?;
    let mut tasks = JoinSet::new();
    if let Some(tail) = &tail {
        for partition in 0..core.ends.count() {
            tasks.spawn(follow(Arc::clone(&core), Arc::clone(tail), partition));
        }
    }
    let asking = Arc::clone(&core);
    let ends = upkeep("span-log-ends", move |stop| keep_ends(&asking, end_keeper, &stop));
    let (telling, trimmed) = (Arc::clone(&core), tail.clone());
    let commits = upkeep("span-log-commits", move |stop| {
        keep_commits(&telling, trimmed.as_ref(), &stop);
    });
    let threads =
        vec![ends.map_err(|error| failed(&error))?, commits.map_err(|error| failed(&error))?];
    let required = Arc::clone(watch.required());
    tasks.spawn(watch.go_on(Arc::clone(&core)));
    Ok(Arc::new(KafkaLog {
        core,
        required,
        appender: Arc::new(appender),
        tail,
        tasks: Mutex::new(tasks),
        threads: Mutex::new(threads),
    }))
}

pub(super) fn upkeep(
    name: &str,
    work: impl FnOnce(Receiver<()>) + Send + 'static,
) -> std::io::Result<Upkeep> {
    let (stop, stopped) = sync_channel(0);
    let named = std::thread::Builder::new().name(name.to_owned());
    Ok(Upkeep { thread: named.spawn(move || work(stopped))?, stop })
}

/// The live tail, from storage-writer's commits on.
fn tail_of(core: &Core) -> Result<Option<Arc<Tail>>, LogError> {
    let Some(config) = core.config.tail.clone() else { return Ok(None) };
    let mut starts = Vec::with_capacity(core.ends.count() as usize);
    for partition in 0..core.ends.count() {
        let committed = core.commits.committed(STORAGE_WRITER, partition)?;
        let first = core.ends.get(partition)?.first;
        // What storage-writer has not committed and the log no longer keeps is met as expired.
        starts.push(committed.unwrap_or(first));
    }
    Ok(Some(Arc::new(Tail::new(config, starts))))
}

#[cfg(test)]
mod tests {
    use service_kit::ManualClock;
    use trace_model::{LogRange, UnixNanos};

    use super::*;
    use crate::port::LostCause;

    const NOW: UnixNanos = UnixNanos(1_790_000_000_000_000_000);

    /// A log of one partition, whose brokers do not answer.
    fn unanswered() -> Core {
        let config = KafkaConfig::at(vec!["127.0.0.1:1".to_owned()]);
        let (voice, clock) = (Voice::default(), Arc::new(ManualClock::at(NOW)) as Arc<dyn Clock>);
        let questions = Questions::new(&config, config.topic_name(), &voice).unwrap();
        let (questions, ends) = (Arc::new(questions), Arc::new(Ends::new(1)));
        let (asked, kept) = (Arc::clone(&questions), Arc::clone(&ends));
        let end_keeper = EndKeeper::new(asked, kept, Arc::clone(&clock), Duration::ZERO);
        let asked = Arc::clone(&questions);
        let keeper = IdentityKeeper::open(&config, asked, &voice, Arc::clone(&clock), 1).unwrap();
        let texts = vec![IdentityText { incarnation: 7, partitions: 1, ..IdentityText::default() }];
        let missed = MissedKeeper::open(&config, &voice, 1).unwrap();
        let identity_keeper = Arc::new(keeper);
        let found = Found { questions, ends, end_keeper, identity_keeper, texts, missed };
        core_of(&config, &voice, clock, found).0
    }

    #[tokio::test]
    async fn a_reader_that_meets_what_is_gone_calls_it_lost_only_where_storage_writer_is() {
        let core = unanswered();
        core.commits.assume(STORAGE_WRITER, 2);
        core.ends.answered(0, 5, NOW);
        core.ends.starts_at(0, 4);
        let is_expired = |read: Result<(), LogError>| {
            matches!(read, Err(LogError::Expired { wanted: 2, first: 4 }))
        };
        assert!(is_expired(core.read_items(0, 2, 1).await.map(drop)));
        assert_eq!(core.lost().pending(), [], "elsewhere it may have had them meanwhile");
        let (board, _) = core.commits.board_to_join(STORAGE_WRITER);
        board.take_in(&[0]);
        board.give(&[0]);
        assert!(is_expired(core.read_items(0, 2, 1).await.map(drop)));
        let lost = core.lost().pending().to_vec();
        let lost: Vec<_> = lost.iter().map(|run| (run.cause, run.range)).collect();
        assert_eq!(lost, [(LostCause::Dropped, LogRange { partition: 0, first: 2, next: 4 })]);
    }
}
