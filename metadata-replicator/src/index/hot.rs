//! The hot index: exact rows in memory, the join of all writers, and the orders that summaries need.
//!
//! A row is one writer's latest contribution about one trace, packed (`row`); a trace is found by
//! hash. Traces are posted under the 10-minute bucket of their earliest start, and there under each
//! of their services and under "has an error" (`postings`); a posting is a hint, the joined trace
//! decides. When more rows come than configured, those that arrived first go; expired ones go as well.
//! [`HotIndex::forgotten_until`] says up to when the index can no longer vouch for absence: a cell may
//! keep its spans for longer than the index keeps its rows.

mod names;
mod postings;
mod row;
mod summaries;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use hashbrown::HashTable;
use prost::Message as _;
use proto::convert::index::contribution_to_wire;
use trace_model::{Contribution, TenantId, TraceEntry, TraceId, UnixNanos, WriterId};
use xxhash_rust::xxh3::{Xxh3, xxh3_64_with_seed, xxh3_128};

use names::Names;
use postings::{Postings, bucket_of};
use row::RowView;
pub use summaries::Summaries;

/// Nanoseconds of an arrival group: the grain of expiry and eviction.
const ARRIVAL_NANOS: u64 = 60_000_000_000;

/// The rows of all origins. Not shared by itself: its owner locks it.
#[derive(Debug)]
pub struct HotIndex {
    names: Names,
    rows: Vec<Option<Box<[u8]>>>,
    free: Vec<u32>,
    by_trace: HashTable<u32>,
    postings: Postings,
    arrivals: BTreeMap<u64, Vec<u32>>,
    rows_max: usize,
    live: usize,
    traces: usize,
    row_bytes: usize,
    forgotten_until: Option<UnixNanos>,
}

/// What rows of one trace say about where it is posted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Place {
    tenant: u32,
    bucket: u64,
}

impl HotIndex {
    /// An empty index of at most so many rows.
    #[must_use]
    pub fn new(rows_max: usize) -> Self {
        Self {
            names: Names::default(),
            rows: Vec::new(),
            free: Vec::new(),
            by_trace: HashTable::new(),
            postings: Postings::default(),
            arrivals: BTreeMap::new(),
            rows_max: rows_max.clamp(1, u32::MAX as usize),
            live: 0,
            traces: 0,
            row_bytes: 0,
            forgotten_until: None,
        }
    }

    /// Rows held: one for each writer of a trace.
    #[must_use]
    pub const fn rows(&self) -> usize {
        self.live
    }

    /// Traces held.
    #[must_use]
    pub const fn traces(&self) -> usize {
        self.traces
    }

    /// Bytes held, about: rows with their allocations, tables, postings and names.
    #[must_use]
    pub fn bytes(&self) -> usize {
        let slot = size_of::<Option<Box<[u8]>>>();
        let arrivals: usize = self.arrivals.values().map(|rows| rows.capacity() * 4).sum();
        self.row_bytes
            .saturating_add(self.rows.capacity().saturating_mul(slot))
            .saturating_add(self.by_trace.capacity().saturating_mul(5 * 8 / 7))
            .saturating_add(self.postings.bytes())
            .saturating_add(self.names.bytes())
            .saturating_add(arrivals)
    }

    /// Append time up to which rows were evicted for want of room or have expired: absence is proven
    /// for later appends alone.
    #[must_use]
    pub const fn forgotten_until(&self) -> Option<UnixNanos> {
        self.forgotten_until
    }

    /// Joins a contribution in. Says whether anything changed.
    pub fn join(&mut self, contribution: &Contribution) -> bool {
        let tenant = self.names.intern(contribution.tenant.as_str());
        let writer = self.names.intern_writer(&contribution.writer);
        let hash = trace_hash(tenant, contribution.trace_id.as_bytes());
        let ids = self.rows_of(hash, tenant, contribution.trace_id);
        let held =
            ids.iter().copied().find(|id| self.view(*id).is_some_and(|row| row.writer == writer));
        if let Some(id) = held {
            let replaced = self.contribution(id).is_none_or(|held| contribution.replaces(&held));
            if !replaced {
                return false;
            }
        }
        let before = self.place(&ids);
        let bytes = row::encode(contribution, tenant, writer, &mut self.names);
        let (id, old_minute) = match held {
            Some(id) => (id, self.replace(id, bytes)),
            None => (self.insert(hash, bytes), None),
        };
        let minute = contribution.last_append.0 / ARRIVAL_NANOS;
        if old_minute != Some(minute) {
            self.arrivals.entry(minute).or_default().push(id);
        }
        self.traces = self.traces.saturating_add(usize::from(ids.is_empty()));
        self.post_change(before, id, held.is_none().then_some(ids));
        self.evict();
        true
    }

    /// What all writers say about a trace; empty where the index does not know it.
    #[must_use]
    pub fn look_up(&self, tenant: &TenantId, trace_id: TraceId) -> TraceEntry {
        let mut entry = TraceEntry::default();
        let Some(tenant) = self.names.id_of(tenant.as_str()) else { return entry };
        let hash = trace_hash(tenant, trace_id.as_bytes());
        for id in self.rows_of(hash, tenant, trace_id) {
            if let Some(contribution) = self.contribution(id) {
                entry.join(contribution);
            }
        }
        entry
    }

    /// The version that is held of a writer's row.
    #[must_use]
    pub fn version_of(&self, tenant: &str, trace_id: TraceId, writer: &WriterId) -> Option<u64> {
        let tenant = self.names.id_of(tenant)?;
        let writer = self.names.writer_id_of(writer)?;
        let hash = trace_hash(tenant, trace_id.as_bytes());
        let ids = self.rows_of(hash, tenant, trace_id);
        let rows = ids.into_iter().filter_map(|id| self.view(id));
        rows.into_iter().find(|row| row.writer == writer).map(|row| row.version)
    }

    /// Notes that rows with appends up to then are not held.
    pub fn forget_until(&mut self, until: UnixNanos) {
        self.forgotten_until = self.forgotten_until.max(Some(until));
    }

    /// Takes out rows whose last append lies before the horizon. Gives how many.
    pub fn expire(&mut self, horizon: UnixNanos) -> usize {
        let before = self.live;
        let last = horizon.0 / ARRIVAL_NANOS;
        let mut touched = Vec::new();
        while let Some(minute) = self.arrivals.first_key_value().map(|(minute, _)| *minute) {
            if minute > last {
                break;
            }
            let ids = self.arrivals.remove(&minute).unwrap_or_default();
            let is_whole = minute < last;
            let mut kept = Vec::new();
            for id in ids {
                let Some(append) = self.view(id).map(|row| row.last_append) else { continue };
                if append.0 / ARRIVAL_NANOS != minute {
                    continue;
                }
                if is_whole || append < horizon {
                    self.forget_until(append);
                    touched.extend(self.remove(id));
                } else {
                    kept.push(id);
                }
            }
            if !is_whole {
                if !kept.is_empty() {
                    self.arrivals.insert(minute, kept);
                }
                break;
            }
        }
        self.sweep(touched);
        before.saturating_sub(self.live)
    }

    /// A number over all rows that does not depend on how they came: equal indexes have equal ones.
    #[must_use]
    pub fn digest(&self) -> u128 {
        let ids = 0..u32::try_from(self.rows.len()).unwrap_or(u32::MAX);
        let rows = ids.filter_map(|id| self.contribution(id));
        rows.map(|row| digest_of(&row)).fold(0, u128::wrapping_add)
    }

    fn view(&self, id: u32) -> Option<RowView<'_>> {
        RowView::read(self.rows.get(id as usize)?.as_deref()?)
    }

    fn contribution(&self, id: u32) -> Option<Contribution> {
        self.view(id)?.contribution(&self.names)
    }

    fn rows_of(&self, hash: u64, tenant: u32, trace_id: TraceId) -> Vec<u32> {
        let ids = self.by_trace.iter_hash(hash).copied();
        let of_trace = |id: &u32| {
            self.view(*id)
                .is_some_and(|row| row.tenant == tenant && row.trace_id == *trace_id.as_bytes())
        };
        ids.filter(of_trace).collect()
    }

    /// Where a trace with these rows is posted: the earliest start, or the earliest arrival where
    /// only routes are known.
    fn place(&self, ids: &[u32]) -> Option<Place> {
        let rows = || ids.iter().filter_map(|id| self.view(*id));
        let start = rows().filter_map(|row| row.min_start()).min();
        let time = start.or_else(|| rows().map(|row| row.last_append).min())?;
        let tenant = rows().next()?.tenant;
        Some(Place { tenant, bucket: bucket_of(time) })
    }

    fn insert(&mut self, hash: u64, bytes: Box<[u8]>) -> u32 {
        self.row_bytes = self.row_bytes.saturating_add(row::allocated(&bytes));
        self.live = self.live.saturating_add(1);
        let id = if let Some(id) = self.free.pop() {
            if let Some(slot) = self.rows.get_mut(id as usize) {
                *slot = Some(bytes);
            }
            id
        } else {
            self.rows.push(Some(bytes));
            u32::try_from(self.rows.len().saturating_sub(1)).unwrap_or(u32::MAX)
        };
        let rows = &self.rows;
        self.by_trace.insert_unique(hash, id, |id| hash_of_row(rows, *id));
        id
    }

    /// Puts a later version in; gives the arrival group of the one before.
    fn replace(&mut self, id: u32, bytes: Box<[u8]>) -> Option<u64> {
        let minute = self.view(id).map(|row| row.last_append.0 / ARRIVAL_NANOS);
        self.row_bytes = self.row_bytes.saturating_add(row::allocated(&bytes));
        let slot = self.rows.get_mut(id as usize)?;
        let old = slot.replace(bytes)?;
        self.row_bytes = self.row_bytes.saturating_sub(row::allocated(&old));
        minute
    }

    /// Posts what changed: the whole trace where its bucket is another, else the row's own words.
    fn post_change(&mut self, before: Option<Place>, id: u32, others: Option<Vec<u32>>) {
        let Some(row) = self.view(id) else { return };
        let (tenant, trace_id) = (row.tenant, row.trace_id);
        let ids = match others {
            Some(mut ids) => {
                ids.push(id);
                ids
            }
            None => {
                let hash = trace_hash(tenant, &trace_id);
                TraceId::from_bytes(trace_id)
                    .map(|trace_id| self.rows_of(hash, tenant, trace_id))
                    .unwrap_or_default()
            }
        };
        let Some(place) = self.place(&ids) else { return };
        if before == Some(place) {
            self.post_row(place, id);
            return;
        }
        self.post_trace(place, &ids);
    }

    fn post_trace(&mut self, place: Place, ids: &[u32]) {
        if let Some(first) = ids.first() {
            self.postings.post(place.tenant, place.bucket, *first);
        }
        for id in ids {
            self.post_row(place, *id);
        }
    }

    fn post_row(&mut self, place: Place, id: u32) {
        let Some(row) = self.rows.get(id as usize).and_then(Option::as_deref) else { return };
        let Some(row) = RowView::read(row) else { return };
        let bucket = self.postings.bucket(place.tenant, place.bucket);
        for service in row.services() {
            bucket.post_service(service, id);
        }
        if row.has_errors() {
            bucket.post_error(id);
        }
    }

    /// Removes a row; gives the place from which its postings are to be swept.
    fn remove(&mut self, id: u32) -> Option<Place> {
        let row = self.view(id)?;
        let (tenant, trace_id) = (row.tenant, TraceId::from_bytes(row.trace_id).ok()?);
        let hash = trace_hash(tenant, trace_id.as_bytes());
        let mut ids = self.rows_of(hash, tenant, trace_id);
        let place = self.place(&ids);
        if let Ok(entry) = self.by_trace.find_entry(hash, |held| *held == id) {
            entry.remove();
        }
        let old = self.rows.get_mut(id as usize)?.take()?;
        self.row_bytes = self.row_bytes.saturating_sub(row::allocated(&old));
        self.free.push(id);
        self.live = self.live.saturating_sub(1);
        ids.retain(|other| *other != id);
        match self.place(&ids) {
            Some(place) => self.post_trace(place, &ids),
            None => self.traces = self.traces.saturating_sub(1),
        }
        place
    }

    /// Takes postings out that point to nothing, from the buckets named.
    fn sweep(&mut self, mut touched: Vec<Place>) {
        touched.sort_unstable_by_key(|place| (place.tenant, place.bucket));
        touched.dedup();
        for place in touched {
            let Some(mut bucket) = self.postings.take(place.tenant, place.bucket) else { continue };
            bucket.retain(|id| self.is_posted_at(id, place));
            self.postings.put_back(place.tenant, place.bucket, bucket);
        }
    }

    fn is_posted_at(&self, id: u32, place: Place) -> bool {
        let Some(row) = self.view(id) else { return false };
        let Ok(trace_id) = TraceId::from_bytes(row.trace_id) else { return false };
        let hash = trace_hash(row.tenant, trace_id.as_bytes());
        self.place(&self.rows_of(hash, row.tenant, trace_id)) == Some(place)
    }

    /// Takes out the rows that arrived first until there is room, a sixty-fourth more than needed
    /// so that it is not done for every row.
    fn evict(&mut self) {
        if self.live <= self.rows_max {
            return;
        }
        let target = self.rows_max.saturating_sub(self.rows_max / 64);
        let mut touched = Vec::new();
        while self.live > target {
            let Some((minute, mut ids)) = self.arrivals.pop_first() else { break };
            while let Some(id) = ids.pop() {
                let Some(append) = self.view(id).map(|row| row.last_append) else { continue };
                if append.0 / ARRIVAL_NANOS != minute {
                    continue;
                }
                if self.live <= target {
                    ids.push(id);
                    self.arrivals.insert(minute, ids);
                    break;
                }
                self.forget_until(append);
                touched.extend(self.remove(id));
            }
        }
        self.sweep(touched);
    }
}

fn trace_hash(tenant: u32, trace_id: &[u8; 16]) -> u64 {
    xxh3_64_with_seed(trace_id, u64::from(tenant))
}

fn hash_of_row(rows: &[Option<Box<[u8]>>], id: u32) -> u64 {
    let row = rows.get(id as usize).and_then(Option::as_deref).and_then(RowView::read);
    row.map_or(0, |row| trace_hash(row.tenant, &row.trace_id))
}

/// A hash over all that a contribution says, names spelled out.
fn digest_of(contribution: &Contribution) -> u128 {
    let mut names = Xxh3::new();
    let mut wire = contribution_to_wire(contribution, &mut |name| {
        names.update(name.as_bytes());
        names.update(&[0]);
        0
    });
    wire.tenant.push('\n');
    wire.tenant.push_str(contribution.writer.region.as_str());
    let mut bytes = wire.encode_to_vec();
    bytes.extend_from_slice(&names.digest().to_le_bytes());
    xxh3_128(&bytes)
}
