//! What maintenance is told of a segment, and says of its records.

use trace_model::location::Cursor;

use super::segment::Location;
use crate::error::ReplicatorError;

/// What maintenance needs to know about a segment.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SegmentState {
    pub(crate) first: Cursor,
    pub(crate) number: u32,
    pub(crate) stamp: u64,
    pub(crate) is_compacted: bool,
    /// It is not whole, and may have rows that nobody has read.
    pub(crate) is_doubted: bool,
    /// The next file begins with all names that this one has.
    pub(crate) is_repeated: bool,
}

/// What a segment is rewritten by.
pub(crate) trait Sieve {
    /// The append time of a record that stays; `None` where it goes.
    fn keep(&mut self, location: Location, payload: &[u8]) -> Option<u64>;

    /// Bytes that are no record are met: they go.
    fn meet_damage(&mut self);

    /// What goes is known, and is still there. After an error it stays.
    fn before_swap(&mut self) -> Result<(), ReplicatorError>;
}
