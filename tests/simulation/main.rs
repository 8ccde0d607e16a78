//! The whole federation on a simulated network and in simulated time: three regions, each with its
//! cell, its replicator and its gateway, and an application that sends to all of them. Links are cut,
//! stalled (which reorders) and slow, requests come twice, processes crash and start again. All the
//! while users ask every gateway, and each answer is judged: it is complete or says what is missing,
//! and holds nothing that was not sent. Afterwards the replicas are equal, and every trace is whole
//! from everywhere.
//!
//! A run prints its seed: the same is sent, and the same faults strike at the same times. Most runs of
//! one seed are then the same event for event; some part by a few milliseconds somewhere on the way,
//! since tokio draws the order of ready waiters and branches from a generator that its stable build
//! cannot seed. So no test demands it.
//!
//! A cell that crashes keeps its span log and its store, as a disk would (they are the memory
//! adapters, which a crash cannot tear) but loses what the store had not made durable; its origin log
//! and the replicas are files. Kills of real processes on real files are the system tests' part.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::print_stdout,
    clippy::cast_possible_truncation,
    reason = "a test may stop where it fails"
)]

mod application;
mod cell;
mod faults;
mod hosts;
mod late_writer;
mod laws;
mod ledger;
/// The simulated network of the metadata replicator's own simulation.
#[path = "../../metadata-replicator/tests/simulation/network.rs"]
mod network;
/// The binary's adapters between log and querier.
#[path = "../../src/wiring/ports.rs"]
mod ports;

use std::path::Path;
use std::time::Duration;

use faults::{APPLICATION, Faults};
use hosts::{REGIONS, cell, gateway_of, replicator};
use ledger::{Figures, World};

/// Seeds of an ordinary run; a longer one is `FIRST_SEED..FIRST_SEED + n`.
const FIRST_SEED: u64 = 1;
const SEEDS: u64 = 8;
/// How long faults go on, and how long the federation then has to become whole.
const FAULTS: Duration = Duration::from_secs(20);
const PATIENCE: Duration = Duration::from_secs(90);
/// Steps of 10 ms from one fault to the next.
const STEPS_PER_FAULT: u64 = 20;

fn build<'a>(world: &World) -> turmoil::Sim<'a> {
    let mut sim = turmoil::Builder::new()
        .rng_seed(world.seed)
        .tick_duration(Duration::from_millis(10))
        .min_message_latency(Duration::from_millis(5))
        .max_message_latency(Duration::from_millis(150))
        .simulation_duration(FAULTS + PATIENCE + Duration::from_secs(1))
        .tcp_capacity(4_096)
        .build();
    for name in REGIONS {
        let shared = world.clone();
        sim.host(cell(name), move || cell::run_cell(shared.clone(), name));
        let shared = world.clone();
        sim.host(replicator(name), move || hosts::run_replicator(shared.clone(), name));
        let shared = world.clone();
        sim.host(gateway_of(name), move || hosts::run_gateway(shared.clone(), name));
    }
    let shared = world.clone();
    sim.host(APPLICATION, move || application::run_application(shared.clone()));
    sim
}

fn are_replicas_equal(world: &World) -> bool {
    let digests = world.digests();
    let first = digests.values().next();
    digests.len() == REGIONS.len() && digests.values().all(|digest| Some(digest) == first)
}

/// One step, after which no law may be broken.
fn step(sim: &mut turmoil::Sim<'_>, world: &World) {
    sim.step().unwrap();
    let violations = world.violations();
    assert!(violations.is_empty(), "seed {}: {violations:#?}", world.seed);
}

/// Steps until the condition holds, at most as long as patience lasts.
fn step_until(
    sim: &mut turmoil::Sim<'_>,
    world: &World,
    what: &str,
    is_so: impl Fn(&World) -> bool,
) {
    while !is_so(world) {
        let is_late = sim.elapsed() > FAULTS + PATIENCE;
        let last: Vec<String> = world.events().into_iter().rev().take(20).collect();
        assert!(!is_late, "seed {}: not {what}: {:?} {last:#?}", world.seed, world.digests());
        step(sim, world);
    }
}

/// Runs one seed to its end; gives the figures of its time of faults.
fn run(seed: u64, directory: &Path) -> Figures {
    println!("seed {seed}");
    let world = World::new(seed, directory.to_path_buf());
    let mut sim = build(&world);
    let mut faults = Faults::new(world.clone());
    let mut steps = 0_u64;
    while sim.elapsed() < FAULTS {
        step(&mut sim, &world);
        steps += 1;
        if steps.is_multiple_of(STEPS_PER_FAULT) {
            faults.strike(&mut sim);
        }
    }
    let figures = world.figures();
    faults.heal(&mut sim);
    step_until(&mut sim, &world, "all sent", |world| world.regions_sent() == REGIONS.len());
    step_until(&mut sim, &world, "equal", are_replicas_equal);
    world.settle();
    step_until(&mut sim, &world, "whole from everywhere", |world| {
        world.gateways_satisfied() == REGIONS.len() && are_replicas_equal(world)
    });
    assert_eq!(world.undercounted(), Vec::<String>::new(), "seed {seed}");
    let took = sim.elapsed().saturating_sub(FAULTS);
    println!("seed {seed}: whole {took:?} after the faults; {figures:?}");
    figures
}

#[test]
fn an_answer_is_complete_or_says_what_is_missing_and_replicas_converge() {
    let mut searched = [0, 0];
    for seed in FIRST_SEED..FIRST_SEED + SEEDS {
        let directory = tempfile::tempdir().unwrap();
        let figures = run(seed, directory.path());
        let struck = [figures.crashes, figures.cuts, figures.stalls, figures.repeats];
        let answered = [figures.complete, figures.partial, figures.not_found, figures.pruned];
        assert!(struck.into_iter().chain(answered).all(|count| count > 0), "{figures:?}");
        // Searches are few: a seed alone need not meet one whose every region is up to its log.
        let [complete, partial] = searched;
        searched = [complete + figures.searches_complete, partial + figures.searches_partial];
    }
    assert!(searched.into_iter().all(|count| count > 0), "complete, partial: {searched:?}");
}
