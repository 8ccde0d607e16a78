//! Kafka's figures against its limits.

use std::time::Duration;

use span_log::kafka::{GroupFigures, KafkaFigures, TopicFigures};

use super::finding::{Finding, Part, Reading, Verdict, float};
use super::limits::{
    BELOW_MIN_IN_SYNC, BROKERS, KAFKA_DISK, KAFKA_LAG, KAFKA_LAG_SHARE, OFFLINE, UNDER_REPLICATED,
};

pub(super) fn judge(
    figures: &KafkaFigures,
    replication: u32,
    is_on_this_machine: bool,
) -> Vec<Finding> {
    let brokers = figures.brokers as u64;
    let mut findings =
        vec![Finding::count(&BROKERS, brokers).with_edge(float(u64::from(replication)))];
    for (limit, of) in [
        (&UNDER_REPLICATED, (|topic| topic.under_replicated) as fn(&TopicFigures) -> usize),
        (&BELOW_MIN_IN_SYNC, |topic| topic.below_min_in_sync),
        (&OFFLINE, |topic| topic.offline),
    ] {
        let all: usize = figures.topics.iter().map(of).sum();
        findings.push(Finding::count(limit, all as u64));
    }
    findings.extend(figures.topics.iter().map(topic));
    let retention = figures.topics.first().and_then(|topic| topic.retention);
    for group in &figures.groups {
        findings.extend(lag(group, retention));
    }
    let place = if is_on_this_machine { "this machine" } else { "each broker" };
    let why = format!("brokers do not tell their disks here: `df` where log.dirs lies, on {place}");
    findings.push(Finding::reading(&KAFKA_DISK, Reading::Untold(why)));
    findings
}

fn topic(topic: &TopicFigures) -> Finding {
    let missing = ("missing".to_owned(), Verdict::Act);
    let (said, advice) = match (topic.partitions, topic.differences.as_slice()) {
        (0, _) => (missing, "farspan store init makes it".to_owned()),
        (partitions, []) => {
            let words = format!("as configured, {partitions} partitions");
            ((words, Verdict::Ok), String::new())
        }
        (_, differences) => {
            let words = format!("{} settings differ", differences.len());
            ((words, Verdict::Warn), differences.join("; "))
        }
    };
    Finding::fact(Part::Kafka, "topic", said, &advice).about(&topic.topic)
}

/// In time, and as a share of what the topic keeps.
fn lag(group: &GroupFigures, retention: Option<Duration>) -> Vec<Finding> {
    let note = match group.has_committed {
        true => format!("{} records", group.lag_records),
        false => format!("{} records; it has never committed", group.lag_records),
    };
    let named =
        |finding: Finding| Finding { group: Some(group.group), ..finding.about(group.group) };
    let Some(lag) = group.lag else {
        let why = format!("{note}; the oldest of them could not be read in time");
        return vec![named(Finding::reading(&KAFKA_LAG, Reading::Unknown(why)))];
    };
    let mut findings = vec![named(Finding::time(&KAFKA_LAG, lag).noting(note))];
    if let Some(retention) = retention.filter(|retention| !retention.is_zero()) {
        let share = lag.as_secs_f64() / retention.as_secs_f64();
        let of = super::finding::words(retention.as_secs_f64(), super::limits::Unit::Seconds);
        findings.push(named(Finding::of(&KAFKA_LAG_SHARE, share).noting(format!("of {of}"))));
    }
    findings
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// What brokers say where all of it is known.
    pub(in crate::doctor) fn all() -> KafkaFigures {
        let topic = TopicFigures { retention: Some(Duration::from_secs(14_400)), ..spans_raw() };
        KafkaFigures { brokers: 3, hosts: vec![], topics: vec![topic], groups: vec![group(1)] }
    }

    fn spans_raw() -> TopicFigures {
        TopicFigures {
            topic: "spans-raw".to_owned(),
            partitions: 4,
            copies: 3,
            under_replicated: 0,
            below_min_in_sync: 0,
            offline: 0,
            retention: None,
            differences: vec![],
        }
    }

    fn group(lag: u64) -> GroupFigures {
        let lag = Some(Duration::from_secs(lag));
        GroupFigures { group: "storage-writer", lag_records: 5, lag, has_committed: true }
    }

    fn verdicts(lag_seconds: u64, retention_seconds: u64) -> Vec<Verdict> {
        let found = lag(&group(lag_seconds), Some(Duration::from_secs(retention_seconds)));
        found.iter().map(Finding::verdict).collect()
    }

    #[test]
    fn a_lag_is_judged_by_its_time_and_by_what_is_left_of_the_retention() {
        assert_eq!(verdicts(900, 14_400), [Verdict::Warn, Verdict::Ok]);
        assert_eq!(verdicts(901, 14_400), [Verdict::Act, Verdict::Ok]);
        // A quarter of an hour's retention.
        assert_eq!(verdicts(450, 1_800), [Verdict::Ok, Verdict::Warn]);
        assert_eq!(verdicts(451, 1_800), [Verdict::Ok, Verdict::Act]);
        assert_eq!(verdicts(0, 1_800), [Verdict::Ok, Verdict::Ok]);
    }

    #[test]
    fn fewer_brokers_than_copies_a_missing_topic_and_other_settings_are_told() {
        let well = spans_raw();
        let other = TopicFigures { differences: vec!["a".into(), "b".into()], ..well.clone() };
        let gone = TopicFigures { partitions: 0, ..well.clone() };
        let figures = KafkaFigures {
            brokers: 2,
            hosts: vec![],
            topics: vec![well, other, gone],
            groups: vec![],
        };
        let found = judge(&figures, 3, false);
        assert_eq!(found[0].verdict(), Verdict::Act);
        let topics: Vec<_> = found[4..7].iter().map(Finding::verdict).collect();
        assert_eq!(topics, [Verdict::Ok, Verdict::Warn, Verdict::Act]);
        assert_eq!(found[5].advice(), "a; b");
        assert_eq!(judge(&figures, 2, false)[0].verdict(), Verdict::Ok);
    }
}
