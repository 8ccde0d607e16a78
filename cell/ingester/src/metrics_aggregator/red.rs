//! Rate, errors and durations of the records since the last flush.

use std::hash::{BuildHasher, Hash, Hasher};
use std::sync::Arc;

use hashbrown::HashTable;
use rustc_hash::{FxBuildHasher, FxHashMap, FxHasher};
use trace_model::{SpanKind, StatusCode, TraceId, UnixNanos};
use trace_store::{RedKey, RedRow};

use super::services::{Names, ServiceId};

const MINUTE_NANOS: u64 = 60 * 1_000_000_000;

/// Minutes since the epoch: 64 bits of nanoseconds are at most 308 million of them.
pub(super) fn minute_of(time: UnixNanos) -> u32 {
    u32::try_from(time.0 / MINUTE_NANOS).unwrap_or(u32::MAX)
}

/// What a series has in common with others but its operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct SeriesKey {
    pub(super) service: ServiceId,
    pub(super) minute: u32,
    pub(super) kind: u8,
    pub(super) status: u8,
    /// Hour of arrival: a series is let in for one hour at a time ([`super::operations`]).
    pub(super) hour: u32,
}

/// One span as it is counted.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sample {
    pub(super) trace_id: TraceId,
    pub(super) duration_nanos: u64,
    /// How many spans it stands for.
    pub(super) weight: f64,
}

#[derive(Debug)]
struct Series {
    key: SeriesKey,
    operation: Arc<str>,
    row: RedRow,
}

/// Series since the last flush. Looked up by key and text: a span allocates nothing.
#[derive(Debug, Default)]
pub(super) struct RedTable {
    places: HashTable<u32>,
    series: Vec<Series>,
}

impl RedTable {
    /// Adds a span to its series, where there is one.
    #[inline]
    pub(super) fn add(&mut self, key: SeriesKey, operation: &str, sample: Sample) -> bool {
        let hash = hash_of(key, operation);
        let is_it = |place: &u32| {
            let series = self.series.get(*place as usize);
            series.is_some_and(|series| series.key == key && &*series.operation == operation)
        };
        let Some(place) = self.places.find(hash, is_it) else { return false };
        if let Some(series) = self.series.get_mut(*place as usize) {
            add(&mut series.row, sample);
        }
        true
    }

    /// Starts a series with its first span.
    pub(super) fn start(&mut self, key: SeriesKey, operation: &str, sample: Sample) {
        let mut row = RedRow::default();
        add(&mut row, sample);
        let place = u32::try_from(self.series.len()).unwrap_or(u32::MAX);
        self.series.push(Series { key, operation: operation.into(), row });
        let hash_at = |place: &u32| {
            let series = self.series.get(*place as usize);
            series.map_or(0, |series| hash_of(series.key, &series.operation))
        };
        self.places.insert_unique(hash_of(key, operation), place, hash_at);
    }

    /// Adds a span to its series, made where there is none.
    pub(super) fn add_or_start(&mut self, key: SeriesKey, operation: &str, sample: Sample) {
        if !self.add(key, operation, sample) {
            self.start(key, operation, sample);
        }
    }

    pub(super) fn len(&self) -> usize {
        self.series.len()
    }

    /// Takes all series out, with their roll-ups over operations.
    pub(super) fn drain(&mut self, names: Names<'_>) -> Vec<(RedKey, RedRow)> {
        self.places.clear();
        let mut rollups: FxHashMap<SeriesKey, RedRow> = FxHashMap::default();
        let mut rows = Vec::with_capacity(self.series.len().saturating_mul(2));
        for Series { key, operation, row } in self.series.drain(..) {
            rollups.entry(key).or_default().merge(&row);
            rows.extend(full_key(key, Some(operation), names).map(|key| (key, row)));
        }
        for (key, row) in rollups {
            rows.extend(full_key(key, None, names).map(|key| (key, row)));
        }
        rows
    }
}

fn hash_of(key: SeriesKey, operation: &str) -> u64 {
    let mut hasher: FxHasher = FxBuildHasher.build_hasher();
    key.hash(&mut hasher);
    hasher.write(operation.as_bytes());
    hasher.finish()
}

fn full_key(key: SeriesKey, operation: Option<Arc<str>>, names: Names<'_>) -> Option<RedKey> {
    let (tenant, service) = names.of(key.service)?;
    Some(RedKey {
        tenant: tenant.clone(),
        minute: UnixNanos(u64::from(key.minute).saturating_mul(MINUTE_NANOS)),
        service,
        operation,
        kind: SpanKind::from_number(i32::from(key.kind)),
        status: StatusCode::from_number(i32::from(key.status)),
    })
}

#[inline]
fn add(row: &mut RedRow, sample: Sample) {
    row.seen = row.seen.saturating_add(1);
    row.estimated += sample.weight;
    row.durations.add(sample.duration_nanos);
    if row.exemplar.is_none_or(|(nanos, _)| sample.duration_nanos > nanos) {
        row.exemplar = Some((sample.duration_nanos, sample.trace_id));
    }
}
