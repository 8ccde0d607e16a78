//! Hashes that documents are known by. They are part of what is stored: never changed.

use trace_model::{SpanKey, SpanKind, TenantId, TraceId};
use xxhash_rust::xxh3::Xxh3;

/// Starts a hash with the tenant, in a domain of its own.
fn hasher(domain: u8, tenant: &TenantId) -> Xxh3 {
    let mut hasher = Xxh3::new();
    hasher.update(&[domain]);
    put(&mut hasher, tenant.as_str().as_bytes());
    hasher
}

fn put(hasher: &mut Xxh3, part: &[u8]) {
    hasher.update(&(part.len() as u64).to_le_bytes());
    hasher.update(part);
}

/// A span. Its document's id does not hold the trace id, which an erasure has to remove.
pub(super) fn span_hash(tenant: &TenantId, trace_id: TraceId, key: SpanKey) -> u128 {
    let mut hasher = hasher(1, tenant);
    hasher.update(trace_id.as_bytes());
    hasher.update(key.span_id.as_bytes());
    hasher.update(&[key.kind]);
    hasher.update(&key.content.to_le_bytes());
    hasher.digest128()
}

/// A trace, where its id must not stand.
pub(super) fn trace_hash(tenant: &TenantId, trace_id: TraceId) -> u128 {
    let mut hasher = hasher(2, tenant);
    hasher.update(trace_id.as_bytes());
    hasher.digest128()
}

/// An entry of the catalogue.
pub(super) fn entry_hash(
    tenant: &TenantId,
    service: &str,
    operation: &str,
    kind: SpanKind,
    bucket: u64,
) -> u128 {
    let mut hasher = hasher(3, tenant);
    put(&mut hasher, service.as_bytes());
    put(&mut hasher, operation.as_bytes());
    hasher.update(&[kind as u8]);
    hasher.update(&bucket.to_le_bytes());
    hasher.digest128()
}

/// A hash as a document's id: 22 characters, which the engine packs into 16 bytes.
pub(super) fn document_id(hash: u128) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    // 128 bits are 21 digits of six bits and one of two.
    let digit = |place: u32| {
        let six = if place < 21 { hash >> (122 - 6 * place) } else { hash << 4 };
        let at = usize::try_from(six & 63).unwrap_or(0);
        DIGITS.get(at).map_or('A', |digit| char::from(*digit))
    };
    (0..22).map(digit).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use trace_model::SpanId;

    #[test]
    fn ids_are_fixed_and_differ_by_every_part() {
        let tenant = TenantId::default();
        let trace_id = TraceId::from_bytes([1; 16]).unwrap();
        let key = SpanKey { span_id: SpanId::from_bytes([2; 8]).unwrap(), kind: 3, content: 4 };
        let span = document_id(span_hash(&tenant, trace_id, key));
        assert_eq!(span, document_id(span_hash(&tenant, trace_id, key)));
        let other = TenantId::new("other").unwrap();
        let entry = |service: &str, operation: &str, bucket| {
            document_id(entry_hash(&tenant, service, operation, SpanKind::Server, bucket))
        };
        let ids = [
            span,
            document_id(span_hash(&other, trace_id, key)),
            document_id(span_hash(&tenant, trace_id, SpanKey { kind: 2, ..key })),
            document_id(span_hash(&tenant, trace_id, SpanKey { content: 5, ..key })),
            document_id(trace_hash(&tenant, trace_id)),
            entry("ab", "c", 1),
            entry("a", "bc", 1),
            entry("a", "bc", 2),
        ];
        let distinct: std::collections::BTreeSet<&String> = ids.iter().collect();
        assert_eq!(distinct.len(), ids.len());
        assert!(ids.iter().all(|id| id.len() == 22));
    }

    #[test]
    fn an_id_is_the_hash_in_base_64() {
        assert_eq!(document_id(0), "A".repeat(22));
        assert_eq!(document_id(u128::MAX), format!("{}w", "_".repeat(21)));
        assert_eq!(document_id(1), format!("{}Q", "A".repeat(21)));
        assert_eq!(document_id(1 << 122), format!("B{}", "A".repeat(21)));
    }
}
