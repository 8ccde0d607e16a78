//! What the rows of one trace say together, in numbers: as `TraceEntry::summary` would, without
//! decoding them.

use trace_model::UnixNanos;

use super::orders::{Key, Posted, bucket_of, entry_of};
use super::row::{RowRoot, RowView};
use super::rows::Rows;

/// A trace by its rows. Erased rows say nothing but when they came.
#[derive(Clone, Copy, Debug)]
pub(super) struct Joined {
    /// The time by which it is shown: its earliest start, or its first arrival where only routes are
    /// known.
    pub(super) start: UnixNanos,
    /// Its latest end; `None` where only routes are known.
    pub(super) end: Option<UnixNanos>,
    pub(super) has_errors: bool,
    pub(super) root: Option<RowRoot>,
}

impl Joined {
    /// Nanoseconds from its earliest start to its latest end.
    pub(super) fn length(&self) -> u64 {
        self.end.map_or(0, |end| end.since(self.start))
    }
}

/// Gathers rows.
#[derive(Debug, Default)]
struct Gathering {
    first_arrival: Option<UnixNanos>,
    is_shown: bool,
    start: Option<UnixNanos>,
    end: UnixNanos,
    has_errors: bool,
    root: Option<RowRoot>,
}

impl Gathering {
    fn add(&mut self, row: &RowView<'_>) {
        let arrival = row.last_append;
        self.first_arrival = Some(self.first_arrival.map_or(arrival, |held| held.min(arrival)));
        if row.is_erased() {
            return;
        }
        self.is_shown = true;
        let Some(times) = row.times() else { return };
        self.start = Some(self.start.map_or(times.start, |held| held.min(times.start)));
        self.end = self.end.max(times.end);
        self.has_errors |= times.has_errors;
        if let Some(root) = row.root()
            && self.root.is_none_or(|held| (root.start, root.span_id) < (held.start, held.span_id))
        {
            self.root = Some(root);
        }
    }

    fn finish(self) -> Option<Joined> {
        if !self.is_shown {
            return None;
        }
        Some(Joined {
            start: self.start.or(self.first_arrival)?,
            end: self.start.map(|_| self.end),
            has_errors: self.has_errors,
            root: self.root,
        })
    }
}

impl Rows {
    /// The trace that goes by this number, with how many rows it has; `None` where all of them are
    /// erased.
    pub(super) fn joined(&self, first: u32) -> (Option<Joined>, usize) {
        let mut gathering = Gathering::default();
        let mut rows = 0_usize;
        for (_, row) in self.of_trace(first) {
            gathering.add(&row);
            rows = rows.saturating_add(1);
        }
        (gathering.finish(), rows)
    }

    /// Whether a service takes part in the trace.
    pub(super) fn has_service(&self, first: u32, service: u32) -> bool {
        self.shown(first).any(|row| row.services().any(|held| held == service))
    }

    fn shown(&self, first: u32) -> impl Iterator<Item = RowView<'_>> {
        self.of_trace(first).map(|(_, row)| row).filter(|row| !row.is_erased())
    }

    /// Where the trace that goes by this number belongs; `None` where it is not to be found.
    pub(super) fn place(&self, first: u32) -> Option<Posted> {
        let tenant = self.view(first)?.tenant;
        let joined = self.joined(first).0?;
        let mut keys = vec![match joined.end {
            Some(_) => Key::of_length(joined.length()),
            None => Key::Length(Key::ROUTES),
        }];
        if joined.has_errors {
            keys.push(Key::Errors);
        }
        keys.extend(joined.root.map(|root| Key::of_root(root.service, root.operation)));
        keys.extend(
            self.shown(first).flat_map(|row| row.services().collect::<Vec<_>>()).map(Key::Service),
        );
        keys.sort_unstable();
        keys.dedup();
        let (bucket, entry) = (bucket_of(joined.start), entry_of(joined.start, first));
        Some(Posted { tenant, bucket, entry, keys })
    }
}
