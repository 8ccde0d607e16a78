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

/// The accounts of a trace are settled after so many bytes of a writer.
const CHUNK: u64 = 1 << 20;
/// And for the first time after so many: a writer that begins anew knows nothing of the others. Those
/// of an hour of a service always, for each of its buckets: it has many writers.
const FIRST_CHUNK: u64 = 256 << 10;
/// A writer puts no more than this into a trace before it settles, but for the batch that reaches it.
const UNSEEN_BYTES_MAX: u64 = 4 << 20;
/// Of so many traces, and hours of services, a process remembers twice what it wrote to them.
const REMEMBERED: usize = 256 << 10;

/// Where this process writes what belongs to one trace, or to one hour of a service.
#[derive(Clone, Copy, Debug, Default)]
struct Fill {
    /// The shard, or the level.
    at: i32,
    /// What the own account there shows; nothing is known of it before the accounts were settled.
    own: u64,
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
    chunk: u64,
    retention: Duration,
}

impl Fills {
    fn new((bytes_max, chunk): (u64, u64), retention: Duration) -> Self {
        Self { fills: Mutex::new(Recent::new(REMEMBERED)), bytes_max, chunk, retention }
    }

    pub(super) fn of_traces(bytes_max: u64, retention: Duration) -> Self {
        Self::new((bytes_max, CHUNK), retention)
    }

    pub(super) fn of_hours(bytes_max: u64, retention: Duration) -> Self {
        Self::new((bytes_max, FIRST_CHUNK), retention)
    }

    fn fills(&self) -> MutexGuard<'_, Recent<Fill>> {
        self.fills.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Where to write.
    pub(super) fn place(&self, key: u64) -> i32 {
        self.fills().entry(key).at
    }

    /// How many bytes may be written to a trace before its accounts are settled; a batch may reach
    /// beyond. Where nothing is left [`Self::wrote`] asks for it.
    pub(super) fn room(&self, key: u64) -> u64 {
        let fill = *self.fills().entry(key);
        let most = if fill.settled.is_none() { FIRST_CHUNK } else { UNSEEN_BYTES_MAX };
        most.saturating_sub(fill.pending)
    }

    /// Notes what was written; says whether accounts are to be settled before more is.
    pub(super) fn wrote(&self, key: u64, bytes: u64, now: UnixNanos, width: u64) -> bool {
        let mut fills = self.fills();
        let fill = fills.entry(key);
        fill.pending = fill.pending.saturating_add(bytes);
        let half = u64::try_from(self.retention.as_nanos() / 2).unwrap_or(u64::MAX);
        // An announcement is written again long before it expires.
        let is_old = fill.at > 0 && fill.settled.is_some_and(|at| now.since(at) > half);
        let chunk = if fill.settled.is_none() { FIRST_CHUNK } else { self.chunk };
        fill.pending >= chunk.saturating_mul(width) || is_old
    }

    /// Whether what the own account shows is remembered, and need not be read.
    fn knows_own(&self, key: u64) -> bool {
        self.fills().entry(key).settled.is_some()
    }

    /// What the own account is to show; `own` are its accounts where they had to be read.
    fn account(&self, key: u64, (writer, own): (&[u8], &[Account])) -> Settling {
        let fill = *self.fills().entry(key);
        let shown = fill.settled.map_or_else(|| known(own, writer, fill.at), |_| fill.own);
        Settling { at: fill.at, pending: fill.pending, own: shown.saturating_add(fill.pending) }
    }

    /// Where to go on, given the accounts as they are once the own one was written, and what the own
    /// account shows there.
    fn next(
        &self,
        settling: &Settling,
        (writer, accounts): (&[u8], &[Account]),
        width: u64,
    ) -> (i32, u64) {
        let at = settling.at;
        let others = accounts.iter().filter(|(of, place, _)| *place == at && of != writer);
        let others = others.map(|(.., bytes)| *bytes).fold(0, u64::saturating_add);
        let is_full = others.saturating_add(settling.own) >= self.bytes_max.saturating_mul(width);
        let highest = accounts.iter().map(|(_, place, _)| *place).max().unwrap_or(at).max(at);
        match if highest == at && is_full { at.saturating_add(1) } else { highest } {
            next if next == at => (at, settling.own),
            next => (next, known(accounts, writer, next)),
        }
    }

    fn settled(&self, key: u64, settling: &Settling, (next, own): (i32, u64), now: UnixNanos) {
        let mut fills = self.fills();
        let fill = fills.entry(key);
        fill.pending = fill.pending.saturating_sub(settling.pending);
        fill.settled = Some(now);
        // Another call of this process may have settled meanwhile.
        fill.own = if next > fill.at { own } else { fill.own.max(own) };
        fill.at = fill.at.max(next);
    }
}

/// What is being settled: where, what no account has shown yet, and what the own one is to show.
struct Settling {
    at: i32,
    pending: u64,
    own: u64,
}

/// What an account shows; nothing where there is none.
fn known(accounts: &[Account], writer: &[u8], place: i32) -> u64 {
    let own = accounts.iter().find(|(of, at, _)| of == writer && *at == place);
    own.map_or(0, |(.., bytes)| *bytes)
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

/// A trace.
type TraceKey<'a> = (&'a TenantId, TraceId);

async fn trace_accounts(
    engine: &Engine,
    (tenant, trace_id): TraceKey<'_>,
) -> Result<Vec<Account>, StoreError> {
    let mut accounts: Vec<Account> = Vec::new();
    let see = |(writer, shard, bytes): (Vec<u8>, i64, Option<i64>)| {
        let shard = i32::try_from(shard).unwrap_or(0);
        accounts.push((writer, shard, unsigned(bytes.unwrap_or(0))));
    };
    let values = (tenant.as_str(), trace_id.as_bytes().as_slice());
    engine.each(&engine.statements.read_accounts, values, see).await?;
    Ok(accounts)
}

async fn write_trace_account(
    engine: &Engine,
    (tenant, trace_id): TraceKey<'_>,
    (shard, bytes): (i32, u64),
    (retention, now): (Duration, UnixNanos),
) -> Result<(), StoreError> {
    // Twice the retention: longer than anything that is written to the shard until the account is
    // written again.
    let ttl = retention_seconds(retention.saturating_mul(2).saturating_add(DAY));
    let row = SpanRow {
        bytes: MaybeUnset::Set(bigint(bytes)),
        span_id: &engine.writer,
        ..SpanRow::bare(
            (tenant.as_str(), trace_id.as_bytes(), 0),
            (PART_ACCOUNT, i64::from(shard)),
            (ttl, bigint(now.micros())),
        )
    };
    let batch = RowBatch { bytes: 40, rows: vec![row] };
    engine.write(&engine.statements.write_span, &batch).await
}

const DAY: Duration = Duration::from_secs(24 * 3_600);

/// Settles the accounts of a trace: shows the own, then looks at all and announces the next shard
/// where this one is full. In this order: of writers that settle at the same time the one that looks
/// last sees all of them.
pub(super) async fn settle_trace(
    engine: &Engine,
    fills: &Fills,
    key: u64,
    of: TraceKey<'_>,
) -> Result<(), StoreError> {
    let now = engine.clock.now();
    let writer = engine.writer.as_slice();
    let is_known = fills.knows_own(key);
    let own = if is_known { Vec::new() } else { trace_accounts(engine, of).await? };
    let settling = fills.account(key, (writer, &own));
    let lifetime = (fills.retention, now);
    write_trace_account(engine, of, (settling.at, settling.own), lifetime).await?;
    let accounts = trace_accounts(engine, of).await?;
    let next = fills.next(&settling, (writer, &accounts), 1);
    if next.0 != settling.at {
        engine.metrics.overflows.inc();
        write_trace_account(engine, of, next, lifetime).await?;
    }
    fills.settled(key, &settling, next, now);
    Ok(())
}

/// An hour of a service.
type HourKey<'a> = (&'a TenantId, &'a str, i32);

async fn hour_accounts(
    engine: &Engine,
    (tenant, service, hour): HourKey<'_>,
) -> Result<Vec<Account>, StoreError> {
    let mut accounts: Vec<Account> = Vec::new();
    let see = |(level, writer, bytes): (i8, Vec<u8>, Option<i64>)| {
        accounts.push((writer, i32::from(level), unsigned(bytes.unwrap_or(0))));
    };
    let values = (tenant.as_str(), service, hour);
    engine.each(&engine.statements.read_fill, values, see).await?;
    Ok(accounts)
}

async fn write_hour_account(
    engine: &Engine,
    (tenant, service, hour): HourKey<'_>,
    (level, bytes): (i32, u64),
) -> Result<(), StoreError> {
    let level = i8::try_from(level).unwrap_or(i8::MAX);
    let row = (bigint(bytes), tenant.as_str(), service, hour, level, engine.writer.as_slice());
    let batch = RowBatch { bytes: 40, rows: vec![row] };
    engine.write(&engine.statements.write_fill, &batch).await
}

/// Settles the accounts of an hour of a service, as those of a trace: opens the next level where this
/// one is full.
pub(super) async fn settle_hour(
    engine: &Engine,
    fills: &Fills,
    key: u64,
    of: HourKey<'_>,
) -> Result<(), StoreError> {
    let now = engine.clock.now();
    let writer = engine.writer.as_slice();
    let is_known = fills.knows_own(key);
    let own = if is_known { Vec::new() } else { hour_accounts(engine, of).await? };
    let settling = fills.account(key, (writer, &own));
    write_hour_account(engine, of, (settling.at, settling.own)).await?;
    let accounts = hour_accounts(engine, of).await?;
    let width = 1_u64 << settling.at.clamp(0, i32::from(LEVEL_MAX));
    let mut next = fills.next(&settling, (writer, &accounts), width);
    if next.0 > i32::from(LEVEL_MAX) {
        next = (settling.at, settling.own);
    }
    if next.0 != settling.at {
        engine.metrics.overflows.inc();
        write_hour_account(engine, of, next).await?;
    }
    fills.settled(key, &settling, next, now);
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;
    use crate::cassandra::batches::BATCH_BYTES_MAX;
    use crate::cassandra::config::CassandraConfig;

    const NOW: UnixNanos = UnixNanos(1_790_000_400_000_000_000);
    const MIB: u64 = 1 << 20;
    /// What no partition is to have more of.
    const PARTITION_BYTES_MAX: u64 = 100_000_000;
    /// So many writers of one trace at once are promised to stay below it.
    const WRITERS: usize = 16;
    const BATCH: u64 = BATCH_BYTES_MAX as u64;
    /// What a run puts into an hour of the index at most, where all of its spans are one service's and
    /// as small, and their traces as short, as they can be.
    const OF_HOUR_MAX: u64 = 9 * MIB / 2;

    #[derive(Clone, Copy, PartialEq)]
    enum Kind {
        Trace,
        Hour,
    }

    impl Kind {
        fn fills(self) -> Fills {
            let config = CassandraConfig::at(["db"], "spans", "dc1");
            let (bytes_max, retention) =
                (config.partition_bytes_max, Duration::from_secs(1_000_000));
            match self {
                Self::Trace => Fills::of_traces(bytes_max, retention),
                Self::Hour => Fills::of_hours(bytes_max, retention),
            }
        }

        /// How many partitions a place has.
        fn width(self, place: i32) -> u64 {
            if self == Self::Hour { 1 << place.min(i32::from(LEVEL_MAX)) } else { 1 }
        }
    }

    /// What a writer does next. Between two steps of it others may do anything.
    enum Step {
        Write,
        Show,
        Look(Settling),
        Announce(Settling, (i32, u64)),
    }

    struct Writer {
        name: Vec<u8>,
        fills: Fills,
        step: Step,
    }

    /// Writers of one trace, or hour of a service, that know nothing of one another but the accounts.
    struct Writers {
        kind: Kind,
        writers: Vec<Writer>,
        accounts: Vec<Account>,
        /// Bytes by place.
        places: BTreeMap<i32, u64>,
        begun: u64,
    }

    impl Writers {
        fn new(kind: Kind, count: usize) -> Self {
            let mut all = Self {
                kind,
                writers: Vec::new(),
                accounts: Vec::new(),
                places: BTreeMap::new(),
                begun: 0,
            };
            all.writers = (0..count).map(|_| all.begin()).collect();
            all
        }

        fn begin(&mut self) -> Writer {
            self.begun += 1;
            let name = self.begun.to_be_bytes().to_vec();
            Writer { name, fills: self.kind.fills(), step: Step::Write }
        }

        /// A writer ends where it stands, and another begins that knows nothing.
        fn end(&mut self, at: usize) {
            self.writers[at] = self.begin();
        }

        /// The accounts as the engine keeps them.
        fn put(accounts: &mut Vec<Account>, name: &[u8], (place, bytes): (i32, u64)) {
            accounts.retain(|(of, at, _)| of != name || *at != place);
            accounts.push((name.to_vec(), place, bytes));
        }

        /// One step of a writer; what it writes is as much of `bytes` as it may.
        fn step(&mut self, at: usize, bytes: u64) {
            let Self { kind, writers, accounts, places, .. } = self;
            let Writer { name, fills, step } = &mut writers[at];
            *step = match std::mem::replace(step, Step::Write) {
                Step::Write => {
                    let most = match (*kind, fills.room(1)) {
                        (Kind::Trace, 0) => 0,
                        (Kind::Trace, room) => room + BATCH,
                        (Kind::Hour, _) => OF_HOUR_MAX,
                    };
                    let (place, bytes) = (fills.place(1), bytes.min(most));
                    *places.entry(place).or_default() += bytes;
                    let is_due = fills.wrote(1, bytes, NOW, kind.width(place));
                    if is_due { Step::Show } else { Step::Write }
                }
                Step::Show => {
                    let own = if fills.knows_own(1) { Vec::new() } else { accounts.clone() };
                    let settling = fills.account(1, (name, &own));
                    Self::put(accounts, name, (settling.at, settling.own));
                    Step::Look(settling)
                }
                Step::Look(settling) => {
                    let width = kind.width(settling.at);
                    let next = fills.next(&settling, (name, accounts), width);
                    Step::Announce(settling, next)
                }
                Step::Announce(settling, next) => {
                    Self::put(accounts, name, next);
                    fills.settled(1, &settling, next, NOW);
                    Step::Write
                }
            };
        }

        /// All write, all look, and so on; in turns they write so many bytes each.
        fn in_step(&mut self, bytes: [u64; 2]) {
            for round in 0..600 {
                let bytes = bytes[round / 4 % 2];
                (0..self.writers.len()).for_each(|at| self.step(at, bytes));
            }
        }

        fn most(&self) -> u64 {
            let of_place = |(place, bytes): (&i32, &u64)| bytes / self.kind.width(*place);
            self.places.iter().map(of_place).max().unwrap_or(0)
        }
    }

    proptest! {
        #[test]
        fn no_shard_reaches_100_mb_in_whatever_order_sixteen_writers_write_and_look(
            steps in vec((0..WRITERS, 0_u64..5 * MIB), 1..3_000)
        ) {
            let mut writers = Writers::new(Kind::Trace, WRITERS);
            for (at, bytes) in steps {
                writers.step(at, bytes);
            }
            prop_assert!(writers.most() < PARTITION_BYTES_MAX, "{:?}", writers.places);
        }

        #[test]
        fn a_writer_that_begins_anew_adds_what_no_account_shows_and_no_more(
            steps in vec((0_usize..4, 0_u64..5 * MIB, 0_u8..100), 1..3_000)
        ) {
            let mut writers = Writers::new(Kind::Trace, 4);
            for (at, bytes, fate) in steps {
                if fate == 0 {
                    writers.end(at);
                }
                writers.step(at, bytes);
            }
            let unseen = writers.begun * (UNSEEN_BYTES_MAX + BATCH);
            prop_assert!(writers.most() <= 24 * MIB + unseen, "{:?}", writers.places);
        }
    }

    #[test]
    fn writers_that_all_write_and_all_look_at_the_same_time_stay_below_100_mb() {
        // Each time as much as they may; and first just too little for the next shard.
        for (first, most) in [(u64::MAX, 65 * MIB), (1_500_000, 87 * MIB)] {
            let mut writers = Writers::new(Kind::Trace, WRITERS);
            writers.in_step([first, u64::MAX]);
            assert!(writers.most() < PARTITION_BYTES_MAX, "{:?}", writers.places);
            assert!(writers.most() >= most && writers.places.len() > 10, "{:?}", writers.places);
        }
    }

    #[test]
    fn no_bucket_of_an_hour_reaches_100_mb_however_many_bytes_its_writers_write_at_once() {
        // A run that has nothing else; and what is usual, of very many.
        for (count, bytes) in [(15, OF_HOUR_MAX), (120, 300 << 10)] {
            for first in [bytes, 24 * MIB / count as u64 - 1] {
                let mut writers = Writers::new(Kind::Hour, count);
                writers.in_step([first.min(bytes), bytes]);
                assert!(writers.most() < PARTITION_BYTES_MAX, "{count}: {:?}", writers.places);
                assert!(writers.places.len() > 3, "{count}: {:?}", writers.places);
            }
        }
    }

    #[test]
    fn a_writer_alone_fills_each_shard_up_to_its_bound() {
        let mut writers = Writers::new(Kind::Trace, 1);
        (0..4_000).for_each(|_| writers.step(0, 300_000));
        writers.places.pop_last();
        assert!(writers.places.len() > 5);
        assert!(writers.places.values().all(|bytes| (24 * MIB..29 * MIB).contains(bytes)));
    }

    #[test]
    fn an_overflow_place_is_announced_again_before_its_announcement_expires() {
        let fills = Fills::of_traces(MIB, Duration::from_secs(100));
        let settling = Settling { at: 0, pending: 0, own: 0 };
        fills.settled(1, &settling, (1, 0), NOW);
        assert!(!fills.wrote(1, 10, NOW.plus(49_000_000_000), 1));
        assert!(fills.wrote(1, 10, NOW.plus(51_000_000_000), 1));
        assert!(!fills.wrote(2, 10, NOW.plus(51_000_000_000), 1));
    }
}
