//! What the gateways of a region share: values kept between questions, and the counters of limits.
//!
//! Two ports with one conformance suite each: [`Cache`] (adapters [`MemoryCache`] and `RedisCache`,
//! and [`MokaCache`] in front of either; [`Values`] is how they are asked) and [`Counters`] (adapters [`MemoryCounters`] and
//! `RedisCounters`). Nothing here is needed for a right answer: whatever is shared may be away at
//! any moment, and then an answer is only slower. **Never** may an adapter serve what it was told is
//! out of date, or a limit open because its counters are away.

mod address_limit;
mod flights;
mod gcra;
mod memory;
mod moka;
mod port;
#[cfg(feature = "redis")]
pub mod redis;
mod value;
mod values;

use std::sync::Arc;

pub use self::moka::MokaCache;
pub(crate) use address_limit::AddressLimit;
pub use flights::{Flights, Turn};
pub use memory::{MemoryCache, MemoryCounters};
pub use port::{
    Away, BucketKey, Cache, CacheKey, CacheKind, Counters, FILL_TIME_MAX, FillOutcome, FillTicket,
    Grant, Held, Quota, Reading, Watcher,
};
pub use value::{CachedValue, RAW_BYTES_MAX, STORED_BYTES_MAX, UnfitValue};
pub use values::{Computed, Values};

pub use crate::metrics::SharedStateMetrics;

/// What a gateway is given to share with others. Nothing of it need be there.
#[derive(Clone, Debug, Default)]
pub struct SharedState {
    /// Counters of limits, for all gateways of the region.
    pub counters: Option<Arc<dyn Counters>>,
    /// Gateways among which limits are divided while the counters are away; at least 1.
    pub gateways: u32,
    /// What is counted.
    pub metrics: SharedStateMetrics,
}
