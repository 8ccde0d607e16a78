//! What is written into the catalogue before the rows that it announces: days, services with their
//! slots and index levels, operations with their slots.
//!
//! A process remembers what it has announced and does it again once an hour of receipt, so that an
//! announcement outlives everything that it stands for.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard, PoisonError};

use hashbrown::HashSet;
use scylla::SerializeRow;
use scylla::value::MaybeUnset;
use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::batches::{BATCH_ROWS_MAX, RowBatch};
use super::engine::Engine;
use super::places::{
    HOUR, bigint, day_of, hour_of, key_of, level_mark, listed, service_bucket, slot_of,
};
use super::plan::IndexGroup;
use super::recent::Recent;
use crate::port::StoreError;

/// So many announcements a process remembers twice.
const REMEMBERED: usize = 500_000;
/// So many services of a tenant and day a process announces.
const SERVICES_MAX: u32 = 100_000;
/// So many operations of a service and day a process announces.
const OPERATIONS_MAX: u32 = 12_000;
/// The key of a row that says: there are more than are listed. No name has it.
pub(super) const MORE: &str = "\u{1}more";
/// An announcement lives by an hour longer than what it stands for.
const TTL_MORE: i32 = 3_600;

/// What a process has announced.
#[derive(Debug)]
pub(super) struct Announced {
    known: Mutex<Known>,
    seed: u64,
}

#[derive(Debug)]
struct Known {
    announced: Recent<()>,
    counts: Recent<u32>,
    services_max: u32,
    operations_max: u32,
}

/// A service to be announced.
#[derive(Debug, Default)]
struct ServiceNotice {
    slots: BTreeSet<i16>,
    levels: BTreeSet<i16>,
    ttl: i32,
}

/// Tenant, day, service; no service: there are more.
type ServiceKey<'a> = (&'a str, i32, Option<&'a str>);
/// Tenant, service, day, operation, kind; no operation: there are more.
type OperationKey<'a> = (&'a str, &'a str, i32, Option<&'a str>, u8);

/// What is to be announced.
#[derive(Debug, Default)]
pub(super) struct Notices<'a> {
    days: BTreeMap<(&'a str, i32), i32>,
    services: BTreeMap<ServiceKey<'a>, ServiceNotice>,
    operations: BTreeMap<OperationKey<'a>, (BTreeSet<i16>, i32)>,
    /// Remembered once they are written.
    keys: Vec<u64>,
    /// Places of groups whose service is one too many.
    pub(super) unlisted: HashSet<usize>,
}

impl Notices<'_> {
    /// Whether everything is announced already.
    pub(super) fn is_empty(&self) -> bool {
        self.days.is_empty() && self.services.is_empty() && self.operations.is_empty()
    }
}

/// Where and when a group lies.
#[derive(Clone, Copy)]
struct Place {
    day: i32,
    slot: i16,
    receive_hour: u64,
}

impl Announced {
    pub(super) fn new(seed: u64) -> Self {
        Self::bounded(seed, SERVICES_MAX, OPERATIONS_MAX)
    }

    fn bounded(seed: u64, services_max: u32, operations_max: u32) -> Self {
        let (announced, counts) = (Recent::new(REMEMBERED), Recent::new(16_384));
        let known = Known { announced, counts, services_max, operations_max };
        Self { known: Mutex::new(known), seed }
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is to be announced for these groups, whose index levels are given.
    pub(super) fn notices<'a>(&self, groups: &[IndexGroup<'a>], levels: &[u8]) -> Notices<'a> {
        let mut notices = Notices::default();
        let mut known = self.known();
        for (at, (group, level)) in groups.iter().zip(levels).enumerate() {
            let newest = group.newest();
            let place = Place {
                day: day_of(newest),
                slot: slot_of(newest),
                receive_hour: group.source.received.0 / HOUR,
            };
            let tenant = group.source.batch.source().tenant.as_str();
            let tenant_hash = xxh3_64_with_seed(tenant.as_bytes(), self.seed);
            let of_service = xxh3_64_with_seed(group.service.as_bytes(), tenant_hash);
            let keys = Keys { tenant: tenant_hash, service: of_service, place };
            let mark = level_mark(hour_of(newest), *level);
            if known.note_service(&mut notices, group, &keys, mark) {
                known.note_operations(&mut notices, group, &keys);
            } else {
                notices.unlisted.insert(at);
            }
        }
        notices
    }

    /// Remembers what is written now.
    pub(super) fn remember(&self, notices: &Notices<'_>) {
        let mut known = self.known();
        for key in &notices.keys {
            known.announced.insert(*key, ());
        }
    }
}

/// Hashes of a group.
struct Keys {
    tenant: u64,
    service: u64,
    place: Place,
}

impl Keys {
    /// A key of the kind `tag` out of more numbers.
    fn of(&self, tag: u64, parts: [u64; 3]) -> u64 {
        let mut bytes = [0; 32];
        for (chunk, part) in bytes.chunks_exact_mut(8).zip([tag].into_iter().chain(parts)) {
            chunk.copy_from_slice(&part.to_le_bytes());
        }
        xxh3_64_with_seed(&bytes, self.service)
    }

    /// Day and slot as one number.
    fn slot(&self) -> u64 {
        u64::from(self.place.day.unsigned_abs()) * 144 + u64::from(self.place.slot.unsigned_abs())
    }

    fn day(&self) -> u64 {
        u64::from(self.place.day.unsigned_abs())
    }
}

impl Known {
    /// Notes the service; says whether it is listed.
    fn note_service<'a>(
        &mut self,
        notices: &mut Notices<'a>,
        group: &IndexGroup<'a>,
        keys: &Keys,
        mark: i16,
    ) -> bool {
        let place = keys.place;
        let tenant = group.source.batch.source().tenant.as_str();
        let ttl = group.source.ttl.saturating_add(TTL_MORE);
        let level = u64::from(mark.unsigned_abs());
        let key = keys.of(1, [keys.slot(), level, place.receive_hour]);
        if self.announced.contains(key) {
            return true;
        }
        let first = keys.of(2, [keys.day(), 0, 0]);
        if !self.announced.contains(first) {
            let count = self.counts.entry(keys.tenant ^ keys.day());
            if *count >= self.services_max {
                notices.services.entry((tenant, place.day, None)).or_default().ttl = ttl;
                return false;
            }
            *count += 1;
            self.announced.insert(first, ());
        }
        notices
            .days
            .entry((tenant, place.day))
            .and_modify(|known| *known = ttl.max(*known))
            .or_insert(ttl);
        let notice = notices.services.entry((tenant, place.day, Some(group.service))).or_default();
        notice.slots.insert(place.slot);
        notice.levels.insert(mark);
        notice.ttl = notice.ttl.max(ttl);
        notices.keys.push(key);
        true
    }

    fn note_operations<'a>(
        &mut self,
        notices: &mut Notices<'a>,
        group: &IndexGroup<'a>,
        keys: &Keys,
    ) {
        let place = keys.place;
        let tenant = group.source.batch.source().tenant.as_str();
        let ttl = group.source.ttl.saturating_add(TTL_MORE);
        for (entry, name) in &group.entries {
            let operation = entry.operation ^ (u64::from(entry.kind) << 56);
            let key = keys.of(3, [operation, keys.slot(), place.receive_hour]);
            if self.announced.contains(key) {
                continue;
            }
            let (mut name, mut kind) = (Some(*name), entry.kind);
            let first = keys.of(4, [operation, keys.day(), 0]);
            if !self.announced.contains(first) {
                let count = self.counts.entry(keys.of(5, [keys.day(), 0, 0]));
                if *count >= self.operations_max {
                    (name, kind) = (None, 0);
                } else {
                    *count += 1;
                    self.announced.insert(first, ());
                }
            }
            let key_parts = (tenant, group.service, place.day, name, kind);
            let notice = notices.operations.entry(key_parts).or_default();
            notice.0.insert(place.slot);
            notice.1 = notice.1.max(ttl);
            notices.keys.push(key);
        }
    }
}

#[derive(SerializeRow)]
#[scylla(flavor = "enforce_order", skip_name_checks)]
struct ServiceRow<'a> {
    ttl: i32,
    timestamp: i64,
    slots: Vec<i16>,
    levels: Vec<i16>,
    name: MaybeUnset<String>,
    tenant: &'a str,
    day: i32,
    bucket: i16,
    service: String,
}

#[derive(SerializeRow)]
#[scylla(flavor = "enforce_order", skip_name_checks)]
struct OperationRow<'a> {
    ttl: i32,
    timestamp: i64,
    slots: Vec<i16>,
    name: MaybeUnset<String>,
    tenant: &'a str,
    service: String,
    day: i32,
    operation: String,
    kind: i8,
}

/// The key of a name, and the name where the key is its hash.
fn key_and_name(name: Option<&str>) -> (String, MaybeUnset<String>) {
    let Some(name) = name else { return (MORE.to_owned(), MaybeUnset::Set(String::new())) };
    let key = key_of(name).into_owned();
    if key == name {
        return (key, MaybeUnset::Unset);
    }
    (key, MaybeUnset::Set(listed(name).into_owned()))
}

impl Notices<'_> {
    /// Writes them all.
    pub(super) async fn write(&self, engine: &Engine) -> Result<(), StoreError> {
        let timestamp = bigint(engine.clock.now().micros());
        let days: Vec<_> = self
            .days
            .iter()
            .map(|((tenant, day), ttl)| one((*tenant, *day, *ttl, timestamp), tenant.len()))
            .collect();
        engine.write_all(&engine.statements.write_day, &days).await?;
        let services = self.services.iter().map(|((tenant, day, service), notice)| {
            let (service, name) = key_and_name(*service);
            let bucket = service_bucket(&service);
            let row = ServiceRow {
                ttl: notice.ttl,
                timestamp,
                slots: notice.slots.iter().copied().collect(),
                levels: notice.levels.iter().copied().collect(),
                name,
                tenant,
                day: *day,
                bucket,
                service,
            };
            ((*tenant, *day, bucket), row)
        });
        engine.write_all(&engine.statements.write_service, &by_partition(services)).await?;
        let operations = self.operations.iter().map(|(key, (slots, ttl))| {
            let (tenant, service, day, operation, kind) = key;
            let (operation, name) = key_and_name(*operation);
            let row = OperationRow {
                ttl: *ttl,
                timestamp,
                slots: slots.iter().copied().collect(),
                name,
                tenant,
                service: key_of(service).into_owned(),
                day: *day,
                operation,
                kind: kind.cast_signed(),
            };
            ((*tenant, *service, *day), row)
        });
        engine.write_all(&engine.statements.write_operation, &by_partition(operations)).await
    }
}

fn one<R>(row: R, bytes: usize) -> RowBatch<R> {
    RowBatch { rows: vec![row], bytes }
}

/// Rows by their partitions, cut into batches.
pub(super) fn by_partition<K: Ord, R>(rows: impl Iterator<Item = (K, R)>) -> Vec<RowBatch<R>> {
    let mut partitions: BTreeMap<K, Vec<RowBatch<R>>> = BTreeMap::new();
    for (key, row) in rows {
        let batches = partitions.entry(key).or_default();
        match batches.last_mut().filter(|batch| batch.rows.len() < BATCH_ROWS_MAX) {
            Some(batch) => {
                batch.bytes += 100;
                batch.rows.push(row);
            }
            None => batches.push(one(row, 100)),
        }
    }
    partitions.into_values().flatten().collect()
}

#[cfg(test)]
mod tests {
    use trace_model::UnixNanos;

    use super::*;
    use crate::cassandra::plan::samples::{NOW, logged};
    use crate::cassandra::plan::{Plan, sources};

    /// What is announced of them: days, services, operations (`None`: more), groups unlisted.
    fn announce(
        announced: &Announced,
        names: &[(&str, &str)],
        received: UnixNanos,
    ) -> (usize, Vec<Option<String>>, Vec<Option<String>>, usize) {
        let logged = [logged(names, received)];
        let (sources, _) = sources(&logged, u64::MAX, NOW);
        let plan = Plan::of(&sources, |_, _| false);
        let notices = announced.notices(&plan.groups, &vec![0; plan.groups.len()]);
        announced.remember(&notices);
        let owned = |name: &Option<&str>| name.map(ToOwned::to_owned);
        let services = notices.services.keys().map(|key| owned(&key.2)).collect();
        let operations = notices.operations.keys().map(|key| owned(&key.3)).collect();
        (notices.days.len(), services, operations, notices.unlisted.len())
    }

    fn some(names: &[&str]) -> Vec<Option<String>> {
        names.iter().map(|name| Some((*name).to_owned())).collect()
    }

    #[test]
    fn everything_is_announced_once_and_again_in_the_next_hour_of_receipt() {
        let announced = Announced::new(3);
        let names = [("web", "a"), ("web", "b"), ("cart", "a")];
        let first = announce(&announced, &names, NOW);
        assert_eq!(first, (1, some(&["cart", "web"]), some(&["a", "a", "b"]), 0));
        assert_eq!(announce(&announced, &names, NOW), (0, vec![], vec![], 0));
        let more = announce(&announced, &[("web", "c")], NOW);
        assert_eq!(more, (0, vec![], some(&["c"]), 0));
        assert_eq!(announce(&announced, &names, NOW.plus(HOUR)), first);
    }

    #[test]
    fn one_service_or_operation_too_many_is_not_listed_and_that_is_said() {
        let announced = Announced::bounded(3, 2, 2);
        let (_, services, operations, unlisted) = announce(
            &announced,
            &[("a", "1"), ("a", "2"), ("a", "3"), ("b", "1"), ("c", "1")],
            NOW,
        );
        assert_eq!(services, [vec![None], some(&["a", "b"])].concat());
        assert_eq!(operations.iter().flatten().count(), 3, "two of the first service, one more");
        assert!(operations.contains(&None));
        assert_eq!(unlisted, 1);
        // Those that are listed stay so.
        let (_, services, _, unlisted) = announce(&announced, &[("b", "1")], NOW.plus(HOUR));
        assert_eq!((services, unlisted), (some(&["b"]), 0));
    }
}
