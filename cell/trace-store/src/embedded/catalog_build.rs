//! Gathers which services and operations a segment holds while its rows are written, and when.
//!
//! It is kept apart from the groups of the index, whose limits are those of filters: a back-fill or
//! another tenant's names must not hide a service. Each tenant has limits of its own, and a list that
//! they cut says so in the file. Rows come tenant by tenant: what is gathered of one is encoded when
//! the next one begins, so that memory holds the tables of one tenant alone.

use std::sync::Arc;

use proto::wire::put_varint;
use rustc_hash::FxHashMap;

use super::cursor::put_sized;

/// What a segment keeps of one tenant.
#[derive(Clone, Copy, Debug)]
pub(crate) struct CatalogLimits {
    /// Services.
    pub(crate) services: usize,
    /// Operations of one service.
    pub(crate) operations_of_service: u32,
    /// Operations of all services.
    pub(crate) operations: usize,
    /// Bytes of the operations' names, each counted once.
    pub(crate) name_bytes: usize,
    /// Times beyond the first of a name: where there are more it counts as of any time, since a list
    /// may have too much and not too little.
    pub(crate) more_buckets: usize,
}

impl Default for CatalogLimits {
    fn default() -> Self {
        Self {
            services: 100_000,
            operations_of_service: 50_000,
            operations: 200_000,
            name_bytes: 16 << 20,
            more_buckets: 200_000,
        }
    }
}

/// Times beyond the first of one name: further ones make it of any time.
const MORE_BUCKETS_OF_NAME: usize = 63;

/// When a name occurs: numbers of 10 minutes since the epoch.
#[derive(Debug, Default)]
struct Buckets {
    first: u64,
    more: Vec<u64>,
    is_any: bool,
}

impl Buckets {
    const fn at(bucket: u64) -> Self {
        Self { first: bucket, more: Vec::new(), is_any: false }
    }

    /// Adds a time; takes from the room for times beyond the first.
    fn add(&mut self, bucket: u64, room: &mut usize) {
        if self.is_any || self.first == bucket || self.more.contains(&bucket) {
            return;
        }
        if *room == 0 || self.more.len() >= MORE_BUCKETS_OF_NAME {
            *room = room.saturating_add(self.more.len());
            self.more = Vec::new();
            self.is_any = true;
            return;
        }
        *room = room.saturating_sub(1);
        self.more.push(bucket);
    }

    /// The count and the times in order, each but the first as the distance from the one before; no
    /// time at all: any.
    fn put(&self, output: &mut Vec<u8>) {
        if self.is_any {
            put_varint(output, 0);
            return;
        }
        let mut buckets = self.more.clone();
        buckets.push(self.first);
        buckets.sort_unstable();
        put_varint(output, buckets.len() as u64);
        let mut before = 0;
        for bucket in buckets {
            put_varint(output, bucket.wrapping_sub(before));
            before = bucket;
        }
    }
}

/// A service of the tenant.
#[derive(Debug)]
struct ServiceNames {
    buckets: Buckets,
    operations: u32,
    /// It has more operations than are kept.
    is_cut: bool,
}

/// An operation: places of its service and of its name, and its kind.
type OperationKey = (u32, u32, u8);

/// An operation with its name, kind and times.
type NamedOperation<'a> = (&'a [u8], u8, &'a Buckets);

/// The names of one tenant, encoded.
#[derive(Debug)]
pub(crate) struct TenantNames {
    /// The tenant's place in the segment.
    pub(crate) tenant: u32,
    /// It has more services than are kept.
    pub(crate) is_cut: bool,
    pub(crate) bytes: Vec<u8>,
}

/// The names of a segment, being gathered.
#[derive(Debug, Default)]
pub(crate) struct CatalogBuilder {
    limits: CatalogLimits,
    tenant: Option<u32>,
    services: FxHashMap<u32, ServiceNames>,
    operations: FxHashMap<OperationKey, Buckets>,
    names: Vec<Arc<[u8]>>,
    name_places: FxHashMap<Arc<[u8]>, u32>,
    name_bytes: usize,
    buckets_left: usize,
    is_cut: bool,
    finished: Vec<TenantNames>,
}

impl CatalogBuilder {
    pub(crate) fn new(limits: CatalogLimits) -> Self {
        Self { limits, ..Self::default() }
    }

    /// Goes over to a tenant. `services`: the names of the segment's services by their places.
    pub(crate) fn begin(&mut self, tenant: u32, services: &[Arc<str>]) {
        if self.tenant == Some(tenant) {
            return;
        }
        self.finish_tenant(services);
        self.tenant = Some(tenant);
        self.buckets_left = self.limits.more_buckets;
    }

    /// Notes that the tenant has a span of the service.
    pub(crate) fn note_service(&mut self, service: u32, bucket: u64) {
        if let Some(known) = self.services.get_mut(&service) {
            known.buckets.add(bucket, &mut self.buckets_left);
        } else if self.services.len() < self.limits.services {
            let buckets = Buckets::at(bucket);
            self.services.insert(service, ServiceNames { buckets, operations: 0, is_cut: false });
        } else {
            self.is_cut = true;
        }
    }

    /// Notes an operation of a service that was noted. Costs no copy where it is known.
    pub(crate) fn note_operation(&mut self, service: u32, bucket: u64, name: &[u8], kind: u8) {
        let Some(of) = self.services.get_mut(&service) else { return };
        let place = self.name_places.get(name).copied();
        if let Some(place) = place
            && let Some(known) = self.operations.get_mut(&(service, place, kind))
        {
            known.add(bucket, &mut self.buckets_left);
            return;
        }
        let new_bytes = if place.is_some() { 0 } else { name.len() };
        let has_room = of.operations < self.limits.operations_of_service
            && self.operations.len() < self.limits.operations
            && self.name_bytes.saturating_add(new_bytes) <= self.limits.name_bytes;
        if !has_room {
            of.is_cut = true;
            return;
        }
        of.operations = of.operations.saturating_add(1);
        let place = place.unwrap_or_else(|| self.add_name(name));
        self.operations.insert((service, place, kind), Buckets::at(bucket));
    }

    fn add_name(&mut self, name: &[u8]) -> u32 {
        let place = u32::try_from(self.names.len()).unwrap_or(u32::MAX);
        let name: Arc<[u8]> = name.into();
        self.name_bytes = self.name_bytes.saturating_add(name.len());
        self.names.push(Arc::clone(&name));
        self.name_places.insert(name, place);
        place
    }

    /// Ends the last tenant; gives what was gathered of each, in the order of their places.
    pub(crate) fn finish(mut self, services: &[Arc<str>]) -> Vec<TenantNames> {
        self.finish_tenant(services);
        self.finished
    }

    fn finish_tenant(&mut self, services: &[Arc<str>]) {
        let Some(tenant) = self.tenant.take() else { return };
        let bytes = self.encode(services);
        self.finished.push(TenantNames { tenant, is_cut: self.is_cut, bytes });
        self.services = FxHashMap::default();
        self.operations = FxHashMap::default();
        self.names = Vec::new();
        self.name_places = FxHashMap::default();
        (self.name_bytes, self.is_cut) = (0, false);
    }

    /// ```text
    /// count, then per service in order: name, cut u8, times, length of its operations, operations
    /// operations: count, then per operation in order: kind u8, name, times
    /// ```
    fn encode(&self, services: &[Arc<str>]) -> Vec<u8> {
        let mut operations: FxHashMap<u32, Vec<NamedOperation<'_>>> = FxHashMap::default();
        for ((service, name, kind), buckets) in &self.operations {
            let Some(name) = self.names.get(*name as usize) else { continue };
            operations.entry(*service).or_default().push((name, *kind, buckets));
        }
        let named = self.services.iter().filter_map(|(place, of)| {
            services.get(*place as usize).map(|name| (&**name, *place, of))
        });
        let mut named: Vec<(&str, u32, &ServiceNames)> = named.collect();
        named.sort_unstable_by_key(|(name, ..)| *name);
        let (mut output, mut part) = (Vec::new(), Vec::new());
        put_varint(&mut output, named.len() as u64);
        for (name, place, of) in named {
            put_sized(&mut output, name.as_bytes());
            output.push(of.is_cut.into());
            of.buckets.put(&mut output);
            part.clear();
            put_operations(operations.remove(&place).unwrap_or_default(), &mut part);
            put_sized(&mut output, &part);
        }
        output
    }
}

fn put_operations(mut operations: Vec<NamedOperation<'_>>, output: &mut Vec<u8>) {
    operations.sort_unstable_by_key(|(name, kind, _)| (*name, *kind));
    put_varint(output, operations.len() as u64);
    for (name, kind, buckets) in operations {
        output.push(kind);
        put_sized(output, String::from_utf8_lossy(name).as_bytes());
        buckets.put(output);
    }
}
