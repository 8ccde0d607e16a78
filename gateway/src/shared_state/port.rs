//! The ports of the shared state, and their words.

use std::fmt;
use std::net::IpAddr;
use std::sync::{Arc, Weak};
use std::time::Duration;

use async_trait::async_trait;
use trace_model::TenantId;

use super::value::CachedValue;

/// Longest time from a read that found nothing to the fill that it led to. What takes longer is not
/// stored, so that an eviction need not be remembered for ever.
pub const FILL_TIME_MAX: Duration = Duration::from_secs(60);

/// Version of the keys' and the values' meaning: a gateway of another one sees none of these.
const KEY_VERSION: &str = "v1";
/// Longest key, in bytes. Names in it come from senders.
const KEY_BYTES_MAX: usize = 1 << 10;

/// The shared state cannot be reached, or refuses. Whoever asks goes on without it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the shared state is away")]
pub struct Away;

impl Away {
    /// Whether the same call may succeed later: it may, when the state is back.
    #[must_use]
    pub const fn is_retryable(&self) -> bool {
        true
    }
}

/// What a value is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum CacheKind {
    /// The list of services.
    Services,
    /// The operations of a service.
    Operations,
}

impl CacheKind {
    /// Its part of a key.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Services => "services",
            Self::Operations => "operations",
        }
    }
}

/// The name of a value: version, tenant, kind, and the rest of the question with the view of whoever
/// asks it. Two different questions never have one key.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct CacheKey(Arc<str>);

impl CacheKey {
    /// A key; `None` where it would be longer than 1 KiB: then nothing is cached.
    #[must_use]
    pub fn new(tenant: &TenantId, kind: CacheKind, parts: &[&str]) -> Option<Self> {
        use fmt::Write as _;
        let mut text = format!("{KEY_VERSION}:{}:{}", tenant.as_str(), kind.word());
        for part in parts {
            // The length in front keeps `a:b` and `a`, `b` apart.
            write!(text, ":{}:{part}", part.len()).ok()?;
        }
        (text.len() <= KEY_BYTES_MAX).then(|| Self(text.into()))
    }

    /// The key as an adapter writes it.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// A key as an adapter has read it back.
    #[cfg(feature = "redis")]
    pub(super) fn of_adapter(text: &str) -> Self {
        Self(text.into())
    }
}

impl fmt::Debug for CacheKey {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, formatter)
    }
}

/// A value that is held.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Held {
    /// The value.
    pub value: CachedValue,
    /// How long it may still be served.
    pub fresh_for: Duration,
}

/// What a read found.
#[derive(Clone, Debug)]
pub enum Reading {
    /// A value.
    Held(Held),
    /// None; the ticket is for storing one.
    Absent(FillTicket),
    /// It cannot be known, and nothing can be stored.
    Away,
}

/// The right to fill what was read as absent, unless it is evicted meanwhile.
#[derive(Clone, Debug)]
pub struct FillTicket {
    /// What was read.
    pub(super) key: CacheKey,
    /// The eviction that was the last one when it was read.
    pub(super) seen: Vec<u8>,
    /// The connection that read it: evictions are not known beyond its end.
    pub(super) era: u64,
    /// When it was read, on the adapter's monotonic clock.
    pub(super) begun: Duration,
}

impl FillTicket {
    /// What may be filled.
    #[must_use]
    pub const fn key(&self) -> &CacheKey {
        &self.key
    }
}

/// What became of a fill.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FillOutcome {
    /// It is stored.
    Stored,
    /// It was evicted since it was read, or took too long: what was computed may be out of date.
    Discarded,
    /// The shared state is away; nothing is stored.
    Away,
}

/// Told what changed in a cache through anyone.
pub trait Watcher: Send + Sync + fmt::Debug {
    /// The key was filled, evicted or dropped.
    fn changed(&self, key: &CacheKey);

    /// From here on changes may be missed, or were: every key may have changed.
    fn lost(&self);
}

/// Values kept between questions.
///
/// *Ownership*: any number of gateways share one; a value belongs to its key, and a key to a tenant.
/// *Not found*: [`Reading::Absent`] says that there is none, [`Reading::Away`] that nobody knows; a
/// value may go at any time before its end. One that is held is whole: it can be unpacked.
/// *Ordering*: a value computed from what was before an eviction is never served after it: a fill
/// whose ticket is older than the last eviction of its key is discarded.
/// *Durability*: none.
/// *Errors*: none but in [`Cache::evict`], since whoever evicts must know whether it was done.
#[async_trait]
pub trait Cache: Send + Sync + fmt::Debug {
    /// What is held.
    async fn read(&self, key: &CacheKey) -> Reading;

    /// Stores a value for `keep_for`; whatever is there is replaced.
    async fn fill(&self, ticket: FillTicket, value: CachedValue, keep_for: Duration)
    -> FillOutcome;

    /// Removes a value, and voids every ticket that was given out before.
    ///
    /// # Errors
    /// When it is not known to be done: it must be repeated.
    async fn evict(&self, key: &CacheKey) -> Result<(), Away>;

    /// Tells the watcher of every change after a read of the key through this adapter, from anyone.
    fn watch(&self, watcher: Weak<dyn Watcher>);
}

/// Who has a bucket.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum BucketKey {
    /// An address, before anybody is identified.
    Address(IpAddr),
}

impl fmt::Display for BucketKey {
    /// As an adapter writes it.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(address) => write!(formatter, "{KEY_VERSION}:address:{address}"),
        }
    }
}

/// How fast a bucket fills, and how much it holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quota {
    per_second: u32,
    burst: u32,
}

impl Quota {
    /// Tokens a second, and tokens at once after a quiet time; each at least 1.
    #[must_use]
    pub const fn new(per_second: u32, burst: u32) -> Self {
        Self { per_second: at_least_one(per_second), burst: at_least_one(burst) }
    }

    /// Tokens a second.
    #[must_use]
    pub const fn per_second(self) -> u32 {
        self.per_second
    }

    /// Tokens at once.
    #[must_use]
    pub const fn burst(self) -> u32 {
        self.burst
    }

    /// One of `parts` equal shares, of at least one token.
    #[must_use]
    pub const fn share(self, parts: u32) -> Self {
        let parts = at_least_one(parts);
        Self::new(self.per_second / parts, self.burst / parts)
    }
}

const fn at_least_one(number: u32) -> u32 {
    if number == 0 { 1 } else { number }
}

/// Tokens taken out of a bucket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Grant {
    /// How many; 0 where the bucket is empty.
    pub tokens: u32,
    /// Where none was given: until there is one.
    pub wait: Duration,
}

/// Token buckets that all gateways of a region share.
///
/// *Ordering*: takes are one after the other; over any time *t* no more than `burst + per_second · t`
/// tokens of a bucket are given out, to all takers together, while the counters are kept.
/// *Not found*: a bucket that nobody has taken from lately is full.
/// *Durability*: none; counters that are lost begin full.
#[async_trait]
pub trait Counters: Send + Sync + fmt::Debug {
    /// Takes up to `wanted` tokens, as many as there are.
    ///
    /// # Errors
    /// When the counters are away: the caller must then limit by itself.
    async fn take(&self, key: &BucketKey, quota: Quota, wanted: u32) -> Result<Grant, Away>;
}
