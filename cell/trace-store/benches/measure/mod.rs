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

/// CPU time of all threads of a process, in nanoseconds (Linux, `schedstat`).
fn cpu_nanos_of(process: &str) -> u64 {
    let tasks = std::fs::read_dir(format!("/proc/{process}/task")).into_iter().flatten();
    tasks
        .filter_map(|task| std::fs::read_to_string(task.ok()?.path().join("schedstat")).ok())
        .filter_map(|text| text.split(' ').next()?.parse::<u64>().ok())
        .sum()
}

/// CPU time of this process, in nanoseconds.
pub(crate) fn cpu_nanos() -> u64 {
    cpu_nanos_of("self")
}

/// CPU time of the engine, where the environment says which process it is (`ENGINE_PID`).
fn engine_nanos() -> u64 {
    std::env::var("ENGINE_PID").map_or(0, |pid| cpu_nanos_of(&pid))
}

pub(crate) fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// What a round of one side took.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Timed {
    /// Of what was written, by wall time.
    pub(crate) per_second: f64,
    /// CPU of this process for each, in microseconds.
    pub(crate) own_micros: f64,
    /// CPU of the engine for each, in microseconds; 0 where it is not known.
    pub(crate) engine_micros: f64,
}

/// What it takes to write `count` of something.
pub(crate) async fn timed(count: usize, work: impl Future<Output = ()>) -> Timed {
    let (begun, own, engine) = (Instant::now(), cpu_nanos(), engine_nanos());
    work.await;
    let seconds = begun.elapsed().as_secs_f64();
    let micros = |nanos: u64| nanos as f64 / 1_000.0 / count as f64;
    Timed {
        per_second: count as f64 / seconds,
        own_micros: micros(cpu_nanos() - own),
        engine_micros: micros(engine_nanos() - engine),
    }
}

/// Prints the medians of rounds in which both sides took turns.
pub(crate) fn print_medians(what: &str, ours: &[Timed], bares: &[Timed]) {
    let of = |rounds: &[Timed], of_round: fn(&Timed) -> f64| {
        median(&mut rounds.iter().map(of_round).collect::<Vec<_>>())
    };
    let pairs = ours.iter().zip(bares);
    let mut ratios: Vec<f64> = pairs.map(|(own, bare)| own.per_second / bare.per_second).collect();
    println!(
        "written: {:.0} {what}s/s, bare {:.0} {what}s/s; median of the rounds' ratios {:.2}; client CPU \
         {:.1} us a {what}, bare {:.1} us; engine CPU {:.1} us, bare {:.1} us",
        of(ours, |round| round.per_second),
        of(bares, |round| round.per_second),
        median(&mut ratios),
        of(ours, |round| round.own_micros),
        of(bares, |round| round.own_micros),
        of(ours, |round| round.engine_micros),
        of(bares, |round| round.engine_micros),
    );
}
