//! Gathers what a segment's index holds while its rows are written: which (key, value) entries
//! occur in which group and in which block, which services when; and what its lists say
//! ([`super::catalog_build`]).
//!
//! A *group* is one (tenant, service, 10-minute bucket of placement time). Entries are hashes
//! ([`super::hash::entry_hash`]); filters are sized when the segment is sealed, by the true count.
//! It must never grow with what a sender invents: keys, groups and names are capped.

use std::sync::Arc;

use rustc_hash::FxHashMap;
use trace_model::AnyValue;

use super::catalog_build::{CatalogBuilder, CatalogLimits, TenantNames};
use super::directory::EncodedFilter;
use super::hash::{OPERATION_KEY, STATUS_KEY, entry_hash, key_hash, presence_hash, value_hash};

/// Width of a bucket: 10 minutes.
pub(crate) const BUCKET_NANOS: u64 = 600 * 1_000_000_000;
/// Keys of a group that have a filter of their own; the rest share one.
pub(crate) const OWN_KEYS_MAX: usize = 256;
/// Groups of a segment; further ones are not told apart by time (back-fills), then, at twice the
/// number, not by service either.
const GROUPS_MAX: usize = 2_048;
/// The bucket of groups that are not told apart by time.
pub(crate) const ANY_BUCKET: u64 = u64::MAX;
/// Services and times that a block tells apart when it drops repeated entries.
const LOCAL_GROUPS_MAX: usize = 64;

/// Whose entries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct GroupKey {
    /// The tenant's place in the segment.
    pub(crate) tenant: u32,
    /// The service's place in the segment; `None` in the group of what was too much.
    pub(crate) service: Option<u32>,
    /// Number of the bucket since the epoch.
    pub(crate) bucket: u64,
}

/// A group being gathered.
#[derive(Debug)]
pub(crate) struct Group {
    pub(crate) key: GroupKey,
    /// Entries of each key that has its own filter.
    pub(crate) own: FxHashMap<u64, Vec<u64>>,
    /// Entries of all other keys.
    pub(crate) shared: Vec<u64>,
}

/// A block gathered: its filter is built at once, being an eighth of its entries.
#[derive(Debug)]
pub(crate) struct IndexedBlock {
    pub(crate) filter: EncodedFilter,
    /// Services in it, with the latest placement time of each.
    pub(crate) services: Vec<(u32, u64)>,
}

/// A block being gathered.
#[derive(Debug, Default)]
struct BlockEntries {
    entries: Vec<u64>,
    services: Vec<(u32, u64)>,
}

/// A context as the index knows it.
#[derive(Debug)]
struct IndexedContext {
    service: u32,
    attributes: Vec<AttributeEntry>,
    /// Groups of the block that have its attributes; `None` where the block has not met it.
    groups: Option<u64>,
}

/// The group of a row, and the bit within the block of its service and time, which may be told apart
/// where groups are not.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RowGroup {
    pub(crate) group: u32,
    /// 0 where the block has too many to tell apart.
    pub(crate) bit: u64,
    /// The service's place in the segment.
    service: u32,
    /// Number of the 10 minutes since the epoch.
    bucket: u64,
}

/// Hashes of keys that every row needs.
#[derive(Clone, Copy, Debug)]
pub(crate) struct FieldKeys {
    pub(crate) operation: u64,
    pub(crate) status: u64,
}

/// What is gathered of a segment.
#[derive(Debug)]
pub(crate) struct IndexBuilder {
    pub(crate) keys: FieldKeys,
    pub(crate) services: Vec<Arc<str>>,
    service_places: FxHashMap<Arc<str>, u32>,
    contexts: Vec<IndexedContext>,
    block_contexts: Vec<u32>,
    pub(crate) groups: Vec<Group>,
    group_places: FxHashMap<GroupKey, u32>,
    pub(crate) blocks: Vec<IndexedBlock>,
    block: BlockEntries,
    /// Place of each service in `block.services`, plus one.
    block_services: Vec<u32>,
    local_groups: Vec<(GroupKey, u32)>,
    last: Option<(GroupKey, RowGroup)>,
    catalog: CatalogBuilder,
}

impl IndexBuilder {
    pub(crate) fn new() -> Self {
        Self {
            keys: FieldKeys { operation: key_hash(OPERATION_KEY), status: key_hash(STATUS_KEY) },
            services: Vec::new(),
            service_places: FxHashMap::default(),
            contexts: Vec::new(),
            block_contexts: Vec::new(),
            groups: Vec::new(),
            group_places: FxHashMap::default(),
            blocks: Vec::new(),
            block: BlockEntries::default(),
            block_services: Vec::new(),
            local_groups: Vec::new(),
            last: None,
            catalog: CatalogBuilder::new(CatalogLimits::default()),
        }
    }

    /// Adds a context: its service and the attributes of its resource and scope. Contexts are
    /// numbered in the order added.
    pub(crate) fn add_context(&mut self, service: &Arc<str>, attributes: Vec<AttributeEntry>) {
        let service = self.service(service);
        self.contexts.push(IndexedContext { service, attributes, groups: None });
    }

    /// The place of a service.
    fn service(&mut self, service: &Arc<str>) -> u32 {
        if let Some(place) = self.service_places.get(service) {
            return *place;
        }
        let place = u32::try_from(self.services.len()).unwrap_or(u32::MAX);
        self.services.push(Arc::clone(service));
        self.block_services.push(0);
        self.service_places.insert(Arc::clone(service), place);
        place
    }

    /// Notes a row of a context; gives its group.
    pub(crate) fn row(&mut self, tenant: u32, context: u32, placed: u64) -> RowGroup {
        let service = self.contexts.get(context as usize).map_or(0, |context| context.service);
        self.note_service(service, placed);
        let group = self.row_group(tenant, service, placed);
        self.note_context(context, group);
        group
    }

    /// Adds the context's attributes, once for each group of the block.
    fn note_context(&mut self, place: u32, group: RowGroup) {
        let Some(context) = self.contexts.get_mut(place as usize) else { return };
        let is_new_to_block = context.groups.is_none();
        let groups = context.groups.get_or_insert(0);
        if !is_new_to_block && *groups & group.bit != 0 {
            return;
        }
        *groups |= group.bit;
        let attributes = std::mem::take(&mut context.attributes);
        for attribute in &attributes {
            self.add(group.group, attribute.key, attribute.entry);
            if is_new_to_block {
                self.block.entries.push(attribute.entry);
                self.block.entries.push(presence_hash(attribute.key));
            }
        }
        if is_new_to_block {
            self.block_contexts.push(place);
        }
        if let Some(context) = self.contexts.get_mut(place as usize) {
            context.attributes = attributes;
        }
    }

    fn row_group(&mut self, tenant: u32, service: u32, placed: u64) -> RowGroup {
        let key = GroupKey { tenant, service: Some(service), bucket: placed / BUCKET_NANOS };
        if let Some((last, group)) = &self.last
            && *last == key
        {
            return *group;
        }
        let known = self.local_groups.iter().zip(0_u32..).find(|((known, _), _)| *known == key);
        let (group, bit) = match known {
            Some(((_, group), local)) => (*group, 1 << local),
            None => self.new_to_block(key, service),
        };
        let row_group = RowGroup { group, bit, service, bucket: key.bucket };
        self.last = Some((key, row_group));
        row_group
    }

    /// The group and the bit of a service and time that the block has not met, or has no room to know.
    fn new_to_block(&mut self, key: GroupKey, service: u32) -> (u32, u64) {
        self.catalog.begin(key.tenant, &self.services);
        self.catalog.note_service(service, key.bucket);
        let group = self.group(key);
        let local = self.local_groups.len();
        if local >= LOCAL_GROUPS_MAX {
            return (group, 0);
        }
        self.local_groups.push((key, group));
        (group, 1 << local)
    }

    fn note_service(&mut self, service: u32, placed: u64) {
        let Some(slot) = self.block_services.get_mut(service as usize) else { return };
        match slot.checked_sub(1).and_then(|at| self.block.services.get_mut(at as usize)) {
            Some((_, latest)) => *latest = placed.max(*latest),
            None => {
                self.block.services.push((service, placed));
                *slot = u32::try_from(self.block.services.len()).unwrap_or(0);
            }
        }
    }

    /// The group of the key; where there are too many, that of its service at any time, then that of
    /// any service.
    fn group(&mut self, key: GroupKey) -> u32 {
        let at_any_time = GroupKey { bucket: ANY_BUCKET, ..key };
        let of_any_service = GroupKey { service: None, ..at_any_time };
        let limits = [GROUPS_MAX, 2 * GROUPS_MAX, usize::MAX];
        for (key, limit) in [key, at_any_time, of_any_service].into_iter().zip(limits) {
            if let Some(place) = self.group_places.get(&key) {
                return *place;
            }
            if self.groups.len() < limit {
                return self.add_group(key);
            }
        }
        u32::MAX
    }

    fn add_group(&mut self, key: GroupKey) -> u32 {
        let place = u32::try_from(self.groups.len()).unwrap_or(u32::MAX);
        self.group_places.insert(key, place);
        self.groups.push(Group { key, own: FxHashMap::default(), shared: Vec::new() });
        place
    }

    /// Adds an entry of a key to a group.
    pub(crate) fn add(&mut self, group: u32, key: u64, entry: u64) {
        let Some(group) = self.groups.get_mut(group as usize) else { return };
        if let Some(entries) = group.own.get_mut(&key) {
            entries.push(entry);
        } else if group.own.len() < OWN_KEYS_MAX {
            group.own.insert(key, vec![entry]);
        } else {
            group.shared.push(entry);
            group.shared.push(presence_hash(key));
        }
    }

    /// Adds an entry to the block.
    pub(crate) fn add_to_block(&mut self, entry: u64) {
        self.block.entries.push(entry);
    }

    /// Adds an attribute of a resource, a scope, an event or a link to group and block.
    pub(crate) fn add_attribute(&mut self, group: u32, attribute: &AttributeEntry) {
        self.add(group, attribute.key, attribute.entry);
        self.block.entries.push(attribute.entry);
        self.block.entries.push(presence_hash(attribute.key));
    }

    /// Adds an operation of a row to what the tenant's lists say.
    pub(crate) fn add_operation(&mut self, row: RowGroup, name: &[u8], kind: u8) {
        self.catalog.note_operation(row.service, row.bucket, name, kind);
    }

    /// Ends the lists; gives each tenant's.
    pub(crate) fn take_catalog(&mut self) -> Vec<TenantNames> {
        std::mem::take(&mut self.catalog).finish(&self.services)
    }

    /// Ends the block.
    pub(crate) fn finish_block(&mut self) {
        for (service, _) in &self.block.services {
            if let Some(slot) = self.block_services.get_mut(*service as usize) {
                *slot = 0;
            }
        }
        for context in self.block_contexts.drain(..) {
            if let Some(context) = self.contexts.get_mut(context as usize) {
                context.groups = None;
            }
        }
        let block = std::mem::take(&mut self.block);
        let filter = EncodedFilter::of(block.entries);
        self.blocks.push(IndexedBlock { filter, services: block.services });
        self.local_groups.clear();
        self.last = None;
    }
}

/// An attribute as filters know it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct AttributeEntry {
    pub(crate) key: u64,
    pub(crate) entry: u64,
}

/// The entry of an attribute that was read. Values without a text form say only that the key is
/// present.
pub(crate) fn attribute_entry(key: &str, value: &AnyValue) -> AttributeEntry {
    let key = key_hash(key.as_bytes());
    let entry = match value.as_search_text() {
        Some(text) => entry_hash(key, value_hash(text.as_bytes())),
        None => presence_hash(key),
    };
    AttributeEntry { key, entry }
}
