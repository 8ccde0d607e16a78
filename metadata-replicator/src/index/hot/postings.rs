//! Which traces began in which ten minutes, and among them those with a service or an error. A
//! posting is any row of the trace; it is a hint that the reader verifies.

use std::collections::BTreeMap;

use rustc_hash::FxHashMap;
use trace_model::UnixNanos;

/// Nanoseconds of a bucket.
const BUCKET_NANOS: u64 = 600_000_000_000;

/// The bucket of a time.
pub(super) const fn bucket_of(time: UnixNanos) -> u64 {
    time.0 / BUCKET_NANOS
}

/// Traces that began in one bucket.
#[derive(Debug, Default)]
pub(super) struct Bucket {
    all: Vec<u32>,
    errors: Vec<u32>,
    by_service: FxHashMap<u32, Vec<u32>>,
}

impl Bucket {
    pub(super) fn post_service(&mut self, service: u32, id: u32) {
        push(self.by_service.entry(service).or_default(), id);
    }

    pub(super) fn post_error(&mut self, id: u32) {
        push(&mut self.errors, id);
    }

    /// The shortest list that holds every trace with these properties.
    pub(super) fn candidates(&self, services: &[Option<u32>], only_errors: bool) -> &[u32] {
        let mut shortest = self.all.as_slice();
        let lists = services
            .iter()
            .flatten()
            .map(|service| self.by_service.get(service).map_or(&[][..], Vec::as_slice));
        for list in lists.chain(only_errors.then_some(self.errors.as_slice())) {
            if list.len() < shortest.len() {
                shortest = list;
            }
        }
        shortest
    }

    pub(super) fn retain(&mut self, keep: impl Fn(u32) -> bool) {
        let lists = [&mut self.all, &mut self.errors].into_iter();
        for list in lists.chain(self.by_service.values_mut()) {
            list.retain(|id| keep(*id));
            list.shrink_to_fit();
        }
        self.by_service.retain(|_, list| !list.is_empty());
    }

    fn bytes(&self) -> usize {
        let services = self.by_service.values().map(|list| list.capacity() * 4 + 40);
        (self.all.capacity() + self.errors.capacity()) * 4 + services.sum::<usize>()
    }
}

/// A growing trace posts its services again and again: the last posting is looked at.
fn push(list: &mut Vec<u32>, id: u32) {
    if list.last() != Some(&id) {
        list.push(id);
    }
}

/// All buckets, by tenant and time.
#[derive(Debug, Default)]
pub(super) struct Postings {
    buckets: BTreeMap<(u32, u64), Bucket>,
}

impl Postings {
    pub(super) fn post(&mut self, tenant: u32, bucket: u64, id: u32) {
        push(&mut self.bucket(tenant, bucket).all, id);
    }

    pub(super) fn bucket(&mut self, tenant: u32, bucket: u64) -> &mut Bucket {
        self.buckets.entry((tenant, bucket)).or_default()
    }

    pub(super) fn take(&mut self, tenant: u32, bucket: u64) -> Option<Bucket> {
        self.buckets.remove(&(tenant, bucket))
    }

    pub(super) fn put_back(&mut self, tenant: u32, bucket: u64, held: Bucket) {
        if !held.all.is_empty() {
            self.buckets.insert((tenant, bucket), held);
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

    pub(super) fn bytes(&self) -> usize {
        self.buckets.values().map(|bucket| bucket.bytes() + 128).sum()
    }
}
