//! What the benches of stores measure by, alike in all of them.
#![allow(dead_code, reason = "each bench takes what it needs")]

use std::time::{Duration, Instant};

use trace_model::{Clock, UnixNanos};

use crate::workload::BEGIN;

/// The workload's time, going on at the machine's pace.
#[derive(Debug)]
pub(crate) struct BenchClock(pub(crate) Instant);

impl Clock for BenchClock {
    fn now(&self) -> UnixNanos {
        BEGIN.plus(u64::try_from(self.0.elapsed().as_nanos()).expect("years"))
    }

    fn monotonic(&self) -> Duration {
        self.0.elapsed()
    }
}

/// CPU time of this process, in nanoseconds (Linux, `schedstat` of each thread).
pub(crate) fn cpu_nanos() -> u64 {
    let tasks = std::fs::read_dir("/proc/self/task").expect("procfs");
    tasks
        .filter_map(|task| std::fs::read_to_string(task.ok()?.path().join("schedstat")).ok())
        .filter_map(|text| text.split(' ').next()?.parse::<u64>().ok())
        .sum()
}

pub(crate) fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// Rate per second of wall time and CPU of this process for each of `count`, in microseconds.
pub(crate) async fn timed(count: usize, work: impl Future<Output = ()>) -> (f64, f64) {
    let (begun, cpu) = (Instant::now(), cpu_nanos());
    work.await;
    let seconds = begun.elapsed().as_secs_f64();
    (count as f64 / seconds, (cpu_nanos() - cpu) as f64 / 1_000.0 / count as f64)
}

/// Prints the medians of rounds in which both sides took turns.
pub(crate) fn print_medians(what: &str, ours: &[(f64, f64)], bares: &[(f64, f64)]) {
    let of = |rounds: &[(f64, f64)], at: fn(&(f64, f64)) -> f64| {
        median(&mut rounds.iter().map(at).collect::<Vec<_>>())
    };
    let mut ratios: Vec<f64> = ours.iter().zip(bares).map(|(own, bare)| own.0 / bare.0).collect();
    println!(
        "written: {:.0} {what}s/s, bare {:.0} {what}s/s; median of the rounds' ratios {:.2}; client CPU \
         {:.1} us a {what}, bare {:.1} us",
        of(ours, |round| round.0),
        of(bares, |round| round.0),
        median(&mut ratios),
        of(ours, |round| round.1),
        of(bares, |round| round.1),
    );
}
