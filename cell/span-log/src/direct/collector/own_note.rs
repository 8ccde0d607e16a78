//! What a collector keeps beside its log, and what that says of the log.

use serde::{Deserialize, Serialize};
use trace_model::{Coverage, UnixNanos};

use super::super::{DirectError, INCARNATION};
use super::OWN;
use crate::port::Seen;

/// What the note says.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct Note {
    pub(super) number: u32,
    /// Incarnation of the embedded log: which log the number was given to.
    pub(super) log: u64,
    pub(super) is_registered: bool,
    pub(super) is_retired: bool,
    /// The latest front that was heard of.
    pub(super) front: u64,
    /// Until when spans are taken at least, over a restart, in nanoseconds.
    pub(super) leased_until: u64,
    pub(super) set_aside: Vec<Aside>,
    /// Runs set aside that ended before this time were forgotten, in nanoseconds.
    pub(super) forgotten_until: u64,
}

/// Records that a store has refused: they lie in the dead letters of this process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Aside {
    pub(super) first: u64,
    pub(super) next: u64,
    pub(super) first_time: u64,
    pub(super) last_time: u64,
}

impl Aside {
    pub(super) fn grow(&mut self, other: &Self) {
        self.first = self.first.min(other.first);
        self.next = self.next.max(other.next);
        self.first_time = self.first_time.min(other.first_time);
        self.last_time = self.last_time.max(other.last_time);
    }
}

/// What was seen of the log, in the embedded log's own words. A number that readers know and the
/// directory does not was another log's.
pub(super) fn seen_of_its_own(
    seen: &Seen,
    number: u32,
    note: Option<&Note>,
) -> Result<Seen, DirectError> {
    let next = seen.covered.next_in(INCARNATION, number);
    let stored = seen.stored.next_in(INCARNATION, number);
    let Some(note) = note else {
        if next.max(stored) > 0 {
            return Err(DirectError::NumberTaken { number, next: next.max(stored) });
        }
        return Ok(Seen::default());
    };
    if note.number != number {
        return Err(DirectError::OtherNumber { number, known: note.number });
    }
    let cover = |next: u64| {
        let mut cover = Coverage::none(note.log);
        cover.extend(OWN, next);
        cover
    };
    Ok(Seen { covered: cover(next), stored: cover(stored), append_time: UnixNanos(0) })
}
