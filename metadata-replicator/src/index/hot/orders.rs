//! The orders in which traces are looked for: by start, among those of a service, a root, a length
//! or with an error. What an order holds is exact: a trace is in it as long as its rows say so.
//!
//! ```text
//! (tenant, ten minutes of start) -> key -> start within them, 140 ns units [32 bits] | trace [32]
//! ```
//!
//! Every trace is in one order of lengths, so that these together are all of them. An entry is
//! sorted by start first; the reader looks at the row for what 140 ns do not tell.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;

use trace_model::UnixNanos;

use super::order::Order;

/// Nanoseconds of a bucket.
const BUCKET_NANOS: u64 = 600_000_000_000;
/// Nanoseconds of a unit of start: so many that a bucket fits into 32 bits.
const UNIT_NANOS: u64 = 140;
/// Most keys of a bucket; what comes beyond shares one for services and one for roots. Bounds the
/// table against operations that carry an id in their name.
const KEYS_MAX: usize = 16_384;
/// The number that stands for all names beyond [`KEYS_MAX`].
const SHARED: u32 = u32::MAX;

/// The bucket of a time.
pub(super) const fn bucket_of(time: UnixNanos) -> u64 {
    time.0 / BUCKET_NANOS
}

/// The entry of a trace in every order of its bucket.
pub(super) fn entry_of(start: UnixNanos, first: u32) -> u64 {
    entries_from(start) | u64::from(first)
}

/// The least entry of a time.
pub(super) const fn entries_from(time: UnixNanos) -> u64 {
    (time.0 % BUCKET_NANOS / UNIT_NANOS) << 32
}

/// The number of the trace of an entry.
pub(super) fn trace_of(entry: u64) -> u32 {
    u32::try_from(entry & u64::from(u32::MAX)).unwrap_or(u32::MAX)
}

/// An order of a bucket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Key {
    /// Traces whose duration in nanoseconds has so many bits; [`Key::ROUTES`] of those of which
    /// only the route is known.
    Length(u8),
    /// Those with an error.
    Errors,
    /// Those with this root service and operation.
    Root {
        /// The service's number.
        service: u32,
        /// The operation's number.
        operation: u32,
    },
    /// Those in which this service takes part.
    Service(u32),
}

impl Key {
    /// Traces of which only the route is known.
    pub(super) const ROUTES: u8 = 65;
    /// Roots and services without an order of their own.
    const SHARED_ROOT: Self = Self::Root { service: SHARED, operation: SHARED };
    const SHARED_SERVICE: Self = Self::Service(SHARED);

    /// The order of a duration.
    pub(super) fn of_length(nanos: u64) -> Self {
        Self::Length(bits_of(nanos))
    }

    /// The order of a root; operations beyond the limit of names have no number.
    pub(super) fn of_root(service: u32, operation: Option<u32>) -> Self {
        operation.map_or(Self::SHARED_ROOT, |operation| Self::Root { service, operation })
    }

    const fn shared(self) -> Option<Self> {
        match self {
            Self::Length(_) | Self::Errors => None,
            Self::Root { .. } => Some(Self::SHARED_ROOT),
            Self::Service(_) => Some(Self::SHARED_SERVICE),
        }
    }
}

/// How many bits a number has.
pub(super) fn bits_of(nanos: u64) -> u8 {
    u8::try_from(u64::BITS.saturating_sub(nanos.leading_zeros())).unwrap_or(64)
}

/// Which orders may answer a question. Numbers of names that are not known are `None` within.
#[derive(Clone, Debug)]
pub(super) struct Wanted {
    pub(super) service: Option<u32>,
    pub(super) root_service: Option<u32>,
    pub(super) root_operation: Option<Option<u32>>,
    pub(super) only_errors: bool,
    pub(super) lengths: RangeInclusive<u8>,
}

/// The orders of one tenant and ten minutes.
#[derive(Debug, Default)]
pub(super) struct Bucket {
    orders: BTreeMap<Key, Order>,
}

/// Bytes of a key with its order in the tree, about.
const KEY_BYTES: usize = size_of::<Key>() + size_of::<Order>() + 8;

impl Bucket {
    fn post(&mut self, key: Key, entry: u64, bytes: &mut usize) {
        let is_full = self.orders.len() >= KEYS_MAX && !self.orders.contains_key(&key);
        let key = key.shared().filter(|_| is_full).unwrap_or(key);
        let order = self.orders.entry(key).or_insert_with(|| {
            *bytes = bytes.saturating_add(KEY_BYTES);
            Order::default()
        });
        let before = order.allocated();
        order.insert(entry);
        *bytes = bytes.saturating_sub(before).saturating_add(order.allocated());
    }

    fn unpost(&mut self, key: Key, entry: u64, bytes: &mut usize) {
        if self.take_out(key, entry, bytes) {
            return;
        }
        if let Some(shared) = key.shared() {
            self.take_out(shared, entry, bytes);
        }
    }

    fn take_out(&mut self, key: Key, entry: u64, bytes: &mut usize) -> bool {
        let Some(order) = self.orders.get_mut(&key) else { return false };
        let before = order.allocated();
        let is_found = order.remove(entry);
        *bytes = bytes.saturating_sub(before).saturating_add(order.allocated());
        if order.len() == 0 {
            *bytes = bytes.saturating_sub(order.allocated()).saturating_sub(KEY_BYTES);
            self.orders.remove(&key);
        }
        is_found
    }

    /// The orders that together hold every trace that may be wanted: of several ways the one with
    /// the fewest entries. Notes how many keys were looked at.
    pub(super) fn shortest(&self, wanted: &Wanted, keys: &mut usize) -> Vec<&Order> {
        let lengths = Key::Length(*wanted.lengths.start())..=Key::Length(*wanted.lengths.end());
        let mut shortest: Vec<&Order> =
            self.orders.range(lengths).map(|(_, order)| order).collect();
        let ways = [
            wanted.only_errors.then(|| self.those(&[Key::Errors])),
            wanted.service.map(|id| self.those(&[Key::Service(id), Key::SHARED_SERVICE])),
            self.roots(wanted, keys),
        ];
        *keys = keys.saturating_add(shortest.len()).saturating_add(1);
        let len = |way: &[&Order]| way.iter().map(|order| order.len()).sum::<usize>();
        for way in ways.into_iter().flatten() {
            if len(&way) < len(&shortest) {
                shortest = way;
            }
        }
        shortest
    }

    fn those(&self, keys: &[Key]) -> Vec<&Order> {
        keys.iter().filter_map(|key| self.orders.get(key)).collect()
    }

    fn roots(&self, wanted: &Wanted, keys: &mut usize) -> Option<Vec<&Order>> {
        let (first, last) = match (wanted.root_service, wanted.root_operation) {
            (None, None) => return None,
            (Some(service), Some(Some(operation))) => {
                let key = Key::Root { service, operation };
                return Some(self.those(&[key, Key::SHARED_ROOT]));
            }
            (_, Some(None)) => return Some(self.those(&[Key::SHARED_ROOT])),
            (Some(service), None) => (service, service),
            (None, Some(Some(_))) => (0, SHARED - 1),
        };
        let range = Key::Root { service: first, operation: 0 }..=Key::Root {
            service: last,
            operation: SHARED,
        };
        let operation = wanted.root_operation.flatten();
        let is_wanted = |key: &Key| match key {
            Key::Root { operation: held, .. } => operation.is_none_or(|wanted| *held == wanted),
            Key::Length(_) | Key::Errors | Key::Service(_) => false,
        };
        let mut roots = self.those(&[Key::SHARED_ROOT]);
        let range = self.orders.range(range).inspect(|_| *keys = keys.saturating_add(1));
        let range = range.filter(|(key, _)| is_wanted(key));
        roots.extend(range.map(|(_, order)| order));
        Some(roots)
    }
}

/// All buckets, by tenant and time.
#[derive(Debug, Default)]
pub(super) struct Orders {
    buckets: BTreeMap<(u32, u64), Bucket>,
    bytes: usize,
}

/// Bytes of a bucket in the tree, about.
const BUCKET_BYTES: usize = 64;

/// Where a trace is posted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Posted {
    pub(super) tenant: u32,
    pub(super) bucket: u64,
    pub(super) entry: u64,
    /// Sorted, each once.
    pub(super) keys: Vec<Key>,
}

impl Orders {
    /// Takes a trace from where it was posted to where it belongs now.
    pub(super) fn move_trace(&mut self, before: Option<&Posted>, after: Option<&Posted>) {
        let place = |posted: &Posted| (posted.tenant, posted.bucket, posted.entry);
        let stays = before.map(place) == after.map(place);
        let old = before.filter(|_| stays).map_or(&[][..], |before| &before.keys);
        let new = after.filter(|_| stays).map_or(&[][..], |after| &after.keys);
        if let Some(before) = before {
            let gone = before.keys.iter().filter(|key| new.binary_search(key).is_err());
            self.unpost(before, gone.copied());
        }
        if let Some(after) = after {
            let added = after.keys.iter().filter(|key| old.binary_search(key).is_err());
            self.post(after, added.copied());
        }
    }

    fn post(&mut self, at: &Posted, keys: impl Iterator<Item = Key>) {
        let mut keys = keys.peekable();
        if keys.peek().is_none() {
            return;
        }
        let bytes = &mut self.bytes;
        let bucket = self.buckets.entry((at.tenant, at.bucket)).or_insert_with(|| {
            *bytes = bytes.saturating_add(BUCKET_BYTES);
            Bucket::default()
        });
        for key in keys {
            bucket.post(key, at.entry, bytes);
        }
    }

    fn unpost(&mut self, at: &Posted, keys: impl Iterator<Item = Key>) {
        let Some(bucket) = self.buckets.get_mut(&(at.tenant, at.bucket)) else { return };
        for key in keys {
            bucket.unpost(key, at.entry, &mut self.bytes);
        }
        if bucket.orders.is_empty() {
            self.buckets.remove(&(at.tenant, at.bucket));
            self.bytes = self.bytes.saturating_sub(BUCKET_BYTES);
        }
    }

    /// The buckets of a tenant between two, newest first.
    pub(super) fn newest_first(
        &self,
        tenant: u32,
        first: u64,
        last: u64,
    ) -> impl Iterator<Item = (u64, &Bucket)> {
        let range = self.buckets.range((tenant, first)..=(tenant, last.max(first)));
        range.rev().map(|((_, bucket), held)| (*bucket, held))
    }

    /// Bytes held, about.
    pub(super) const fn bytes(&self) -> usize {
        self.bytes
    }

    /// Entries over all orders.
    #[cfg(test)]
    pub(super) fn entries(&self) -> usize {
        self.buckets
            .values()
            .flat_map(|bucket| bucket.orders.values())
            .map(|order| order.len())
            .sum()
    }
}
