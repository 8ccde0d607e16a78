//! Which records of each partition are meant.

use span_log::SpanLog;
use trace_model::{Coverage, LogRange, UnixNanos};

use crate::seam::replay::{Place, ReplayRefusal, ReplayRequest};

/// Ranges, and what a person should know of them.
#[derive(Debug, Default)]
pub(super) struct Resolved {
    /// Not empty, one a partition.
    pub(super) ranges: Vec<LogRange>,
    pub(super) warnings: Vec<String>,
}

impl Resolved {
    /// What is in the view is not taken again.
    pub(super) fn go_on_from(&mut self, view: &Coverage) {
        for range in &mut self.ranges {
            let held = view.next.get(&range.partition).copied().unwrap_or(0);
            if held > 0 {
                range.first = held.min(range.next);
            }
        }
        self.ranges.retain(|range| range.first < range.next);
    }
}

/// Finds what is meant, as the log is now.
pub(super) async fn resolve(
    request: &ReplayRequest,
    log: &dyn SpanLog,
    view: &Coverage,
    now: UnixNanos,
) -> Result<Resolved, ReplayRefusal> {
    let identity = log.identity();
    for (flag, place) in [("--from", request.from.as_ref()), ("--until", Some(&request.until))] {
        if let Some(place) = place {
            check(flag, place, log)?;
        }
    }
    let mut resolved = Resolved::default();
    let mut lost = Vec::new();
    for partition in 0..identity.partitions {
        let end = log.end(partition)?;
        let (first, next) = (end.first, end.next);
        let from = match &request.from {
            Some(place) => offset_of(place, partition, log, now).await?,
            None => Some(view.next_in(identity.incarnation, partition)),
        };
        let until = offset_of(&request.until, partition, log, now).await?;
        let (Some(from), Some(until)) = (from, until) else { continue };
        let is_asked_for = matches!(request.from, Some(Place::Offset(_) | Place::Offsets(_)));
        if from < first && (is_asked_for || from > 0) {
            lost.push((partition, from, first));
        }
        let range = LogRange { partition, first: from.max(first), next: until.min(next) };
        if range.first < range.next {
            resolved.ranges.push(range);
        }
    }
    resolved.warnings.extend(too_late(&lost));
    if let Some(words) = begins_late(request, log, &resolved.ranges, now).await? {
        resolved.warnings.push(words);
    }
    Ok(resolved)
}

/// A place that names partitions names those that are, and offsets that are or were.
fn check(flag: &str, place: &Place, log: &dyn SpanLog) -> Result<(), ReplayRefusal> {
    let Place::Offsets(offsets) = place else { return Ok(()) };
    let partitions = log.identity().partitions;
    for (partition, offset) in offsets {
        if *partition >= partitions {
            let last = partitions.saturating_sub(1);
            let words = format!("there is no partition {partition}: they are 0 to {last}");
            return Err(ReplayRefusal::Usage(format!("{flag}: {words}")));
        }
        let end = log.end(*partition)?.next;
        if *offset > end {
            let words = format!("partition {partition} ends at {end}, before {offset}");
            return Err(ReplayRefusal::Usage(format!("{flag}: {words}")));
        }
    }
    Ok(())
}

/// The offset of a place; `None` where the partition is left out.
async fn offset_of(
    place: &Place,
    partition: u32,
    log: &dyn SpanLog,
    now: UnixNanos,
) -> Result<Option<u64>, ReplayRefusal> {
    Ok(match place {
        Place::Earliest => Some(0),
        Place::End => Some(log.end(partition)?.next),
        Place::Offset(offset) => Some(*offset),
        Place::Offsets(offsets) => offsets.get(&partition).copied(),
        Place::At(_) | Place::Ago(_) => {
            let time = time_of(place, now).unwrap_or(now);
            Some(log.offset_at(partition, time).await?)
        }
    })
}

fn time_of(place: &Place, now: UnixNanos) -> Option<UnixNanos> {
    match place {
        Place::At(time) => Some(*time),
        Place::Ago(ago) => Some(now.minus(u64::try_from(ago.as_nanos()).unwrap_or(u64::MAX))),
        Place::Earliest | Place::End | Place::Offset(_) | Place::Offsets(_) => None,
    }
}

/// Offsets that are asked for and no longer kept.
fn too_late(lost: &[(u32, u64, u64)]) -> Option<String> {
    let (partition, from, first) = lost.first()?;
    let others = match lost.len() {
        1 => String::new(),
        partitions => format!(", and so in {} more partitions", partitions.saturating_sub(1)),
    };
    Some(format!(
        "the log of partition {partition} begins at {first}, behind {from}{others}: what came before is \
         no longer in it"
    ))
}

/// Where a time is asked for and retention has reached beyond it: when the log begins.
async fn begins_late(
    request: &ReplayRequest,
    log: &dyn SpanLog,
    ranges: &[LogRange],
    now: UnixNanos,
) -> Result<Option<String>, ReplayRefusal> {
    let Some(asked) = request.from.as_ref().and_then(|place| time_of(place, now)) else {
        return Ok(None);
    };
    let mut begins: Option<UnixNanos> = None;
    for range in ranges {
        let first = log.end(range.partition)?.first;
        // Nothing is gone from a partition that still has its first record.
        if first == 0 || range.first > first {
            continue;
        }
        let Some(oldest) = log.read(range.partition, first, 1).await?.into_iter().next() else {
            continue;
        };
        if oldest.append_time > asked {
            begins =
                Some(begins.map_or(oldest.append_time, |begins| begins.max(oldest.append_time)));
        }
    }
    Ok(begins.map(|begins| {
        format!(
            "the log begins at {}: what was appended before is no longer in it",
            crate::cli::moment(begins.0)
        )
    }))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use proto::{BatchSource, SpanBatchBuilder};
    use service_kit::ManualClock;
    use span_log::memory::{MemoryConfig, MemoryLog};
    use trace_model::{Region, TenantId, TraceId};

    use super::*;
    use crate::seam::replay::ReplayGroup;

    const SECOND: u64 = 1_000_000_000;
    const START: UnixNanos = UnixNanos(1_790_000_000 * SECOND);

    /// Records a second apart, of which the log keeps those that fit.
    async fn log_of(records: u8, bytes_max: usize) -> (Arc<MemoryLog>, UnixNanos) {
        let clock = Arc::new(ManualClock::at(START));
        let config =
            MemoryConfig { bytes_max, required_groups: Vec::new(), ..MemoryConfig::default() };
        let log = MemoryLog::new(config, clock.clone());
        for number in 1..=records {
            let mut span = Vec::new();
            proto::wire::put_bytes_field(&mut span, 1, &[number; 16]);
            proto::wire::put_bytes_field(&mut span, 2, &[number; 8]);
            let mut builder = SpanBatchBuilder::new();
            let resource = builder.add_resource(Vec::new());
            let scope = builder.add_scope(resource, Vec::new());
            let keep = trace_model::sampling_threshold::Threshold::KEEP_ALL;
            builder.add_span(TraceId::from_bytes([number; 16]).unwrap(), keep, scope, &span);
            let source = BatchSource {
                tenant: TenantId::default(),
                region: Region::new("eu-west-1").unwrap(),
                collector: "c".into(),
                receive_time: START,
                digest: u64::from(number),
            };
            log.append(Arc::new(builder.finish(source).unwrap())).await.unwrap();
            clock.advance(std::time::Duration::from_secs(1));
        }
        (log, clock.now())
    }

    use trace_model::Clock as _;

    fn request(from: Option<Place>, until: Place) -> ReplayRequest {
        ReplayRequest {
            group: ReplayGroup::SearchIndexer,
            from,
            until,
            into: None,
            records_per_second: None,
        }
    }

    async fn found(
        log: &MemoryLog,
        now: UnixNanos,
        from: Option<Place>,
        until: Place,
    ) -> (Vec<(u64, u64)>, Vec<String>) {
        let mut view = Coverage::none(log.identity().incarnation);
        view.extend(0, 4);
        let resolved = resolve(&request(from, until), log, &view, now).await.unwrap();
        let ranges = resolved.ranges.iter().map(|range| (range.first, range.next)).collect();
        (ranges, resolved.warnings)
    }

    #[tokio::test]
    async fn places_are_found_and_kept_within_the_log() {
        let (log, now) = log_of(10, 1 << 20).await;
        let seconds = std::time::Duration::from_secs;
        for (from, until, expected) in [
            (Some(Place::Earliest), Place::End, vec![(0, 10)]),
            (Some(Place::Offset(3)), Place::Offset(99), vec![(3, 10)]),
            (Some(Place::Offset(3)), Place::Offset(3), vec![]),
            (Some(Place::Offset(99)), Place::End, vec![]),
            (Some(Place::Offsets([(0, 7)].into())), Place::End, vec![(7, 10)]),
            (Some(Place::Ago(seconds(4))), Place::End, vec![(6, 10)]),
            (Some(Place::At(START.plus(2 * SECOND))), Place::Ago(seconds(3)), vec![(2, 7)]),
            (None, Place::End, vec![(4, 10)]),
        ] {
            let answer = found(&log, now, from.clone(), until.clone()).await;
            assert_eq!(answer, (expected, vec![]), "{from:?} {until:?}");
        }
    }

    #[tokio::test]
    async fn where_the_log_no_longer_reaches_it_is_said() {
        let (log, now) = log_of(30, 1_000).await;
        let first = log.end(0).unwrap().first;
        assert!(first > 1);
        let (ranges, warnings) = found(&log, now, Some(Place::Offset(1)), Place::End).await;
        assert_eq!(ranges, [(first, 30)]);
        assert!(warnings[0].contains(&format!("begins at {first}, behind 1")), "{warnings:?}");
        let hour = std::time::Duration::from_secs(3_600);
        let (ranges, warnings) = found(&log, now, Some(Place::Ago(hour)), Place::End).await;
        assert_eq!(ranges, [(first, 30)]);
        let begins = crate::cli::moment(START.plus(first * SECOND).0);
        assert_eq!(warnings.len(), 1);
        assert!(warnings[0].contains(&begins), "{warnings:?}");
        let (_, warnings) = found(&log, now, Some(Place::Earliest), Place::End).await;
        assert_eq!(warnings, [""; 0], "the earliest is what there is");
    }

    #[tokio::test]
    async fn partitions_and_offsets_that_are_not_are_refused() {
        let (log, now) = log_of(3, 1 << 20).await;
        for (offsets, words) in [
            ([(1, 0)], "--from: there is no partition 1: they are 0 to 0"),
            ([(0, 4)], "--from: partition 0 ends at 3, before 4"),
        ] {
            let request = request(Some(Place::Offsets(offsets.into())), Place::End);
            let refused = resolve(&request, &*log, &Coverage::default(), now).await.unwrap_err();
            assert!(matches!(&refused, ReplayRefusal::Usage(text) if text == words), "{refused:?}");
        }
    }
}
