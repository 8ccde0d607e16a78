//! What a read of a segment gives.

use trace_model::location::Cursor;

/// Records read from one segment, and where on the way to them some could not be read.
#[derive(Debug, Default)]
pub(crate) struct RawChunk {
    pub(crate) first: Cursor,
    pub(crate) next: Cursor,
    pub(crate) records: Vec<(u64, Vec<u8>)>,
    pub(crate) damage: Vec<Damage>,
    /// The number of their file.
    pub(crate) segment: u32,
}

impl RawChunk {
    pub(super) const fn empty(at: Cursor) -> Self {
        Self { first: at, next: at, records: Vec::new(), damage: Vec::new(), segment: 0 }
    }

    /// A record of it that cannot be used, as damage.
    pub(super) fn damage_at(&self, place: usize) -> Damage {
        let payload = |place: Option<usize>| Some(self.records.get(place?)?.1.clone());
        let neighbours = (payload(place.checked_sub(1)), payload(place.checked_add(1)));
        Damage { neighbours, segment: self.segment }
    }
}

/// Bytes that were records and cannot be read any more.
#[derive(Debug)]
pub(crate) struct Damage {
    /// The good record before, and the one behind.
    pub(crate) neighbours: (Option<Vec<u8>>, Option<Vec<u8>>),
    /// The number of their file.
    pub(crate) segment: u32,
}
