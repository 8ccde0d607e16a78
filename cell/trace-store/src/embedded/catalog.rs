//! Which services and operations there are: out of what segments keep of a tenant's names, and of
//! what waits.

use std::sync::Arc;

use trace_model::time::place;
use trace_model::{SpanKind, TenantId, TimeRange, UnixNanos};

use super::catalog_read::{each_service, is_in_bucket};
use super::cursor::Corrupt;
use super::directory::Directory;
use super::index_build::{ANY_BUCKET, BUCKET_NANOS};
use super::pending::PendingBatch;
use super::segment_read::{Names, Segment};
use super::state::State;
use crate::StoreError;
use crate::port::{NameList, NamesFound, Operation};
use crate::questions::GoOn;

/// A list being gathered.
trait List {
    /// Takes in an operation of a service.
    fn note(&mut self, service: &str, name: &str, kind: SpanKind);

    /// Takes in what a segment keeps of the tenant.
    fn note_names(&mut self, names: &Names, range: TimeRange) -> Result<(), Corrupt>;

    /// A segment of version 1 may lack names of the tenant, or of this service of it.
    fn may_lack(&mut self, service: Option<&str>);
}

/// Services of a tenant.
struct Services(NamesFound<Arc<str>>);

impl List for Services {
    fn note(&mut self, service: &str, _: &str, _: SpanKind) {
        self.0.insert_text(service);
    }

    fn note_names(&mut self, names: &Names, range: TimeRange) -> Result<(), Corrupt> {
        if names.is_cut {
            self.0.cut();
        }
        each_service(&names.bytes, |service| {
            if service.times.touch(range)? {
                self.0.insert_text(service.name);
            }
            Ok(())
        })
    }

    fn may_lack(&mut self, service: Option<&str>) {
        if service.is_none() {
            self.0.cut();
        }
    }
}

/// Operations of a service.
struct Operations<'a> {
    service: &'a str,
    found: NamesFound<Operation>,
}

impl List for Operations<'_> {
    fn note(&mut self, service: &str, name: &str, kind: SpanKind) {
        if *service == *self.service {
            self.found.insert(Operation { name: name.into(), kind });
        }
    }

    fn note_names(&mut self, names: &Names, range: TimeRange) -> Result<(), Corrupt> {
        let mut is_here = false;
        each_service(&names.bytes, |service| {
            if service.name != self.service {
                return Ok(());
            }
            is_here = true;
            if service.is_cut {
                self.found.cut();
            }
            service.each_operation(|operation| {
                if operation.times.touch(range)? {
                    let kind = SpanKind::from_number(i32::from(operation.kind));
                    self.found.insert(Operation { name: operation.name.into(), kind });
                }
                Ok(())
            })
        })?;
        // It may be one of those that there was no room for.
        if names.is_cut && !is_here {
            self.found.cut();
        }
        Ok(())
    }

    fn may_lack(&mut self, service: Option<&str>) {
        if service.is_none_or(|service| *service == *self.service) {
            self.found.cut();
        }
    }
}

/// Services with a span placed in the range's buckets.
pub(crate) fn services(
    state: &State,
    tenant: &TenantId,
    range: TimeRange,
    go_on: GoOn<'_>,
) -> Result<NameList<Arc<str>>, StoreError> {
    let mut list = Services(NamesFound::new(state.config.names_max));
    visit(state, tenant, range, go_on, &mut list)?;
    Ok(list.0.into_list())
}

/// Operations of a service with a span placed in the range's buckets.
pub(crate) fn operations(
    state: &State,
    tenant: &TenantId,
    service: &str,
    range: TimeRange,
    go_on: GoOn<'_>,
) -> Result<NameList<Operation>, StoreError> {
    let found = NamesFound::new(state.config.names_max);
    let mut list = Operations { service, found };
    visit(state, tenant, range, go_on, &mut list)?;
    Ok(list.found.into_list())
}

fn visit(
    state: &State,
    tenant: &TenantId,
    range: TimeRange,
    go_on: GoOn<'_>,
    list: &mut dyn List,
) -> Result<(), StoreError> {
    let (pending, sealing, segments) = {
        let view = state.view();
        let pending = Arc::clone(&view.pending.batches);
        (pending, view.sealing.clone(), Arc::clone(&view.segments))
    };
    for pending in sealing.iter().chain([&pending]).flat_map(|batches| batches.iter()) {
        go_on()?;
        visit_batch(pending, tenant, range, list);
    }
    for segment in segments.iter() {
        go_on()?;
        visit_segment(state, segment, tenant, range, list)?;
    }
    Ok(())
}

fn visit_batch(pending: &PendingBatch, tenant: &TenantId, range: TimeRange, list: &mut dyn List) {
    let batch = pending.logged.batch.as_ref();
    if batch.source().tenant != *tenant {
        return;
    }
    for span in pending.traces().iter().flat_map(|slice| batch.spans_of(slice)) {
        let placed = place(span.start, span.end, batch.source().receive_time).time;
        if let Some(context) = batch.context_of(span)
            && is_in_bucket(placed.0 / BUCKET_NANOS, range)
        {
            let kind = SpanKind::from_number(i32::from(span.kind));
            list.note(&context.service, batch.name_of(span), kind);
        }
    }
}

fn visit_segment(
    state: &State,
    segment: &Segment,
    tenant: &TenantId,
    range: TimeRange,
    list: &mut dyn List,
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
    let Some(names) = segment.names(&index, tenant, &state.cache)? else {
        let directory = segment.directory(&index, &state.cache)?;
        visit_version_1(&directory, tenant, range, list);
        return Ok(());
    };
    list.note_names(&names, range).map_err(|error| index.damaged(&error))
}

/// An index of version 1 keeps operations with its groups.
fn visit_version_1(directory: &Directory, tenant: u32, range: TimeRange, list: &mut dyn List) {
    for group in directory.groups.iter().filter(|group| group.tenant == tenant) {
        let service = group.service.and_then(|service| directory.service(service));
        if group.may_lack_names() {
            list.may_lack(service.map(|service| &**service));
        }
        let is_in_range = group.bucket == ANY_BUCKET || is_in_bucket(group.bucket, range);
        let Some(service) = service.filter(|_| is_in_range) else { continue };
        for (name, kind) in &group.operations {
            list.note(service, name, SpanKind::from_number(i32::from(*kind)));
        }
    }
}

#[cfg(test)]
mod tests {
    use proto::wire::put_varint;

    use super::*;
    use crate::embedded::cursor::put_sized;
    use crate::embedded::directory::read_directory;

    /// A directory of version 1: groups of tenant 0 with their service (0: any) and so many
    /// operations.
    fn version_1(services: &[&str], groups: &[(u64, usize)]) -> Directory {
        let mut bytes = Vec::new();
        put_varint(&mut bytes, services.len() as u64);
        services.iter().for_each(|name| put_sized(&mut bytes, name.as_bytes()));
        put_varint(&mut bytes, groups.len() as u64);
        for (service, operations) in groups {
            // Tenant, service, bucket, no keys, an empty shared filter.
            for number in [0, *service, 7, 0, 0, 0, *operations as u64] {
                put_varint(&mut bytes, number);
            }
            for number in 0..*operations {
                bytes.push(2);
                put_sized(&mut bytes, format!("op{number}").as_bytes());
            }
        }
        put_varint(&mut bytes, 0);
        read_directory(&bytes).unwrap()
    }

    fn operations_of(directory: &Directory, service: &str) -> (usize, bool) {
        let mut list = Operations { service, found: NamesFound::new(1 << 20) };
        visit_version_1(directory, 0, TimeRange::ALL, &mut list);
        let list = list.found.into_list();
        (list.len(), list.is_cut)
    }

    #[test]
    fn version_1_is_cut_where_it_has_a_group_of_any_service_or_as_many_operations_as_it_kept() {
        let services_of = |directory: &Directory, tenant: u32| {
            let mut list = Services(NamesFound::new(9));
            visit_version_1(directory, tenant, TimeRange::ALL, &mut list);
            list.0.into_list()
        };
        let whole = version_1(&["cart", "web"], &[(1, 1), (2, 3)]);
        assert_eq!(services_of(&whole, 0), ["cart".into(), "web".into()]);
        assert_eq!(operations_of(&whole, "web"), (3, false));
        let crowded = version_1(&["cart", "web"], &[(1, 1), (2, 3), (0, 0)]);
        let cut = services_of(&crowded, 0);
        assert_eq!((cut.len(), cut.is_cut), (2, true));
        assert!(!services_of(&crowded, 1).is_cut, "another tenant's");
        assert_eq!(operations_of(&crowded, "web"), (3, true));
        let full = version_1(&["cart", "web"], &[(1, 1), (2, 16_384)]);
        assert_eq!(services_of(&full, 0), ["cart".into(), "web".into()]);
        assert_eq!(operations_of(&full, "web"), (16_384, true));
        assert_eq!(operations_of(&full, "cart"), (1, false));
    }
}
