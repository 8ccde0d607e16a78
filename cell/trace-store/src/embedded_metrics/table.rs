//! The rows that are not sealed yet, encoded: a sketch takes a tenth of its size in use, and most
//! rows are never asked for before they are sealed.

use std::collections::BTreeMap;

use trace_model::{TenantId, TraceId};

use super::codec::{EncodedRows, Record, Unfit};
use super::erase::may_hold;

/// Pieces of a row that may wait before they are made one.
const PIECES_MAX: usize = 8;
/// Estimated bytes of an entry beside its pieces.
const ENTRY_BYTES: usize = 200;
/// Estimated bytes of a piece beside its content.
const PIECE_BYTES: usize = 32;

/// Rows by key.
#[derive(Debug)]
pub(super) struct Table<K> {
    rows: BTreeMap<K, Vec<Box<[u8]>>>,
    bytes: usize,
}

impl<K: Record> Table<K> {
    pub(super) const fn new() -> Self {
        Self { rows: BTreeMap::new(), bytes: 0 }
    }

    pub(super) const fn bytes(&self) -> usize {
        self.bytes
    }

    pub(super) fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// Adds later rows.
    pub(super) fn add(&mut self, rows: EncodedRows<K>) -> Result<(), Unfit> {
        for (key, row) in rows {
            let mut added = PIECE_BYTES.saturating_add(row.len());
            let pieces = self.rows.entry(key).or_insert_with(|| {
                added = added.saturating_add(ENTRY_BYTES);
                Vec::with_capacity(1)
            });
            self.bytes = self.bytes.saturating_add(added);
            pieces.push(row);
            if pieces.len() >= PIECES_MAX {
                let before = size_of(pieces);
                let mut whole = Vec::new();
                K::put_row(&merged::<K>(pieces)?, &mut whole);
                *pieces = vec![whole.into()];
                self.bytes = self.bytes.saturating_sub(before).saturating_add(size_of(pieces));
            }
        }
        Ok(())
    }

    /// Takes a trace out of a tenant's rows; says whether it was there.
    pub(super) fn forget(&mut self, tenant: &TenantId, trace_id: TraceId) -> Result<bool, Unfit> {
        let mut is_found = false;
        for (key, pieces) in &mut self.rows {
            let may_hold = pieces.iter().any(|piece| may_hold(piece, trace_id));
            if key.tenant() != tenant || !may_hold {
                continue;
            }
            let mut row = merged::<K>(pieces)?;
            // Merging may have left the trace out: its bytes are in a piece all the same.
            K::forget(&mut row, trace_id);
            is_found = true;
            let mut whole = Vec::new();
            K::put_row(&row, &mut whole);
            *pieces = vec![whole.into()];
        }
        Ok(is_found)
    }

    /// Rows from a key on, in order, each read when it is asked for.
    pub(super) fn from<'a>(&'a self, first: &'a K) -> impl Iterator<Item = (&'a K, Pieces<'a>)> {
        self.rows.range(first..).map(|(key, pieces)| (key, Pieces(pieces)))
    }

    /// All rows, in order.
    pub(super) fn iter(&self) -> impl DoubleEndedIterator<Item = (&K, Pieces<'_>)> {
        self.rows.iter().map(|(key, pieces)| (key, Pieces(pieces)))
    }
}

/// A row that was not read yet.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pieces<'a>(&'a [Box<[u8]>]);

impl Pieces<'_> {
    pub(super) fn read<K: Record>(self) -> Result<K::Row, Unfit> {
        merged::<K>(self.0)
    }
}

fn merged<K: Record>(pieces: &[Box<[u8]>]) -> Result<K::Row, Unfit> {
    let mut row = K::Row::default();
    for piece in pieces {
        K::merge(&mut row, &K::read_row(piece)?);
    }
    Ok(row)
}

fn size_of(pieces: &[Box<[u8]>]) -> usize {
    pieces.iter().map(|piece| PIECE_BYTES.saturating_add(piece.len())).sum()
}
