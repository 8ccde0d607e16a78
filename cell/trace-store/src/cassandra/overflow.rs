//! Keeps partitions bounded: accounts of who wrote how much, shards of a trace and levels of an hour
//! of the index. Reads nothing for what is small.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use scylla::value::MaybeUnset;
use trace_model::{TenantId, TraceId, UnixNanos};
use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::batches::RowBatch;
use super::engine::Engine;
use super::places::{LEVEL_MAX, bigint, unsigned};
use super::recent::Recent;
use super::rows::{PART_ACCOUNT, SpanRow};
use super::schema::retention_seconds;
use crate::port::StoreError;

/// Accounts are settled after so many bytes of a writer in a partition.
const CHUNK: u64 = 1 << 20;
/// And for the first time after so many: a writer that begins anew knows nothing of the others.
const FIRST_CHUNK: u64 = 256 << 10;
/// Of so many traces, and hours of services, a process remembers twice what it wrote to them.
const REMEMBERED: usize = 256 << 10;

/// Where this process writes what belongs to one trace, or to one hour of a service.
#[derive(Clone, Copy, Debug, Default)]
struct Fill {
    /// The shard, or the level.
    at: i32,
    /// Bytes that no account shows yet.
    pending: u64,
    /// When the accounts were last settled.
    settled: Option<UnixNanos>,
}

/// What an account says: writer, place, bytes.
type Account = (Vec<u8>, i32, u64);

/// The fills of one kind of partition.
#[derive(Debug)]
pub(super) struct Fills {
    fills: Mutex<Recent<Fill>>,
    bytes_max: u64,
    retention: Duration,
}

impl Fills {
    pub(super) fn new(bytes_max: u64, retention: Duration) -> Self {
        Self { fills: Mutex::new(Recent::new(REMEMBERED)), bytes_max, retention }
    }

    fn fills(&self) -> MutexGuard<'_, Recent<Fill>> {
        self.fills.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Where to write.
    pub(super) fn place(&self, key: u64) -> i32 {
        self.fills().entry(key).at
    }

    /// Notes what was written; says whether accounts are to be settled before more is.
    pub(super) fn wrote(&self, key: u64, bytes: u64, now: UnixNanos, width: u64) -> bool {
        let mut fills = self.fills();
        let fill = fills.entry(key);
        fill.pending = fill.pending.saturating_add(bytes);
        let half = u64::try_from(self.retention.as_nanos() / 2).unwrap_or(u64::MAX);
        // An announcement is written again long before it expires.
        let is_old = fill.at > 0 && fill.settled.is_some_and(|at| now.since(at) > half);
        let chunk = if fill.settled.is_none() { FIRST_CHUNK } else { CHUNK };
        fill.pending >= chunk.saturating_mul(width) || is_old
    }

    /// Given what the accounts show: what the own account is to show, and where to go on.
    fn settle(&self, key: u64, writer: &[u8], accounts: &[Account], width: u64) -> Settled {
        let fill = *self.fills().entry(key);
        let of_place = || accounts.iter().filter(|(_, at, _)| *at == fill.at);
        let own = of_place().find(|(of, ..)| of == writer).map_or(0, |(_, _, bytes)| *bytes);
        let all = of_place().map(|(.., bytes)| *bytes).fold(0, u64::saturating_add);
        let highest = accounts.iter().map(|(_, at, _)| *at).max().unwrap_or(0).max(fill.at);
        let is_full = all.saturating_add(fill.pending) >= self.bytes_max.saturating_mul(width);
        let next = if highest == fill.at && is_full { fill.at.saturating_add(1) } else { highest };
        Settled { at: fill.at, pending: fill.pending, own: own.saturating_add(fill.pending), next }
    }

    fn settled(&self, key: u64, settled: &Settled, now: UnixNanos) {
        let mut fills = self.fills();
        let fill = fills.entry(key);
        fill.at = settled.next;
        fill.pending = fill.pending.saturating_sub(settled.pending);
        fill.settled = Some(now);
    }
}

struct Settled {
    at: i32,
    pending: u64,
    own: u64,
    next: i32,
}

/// The key of a trace's fill. The seed is secret: no sender can make two traces meet.
pub(super) fn trace_key(seed: u64, tenant: &TenantId, trace_id: TraceId) -> u64 {
    let seed = xxh3_64_with_seed(tenant.as_str().as_bytes(), seed);
    xxh3_64_with_seed(trace_id.as_bytes(), seed)
}

/// The key of an hour of a service.
pub(super) fn hour_key(seed: u64, tenant: &TenantId, service_key: &str, hour: i32) -> u64 {
    let seed = xxh3_64_with_seed(tenant.as_str().as_bytes(), seed);
    let seed = xxh3_64_with_seed(service_key.as_bytes(), seed);
    xxh3_64_with_seed(&hour.to_le_bytes(), seed)
}

/// Settles the accounts of a trace: announces the next shard where this one is full.
pub(super) async fn settle_trace(
    engine: &Engine,
    fills: &Fills,
    key: u64,
    (tenant, trace_id): (&TenantId, TraceId),
) -> Result<(), StoreError> {
    let now = engine.clock.now();
    let trace = trace_id.as_bytes().as_slice();
    let mut accounts: Vec<Account> = Vec::new();
    let see = |(writer, shard, bytes): (Vec<u8>, i64, Option<i64>)| {
        let shard = i32::try_from(shard).unwrap_or(0);
        accounts.push((writer, shard, unsigned(bytes.unwrap_or(0))));
    };
    let statement = &engine.statements.read_accounts;
    engine.each(statement, (tenant.as_str(), trace), see).await?;
    let settled = fills.settle(key, &engine.writer, &accounts, 1);
    // Twice the retention: longer than anything that is written to the shard until the account is
    // written again.
    let ttl = retention_seconds(fills.retention.saturating_mul(2).saturating_add(DAY));
    let row = |shard: i32, bytes: u64| SpanRow {
        bytes: MaybeUnset::Set(bigint(bytes)),
        span_id: &engine.writer,
        ..SpanRow::bare(
            (tenant.as_str(), trace, 0),
            (PART_ACCOUNT, i64::from(shard)),
            (ttl, bigint(now.micros())),
        )
    };
    let mut rows = vec![row(settled.at, settled.own)];
    if settled.next != settled.at {
        engine.metrics.overflows.inc();
        rows.push(row(settled.next, known(&accounts, &engine.writer, settled.next)));
    }
    let batch = RowBatch { bytes: rows.len() * 40, rows };
    engine.write(&engine.statements.write_span, &batch).await?;
    fills.settled(key, &settled, now);
    Ok(())
}

const DAY: Duration = Duration::from_secs(24 * 3_600);

fn known(accounts: &[Account], writer: &[u8], place: i32) -> u64 {
    let own = accounts.iter().find(|(of, at, _)| of == writer && *at == place);
    own.map_or(0, |(.., bytes)| *bytes)
}

/// Settles the accounts of an hour of a service: opens the next level where this one is full.
pub(super) async fn settle_hour(
    engine: &Engine,
    fills: &Fills,
    key: u64,
    (tenant, service, hour): (&TenantId, &str, i32),
) -> Result<(), StoreError> {
    let now = engine.clock.now();
    let mut accounts: Vec<Account> = Vec::new();
    let see = |(level, writer, bytes): (i8, Vec<u8>, Option<i64>)| {
        accounts.push((writer, i32::from(level), unsigned(bytes.unwrap_or(0))));
    };
    let statement = &engine.statements.read_fill;
    engine.each(statement, (tenant.as_str(), service, hour), see).await?;
    let width = 1_u64 << fills.place(key).clamp(0, i32::from(LEVEL_MAX));
    let mut settled = fills.settle(key, &engine.writer, &accounts, width);
    settled.next = settled.next.min(i32::from(LEVEL_MAX));
    let row = |level: i32, bytes: u64| {
        let level = i8::try_from(level).unwrap_or(i8::MAX);
        (bigint(bytes), tenant.as_str(), service, hour, level, engine.writer.as_slice())
    };
    let mut rows = vec![row(settled.at, settled.own)];
    if settled.next != settled.at {
        engine.metrics.overflows.inc();
        rows.push(row(settled.next, known(&accounts, &engine.writer, settled.next)));
    }
    let batch = RowBatch { bytes: rows.len() * 40, rows };
    engine.write(&engine.statements.write_fill, &batch).await?;
    fills.settled(key, &settled, now);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: UnixNanos = UnixNanos(1_790_000_400_000_000_000);
    const MIB: u64 = 1 << 20;

    /// Accounts as the engine keeps them.
    fn put(accounts: &mut Vec<Account>, writer: &[u8], place: i32, bytes: u64) {
        accounts.retain(|(of, at, _)| of != writer || *at != place);
        accounts.push((writer.to_vec(), place, bytes));
    }

    /// Writers that know nothing of one another but the accounts, each of which forgets everything
    /// now and then: returns the bytes of each place.
    fn fill(writers: usize, forget_every: usize, rounds: usize) -> Vec<u64> {
        let new = || Fills::new(32 * MIB, Duration::from_secs(1_000_000));
        let mut fills: Vec<Fills> = (0..writers).map(|_| new()).collect();
        let mut accounts = Vec::new();
        let mut places = vec![0_u64; 64];
        for turn in 0..rounds * writers {
            let (round, writer) = (turn / writers, turn % writers);
            let own = &mut fills[writer];
            if round % forget_every == 0 {
                *own = new();
            }
            places[usize::try_from(own.place(1)).unwrap()] += 300_000;
            if own.wrote(1, 300_000, NOW, 1) {
                let name = format!("{writer} {}", round / forget_every);
                settle(own, &mut accounts, name.as_bytes());
            }
        }
        places
    }

    fn settle(own: &Fills, accounts: &mut Vec<Account>, name: &[u8]) {
        let settled = own.settle(1, name, accounts, 1);
        put(accounts, name, settled.at, settled.own);
        if settled.next != settled.at {
            let bytes = known(accounts, name, settled.next);
            put(accounts, name, settled.next, bytes);
        }
        own.settled(1, &settled, NOW);
    }

    #[test]
    fn no_place_takes_more_than_its_bound_and_what_writers_do_not_see() {
        for (writers, forget_every) in [(1, 1_000), (1, 20), (8, 1_000), (8, 50)] {
            let places = fill(writers, forget_every, 600);
            let most = places.iter().max().unwrap() / MIB;
            assert!(most < 90, "{writers} writers, {forget_every}: {most} MiB");
            assert!(places.iter().filter(|bytes| **bytes > 0).count() > 3);
        }
    }

    #[test]
    fn an_overflow_place_is_announced_again_before_its_announcement_expires() {
        let fills = Fills::new(MIB, Duration::from_secs(100));
        let settled = Settled { at: 0, pending: 0, own: 0, next: 1 };
        fills.settled(1, &settled, NOW);
        assert!(!fills.wrote(1, 10, NOW.plus(49_000_000_000), 1));
        assert!(fills.wrote(1, 10, NOW.plus(51_000_000_000), 1));
        assert!(!fills.wrote(2, 10, NOW.plus(51_000_000_000), 1));
    }
}
