//! Where in the index a service is to be looked for: the hours that the catalogue announces, newest
//! first, with their buckets.

use trace_model::{TenantId, TimeRange, UnixNanos};

use super::announce::MORE;
use super::engine::Engine;
use super::places::{
    HOUR, buckets_of, days_of, hour_of_slot, key_of, level_in, service_bucket, slot_times,
};
use crate::port::StoreError;

/// An hour of a service in the index.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Hour {
    pub(super) hour: i32,
    pub(super) buckets: Vec<i32>,
    /// The slots that are to be looked into: first nanosecond of the first, last of the last.
    pub(super) from: UnixNanos,
    pub(super) to: UnixNanos,
}

/// So many days of a tenant one question looks into: spans of any date are taken, and a sender may
/// strew them over decades.
const DAYS_MAX: usize = 400;

/// Refuses a question that would look into too many days.
pub(super) fn check_days(days: usize) -> Result<(), StoreError> {
    if days <= DAYS_MAX {
        return Ok(());
    }
    let words = format!("more than {DAYS_MAX} days to look into: narrow the time range");
    Err(StoreError::Unsupported(words))
}

/// The days in which a tenant has anything, newest first.
pub(super) async fn days(
    engine: &Engine,
    tenant: &TenantId,
    range: TimeRange,
) -> Result<Vec<i32>, StoreError> {
    let (first, last) = days_of(range);
    let mut days = Vec::new();
    let see = |(day,): (i32,)| days.push(day);
    engine.each(&engine.statements.read_days, (tenant.as_str(), first, last), see).await?;
    Ok(days)
}

/// The buckets of one hour of a service, as they are announced.
pub(super) async fn buckets(
    engine: &Engine,
    tenant: &TenantId,
    service_key: &str,
    (day, hour): (i32, i32),
) -> Result<Vec<i32>, StoreError> {
    let (_, levels) = service(engine, tenant, service_key, day).await?.unwrap_or_default();
    Ok(buckets_in(&levels, hour))
}

fn buckets_in(levels: &[i16], hour: i32) -> Vec<i32> {
    levels.iter().filter_map(|mark| level_in(*mark, hour)).flat_map(buckets_of).collect()
}

/// Slots and levels of a service on a day.
type ServiceDay = (Vec<i16>, Vec<i16>);

async fn service(
    engine: &Engine,
    tenant: &TenantId,
    service_key: &str,
    day: i32,
) -> Result<Option<ServiceDay>, StoreError> {
    let mut found = None;
    let see = |(slots, levels): (Option<Vec<i16>>, Option<Vec<i16>>)| {
        found = Some((slots.unwrap_or_default(), levels.unwrap_or_default()));
    };
    let values = (tenant.as_str(), day, service_bucket(service_key), service_key);
    engine.each(&engine.statements.read_service, values, see).await?;
    Ok(found)
}

/// Slots in which the operation was seen; `None` where the catalogue of the day is not whole.
async fn operation_slots(
    engine: &Engine,
    tenant: &TenantId,
    service_key: &str,
    (day, operation): (i32, &str),
) -> Result<Option<Vec<i16>>, StoreError> {
    let statement = &engine.statements.read_operation;
    let mut slots = Vec::new();
    let mut is_whole = true;
    let key = key_of(operation);
    for (key, of_all) in [(&*key, false), (MORE, true)] {
        let see = |(found,): (Option<Vec<i16>>,)| {
            if of_all {
                is_whole = false;
            } else {
                slots.extend(found.unwrap_or_default());
            }
        };
        engine.each(statement, (tenant.as_str(), service_key, day, key), see).await?;
    }
    Ok(is_whole.then_some(slots))
}

/// The hours of a day in which the service (with the operation) may be found, newest first.
pub(super) async fn hours_of_day(
    engine: &Engine,
    tenant: &TenantId,
    (name, operation): (&str, Option<&str>),
    (day, range): (i32, TimeRange),
) -> Result<Vec<Hour>, StoreError> {
    let service_key = key_of(name);
    let Some((mut slots, levels)) = service(engine, tenant, &service_key, day).await? else {
        return match service(engine, tenant, MORE, day).await? {
            None => Ok(Vec::new()),
            Some(_) => Err(StoreError::Unsupported(
                "there are more services than the trace store lists, and this one is not among \
                 them: the search engine may find it"
                    .to_owned(),
            )),
        };
    };
    if let Some(operation) = operation {
        let of_day = (day, operation);
        if let Some(seen) = operation_slots(engine, tenant, &service_key, of_day).await? {
            slots.retain(|slot| seen.contains(slot));
        }
    }
    Ok(hours(day, &slots, &levels, range))
}

/// Slots as hours, newest first.
fn hours(day: i32, slots: &[i16], levels: &[i16], range: TimeRange) -> Vec<Hour> {
    let mut slots: Vec<i16> = slots.to_vec();
    slots.sort_unstable_by(|left, right| right.cmp(left));
    let mut hours: Vec<Hour> = Vec::new();
    for slot in slots {
        let (from, to) = slot_times(day, slot);
        if !range.overlaps(from, to) {
            continue;
        }
        let hour = hour_of_slot(day, slot);
        match hours.last_mut().filter(|known| known.hour == hour) {
            Some(known) => known.from = from,
            None => hours.push(Hour { hour, buckets: buckets_in(levels, hour), from, to }),
        }
    }
    debug_assert!(hours.iter().all(|hour| hour.to.since(hour.from) < HOUR));
    hours
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cassandra::places::{day_of, hour_of, level_mark};

    const NOW: UnixNanos = UnixNanos(1_790_000_400_000_000_000);

    #[test]
    fn slots_become_hours_with_their_buckets_newest_first() {
        let day = day_of(NOW);
        let first = hour_of_slot(day, 0);
        let levels = [level_mark(first, 0), level_mark(first + 1, 0), level_mark(first + 1, 1)];
        let found = hours(day, &[0, 7, 9, 3], &levels, TimeRange::ALL);
        assert_eq!(found.len(), 2);
        assert_eq!((found[0].hour, found[0].buckets.as_slice()), (first + 1, [1, 2, 3].as_slice()));
        assert_eq!((found[0].from, found[0].to), (slot_times(day, 7).0, slot_times(day, 9).1));
        assert_eq!((found[1].hour, found[1].buckets.as_slice()), (first, [1].as_slice()));
        let end = slot_times(day, 3).0;
        let range = TimeRange { start: UnixNanos(0), end };
        assert_eq!(hours(day, &[0, 7, 9, 3], &levels, range).len(), 1);
        assert_eq!(hour_of(found[1].from), first);
    }
}
