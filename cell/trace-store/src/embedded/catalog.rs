//! Which services and operations there are: out of the directories of segments, and of what waits.

use std::collections::BTreeSet;
use std::sync::Arc;

use trace_model::time::place;
use trace_model::{SpanKind, TenantId, TimeRange, UnixNanos};

use super::index_build::{ANY_BUCKET, BUCKET_NANOS};
use super::pending::PendingBatch;
use super::segment_read::Segment;
use super::state::State;
use crate::StoreError;
use crate::port::Operation;
use crate::questions::GoOn;

/// Operations of a service that are listed: the ports promise 10,000.
const OPERATIONS_MAX: usize = 20_000;
/// Services of a tenant that are listed.
const SERVICES_MAX: usize = 20_000;

/// What is listed of a service.
type Listed<'a> = (&'a Arc<str>, &'a str, SpanKind);

/// Services with a span placed in the range's buckets.
pub(crate) fn services(
    state: &State,
    tenant: &TenantId,
    range: TimeRange,
    go_on: GoOn<'_>,
) -> Result<Vec<Arc<str>>, StoreError> {
    let mut found: BTreeSet<Arc<str>> = BTreeSet::new();
    visit(state, tenant, range, go_on, &mut |(service, _, _)| {
        if !found.contains(service) && found.len() < SERVICES_MAX {
            found.insert(Arc::clone(service));
        }
    })?;
    Ok(found.into_iter().collect())
}

/// Operations of a service with a span placed in the range's buckets.
pub(crate) fn operations(
    state: &State,
    tenant: &TenantId,
    service: &str,
    range: TimeRange,
    go_on: GoOn<'_>,
) -> Result<Vec<Operation>, StoreError> {
    let mut found: BTreeSet<Operation> = BTreeSet::new();
    visit(state, tenant, range, go_on, &mut |(of, name, kind)| {
        if **of == *service && found.len() < OPERATIONS_MAX {
            found.insert(Operation { name: name.into(), kind });
        }
    })?;
    Ok(found.into_iter().collect())
}

fn visit(
    state: &State,
    tenant: &TenantId,
    range: TimeRange,
    go_on: GoOn<'_>,
    note: &mut dyn FnMut(Listed<'_>),
) -> Result<(), StoreError> {
    let (pending, sealing, segments) = {
        let view = state.view();
        let pending = Arc::clone(&view.pending.batches);
        (pending, view.sealing.clone(), Arc::clone(&view.segments))
    };
    for pending in sealing.iter().chain([&pending]).flat_map(|batches| batches.iter()) {
        go_on()?;
        visit_batch(pending, tenant, range, note);
    }
    for segment in segments.iter() {
        go_on()?;
        visit_segment(state, segment, tenant, range, note)?;
    }
    Ok(())
}

fn visit_batch(
    pending: &PendingBatch,
    tenant: &TenantId,
    range: TimeRange,
    note: &mut dyn FnMut(Listed<'_>),
) {
    let batch = pending.logged.batch.as_ref();
    if batch.source().tenant != *tenant {
        return;
    }
    for span in pending.traces().iter().flat_map(|slice| batch.spans_of(slice)) {
        let placed = place(span.start, span.end, batch.source().receive_time).time;
        if let Some(context) = batch.context_of(span)
            && is_in_buckets(placed.0 / BUCKET_NANOS, range)
        {
            let kind = SpanKind::from_number(i32::from(span.kind));
            note((&context.service, batch.name_of(span), kind));
        }
    }
}

fn visit_segment(
    state: &State,
    segment: &Segment,
    tenant: &TenantId,
    range: TimeRange,
    note: &mut dyn FnMut(Listed<'_>),
) -> Result<(), StoreError> {
    let Some(tenant) = segment.tenant_place(tenant) else { return Ok(()) };
    let bucket_start = |time: u64| time - time % BUCKET_NANOS;
    let first = UnixNanos(bucket_start(segment.footer.placed_min));
    let last = UnixNanos(bucket_start(segment.footer.placed_max)).plus(BUCKET_NANOS - 1);
    if !range.overlaps(first, last) {
        return Ok(());
    }
    let Some(index) = segment.index() else {
        return Err(StoreError::Unavailable("an index is being built anew".to_owned()));
    };
    let directory = segment.directory(&index, &state.cache)?;
    for group in &directory.groups {
        let service = group.service.and_then(|service| directory.service(service));
        let Some(service) = service else { continue };
        if group.tenant == tenant && is_in_buckets(group.bucket, range) {
            for (name, kind) in &group.operations {
                note((service, name, SpanKind::from_number(i32::from(*kind))));
            }
        }
    }
    Ok(())
}

/// Whether the bucket touches the range.
fn is_in_buckets(bucket: u64, range: TimeRange) -> bool {
    let first = bucket.saturating_mul(BUCKET_NANOS);
    bucket == ANY_BUCKET
        || range.overlaps(UnixNanos(first), UnixNanos(first.saturating_add(BUCKET_NANOS - 1)))
}
