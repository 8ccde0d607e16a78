//! The contexts of a batch: made anew, or those of batches before it.

use std::sync::Arc;

use bytes::Bytes;
use rustc_hash::FxHashMap;
use trace_model::ScopeContext;
use trace_model::merge::context_hash;

use super::ContextRange;
use crate::wire::service_name;

/// So many contexts are remembered …
const CONTEXTS_MAX: usize = 256;
/// … of so many bytes: one context may be as large as a record.
const BYTES_MAX: usize = 256 << 10;

/// Contexts that one reader has met: where a record is one trace, its contexts are those of many others. They are given
/// again instead of made again, so batches share them. Bounded in number and in bytes; begins anew when it is full.
#[derive(Debug, Default)]
pub struct KnownContexts {
    known: FxHashMap<u64, Arc<ScopeContext>>,
    bytes: usize,
}

impl KnownContexts {
    /// The context of these frames, whose hash this is.
    fn of(&mut self, hash: u64, resource: &[u8], scope: &[u8]) -> Arc<ScopeContext> {
        // A hash can be met on purpose: the bytes decide.
        if let Some(known) = self.known.get(&hash)
            && known.resource == resource
            && known.scope == scope
        {
            return Arc::clone(known);
        }
        // What is remembered must not keep its whole batch in memory.
        let own = (Bytes::copy_from_slice(resource), Bytes::copy_from_slice(scope));
        let context = Arc::new(context(own.0, own.1));
        let bytes = resource.len().saturating_add(scope.len());
        if bytes > BYTES_MAX {
            return context;
        }
        self.bytes = self.bytes.saturating_add(bytes);
        if self.known.len() >= CONTEXTS_MAX || self.bytes > BYTES_MAX {
            self.known.clear();
            self.bytes = bytes;
        }
        self.known.insert(hash, Arc::clone(&context));
        context
    }
}

/// The contexts that stand at these places of a batch's encoded form, and their hashes.
pub(super) fn contexts_at(
    encoded: &Bytes,
    ranges: &[ContextRange],
    mut known: Option<&mut KnownContexts>,
) -> (Vec<Arc<ScopeContext>>, Vec<u64>) {
    let mut contexts = Vec::with_capacity(ranges.len());
    let mut hashes = Vec::with_capacity(ranges.len());
    for (resource_start, resource_end, scope_start, scope_end) in ranges.iter().copied() {
        let resource = encoded.slice(resource_start..resource_end);
        let scope = encoded.slice(scope_start..scope_end);
        let hash = context_hash(&resource, &scope);
        hashes.push(hash);
        contexts.push(match known.as_deref_mut() {
            Some(known) => known.of(hash, &resource, &scope),
            None => Arc::new(context(resource, scope)),
        });
    }
    (contexts, hashes)
}

fn context(resource: Bytes, scope: Bytes) -> ScopeContext {
    let service = service_name(&resource).ok().flatten();
    let service = service.unwrap_or(trace_model::span::UNKNOWN_SERVICE).into();
    ScopeContext { resource, scope, service }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_met_again_is_given_again_and_bytes_decide() {
        let mut known = KnownContexts::default();
        let first = known.of(7, b"resource", b"scope");
        assert!(Arc::ptr_eq(&first, &known.of(7, b"resource", b"scope")));
        let other = known.of(7, b"resources", b"cope");
        assert_eq!((&other.resource[..], &other.scope[..]), (&b"resources"[..], &b"cope"[..]));
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let mut known = KnownContexts::default();
        for number in 0..1_000_u64 {
            let size = if number % 10 == 0 { BYTES_MAX + 1 } else { 3_000 };
            let resource = vec![1; size];
            assert_eq!(known.of(number, &resource, b"").resource, resource);
            let held: usize = known.known.values().map(|one| one.resource.len()).sum();
            assert!(held <= BYTES_MAX && known.known.len() <= CONTEXTS_MAX, "{held} bytes");
        }
    }
}
