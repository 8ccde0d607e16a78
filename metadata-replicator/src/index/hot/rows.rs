//! Rows by number, and the rows of a trace in a chain: a trace goes by the number of the first.

use hashbrown::HashTable;
use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::row::{RowView, allocated};

/// The end of a chain.
const NONE: u32 = u32::MAX;

/// All rows. A number is given again when its row is gone.
#[derive(Debug, Default)]
pub(super) struct Rows {
    rows: Vec<Option<Box<[u8]>>>,
    /// The next row of the same trace.
    next: Vec<u32>,
    free: Vec<u32>,
    by_trace: HashTable<u32>,
    live: usize,
    row_bytes: usize,
}

impl Rows {
    /// Rows held.
    pub(super) const fn len(&self) -> usize {
        self.live
    }

    /// Traces held.
    pub(super) fn traces(&self) -> usize {
        self.by_trace.len()
    }

    /// Bytes held, about.
    pub(super) fn bytes(&self) -> usize {
        let slot = size_of::<Option<Box<[u8]>>>();
        self.row_bytes
            .saturating_add(self.rows.capacity().saturating_mul(slot))
            .saturating_add(self.next.capacity().saturating_mul(4))
            .saturating_add(self.free.capacity().saturating_mul(4))
            .saturating_add(self.by_trace.capacity().saturating_mul(5 * 8 / 7))
    }

    /// Every number that was ever given.
    pub(super) fn numbers(&self) -> std::ops::Range<u32> {
        0..u32::try_from(self.rows.len()).unwrap_or(u32::MAX)
    }

    pub(super) fn view(&self, id: u32) -> Option<RowView<'_>> {
        RowView::read(self.rows.get(id as usize)?.as_deref()?)
    }

    /// The number by which a trace goes.
    pub(super) fn first_of(&self, tenant: u32, trace_id: &[u8; 16]) -> Option<u32> {
        let is_it = |id: &u32| {
            self.view(*id).is_some_and(|row| row.tenant == tenant && row.trace_id == *trace_id)
        };
        self.by_trace.find(trace_hash(tenant, trace_id), is_it).copied()
    }

    /// The rows of the trace that goes by this number.
    pub(super) fn of_trace(&self, first: u32) -> impl Iterator<Item = (u32, RowView<'_>)> {
        let mut at = first;
        std::iter::from_fn(move || {
            let row = self.view(at)?;
            let id = at;
            at = self.next.get(id as usize).copied().unwrap_or(NONE);
            Some((id, row))
        })
    }

    /// Puts a row in, of a trace that goes by `first` already or is new. Gives its number.
    pub(super) fn insert(&mut self, row: Box<[u8]>, first: Option<u32>) -> u32 {
        self.row_bytes = self.row_bytes.saturating_add(allocated(&row));
        self.live = self.live.saturating_add(1);
        let id = self.put(row);
        match first.and_then(|first| self.next.get_mut(first as usize)) {
            Some(link) => {
                let behind = std::mem::replace(link, id);
                self.link(id, behind);
            }
            None => {
                let rows = &self.rows;
                self.by_trace.insert_unique(hash_of(rows, id), id, |id| hash_of(rows, *id));
            }
        }
        id
    }

    fn put(&mut self, row: Box<[u8]>) -> u32 {
        if let Some(id) = self.free.pop() {
            if let Some(slot) = self.rows.get_mut(id as usize) {
                *slot = Some(row);
            }
            self.link(id, NONE);
            return id;
        }
        self.rows.push(Some(row));
        self.next.push(NONE);
        u32::try_from(self.rows.len().saturating_sub(1)).unwrap_or(NONE)
    }

    fn link(&mut self, id: u32, next: u32) {
        if let Some(link) = self.next.get_mut(id as usize) {
            *link = next;
        }
    }

    /// Puts a later version of a row into its place.
    pub(super) fn replace(&mut self, id: u32, row: Box<[u8]>) {
        let Some(Some(slot)) = self.rows.get_mut(id as usize) else { return };
        self.row_bytes = self.row_bytes.saturating_add(allocated(&row));
        let old = std::mem::replace(slot, row);
        self.row_bytes = self.row_bytes.saturating_sub(allocated(&old));
    }

    /// Takes a row of the trace that goes by `first` out; gives by what the trace goes then, if
    /// anything of it is left.
    pub(super) fn remove(&mut self, id: u32, first: u32) -> Option<u32> {
        let behind = self.next.get(id as usize).copied().unwrap_or(NONE);
        if id == first {
            self.rename(first, behind);
        } else {
            let is_before = |row: &u32| self.next.get(*row as usize).copied() == Some(id);
            let before = self.of_trace(first).map(|(row, _)| row).find(is_before);
            if let Some(before) = before {
                self.link(before, behind);
            }
        }
        if let Some(old) = self.rows.get_mut(id as usize).and_then(Option::take) {
            self.row_bytes = self.row_bytes.saturating_sub(allocated(&old));
            self.free.push(id);
            self.live = self.live.saturating_sub(1);
        }
        let left = if id == first { behind } else { first };
        (left != NONE).then_some(left)
    }

    /// Lets a trace go by another of its rows, or by none.
    fn rename(&mut self, first: u32, behind: u32) {
        let hash = hash_of(&self.rows, first);
        let Ok(mut entry) = self.by_trace.find_entry(hash, |held| *held == first) else { return };
        if behind == NONE {
            entry.remove();
        } else {
            *entry.get_mut() = behind;
        }
    }
}

fn hash_of(rows: &[Option<Box<[u8]>>], id: u32) -> u64 {
    let row = rows.get(id as usize).and_then(Option::as_deref).and_then(RowView::read);
    row.map_or(0, |row| trace_hash(row.tenant, &row.trace_id))
}

fn trace_hash(tenant: u32, trace_id: &[u8; 16]) -> u64 {
    xxh3_64_with_seed(trace_id, u64::from(tenant))
}
