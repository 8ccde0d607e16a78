//! Services as numbers, so that a span costs no string: a bounded table over all tenants.
//!
//! What has no place in the table is counted under its tenant's [`OTHER`], for any number of tenants:
//! that costs no place, but a row of the counts that wait to be flushed ([`Others`]).

use std::sync::Arc;

use proto::convert::index::OTHER_SERVICE;
use rustc_hash::FxHashMap;
use trace_model::{TenantId, UnixNanos};

/// The name under which is counted what has no place of its own.
pub(super) const OTHER: &str = OTHER_SERVICE;
/// A service that was not seen for so long in the log's time gives its place up when the table is
/// full. Longer than any trace stays open, so that no open trace points to a place given up.
const IDLE_NANOS_MAX: u64 = 3_600 * 1_000_000_000;
/// One place more for this many places is kept for tenants that hold few.
const RESERVE: usize = 4;
/// Few: one of this many places.
const SMALL_TENANT: usize = 100;
/// Marks a service without a place. The other bits are of its name's hash.
const WITHOUT_PLACE: u32 = 1 << 31;
/// Marks a tenant's [`OTHER`] among the counts since the last flush. The other bits are its number.
const OTHERS: u32 = 1 << 30;

/// A service of a tenant: a place in the table, or a mark that it has none. Two services of one trace
/// without places are told apart, by their names' hashes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct ServiceId(pub(super) u32);

impl ServiceId {
    fn without_place(service: &str) -> Self {
        let hash = xxhash_rust::xxh3::xxh3_64(service.as_bytes()) >> 33;
        Self(WITHOUT_PLACE | u32::try_from(hash).unwrap_or(0))
    }

    /// Whether it is counted under its tenant's [`OTHER`].
    pub(super) const fn has_no_place(self) -> bool {
        self.0 & WITHOUT_PLACE != 0
    }
}

/// What stands at a place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ServiceName {
    pub(super) tenant: TenantId,
    pub(super) service: Arc<str>,
    pub(super) last_used: UnixNanos,
}

/// The table. Of its places the first `services_max` are for whoever comes; a quarter more is for
/// tenants that hold less than a hundredth of that, so that one tenant's names take no place from many.
#[derive(Debug)]
pub(super) struct Services {
    slots: Vec<Option<ServiceName>>,
    free: Vec<u32>,
    by_tenant: FxHashMap<TenantId, FxHashMap<Arc<str>, ServiceId>>,
    services_max: usize,
}

impl Services {
    pub(super) fn new(services_max: usize) -> Self {
        // Places and marks share 32 bits.
        let services_max = services_max.clamp(1, 1 << 24);
        Self { slots: Vec::new(), free: Vec::new(), by_tenant: FxHashMap::default(), services_max }
    }

    /// The place of a service, made where there is room; else a mark that it has none.
    pub(super) fn find(&mut self, tenant: &TenantId, service: &str, now: UnixNanos) -> ServiceId {
        if let Some(id) = self.lookup(tenant, service) {
            self.touch(id, now);
            return id;
        }
        if service == OTHER || self.len() >= self.room_for(tenant) {
            return ServiceId::without_place(service);
        }
        self.add(tenant, service, now)
    }

    /// How many places may be taken before this tenant gets no further one.
    fn room_for(&self, tenant: &TenantId) -> usize {
        let held = self.by_tenant.get(tenant).map_or(0, FxHashMap::len);
        let is_small = held < self.services_max / SMALL_TENANT;
        let reserve = if is_small { self.services_max / RESERVE } else { 0 };
        self.services_max.saturating_add(reserve)
    }

    pub(super) fn name(&self, id: ServiceId) -> Option<&ServiceName> {
        self.slots.get(id.0 as usize)?.as_ref()
    }

    /// Gives up the places of idle services where the table is full. Only while nothing that was
    /// counted waits to be flushed: counts point to places.
    pub(super) fn retire_idle(&mut self, now: UnixNanos) {
        if self.len() < self.services_max {
            return;
        }
        for (place, slot) in (0_u32..).zip(&mut self.slots) {
            let is_idle =
                slot.as_ref().is_some_and(|name| now.since(name.last_used) > IDLE_NANOS_MAX);
            if !is_idle {
                continue;
            }
            if let Some(name) = slot.take()
                && let Some(names) = self.by_tenant.get_mut(&name.tenant)
            {
                names.remove(&name.service);
                self.free.push(place);
            }
        }
        self.by_tenant.retain(|_, names| !names.is_empty());
    }

    /// All places, empty ones included, in order: for the checkpoint.
    pub(super) fn slots(&self) -> &[Option<ServiceName>] {
        &self.slots
    }

    /// Puts the places of a checkpoint back.
    pub(super) fn restore(&mut self, slots: Vec<Option<ServiceName>>) {
        self.by_tenant.clear();
        self.free.clear();
        for (place, slot) in (0_u32..).zip(&slots) {
            match slot {
                Some(name) => {
                    let names = self.by_tenant.entry(name.tenant.clone()).or_default();
                    names.insert(Arc::clone(&name.service), ServiceId(place));
                }
                None => self.free.push(place),
            }
        }
        self.slots = slots;
    }

    fn len(&self) -> usize {
        self.slots.len().saturating_sub(self.free.len())
    }

    fn lookup(&self, tenant: &TenantId, service: &str) -> Option<ServiceId> {
        self.by_tenant.get(tenant)?.get(service).copied()
    }

    fn touch(&mut self, id: ServiceId, now: UnixNanos) {
        if let Some(Some(name)) = self.slots.get_mut(id.0 as usize) {
            name.last_used = name.last_used.max(now);
        }
    }

    fn add(&mut self, tenant: &TenantId, service: &str, now: UnixNanos) -> ServiceId {
        let service: Arc<str> = service.into();
        let name =
            ServiceName { tenant: tenant.clone(), service: Arc::clone(&service), last_used: now };
        let place = self.free.pop().unwrap_or_else(|| {
            self.slots.push(None);
            u32::try_from(self.slots.len().saturating_sub(1)).unwrap_or(u32::MAX)
        });
        if let Some(slot) = self.slots.get_mut(place as usize) {
            *slot = Some(name);
        }
        let id = ServiceId(place);
        self.by_tenant.entry(tenant.clone()).or_default().insert(service, id);
        id
    }
}

/// The tenants with counts under [`OTHER`] since the last flush: as many as such rows at most.
#[derive(Debug, Default)]
pub(super) struct Others {
    tenants: Vec<TenantId>,
    ids: FxHashMap<TenantId, ServiceId>,
}

impl Others {
    /// What a service is counted as: itself, or its tenant's [`OTHER`]. Valid until the next flush.
    pub(super) fn counted_as(&mut self, service: ServiceId, tenant: &TenantId) -> ServiceId {
        if !service.has_no_place() {
            return service;
        }
        if let Some(id) = self.ids.get(tenant) {
            return *id;
        }
        let number = u32::try_from(self.tenants.len()).unwrap_or(u32::MAX);
        let id = ServiceId(OTHERS | number);
        self.tenants.push(tenant.clone());
        self.ids.insert(tenant.clone(), id);
        id
    }

    /// Forgets them: what was counted is flushed.
    pub(super) fn clear(&mut self) {
        self.tenants.clear();
        self.ids.clear();
    }
}

/// Names of what was counted.
#[derive(Clone, Copy, Debug)]
pub(super) struct Names<'a> {
    pub(super) services: &'a Services,
    pub(super) others: &'a Others,
}

impl<'a> Names<'a> {
    /// Tenant and service.
    pub(super) fn of(self, id: ServiceId) -> Option<(&'a TenantId, Arc<str>)> {
        if id.0 & OTHERS != 0 {
            let tenant = self.others.tenants.get((id.0 ^ OTHERS) as usize)?;
            return Some((tenant, OTHER.into()));
        }
        let name = self.services.name(id)?;
        Some((&name.tenant, Arc::clone(&name.service)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tenant(name: &str) -> TenantId {
        TenantId::new(name).unwrap()
    }

    fn has_place(services: &mut Services, tenant_name: &str, service: &str) -> bool {
        !services.find(&tenant(tenant_name), service, UnixNanos(1)).has_no_place()
    }

    #[test]
    fn one_name_of_two_tenants_has_two_places() {
        let mut services = Services::new(10);
        let first = services.find(&tenant("a"), "web", UnixNanos(1));
        let second = services.find(&tenant("b"), "web", UnixNanos(1));
        assert_ne!(first, second);
        assert_eq!(services.find(&tenant("a"), "web", UnixNanos(2)), first);
    }

    #[test]
    fn what_has_no_place_is_counted_under_its_own_tenants_other() {
        let mut services = Services::new(1);
        let web = services.find(&tenant("a"), "web", UnixNanos(1));
        let mut others = Others::default();
        assert_eq!(others.counted_as(web, &tenant("a")), web);
        for name in ["b", "c", "a", "b"] {
            let tenant = tenant(name);
            let [cart, pay] = ["cart", "pay"].map(|it| services.find(&tenant, it, UnixNanos(1)));
            assert!(cart.has_no_place() && cart != pay, "{cart:?} {pay:?}");
            let counted = others.counted_as(cart, &tenant);
            assert_eq!(others.counted_as(pay, &tenant), counted);
            let names = Names { services: &services, others: &others };
            assert_eq!(names.of(counted), Some((&tenant, OTHER.into())));
        }
        assert_eq!(others.tenants.len(), 3);
    }

    #[test]
    fn one_tenants_names_take_no_place_from_many_small_tenants() {
        let mut services = Services::new(400);
        let noisy =
            (0..1_000).filter(|number| has_place(&mut services, "noisy", &number.to_string()));
        assert_eq!(noisy.count(), 400);
        // Each of these may hold four; a hundred places are kept for them.
        for number in 0..25 {
            let quiet = number.to_string();
            let places = ["a", "b", "c", "d", "e"].map(|it| has_place(&mut services, &quiet, it));
            assert_eq!(places, [true, true, true, true, false], "{number}");
        }
        assert!(!has_place(&mut services, "late", "a"));
        assert_eq!(services.len(), 500);
    }

    #[test]
    fn an_idle_service_gives_its_place_up_only_when_the_table_is_full() {
        let later = UnixNanos(IDLE_NANOS_MAX + 2);
        let mut services = Services::new(2);
        services.find(&tenant("a"), "old", UnixNanos(1));
        services.retire_idle(later);
        assert_eq!(services.len(), 1);
        services.find(&tenant("a"), "new", later);
        services.retire_idle(later);
        assert_eq!(services.len(), 1);
        assert_eq!(services.find(&tenant("a"), "next", later), ServiceId(0));
    }
}
