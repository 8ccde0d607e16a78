//! Samples of clock skew: calls across borders whose two sides are known. They are kept, shown as one
//! figure a region, and correct nothing.
//!
//! A call that the caller waited for lies within the caller's span. If both networks and both waits
//! are alike, the middles of the two spans coincide, and what lies between them is what the clocks
//! differ by (as in NTP, RFC 5905, section 8). Single calls are far off: the median of many is not.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Unit;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use trace_model::{Region, UnixNanos};

/// Samples of a region and window.
const SAMPLES_MAX: usize = 256;
/// Samples are of this window and the one before: clocks drift.
const WINDOW: Duration = Duration::from_secs(300);
/// Regions with samples; more are not sampled.
const REGIONS_MAX: usize = 64;

/// The two sides of a call, each by its own region's clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SkewSample {
    /// Start of the calling span, in this region.
    pub parent_start: UnixNanos,
    /// Its end.
    pub parent_end: UnixNanos,
    /// Start of the called span, in the other region.
    pub child_start: UnixNanos,
    /// Its end.
    pub child_end: UnixNanos,
}

impl SkewSample {
    /// By how many nanoseconds the called side's clock seems to be ahead; `None` where the called
    /// span is longer than the calling one, which then did not wait for it.
    #[must_use]
    pub fn offset_nanos(&self) -> Option<i64> {
        let parent = self.parent_end.0.checked_sub(self.parent_start.0)?;
        let child = self.child_end.0.checked_sub(self.child_start.0)?;
        let middle = |start: UnixNanos, length: u64| i128::from(start.0) + i128::from(length / 2);
        let offset = middle(self.child_start, child) - middle(self.parent_start, parent);
        i64::try_from(offset).ok().filter(|_| child <= parent)
    }
}

/// Samples by the other region. Cheap to clone; bounded.
#[derive(Clone, Debug, Default)]
pub struct SkewSamples {
    regions: Arc<Mutex<BTreeMap<Region, Reservoir>>>,
}

/// A fair choice of the window's samples (Vitter's algorithm R), and that of the window before.
#[derive(Debug)]
struct Reservoir {
    began: Duration,
    offered: u64,
    current: Vec<SkewSample>,
    previous: Vec<SkewSample>,
    random: SmallRng,
}

impl Reservoir {
    fn new(now: Duration, seed: u64) -> Self {
        let random = SmallRng::seed_from_u64(seed);
        Self { began: now, offered: 0, current: Vec::new(), previous: Vec::new(), random }
    }

    fn offer(&mut self, sample: SkewSample, now: Duration) {
        let age = now.saturating_sub(self.began);
        if age >= WINDOW {
            self.previous = std::mem::take(&mut self.current);
            if age >= WINDOW * 2 {
                self.previous.clear();
            }
            (self.began, self.offered) = (now, 0);
        }
        self.offered = self.offered.saturating_add(1);
        if self.current.len() < SAMPLES_MAX {
            self.current.push(sample);
            return;
        }
        let place = self.random.random_range(0..self.offered);
        let slot = usize::try_from(place).ok().and_then(|place| self.current.get_mut(place));
        if let Some(slot) = slot {
            *slot = sample;
        }
    }

    fn samples(&self) -> Vec<SkewSample> {
        self.current.iter().chain(&self.previous).copied().collect()
    }
}

impl SkewSamples {
    /// Offers a call into a region, at a monotonic time.
    pub(super) fn offer(&self, region: &Region, sample: SkewSample, now: Duration) {
        let mut regions = self.lock();
        if regions.len() >= REGIONS_MAX && !regions.contains_key(region) {
            return;
        }
        let seed = xxhash_rust::xxh3::xxh3_64(region.as_str().as_bytes());
        let reservoir = regions.entry(region.clone());
        reservoir.or_insert_with(|| Reservoir::new(now, seed)).offer(sample, now);
    }

    /// The samples of calls into a region.
    #[must_use]
    pub fn samples(&self, region: &Region) -> Vec<SkewSample> {
        self.lock().get(region).map(Reservoir::samples).unwrap_or_default()
    }

    /// By how many nanoseconds the region's clocks seem to be ahead of ours; `None` where no call
    /// tells.
    #[must_use]
    pub fn median_offset_nanos(&self, region: &Region) -> Option<i64> {
        let samples = self.samples(region);
        let mut offsets: Vec<i64> = samples.iter().filter_map(SkewSample::offset_nanos).collect();
        offsets.sort_unstable();
        offsets.get(offsets.len() / 2).copied()
    }

    /// Regions with samples.
    #[must_use]
    pub fn regions(&self) -> Vec<Region> {
        self.lock().keys().cloned().collect()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<Region, Reservoir>> {
        self.regions.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Shows the medians when the metrics are asked for.
#[derive(Debug)]
pub(crate) struct SkewCollector(pub(crate) SkewSamples);

impl Collector for SkewCollector {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let help = "How far another region's clocks seem to be ahead, median of calls into it";
        let name = "farspan_border_clock_offset";
        let kind = ConstGauge::new(0.0).metric_type();
        let mut shown = encoder.encode_descriptor(name, help, Some(&Unit::Seconds), kind)?;
        for region in self.0.regions() {
            let Some(nanos) = self.0.median_offset_nanos(&region) else { continue };
            let labels = [("region", region.as_str())];
            ConstGauge::new(seconds(nanos)).encode(shown.encode_family(&labels)?)?;
        }
        Ok(())
    }
}

/// Nanoseconds as seconds.
fn seconds(nanos: i64) -> f64 {
    let length = Duration::from_nanos(nanos.unsigned_abs()).as_secs_f64();
    if nanos < 0 { -length } else { length }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MILLI: u64 = 1_000_000;

    fn us() -> Region {
        Region::new("us-east-1").unwrap()
    }

    /// A call of 100 ms into a region that takes 20 ms, 40 ms away, whose clock is off.
    fn call(offset_millis: i64) -> SkewSample {
        let start = 1_790_000_000_000 * MILLI;
        let child = start + 40 * MILLI;
        let child = child.checked_add_signed(offset_millis * 1_000_000).unwrap();
        SkewSample {
            parent_start: UnixNanos(start),
            parent_end: UnixNanos(start + 100 * MILLI),
            child_start: UnixNanos(child),
            child_end: UnixNanos(child + 20 * MILLI),
        }
    }

    #[test]
    fn the_middles_of_both_sides_tell_the_offset_and_a_call_that_outlives_its_caller_tells_nothing()
    {
        assert_eq!(call(0).offset_nanos(), Some(0));
        assert_eq!(call(30).offset_nanos(), Some(30_000_000));
        assert_eq!(call(-70).offset_nanos(), Some(-70_000_000));
        let outlives = SkewSample { child_end: UnixNanos::MAX, ..call(0) };
        assert_eq!(outlives.offset_nanos(), None);
        let backwards = SkewSample { child_end: UnixNanos(0), ..call(0) };
        assert_eq!(backwards.offset_nanos(), None);
    }

    #[test]
    fn the_median_is_of_few_samples_however_many_calls_there_were_and_outliers_do_not_move_it() {
        let samples = SkewSamples::default();
        for number in 0..20_000_i64 {
            let offset = if number % 10 == 0 { 90_000 } else { 12 };
            samples.offer(&us(), call(offset), Duration::from_millis(1));
        }
        assert_eq!(samples.samples(&us()).len(), SAMPLES_MAX);
        assert_eq!(samples.median_offset_nanos(&us()), Some(12_000_000));
        assert_eq!(samples.median_offset_nanos(&Region::new("eu").unwrap()), None);
    }

    #[test]
    fn old_samples_go_so_that_a_clock_that_was_set_shows() {
        let samples = SkewSamples::default();
        for number in 0..1_000_u32 {
            samples.offer(&us(), call(500), Duration::from_millis(u64::from(number)));
        }
        for window in 1..3_u32 {
            samples.offer(&us(), call(0), WINDOW * window);
        }
        assert_eq!(samples.samples(&us()), [call(0), call(0)]);
        assert_eq!(samples.median_offset_nanos(&us()), Some(0));
    }

    #[test]
    fn the_medians_are_shown_in_seconds_by_region() {
        let samples = SkewSamples::default();
        samples.offer(&us(), call(-250), Duration::ZERO);
        let mut registry = prometheus_client::registry::Registry::default();
        registry.register_collector(Box::new(SkewCollector(samples)));
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
        let line = "farspan_border_clock_offset_seconds{region=\"us-east-1\"} -0.25";
        assert!(text.contains(line), "{text}");
    }
}
