//! The port [`Counters`] in Redis: one key a bucket, gone when the bucket is full.

use std::sync::Arc;
use std::time::Duration;

use ::redis::Script;
use async_trait::async_trait;

use super::super::port::{Away, BucketKey, Counters, Grant, Quota};
use super::link::Link;

/// A bucket by the same arithmetic as the one in memory, on the clock of Redis, in microseconds from
/// a recent date, so that a double keeps parts of them. What a clock set back would owe is at most a
/// whole bucket. Gives tokens, or how long to wait.
const TAKE: &str = "
local time = redis.call('TIME')
local now = (time[1] - 1700000000) * 1000000 + time[2]
local interval = 1000000 / tonumber(ARGV[1])
local room = interval * tonumber(ARGV[2])
local full_at = tonumber(redis.call('GET', KEYS[1]) or '0')
local owed = math.min(math.max(full_at - now, 0), room)
local tokens = math.min(math.floor((room - owed) / interval), tonumber(ARGV[3]))
if tokens < 1 then return {0, math.ceil(owed + interval - room)} end
owed = owed + tokens * interval
redis.call('SET', KEYS[1], string.format('%.3f', now + owed), 'PX', math.ceil(owed / 1000) + 1)
return {tokens, 0}
";

/// Token buckets in Redis.
#[derive(Debug)]
pub struct RedisCounters {
    link: Arc<Link>,
    take: Script,
}

impl RedisCounters {
    pub(super) fn new(link: Arc<Link>) -> Self {
        Self { link, take: Script::new(TAKE) }
    }
}

#[async_trait]
impl Counters for RedisCounters {
    async fn take(&self, key: &BucketKey, quota: Quota, wanted: u32) -> Result<Grant, Away> {
        let name = format!("{}:limit:{key}", self.link.config.prefix);
        let mut taking = self.take.key(name);
        taking.arg(quota.per_second()).arg(quota.burst()).arg(wanted);
        let taken = self
            .link
            .call(async |mut connection| taking.invoke_async::<(u32, u64)>(&mut connection).await);
        let ((tokens, wait_micros), _) = taken.await?;
        // A bucket that has nothing must not say that it has something now.
        let wait = if tokens == 0 { wait_micros.max(1) } else { 0 };
        Ok(Grant { tokens, wait: Duration::from_micros(wait) })
    }
}
