//! The hot index: exact rows in memory, the join of all writers, and the orders that summaries need.
//!
//! A row is one writer's latest contribution about one trace, packed (`row`); the rows of a trace are
//! chained and the trace is found by hash (`rows`). By what its rows say together (`joined`) a trace
//! is in the orders of its ten minutes: by length, root, service and error, each by start (`orders`).
//! A question goes through the shortest of them in steps (`summaries`).
//!
//! When more rows come than configured, those that arrived first go; expired ones go as well
//! (`arrivals`). [`HotIndex::forgotten`] says what the index can no longer vouch for, region by
//! region: a cell may keep its spans for longer than the index keeps its rows.

mod arrivals;
mod joined;
mod names;
mod order;
mod orders;
mod row;
mod rows;
mod summaries;
#[cfg(test)]
mod tests;

use prost::Message as _;
use proto::convert::index::contribution_to_wire;
use trace_model::{
    Contribution, Forgotten, Region, TenantId, TraceEntry, TraceId, UnixNanos, WriterId,
};
use xxhash_rust::xxh3::{Xxh3, xxh3_128};

use arrivals::{Arrivals, minute_of};
use names::Names;
use orders::Orders;
use rows::Rows;
pub use summaries::{Summaries, SummarySearch};

/// The rows of all origins. Not shared by itself: its owner locks it.
#[derive(Debug)]
pub struct HotIndex {
    names: Names,
    rows: Rows,
    orders: Orders,
    arrivals: Arrivals,
    rows_max: usize,
    /// By region number.
    forgotten: Vec<Forgotten>,
    /// Rows that give the route alone, by region number.
    bare: Vec<u64>,
}

/// Why a row is let go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LetGo {
    /// It has passed its origin's own retention.
    Expired,
    /// A limit of this index: the origin may keep the spans for longer.
    Evicted,
}

impl LetGo {
    /// What is forgotten when a row with this last append is let go.
    #[must_use]
    pub fn mark(self, append: UnixNanos) -> Forgotten {
        match self {
            Self::Expired => Forgotten { expired_until: Some(append), evicted_until: None },
            Self::Evicted => Forgotten { expired_until: None, evicted_until: Some(append) },
        }
    }
}

/// What one step of expiry did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExpiryStep {
    /// Rows taken out.
    pub rows: usize,
    /// Whether nothing is left to take out.
    pub is_done: bool,
}

impl HotIndex {
    /// An empty index of at most so many rows.
    #[must_use]
    pub fn new(rows_max: usize) -> Self {
        Self {
            names: Names::default(),
            rows: Rows::default(),
            orders: Orders::default(),
            arrivals: Arrivals::default(),
            rows_max: rows_max.clamp(1, u32::MAX as usize),
            forgotten: Vec::new(),
            bare: Vec::new(),
        }
    }

    /// Rows held: one for each writer of a trace.
    #[must_use]
    pub const fn rows(&self) -> usize {
        self.rows.len()
    }

    /// Traces held.
    #[must_use]
    pub fn traces(&self) -> usize {
        self.rows.traces()
    }

    /// Bytes held, about: rows with their allocations, tables, orders and names.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.rows
            .bytes()
            .saturating_add(self.orders.bytes())
            .saturating_add(self.names.bytes())
            .saturating_add(self.arrivals.bytes())
    }

    /// Which rows of a region the index has let go of.
    #[must_use]
    pub fn forgotten(&self, region: &Region) -> Forgotten {
        let number = self.names.region_id_of(region);
        number.and_then(|number| self.forgotten.get(number)).copied().unwrap_or_default()
    }

    /// Rows of a region that give the route alone.
    #[must_use]
    pub fn rows_without_detail(&self, region: &Region) -> u64 {
        let number = self.names.region_id_of(region);
        number.and_then(|number| self.bare.get(number)).copied().unwrap_or(0)
    }

    /// The count of a row's region, where the row gives the route alone.
    fn bare_count_of(&mut self, id: u32) -> Option<&mut u64> {
        let row = self.rows.view(id).filter(row::RowView::is_bare)?;
        let region = self.names.region_of(row.writer)? as usize;
        if self.bare.len() <= region {
            self.bare.resize(region.saturating_add(1), 0);
        }
        self.bare.get_mut(region)
    }

    fn count_bare(&mut self, id: u32) {
        if let Some(count) = self.bare_count_of(id) {
            *count = count.saturating_add(1);
        }
    }

    fn uncount_bare(&mut self, id: u32) {
        if let Some(count) = self.bare_count_of(id) {
            *count = count.saturating_sub(1);
        }
    }

    /// Notes that rows of a region are not held.
    pub fn forget(&mut self, region: &Region, forgotten: Forgotten) {
        let number = self.names.intern_region(region);
        self.note_forgotten(number, forgotten);
    }

    fn note_forgotten(&mut self, region: u32, forgotten: Forgotten) {
        let region = region as usize;
        while self.forgotten.len() <= region {
            self.forgotten.push(Forgotten::default());
        }
        if let Some(held) = self.forgotten.get_mut(region) {
            *held = held.join(forgotten);
        }
    }

    /// Joins a contribution in. Says whether anything changed.
    pub fn join(&mut self, contribution: &Contribution) -> bool {
        let tenant = self.names.intern(contribution.tenant.as_str());
        let writer = self.names.intern_writer(&contribution.writer);
        let first = self.rows.first_of(tenant, contribution.trace_id.as_bytes());
        let held = first.and_then(|first| self.row_of(first, writer));
        if held.is_some_and(|held| !self.is_replaced(held, contribution)) {
            return false;
        }
        let before = first.and_then(|first| self.rows.place(first));
        let row = row::encode(contribution, tenant, writer, &mut self.names);
        let minute = minute_of(contribution.last_append);
        let id = match held {
            Some(id) => {
                if self.minute_of_row(id) != Some(minute) {
                    self.note_arrival(writer, minute, id);
                }
                self.uncount_bare(id);
                self.rows.replace(id, row);
                id
            }
            None => {
                let id = self.rows.insert(row, first);
                self.note_arrival(writer, minute, id);
                id
            }
        };
        self.count_bare(id);
        let after = self.rows.place(first.unwrap_or(id));
        self.orders.move_trace(before.as_ref(), after.as_ref());
        self.evict();
        true
    }

    fn row_of(&self, first: u32, writer: u32) -> Option<u32> {
        self.rows.of_trace(first).find(|(_, row)| row.writer == writer).map(|(id, _)| id)
    }

    /// Whether a contribution replaces the row of its writer. Only of equal versions must the rest
    /// be compared.
    fn is_replaced(&self, held: u32, contribution: &Contribution) -> bool {
        let Some(row) = self.rows.view(held) else { return true };
        if row.version != contribution.version {
            return contribution.version > row.version;
        }
        row.contribution(&self.names).is_none_or(|held| contribution.replaces(&held))
    }

    fn minute_of_row(&self, id: u32) -> Option<u64> {
        self.rows.view(id).map(|row| minute_of(row.last_append))
    }

    fn note_arrival(&mut self, writer: u32, minute: u64, id: u32) {
        let region = self.names.region_of(writer).unwrap_or_default();
        self.arrivals.push(region, minute, id);
    }

    /// What all writers say about a trace; empty where the index does not know it.
    #[must_use]
    pub fn look_up(&self, tenant: &TenantId, trace_id: TraceId) -> TraceEntry {
        let tenant = self.names.id_of(tenant.as_str());
        let first = tenant.and_then(|tenant| self.rows.first_of(tenant, trace_id.as_bytes()));
        first.map(|first| self.entry(first)).unwrap_or_default()
    }

    /// What all writers say about the trace that goes by this number.
    fn entry(&self, first: u32) -> TraceEntry {
        let mut entry = TraceEntry::default();
        for (_, row) in self.rows.of_trace(first) {
            if let Some(contribution) = row.contribution(&self.names) {
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
        let first = self.rows.first_of(tenant, trace_id.as_bytes())?;
        let mut rows = self.rows.of_trace(first).map(|(_, row)| row);
        rows.find(|row| row.writer == writer).map(|row| row.version)
    }

    /// Takes out rows of a region whose last append lies in a minute before the horizon's, looking
    /// at no more than so many: between two steps readers and writers get in.
    pub fn expire(
        &mut self,
        region: &Region,
        horizon: UnixNanos,
        why: LetGo,
        rows_max: usize,
    ) -> ExpiryStep {
        let before = self.rows.len();
        let number = self.names.intern_region(region);
        let mut is_done = false;
        for _ in 0..rows_max.max(1) {
            let first = self.arrivals.first_minute(number);
            let Some(minute) = first.filter(|minute| *minute < minute_of(horizon)) else {
                is_done = true;
                break;
            };
            self.let_go_one(number, minute, why);
        }
        if is_done && self.names.is_sweep_due() {
            self.sweep_names();
        }
        ExpiryStep { rows: before.saturating_sub(self.rows.len()), is_done }
    }

    /// Lets go of the texts that no row uses any more: senders name services, operations and
    /// tenants as they like.
    fn sweep_names(&mut self) {
        let mut is_used = vec![false; self.names.numbers()];
        let mut mark = |id: u32| {
            if let Some(place) = is_used.get_mut(id as usize) {
                *place = true;
            }
        };
        for row in self.rows.numbers().filter_map(|id| self.rows.view(id)) {
            if row.each_text(&mut mark).is_none() {
                return;
            }
        }
        self.names.sweep(&is_used);
    }

    /// Takes out the rows that arrived first until there is room.
    fn evict(&mut self) {
        while self.rows.len() > self.rows_max {
            let Some((minute, region)) = self.arrivals.oldest() else { return };
            self.let_go_one(region, minute, LetGo::Evicted);
        }
    }

    /// Takes one number out of a region's first minute, and its row if it is still of that minute.
    fn let_go_one(&mut self, region: u32, minute: u64, why: LetGo) {
        let Some(id) = self.arrivals.pop(region) else { return };
        let Some(row) = self.rows.view(id) else { return };
        let (append, is_of_region) =
            (row.last_append, self.names.region_of(row.writer) == Some(region));
        if minute_of(append) != minute || !is_of_region {
            return;
        }
        self.note_forgotten(region, why.mark(append));
        self.remove(id);
    }

    fn remove(&mut self, id: u32) {
        let Some(row) = self.rows.view(id) else { return };
        let Some(first) = self.rows.first_of(row.tenant, &row.trace_id) else { return };
        let before = self.rows.place(first);
        self.uncount_bare(id);
        let left = self.rows.remove(id, first);
        let after = left.and_then(|left| self.rows.place(left));
        self.orders.move_trace(before.as_ref(), after.as_ref());
    }

    /// A number over all rows that does not depend on how they came: equal indexes have equal ones.
    #[must_use]
    pub fn digest(&self) -> u128 {
        let rows = self.rows.numbers().filter_map(|id| self.rows.view(id));
        let rows = rows.filter_map(|row| row.contribution(&self.names));
        rows.map(|row| digest_of(&row)).fold(0, u128::wrapping_add)
    }
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
