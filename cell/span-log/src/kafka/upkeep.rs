//! The two threads of a log on Kafka that ask and tell the brokers: one keeps the ends up to date,
//! one the commits. Each question blocks, so neither is asked on the runtime.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender};
use std::thread::JoinHandle;
use std::time::Duration;

use rdkafka::error::KafkaError;

use super::appender::Appender;
use super::core::Core;
use super::questions::EndKeeper;
use super::tail::Tail;
use crate::port::{ForgetLost, LogError};

/// The oldest offsets are asked for, and lanes looked after, so often.
const FIRSTS_EVERY: Duration = Duration::from_secs(5);
/// Leaders are looked for so often also where nothing failed.
const LEADERS_EVERY: Duration = Duration::from_secs(30);
/// Other processes' commits are asked for, and lags measured, so often.
const REFRESH_EVERY: Duration = Duration::from_secs(1);
/// Every process has heard within this time of what another has noted, unless the brokers are away.
pub(super) const HEARD_WITHIN: Duration = REFRESH_EVERY.saturating_mul(3);
/// The identity is written again so often. Commits need not be: those of a group with members do not
/// expire, and a group without any for a week has lost the log to its retention.
const RENEW_EVERY: Duration = Duration::from_secs(3_600);
/// The identity is looked at so often.
const CONFIRM_EVERY: Duration = Duration::from_secs(10);
/// An end that lies before a known one for so long means that the log is another.
const SHRUNK_MAX: Duration = Duration::from_secs(30);

/// A thread, and what stops it when it is dropped.
pub(super) struct Upkeep {
    pub(super) thread: JoinHandle<()>,
    pub(super) stop: SyncSender<()>,
}

/// Says when something is due.
struct Due {
    every: Duration,
    at: Duration,
}

impl Due {
    const fn after(now: Duration, every: Duration) -> Self {
        Self { every, at: now.saturating_add(every) }
    }

    fn is_due(&mut self, now: Duration) -> bool {
        let is_due = now >= self.at;
        if is_due {
            self.at = now.saturating_add(self.every);
        }
        is_due
    }
}

/// Whether the thread is to stop; waits for at most so long.
pub(crate) fn is_stopped(stop: &Receiver<()>, at_most: Duration) -> bool {
    !matches!(stop.recv_timeout(at_most), Err(RecvTimeoutError::Timeout))
}

/// Keeps the ends up to date.
pub(crate) fn keep_ends(core: &Core, mut keeper: EndKeeper, stop: &Receiver<()>) {
    let now = || core.clock.monotonic();
    let mut firsts = Due::after(now(), FIRSTS_EVERY);
    let mut leaders = Due::after(now(), LEADERS_EVERY);
    let mut shrunk_since: Option<Duration> = None;
    while !is_stopped(stop, core.config.ends_every) {
        if leaders.is_due(now()) {
            drop(keeper.find_leaders());
        }
        match keeper.ask_ends() {
            Ok(shrunk) if shrunk.is_empty() => shrunk_since = None,
            Ok(shrunk) => {
                let since = *shrunk_since.get_or_insert_with(now);
                if now().saturating_sub(since) > SHRUNK_MAX {
                    core.ends.note_another_log(&format!("partitions {shrunk:?} have lost records"));
                }
            }
            Err(error) => tracing::debug!(%error, "the ends of the span log are not known anew"),
        }
        if firsts.is_due(now()) {
            drop(keeper.ask_firsts());
            core.lanes.keep_house();
        }
        core.questions.serve();
    }
}

/// Brings commits and losses to the brokers, and learns of other processes'.
pub(crate) fn keep_commits(core: &Core, tail: Option<&Arc<Tail>>, stop: &Receiver<()>) {
    let now = || core.clock.monotonic();
    let mut refresh = Due::after(now(), REFRESH_EVERY);
    let mut renew = Due::after(now(), RENEW_EVERY);
    let mut confirm = Due::after(now(), CONFIRM_EVERY);
    while !is_stopped(stop, core.config.commit_every) {
        let is_renewed = renew.is_due(now());
        drop(core.commits.flush());
        if refresh.is_due(now()) {
            core.commits.refresh();
            keep_missed(core, is_renewed);
            measure(core, tail);
            (0..core.ends.count()).for_each(|partition| core.note_overtaken(partition));
            if confirm.is_due(now()) || is_renewed || !core.lost().pending().is_empty() {
                keep_identity(core, is_renewed);
            }
        }
        if let Some(tail) = tail {
            tail.trim(core);
        }
    }
}

/// Learns what groups have missed.
fn keep_missed(core: &Core, is_due: bool) {
    let renewed = if is_due { core.missed.renew() } else { Ok(()) };
    if let Err(error) = renewed.and_then(|()| core.missed.learn()) {
        tracing::debug!(%error, "what groups have missed is not known anew");
    }
}

/// Confirms that the topic is still the same log, and tells what is lost of it.
fn keep_identity(core: &Core, is_due: bool) {
    if let Err(error) = core.losses.tell(is_due) {
        tracing::debug!(%error, "the identity of the span log is not confirmed");
    }
}

fn measure(core: &Core, tail: Option<&Arc<Tail>>) {
    let ends = (0..core.ends.count()).filter_map(|partition| core.ends.get(partition).ok());
    let ends: Vec<(u64, u64)> = ends.map(|end| (end.first, end.next)).collect();
    for (group, lag) in core.commits.lags(&ends) {
        core.metrics.observe_lag(group, lag);
    }
    let bytes = tail.map_or(0, |tail| tail.bytes());
    core.metrics.tail_index_bytes.set(i64::try_from(bytes).unwrap_or(i64::MAX));
    let on_disk = tail.map_or(0, |tail| tail.disk_bytes());
    core.metrics.tail_disk_bytes.set(i64::try_from(on_disk).unwrap_or(i64::MAX));
}

/// Forgets runs in the log's notes and in those of its groups; how many, or `None` where the topic is
/// another log meanwhile.
pub(crate) fn forget_lost(core: &Core, which: ForgetLost) -> Result<Option<usize>, KafkaError> {
    let incarnation = core.identity.incarnation;
    // What is pending is told first, or it would come back.
    let pending = core.lost().pending().to_vec();
    core.identity_keeper.keep(incarnation, &pending, false)?;
    let left = core.identity_keeper.forget(incarnation, which)?;
    let Some((forgotten, texts)) = left else { return Ok(None) };
    core.lost().learn(&texts, false);
    core.lost().drop_pending(&pending);
    let missed = core.missed.forget(which, &core.ends)?;
    Ok(Some(forgotten.saturating_add(missed)))
}

/// Ends the threads, and brings what was appended and committed to the brokers. Blocks.
pub(super) fn shut(core: &Core, appender: &Appender, threads: Vec<Upkeep>) -> Result<(), LogError> {
    // All are told before any is waited for: members leave their groups side by side.
    let (threads, stops): (Vec<_>, Vec<_>) =
        threads.into_iter().map(|one| (one.thread, one.stop)).unzip();
    drop(stops);
    let mut has_panicked = false;
    for thread in threads {
        has_panicked |= thread.join().is_err();
    }
    let flushed = appender.close();
    let committed = core.commits.flush();
    if has_panicked {
        return Err(LogError::Unavailable("a thread of the span log has panicked".to_owned()));
    }
    flushed?;
    committed.map_err(|error| LogError::Unavailable(error.to_string()))
}
