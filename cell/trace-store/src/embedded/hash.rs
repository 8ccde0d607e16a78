//! The hashes that filters are keyed by. They are part of the file format: never changed, only
//! superseded together with the format's version.

use trace_model::TraceId;
use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

/// Seed of the hash of an attribute's key.
const KEY_SEED: u64 = 0x6661_7273_7061_6e01;
/// Stands for a value in the entry that says only that the key is present.
const PRESENT: u64 = 0x7072_6573_656e_7421;

/// Hash of a tenant: the seed of its traces' hashes.
pub(crate) fn tenant_seed(tenant: &str) -> u64 {
    xxh3_64(tenant.as_bytes())
}

/// Hash of (tenant, trace).
pub(crate) fn trace_hash(tenant_seed: u64, trace_id: TraceId) -> u64 {
    xxh3_64_with_seed(trace_id.as_bytes(), tenant_seed)
}

/// Hash of an attribute's key.
pub(crate) fn key_hash(key: &[u8]) -> u64 {
    xxh3_64_with_seed(key, KEY_SEED)
}

/// Hash of a value's text form.
pub(crate) fn value_hash(text: &[u8]) -> u64 {
    xxh3_64(text)
}

/// The entry of (key, value) in a filter.
pub(crate) const fn entry_hash(key_hash: u64, value_hash: u64) -> u64 {
    // The finaliser of MurmurHash3: both halves are hashes already, this only mixes them.
    let mut mixed = key_hash.rotate_left(23) ^ value_hash.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    mixed = (mixed ^ (mixed >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
    mixed ^ (mixed >> 33)
}

/// The entry that says that a key is present with whatever value.
pub(crate) const fn presence_hash(key_hash: u64) -> u64 {
    entry_hash(key_hash, PRESENT)
}

/// Keys of the fields that are no attributes. They start with a NUL, as no sane key does; one that
/// does costs a false positive and nothing else. This one is the span's name.
pub(crate) const OPERATION_KEY: &[u8] = b"\0operation";
/// The status code.
pub(crate) const STATUS_KEY: &[u8] = b"\0status";
