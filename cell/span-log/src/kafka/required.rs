//! How near the required groups are to the log's retention: nothing more is taken before a record is let
//! go that one of them has not committed.
//!
//! Brokers let records go by their age, whoever has read them. So they are asked which record of each
//! partition is the first that is young enough; a group that has not committed all before it is too far
//! behind. What cannot be learnt changes nothing: brokers that do not answer take no records either.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use trace_model::UnixNanos;

use super::core::Core;
use super::init::settings_of;
use crate::port::{GroupId, LogError};

/// Groups are looked at so often.
const LOOK_EVERY: Duration = Duration::from_secs(5);
/// The topic's retention is asked for so often where no group is behind, and at each look where one is: that
/// it was lengthened is heard at once.
const RETENTION_EVERY: Duration = Duration::from_secs(600);
/// Time that is left for a group to begin again before its first record is gone: a tenth of the retention, a
/// minute at least, half of the retention at most. A group that reads faster than records were appended
/// loses none of them then.
const LEFT_SHARE: u32 = 10;
const LEFT_MIN: Duration = Duration::from_secs(60);

/// How old a record may be that a required group has not committed.
fn age_max(retention: Duration) -> Duration {
    let left = (retention / LEFT_SHARE).max(LEFT_MIN).min(retention / 2);
    retention.saturating_sub(left)
}

/// How long a topic keeps its records, by its settings; `None`: for ever.
fn retention_in(settings: &[(String, String)]) -> Option<Duration> {
    let (_, text) = settings.iter().find(|(key, _)| key == "retention.ms")?;
    text.parse().ok().map(Duration::from_millis)
}

/// Whether a group has to be waited for: in some partition it has not committed all that lies before the
/// first record that is young enough. `old_until` names that record, or where it has yet to come, an end
/// that was known before; `reached` is how far the group is.
fn is_behind(old_until: &[(u32, u64)], reached: impl Fn(u32) -> Option<u64>) -> bool {
    old_until.iter().any(|(partition, until)| reached(*partition).is_some_and(|next| next < *until))
}

/// What keeps appends from being taken.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Behind {
    group: GroupId,
    age_max: Duration,
    retention: Duration,
}

/// The required groups of a log.
#[derive(Debug)]
pub(crate) struct Required {
    groups: Vec<GroupId>,
    behind: Mutex<Option<Behind>>,
}

impl Required {
    /// No group is behind yet, as far as is known.
    pub(crate) fn new(groups: &[GroupId]) -> Self {
        Self { groups: groups.to_vec(), behind: Mutex::default() }
    }

    /// Refuses while a group is too far behind.
    pub(crate) fn check(&self) -> Result<(), LogError> {
        let behind = self.behind.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(Behind { group, age_max, retention }) = behind.clone() else { return Ok(()) };
        Err(LogError::Behind { group, age_max, retention })
    }

    fn note(&self, found: Option<Behind>, core: &Core) {
        let mut behind = self.behind.lock().unwrap_or_else(PoisonError::into_inner);
        match (&*behind, &found) {
            (before, Some(now)) if before.as_ref() != Some(now) => {
                let (group, age_max, retention) = (now.group, now.age_max, now.retention);
                tracing::warn!(%group, ?age_max, ?retention, "{WAITS}");
            }
            (Some(Behind { group, .. }), None) => tracing::info!(%group, "spans are taken again"),
            _ => {}
        }
        for group in &self.groups {
            let is_behind = found.as_ref().is_some_and(|found| found.group == *group);
            core.metrics.observe_behind(*group, is_behind);
        }
        *behind = found;
    }
}

const WAITS: &str = "no spans are taken until the group has committed what is older than `age_max`: the \
                     topic keeps it no longer than its retention";

/// Who is behind by this retention. Blocks.
fn find(core: &Core, groups: &[GroupId], retention: Duration) -> Result<Option<Behind>, LogError> {
    let age_max = age_max(retention);
    let age = u64::try_from(age_max.as_nanos()).unwrap_or(u64::MAX);
    // Before the question: what comes after it is young.
    let ends = core.ends.all();
    let old_until = old_until(core, core.clock.now().minus(age), &ends)?;
    for group in groups {
        let reached = |partition| {
            let committed = core.commits.known_offset(*group, partition);
            committed.or_else(|| core.ends.get(partition).ok().map(|end| end.first))
        };
        if is_behind(&old_until, reached) {
            return Ok(Some(Behind { group: *group, age_max, retention }));
        }
    }
    Ok(None)
}

fn old_until(core: &Core, time: UnixNanos, ends: &[u64]) -> Result<Vec<(u32, u64)>, LogError> {
    let partitions: Vec<u32> = (0..core.ends.count()).collect();
    let young = core.questions.offsets_at(&partitions, time);
    let young = young.map_err(|error| LogError::Unavailable(error.to_string()))?;
    let until = |(partition, first): (u32, Option<u64>)| {
        let end = ends.get(partition as usize).copied();
        Some((partition, first.or(end)?))
    };
    Ok(young.into_iter().filter_map(until).collect())
}

/// Looks at the groups of a log.
pub(crate) struct Watch {
    required: Arc<Required>,
    /// How long the topic keeps its records; `None`: for ever.
    retention: Option<Duration>,
    asked_at: Duration,
}

impl Watch {
    /// Looks for the first time.
    pub(crate) async fn begin(core: &Arc<Core>) -> Self {
        let required = Arc::new(Required::new(&core.config.required_groups));
        let (retention, asked_at) = (core.config.retention, core.clock.monotonic());
        let mut this = Self { required, retention, asked_at };
        if !this.required.groups.is_empty() {
            this.ask_retention(core).await;
            this.look(core).await;
        }
        this
    }

    pub(crate) const fn required(&self) -> &Arc<Required> {
        &self.required
    }

    /// Brokers that do not tell are taken to keep what is configured.
    async fn ask_retention(&mut self, core: &Core) {
        self.asked_at = core.clock.monotonic();
        match settings_of(&core.config, core.commits.voice()).await {
            Ok(settings) => self.retention = retention_in(&settings),
            Err(error) => tracing::debug!(%error, "the topic's retention is not known anew"),
        }
    }

    async fn look(&mut self, core: &Arc<Core>) {
        let Ok(mut found) = self.find(core).await else { return };
        let is_due = core.clock.monotonic().saturating_sub(self.asked_at) >= RETENTION_EVERY;
        let before = self.retention;
        if is_due || found.is_some() {
            self.ask_retention(core).await;
        }
        if self.retention != before {
            let Ok(again) = self.find(core).await else { return };
            found = again;
        }
        self.required.note(found, core);
    }

    async fn find(&self, core: &Arc<Core>) -> Result<Option<Behind>, LogError> {
        let Some(retention) = self.retention else { return Ok(None) };
        let (core, required) = (Arc::clone(core), Arc::clone(&self.required));
        let find = move || find(&core, &required.groups, retention);
        let found = tokio::task::spawn_blocking(find).await;
        let found = found.map_err(|error| LogError::Unavailable(error.to_string()))?;
        found.inspect_err(|error| tracing::debug!(%error, "how far groups are is not known anew"))
    }

    /// Looks again and again.
    pub(crate) async fn go_on(mut self, core: Arc<Core>) {
        while !self.required.groups.is_empty() && core.check_open().is_ok() {
            tokio::time::sleep(LOOK_EVERY).await;
            self.look(&core).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tenth_of_the_retention_is_left_and_never_less_than_a_minute_where_it_has_two() {
        let seconds = Duration::from_secs;
        assert_eq!(age_max(seconds(14_400)), seconds(12_960));
        assert_eq!(age_max(seconds(300)), seconds(240));
        assert_eq!(age_max(seconds(20)), seconds(10));
        assert_eq!(age_max(Duration::ZERO), Duration::ZERO);
    }

    #[test]
    fn a_topic_that_keeps_for_ever_has_no_retention() {
        let settings = |value: &str| [("retention.ms".to_owned(), value.to_owned())];
        assert_eq!(retention_in(&settings("20000")), Some(Duration::from_secs(20)));
        assert_eq!(retention_in(&settings("-1")), None);
        assert_eq!(retention_in(&[]), None);
    }

    #[test]
    fn a_group_is_behind_where_it_lacks_one_old_record_of_one_partition() {
        let reached = |next: u64| move |partition| (partition < 2).then_some(next);
        assert!(!is_behind(&[(0, 5), (1, 4)], reached(5)));
        assert!(is_behind(&[(0, 5), (1, 6)], reached(5)));
        assert!(!is_behind(&[(2, 9)], reached(5)), "of which nothing is known");
    }
}
