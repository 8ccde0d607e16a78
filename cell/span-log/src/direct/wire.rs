//! Between the port's words and those on the wire.

use proto::v1;
use trace_model::{LogRange, UnixNanos};

use super::INCARNATION;
use crate::port::{GroupId, Lost, LostCause, LostRun, TOLD_GROUPS};

/// What is lost of a collector's log, and what its groups have missed.
pub(super) fn lost_messages(lost: &Lost) -> Vec<v1::LostRecords> {
    let missed = lost.missed.iter().map(|missed| lost_message(&missed.run, missed.group.0));
    lost.runs.iter().map(|run| lost_message(run, "")).chain(missed).collect()
}

pub(super) fn lost_message(run: &LostRun, missed_by: &str) -> v1::LostRecords {
    v1::LostRecords {
        first: run.range.first,
        next: run.range.next,
        appended_from_unix_nano: run.append_times.0.0,
        appended_until_unix_nano: run.append_times.1.0,
        cause: run.cause.as_str().to_owned(),
        missed_by: missed_by.to_owned(),
    }
}

/// A run of a collector's log. A cause that this release does not know is damage.
pub(super) fn lost_run(partition: u32, message: &v1::LostRecords) -> LostRun {
    let mut causes = LostCause::ALL.into_iter();
    let cause = causes.find(|cause| cause.as_str() == message.cause);
    let times = (message.appended_from_unix_nano, message.appended_until_unix_nano);
    LostRun {
        incarnation: INCARNATION,
        range: LogRange { partition, first: message.first, next: message.next },
        append_times: (UnixNanos(times.0), UnixNanos(times.1)),
        cause: cause.unwrap_or(LostCause::Damaged),
    }
}

/// The group of this name that is told what it has missed.
pub(super) fn told_group(name: &str) -> Option<GroupId> {
    TOLD_GROUPS.into_iter().find(|group| group.0 == name)
}
