//! One trace that is open: its contribution as far as it is folded, and what is needed to fold on.

use std::sync::Arc;
use std::time::Duration;

use hashbrown::HashSet;
use proto::convert::index::{NAME_BYTES_MAX, OTHER_SERVICE, PARTS_MAX, index_name};
use proto::{LoggedBatch, SpanSlice, TraceSlice};
use rustc_hash::FxBuildHasher;
use trace_model::location::{
    Contribution, Detail, ENTRY_SPANS_MAX, EntrySpan, Keep, RootSpan, ServiceCount, WriterId,
};
use trace_model::span::StatusCode;
use trace_model::time::place;
use trace_model::{SpanId, UnixNanos};

/// Spans whose parents are not here that are remembered; beyond it the earliest stay.
const ORPHANS_MAX: usize = 1024;
/// Up to this many spans a list is searched, then a set.
const SHORT: usize = 32;

/// Identities of the spans that were folded.
#[derive(Debug, Default)]
struct Held {
    short: Vec<(SpanId, u64)>,
    identities: HashSet<(SpanId, u64), FxBuildHasher>,
    ids: HashSet<SpanId, FxBuildHasher>,
}

impl Held {
    /// Notes a span; says whether it is new.
    fn insert(&mut self, id: SpanId, identity: u64) -> bool {
        if self.identities.is_empty() && self.short.len() < SHORT {
            let is_new = !self.short.contains(&(id, identity));
            if is_new {
                self.short.push((id, identity));
            }
            return is_new;
        }
        for (id, identity) in self.short.drain(..) {
            self.identities.insert((id, identity));
            self.ids.insert(id);
        }
        self.ids.insert(id);
        self.identities.insert((id, identity))
    }

    fn has(&self, id: SpanId) -> bool {
        self.ids.contains(&id) || self.short.iter().any(|(held, _)| *held == id)
    }

    fn len(&self) -> usize {
        self.short.len().saturating_add(self.identities.len())
    }
}

#[derive(Debug)]
pub(super) struct OpenTrace {
    row: Contribution,
    detail: Detail,
    held: Held,
    /// Spans whose parents were not here when they were looked at last.
    orphans: Vec<EntrySpan>,
    /// Whether it began from a published row: duplicates of what that row counted are not seen.
    is_resumed: bool,
    /// Offset of the first record that no published row covers.
    pub(super) first_dirty: Option<u64>,
    /// Monotonic time of the last publication.
    pub(super) published_at: Option<Duration>,
    /// Monotonic time of the last new span.
    pub(super) seen_at: Duration,
}

impl OpenTrace {
    pub(super) fn new(writer: WriterId, batch: &LoggedBatch, trace: &TraceSlice) -> Self {
        let row = Contribution {
            version: 0,
            tenant: batch.batch.source().tenant.clone(),
            trace_id: trace.trace_id,
            writer,
            last_append: batch.append_time,
            keep: Keep::Keep,
            is_erased: false,
            detail: None,
        };
        Self::with(row, Detail { min_start: UnixNanos::MAX, ..Detail::default() }, false)
    }

    /// Goes on from the row that was published last.
    pub(super) fn resume(mut row: Contribution) -> Self {
        let unknown =
            || Detail { min_start: UnixNanos::MAX, is_lower_bound: true, ..Detail::default() };
        let detail = row.detail.take().unwrap_or_else(unknown);
        Self::with(row, detail, true)
    }

    fn with(row: Contribution, mut detail: Detail, is_resumed: bool) -> Self {
        let orphans = std::mem::take(&mut detail.entries);
        Self {
            row,
            detail,
            held: Held::default(),
            orphans,
            is_resumed,
            first_dirty: None,
            published_at: None,
            seen_at: Duration::ZERO,
        }
    }

    pub(super) const fn partition(&self) -> u32 {
        self.row.writer.partition
    }

    pub(super) fn held_spans(&self) -> usize {
        self.held.len()
    }

    /// Folds one record. Says whether it had a span that was not folded before; a record below the
    /// row's version, or of a trace that was erased, has none.
    pub(super) fn fold(&mut self, batch: &LoggedBatch, offset: u64, trace: &TraceSlice) -> bool {
        if offset < self.row.version || self.row.is_erased {
            return false;
        }
        let mut is_changed = false;
        for span in batch.batch.spans_of(trace) {
            let key = batch.batch.key_of(span);
            let identity = key.content ^ u64::from(key.kind);
            if self.held.insert(span.span_id, identity) {
                self.fold_span(batch, span);
                is_changed = true;
            }
        }
        if is_changed {
            self.row.version = offset.saturating_add(1);
            self.row.last_append = self.row.last_append.max(batch.append_time);
            self.detail.is_lower_bound |= self.is_resumed;
        }
        is_changed
    }

    fn fold_span(&mut self, batch: &LoggedBatch, span: &SpanSlice) {
        let placed = place(span.start, span.end, batch.batch.source().receive_time);
        let end = if placed.is_receive_time { placed.time } else { span.end };
        let is_error = span.status == StatusCode::Error as u8;
        let errors = u32::from(is_error);
        let detail = &mut self.detail;
        detail.min_start = detail.min_start.min(placed.time);
        detail.max_end = detail.max_end.max(end);
        detail.span_count = detail.span_count.saturating_add(1);
        detail.error_count = detail.error_count.saturating_add(errors);
        let Some(context) = batch.batch.context_of(span) else { return };
        count_service(detail, &context.service, errors);
        match span.parent_span_id {
            None => self.offer_root(batch, span, &context.service, is_error),
            Some(parent) if !self.held.has(parent) => {
                self.add_orphan(EntrySpan {
                    span_id: span.span_id,
                    parent_span_id: parent,
                    service: bounded(&context.service),
                    start: span.start,
                    duration_nanos: span.end.since(span.start),
                    is_error,
                });
            }
            Some(_) => {}
        }
    }

    /// Of several roots the earliest counts, by id where two are as early.
    fn offer_root(
        &mut self,
        batch: &LoggedBatch,
        span: &SpanSlice,
        service: &Arc<str>,
        is_error: bool,
    ) {
        let held = self.detail.root.as_ref();
        if held.is_some_and(|held| (held.start, held.span_id) <= (span.start, span.span_id)) {
            return;
        }
        self.detail.root = Some(RootSpan {
            service: bounded(service),
            operation: index_name(batch.batch.name_of(span)).into(),
            start: span.start,
            span_id: span.span_id,
            duration_nanos: span.end.since(span.start),
            is_error,
        });
    }

    fn add_orphan(&mut self, orphan: EntrySpan) {
        self.orphans.push(orphan);
        if self.orphans.len() > ORPHANS_MAX {
            self.drop_adopted();
            self.orphans.sort_unstable_by_key(|orphan| (orphan.start, orphan.span_id));
            self.orphans.truncate(ORPHANS_MAX / 2);
        }
    }

    /// Parents that have come since.
    fn drop_adopted(&mut self) {
        let held = &self.held;
        self.orphans.retain(|orphan| !held.has(orphan.parent_span_id));
    }

    /// Whether a span of this id is here.
    pub(super) fn has(&self, id: SpanId) -> bool {
        self.held.has(id)
    }

    /// The contribution as of the last record folded, with all entry spans: [`cut_entries`] comes next.
    pub(super) fn contribution(&mut self) -> Contribution {
        self.drop_adopted();
        let mut detail = self.detail.clone();
        detail.max_end = detail.max_end.max(detail.min_start);
        detail.services.sort_unstable();
        detail.entries.clone_from(&self.orphans);
        Contribution { detail: Some(detail), ..self.row.clone() }
    }
}

/// As many entry spans as a row may have, the earliest.
pub(super) fn cut_entries(detail: &mut Detail) {
    if detail.entries.len() > ENTRY_SPANS_MAX {
        detail.entries.sort_unstable_by_key(|entry| (entry.start, entry.span_id));
        detail.entries.truncate(ENTRY_SPANS_MAX);
    }
    detail.entries.sort_unstable();
}

/// Counts a span of a service. Services beyond the limit of a message share a name.
fn count_service(detail: &mut Detail, service: &Arc<str>, errors: u32) {
    let named = index_name(service);
    let same = |count: &&mut ServiceCount| {
        Arc::ptr_eq(&count.service, service) || *count.service == *named
    };
    if let Some(count) = detail.services.iter_mut().find(same) {
        count.spans = count.spans.saturating_add(1);
        count.errors = count.errors.saturating_add(errors);
        return;
    }
    if detail.services.len() >= PARTS_MAX.saturating_sub(1) && named != OTHER_SERVICE {
        count_service(detail, &OTHER_SERVICE.into(), errors);
        return;
    }
    let mut count = ServiceCount { service: bounded(service), spans: 1, errors };
    // A row of a release that let services beyond the limit go has no place for the shared name.
    while detail.services.len() >= PARTS_MAX
        && let Some(last) = detail.services.pop()
    {
        count.spans = count.spans.saturating_add(last.spans);
        count.errors = count.errors.saturating_add(last.errors);
    }
    detail.services.push(count);
}

/// A name at most as long as peers take.
fn bounded(name: &Arc<str>) -> Arc<str> {
    if name.len() <= NAME_BYTES_MAX { Arc::clone(name) } else { index_name(name).into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_row_of_an_earlier_release_makes_place_for_the_shared_name() {
        let count = |number: usize| ServiceCount {
            service: format!("s{number}").into(),
            spans: 2,
            errors: 1,
        };
        let services = (0..PARTS_MAX).map(count).collect();
        let mut detail = Detail { services, ..Detail::default() };
        for late in ["s-late", "s-later"] {
            count_service(&mut detail, &late.into(), 1);
        }
        assert_eq!(detail.services.len(), PARTS_MAX, "a message takes no more");
        let others = detail.services.iter().find(|count| &*count.service == OTHER_SERVICE).unwrap();
        assert_eq!(
            (others.spans, others.errors),
            (4, 3),
            "two late ones, and the one that gave way"
        );
        let spans: u32 = detail.services.iter().map(|count| count.spans).sum();
        assert_eq!(spans as usize, 2 * PARTS_MAX + 2);
    }
}
