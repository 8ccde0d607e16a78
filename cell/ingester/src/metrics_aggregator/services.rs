//! Services as numbers, so that a span costs no string: a bounded table over all tenants.

use std::sync::Arc;

use rustc_hash::FxHashMap;
use trace_model::{TenantId, UnixNanos};

/// The name under which is counted what has no place of its own.
pub(super) const OTHER: &str = "__other__";
/// A service that was not seen for so long in the log's time gives its place up when the table is
/// full. Longer than any trace stays open, so that no open trace points to a place given up.
const IDLE_NANOS_MAX: u64 = 3_600 * 1_000_000_000;

/// A service of a tenant: a place in the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct ServiceId(pub(super) u32);

/// What stands at a place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ServiceName {
    pub(super) tenant: TenantId,
    pub(super) service: Arc<str>,
    pub(super) last_used: UnixNanos,
}

/// The table.
#[derive(Debug)]
pub(super) struct Services {
    slots: Vec<Option<ServiceName>>,
    free: Vec<u32>,
    by_tenant: FxHashMap<TenantId, FxHashMap<Arc<str>, ServiceId>>,
    services_max: usize,
}

/// How a service was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Found {
    /// At its own place.
    Own(ServiceId),
    /// The table is full: at its tenant's `__other__`.
    Other(ServiceId),
    /// There are too many tenants even for that: not counted.
    Nowhere,
}

impl Services {
    pub(super) fn new(services_max: usize) -> Self {
        // Places are packed with the kind of a span into 32 bits (`open_traces`).
        let services_max = services_max.clamp(1, 1 << 24);
        Self { slots: Vec::new(), free: Vec::new(), by_tenant: FxHashMap::default(), services_max }
    }

    /// The place of a service, made where there is room.
    pub(super) fn find(&mut self, tenant: &TenantId, service: &str, now: UnixNanos) -> Found {
        if let Some(id) = self.lookup(tenant, service) {
            self.touch(id, now);
            return Found::Own(id);
        }
        if self.len() < self.services_max {
            return Found::Own(self.add(tenant, service, now));
        }
        if let Some(id) = self.lookup(tenant, OTHER) {
            self.touch(id, now);
            return Found::Other(id);
        }
        if self.len() < self.services_max.saturating_mul(2) {
            return Found::Other(self.add(tenant, OTHER, now));
        }
        Found::Nowhere
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

#[cfg(test)]
mod tests {
    use super::*;

    fn tenant(name: &str) -> TenantId {
        TenantId::new(name).unwrap()
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
    fn a_full_table_counts_under_other_and_never_under_another_tenant() {
        let mut services = Services::new(1);
        services.find(&tenant("a"), "web", UnixNanos(1));
        let Found::Other(id) = services.find(&tenant("b"), "cart", UnixNanos(1)) else {
            panic!("there is no room for cart")
        };
        let name = services.name(id).unwrap();
        assert_eq!((name.tenant.as_str(), &*name.service), ("b", OTHER));
        assert_eq!(services.find(&tenant("c"), "cart", UnixNanos(1)), Found::Nowhere);
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
        assert!(matches!(services.find(&tenant("a"), "next", later), Found::Own(ServiceId(0))));
    }
}
