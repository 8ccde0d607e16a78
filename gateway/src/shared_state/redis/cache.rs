//! The port [`Cache`] in Redis.
//!
//! A value lies under `PREFIX:cache:{KEY}:v`, the last eviction of it under `PREFIX:cache:{KEY}:g` as
//! long as a fill may be under way. A read takes both, tracked; a fill writes only if the eviction is
//! still the one that was read. The braces keep the two in one slot of a cluster.

use std::sync::{Arc, Weak};
use std::time::Duration;

use ::redis::{RedisError, Script, pipe};
use async_trait::async_trait;
use trace_model::Clock;

use super::super::port::{
    Away, Cache, CacheKey, FILL_TIME_MAX, FillOutcome, FillTicket, Held, Reading, Watcher,
};
use super::super::value::CachedValue;
use super::link::Link;
use crate::metrics::{CachePlace, FillFate, ReadFate, StateFault};

/// Stores the value unless the key was evicted since it was read.
const FILL: &str = "
local seen = redis.call('GET', KEYS[2]) or ''
if seen ~= ARGV[1] then return 0 end
redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[3])
return 1
";
/// Removes the value, and leaves the eviction's own number.
const EVICT: &str = "
redis.call('UNLINK', KEYS[1])
redis.call('SET', KEYS[2], ARGV[1], 'PX', ARGV[2])
return 1
";
/// An eviction is remembered for longer than any fill may take.
const EVICTION_KEPT: Duration = FILL_TIME_MAX.saturating_mul(2);

/// Values in Redis.
#[derive(Debug)]
pub struct RedisCache {
    link: Arc<Link>,
    clock: Arc<dyn Clock>,
    fill: Script,
    evict: Script,
}

/// Value, eviction, and what is left of the value's time in milliseconds.
type Found = ((Option<Vec<u8>>, Option<Vec<u8>>), i64);

impl RedisCache {
    pub(super) fn new(link: Arc<Link>, clock: Arc<dyn Clock>) -> Self {
        Self { link, clock, fill: Script::new(FILL), evict: Script::new(EVICT) }
    }

    fn names(&self, key: &CacheKey) -> [String; 2] {
        let (prefix, key) = (&self.link.config.prefix, key.as_str());
        ["v", "g"].map(|end| format!("{prefix}:cache:{{{key}}}:{end}"))
    }

    /// What was found as a value with its time; none where it is over or is no value of ours.
    fn held(&self, stored: Option<Vec<u8>>, left_millis: i64) -> Option<Held> {
        let stored = stored?;
        let left = u64::try_from(left_millis).ok().filter(|left| *left > 0)?;
        // All of it is looked at here: what is damaged is absent, and will be replaced.
        let value = CachedValue::from_stored(stored);
        match value.and_then(|value| value.unpack().map(|_| value)) {
            Ok(value) => Some(Held { value, fresh_for: Duration::from_millis(left) }),
            Err(_) => {
                self.link.metrics.count_fault(StateFault::Damaged);
                None
            }
        }
    }
}

/// The key that a name in Redis belongs to.
pub(super) fn key_of(prefix: &str, name: &[u8]) -> Option<CacheKey> {
    let name = std::str::from_utf8(name).ok()?;
    let rest = name.strip_prefix(prefix)?.strip_prefix(":cache:{")?;
    let key = rest.strip_suffix("}:v").or_else(|| rest.strip_suffix("}:g"))?;
    Some(CacheKey::of_adapter(key))
}

#[async_trait]
impl Cache for RedisCache {
    async fn read(&self, key: &CacheKey) -> Reading {
        let begun = self.clock.monotonic();
        let [value, eviction] = self.names(key);
        // The first makes the second tracked, and fails where tracking is not on: an untracked read
        // is not possible.
        let mut reading = pipe();
        reading.cmd("CLIENT").arg("CACHING").arg("YES").ignore();
        reading.cmd("MGET").arg(&value).arg(&eviction).cmd("PTTL").arg(&value);
        let read = self.link.call(async |mut connection| -> Result<Found, RedisError> {
            reading.query_async(&mut connection).await
        });
        let metrics = &self.link.metrics;
        let Ok((((stored, seen), left_millis), era)) = read.await else {
            metrics.count_read(CachePlace::Shared, ReadFate::Away);
            return Reading::Away;
        };
        if let Some(held) = self.held(stored, left_millis) {
            metrics.count_read(CachePlace::Shared, ReadFate::Hit);
            return Reading::Held(held);
        }
        metrics.count_read(CachePlace::Shared, ReadFate::Miss);
        let (key, seen) = (key.clone(), seen.unwrap_or_default());
        Reading::Absent(FillTicket { key, seen, era, begun })
    }

    async fn fill(
        &self,
        ticket: FillTicket,
        value: CachedValue,
        keep_for: Duration,
    ) -> FillOutcome {
        let metrics = &self.link.metrics;
        let is_late = self.clock.monotonic().saturating_sub(ticket.begun) > FILL_TIME_MAX;
        // A Redis that was started anew has forgotten evictions: a ticket is of one connection.
        if is_late || self.link.era().is_some_and(|era| era != ticket.era) {
            metrics.count_fill(CachePlace::Shared, FillFate::Discarded);
            return FillOutcome::Discarded;
        }
        let names = self.names(ticket.key());
        let mut filling = self.fill.prepare_invoke();
        filling.key(&names[..]).arg(&ticket.seen[..]).arg(value.as_stored());
        filling.arg(millis(keep_for));
        let filled = self.link.call_on(ticket.era, async |mut connection| {
            filling.invoke_async::<u8>(&mut connection).await
        });
        let (fate, outcome) = match filled.await {
            Ok((1, _)) => (FillFate::Stored, FillOutcome::Stored),
            Ok(_) => (FillFate::Discarded, FillOutcome::Discarded),
            Err(Away) => (FillFate::Away, FillOutcome::Away),
        };
        metrics.count_fill(CachePlace::Shared, fate);
        outcome
    }

    async fn evict(&self, key: &CacheKey) -> Result<(), Away> {
        let names = self.names(key);
        let mut number = [0; 16];
        getrandom::fill(&mut number).map_err(|_| Away)?;
        let mut evicting = self.evict.prepare_invoke();
        evicting.key(&names[..]).arg(&number[..]).arg(millis(EVICTION_KEPT));
        let evicted = self
            .link
            .call(async |mut connection| evicting.invoke_async::<u8>(&mut connection).await);
        evicted.await.map(|_| ())
    }

    fn watch(&self, watcher: Weak<dyn Watcher>) {
        self.link.watch(watcher);
    }
}

/// Whole milliseconds, at least one.
fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX).clamp(1, i64::MAX.unsigned_abs())
}

#[cfg(test)]
mod tests {
    use trace_model::TenantId;

    use super::super::super::port::CacheKind;
    use super::*;

    #[test]
    fn a_name_in_redis_leads_back_to_its_key_and_to_no_other() {
        let hostile = ["}:v", "{", "a:b", "\r\nFLUSHALL\r\n", "\0", "ü"];
        for part in hostile {
            let key = CacheKey::new(&TenantId::default(), CacheKind::Operations, &[part]).unwrap();
            for end in ["v", "g"] {
                let name = format!("p:cache:{{{}}}:{end}", key.as_str());
                assert_eq!(key_of("p", name.as_bytes()), Some(key.clone()), "{part:?}");
                assert_eq!(key_of("q", name.as_bytes()), None);
            }
        }
        assert_eq!(key_of("p", b"p:limit:v1:address:1.2.3.4"), None);
        assert_eq!(key_of("p", b"p:cache:{\xff}:v"), None);
    }

    #[test]
    fn two_questions_never_have_one_key() {
        let key = |tenant: &str, parts: &[&str]| {
            CacheKey::new(&TenantId::new(tenant).unwrap(), CacheKind::Operations, parts)
        };
        let questions: [(&str, &[&str]); 6] = [
            ("t", &["a", "b"]),
            ("t", &["a:1:b"]),
            ("t", &["ab"]),
            ("t", &["a", "", "b"]),
            ("u", &["a", "b"]),
            ("t", &[]),
        ];
        let keys: std::collections::BTreeSet<_> =
            questions.iter().map(|(tenant, parts)| key(tenant, parts).unwrap()).collect();
        assert_eq!(keys.len(), questions.len());
        assert!(key("t", &[&"x".repeat(2_000)]).is_none());
    }
}
