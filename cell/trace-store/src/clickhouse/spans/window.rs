//! Which traces of which requests were taken of a partition within the last minutes: what a sender repeats
//! after a lost answer is a record of its own in the log, and is written once.
//!
//! A key is noted when its rows join a run, so a record that is dropped as a repeat has its rows in the
//! same run or in one before it, which is stored before its own is begun. Time is the log's, so that a
//! replay drops what was dropped, however fast it reads.
//!
//! **Never** knows a record whose rows were given up: a window belongs to what this process takes of a
//! partition, and is dropped with it.

use proto::{BatchSource, TraceSlice};
use rustc_hash::FxHashSet;
use trace_model::UnixNanos;
use xxhash_rust::xxh3::xxh3_128_with_seed;

/// A repeat is known for so long at least, where memory reaches.
const COVERED_NANOS: u64 = 600 * 1_000_000_000;
/// Slots of all windows of a process, each of 17 bytes: about 16 MiB.
const SLOTS: usize = 1 << 20;
/// A set has twice as many slots when it is fuller than this many eighths.
const FULL_EIGHTHS: usize = 7;

/// What tells a trace of a request of a tenant from all others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct RepeatKey(u128);

/// What the keys of a batch have in common: tenant and digest, which tells the parts of a trace that
/// was cut for its size from each other.
#[derive(Clone, Copy, Debug)]
pub(super) struct RequestKey(u128);

impl RequestKey {
    pub(super) fn of(source: &BatchSource) -> Self {
        Self(xxh3_128_with_seed(source.tenant.as_str().as_bytes(), source.digest))
    }

    /// The key of a trace of the batch. A repeat that was cut otherwise, since a limit was changed
    /// meanwhile, has other numbers of spans and is none.
    pub(super) fn of_trace(self, trace: &TraceSlice) -> RepeatKey {
        let both = [self.0.to_le_bytes(), *trace.trace_id.as_bytes()];
        RepeatKey(xxh3_128_with_seed(both.as_flattened(), u64::from(trace.span_count)))
    }
}

/// Keys that one of two generations of a window may hold where so many partitions share the memory.
pub(super) fn entries_max(partitions: usize) -> usize {
    let slots = SLOTS.checked_div(partitions.saturating_mul(2)).unwrap_or(SLOTS);
    // Sets have powers of two.
    let slots = slots.checked_ilog2().map_or(0, |power| 1_usize << power);
    slots / 8 * FULL_EIGHTHS
}

/// What was taken of one partition: two generations, of which the older one goes as a whole.
#[derive(Debug, Default)]
pub(super) struct Window {
    current: FxHashSet<RepeatKey>,
    previous: FxHashSet<RepeatKey>,
    /// When the first record of the current generation was appended.
    since: UnixNanos,
}

impl Window {
    /// Notes what is about to be taken; says whether it is new.
    pub(super) fn note(
        &mut self,
        key: RepeatKey,
        append_time: UnixNanos,
        entries_max: usize,
    ) -> bool {
        if append_time.since(self.since) >= COVERED_NANOS {
            self.turn(append_time);
        }
        if self.previous.contains(&key) || self.current.contains(&key) {
            return false;
        }
        if self.current.len() >= entries_max {
            self.turn(append_time);
        }
        self.current.insert(key)
    }

    /// Makes room where more partitions share it.
    pub(super) fn fit(&mut self, entries_max: usize) {
        for generation in [&mut self.previous, &mut self.current] {
            if generation.len() > entries_max {
                *generation = FxHashSet::default();
            }
        }
    }

    fn turn(&mut self, now: UnixNanos) {
        self.previous = std::mem::take(&mut self.current);
        self.since = now;
    }
}

#[cfg(test)]
mod tests {
    use trace_model::sampling_threshold::Threshold;
    use trace_model::{Region, TenantId, TraceId};

    use super::*;

    const MINUTE: u64 = 60 * 1_000_000_000;
    const NOW: UnixNanos = UnixNanos(1_790_000_400_000_000_000);

    fn after(minutes: u64) -> UnixNanos {
        NOW.plus(minutes * MINUTE)
    }

    fn key(tenant: &str, digest: u64, trace: u8, span_count: u32) -> RepeatKey {
        let source = BatchSource {
            tenant: TenantId::new(tenant).unwrap(),
            region: Region::new("eu-west-1").unwrap(),
            collector: "c".into(),
            receive_time: NOW,
            digest,
        };
        let trace_id = TraceId::from_bytes([trace; 16]).unwrap();
        let threshold = Threshold::KEEP_ALL;
        RequestKey::of(&source).of_trace(&TraceSlice {
            trace_id,
            threshold,
            first_span: 0,
            span_count,
        })
    }

    fn number(number: usize) -> RepeatKey {
        key("default", number as u64, 1, 1)
    }

    #[test]
    fn tenants_requests_traces_and_parts_that_were_cut_otherwise_are_told_apart() {
        let mut window = Window::default();
        let mut note = |key| window.note(key, NOW, 100);
        assert!(note(key("default", 1, 1, 2)));
        assert!(!note(key("default", 1, 1, 2)));
        for other in [
            key("other", 1, 1, 2),
            key("default", 2, 1, 2),
            key("default", 1, 2, 2),
            key("default", 1, 1, 3),
        ] {
            assert!(note(other), "{other:?}");
        }
    }

    #[test]
    fn a_repeat_is_known_for_ten_minutes_of_the_log_at_least_and_for_twenty_at_most() {
        let mut window = Window::default();
        let mut note = |number_of, minute| window.note(number(number_of), after(minute), 100);
        assert!(note(1, 0) && note(2, 9));
        assert!(!note(1, 10), "a generation later");
        assert!(note(3, 10) && !note(2, 19));
        assert!(note(2, 20), "its generation has gone");
        assert!(!note(3, 20));
        assert!(note(3, 100), "after a long silence");
    }

    #[test]
    fn a_time_that_goes_backwards_forgets_nothing() {
        let mut window = Window::default();
        assert!(window.note(number(1), after(30), 100));
        assert!(window.note(number(2), after(5), 100));
        assert!(!window.note(number(1), after(0), 100) && !window.note(number(2), after(39), 100));
    }

    #[test]
    fn what_is_known_is_bounded_and_the_oldest_goes_first() {
        let mut window = Window::default();
        for place in 0..1_000 {
            assert!(window.note(number(place), NOW, 10));
            assert!(!window.note(number(place), NOW, 10));
            assert!(!window.note(number(place.saturating_sub(10)), NOW, 10), "{place}");
            assert!(window.current.len() + window.previous.len() <= 20);
        }
        assert!(window.note(number(0), NOW, 10));
    }

    #[test]
    fn all_windows_of_a_process_have_about_16_mib_however_many_there_are() {
        for partitions in [1, 2, 3, 4, 7, 64, 100, 4_096] {
            let entries_max = entries_max(partitions);
            let mut window = Window::default();
            for place in 0..=entries_max {
                window.note(number(place), NOW, entries_max);
            }
            let slots = |set: &FxHashSet<RepeatKey>| (set.capacity() * 8).div_ceil(FULL_EIGHTHS);
            let bytes = (2 * slots(&window.previous)) * partitions * 17;
            assert!(bytes <= 17 << 20, "{partitions}: {bytes} bytes");
            assert!(bytes > 4 << 20, "{partitions}: {bytes} bytes");
        }
    }

    #[test]
    fn a_window_gives_way_where_more_partitions_share_the_memory() {
        let mut window = Window::default();
        for place in 0..30 {
            window.note(number(place), NOW, 20);
        }
        window.fit(10);
        assert!(window.note(number(0), NOW, 10) && !window.note(number(29), NOW, 10));
    }
}
