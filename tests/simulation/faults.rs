//! The faults of a run, drawn from its seed.

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use crate::hosts::{REGIONS, cell, gateway_of, replicator};
use crate::ledger::World;

pub(crate) const APPLICATION: &str = "application";

pub(crate) struct Faults {
    random: SmallRng,
    world: World,
    hosts: Vec<String>,
    down: Vec<String>,
}

fn hosts_of(name: &str) -> [String; 3] {
    [cell(name), replicator(name), gateway_of(name)]
}

impl Faults {
    pub(crate) fn new(world: World) -> Self {
        let mut hosts: Vec<String> = REGIONS.into_iter().flat_map(hosts_of).collect();
        hosts.push(APPLICATION.to_owned());
        Self { random: SmallRng::seed_from_u64(world.seed), world, hosts, down: Vec::new() }
    }

    fn pair(&mut self) -> (String, String) {
        let first = self.random.random_range(0..self.hosts.len());
        let second = (first + self.random.random_range(1..self.hosts.len())) % self.hosts.len();
        (self.hosts[first].clone(), self.hosts[second].clone())
    }

    /// All links between two regions.
    fn border(&mut self) -> Vec<(String, String)> {
        let first = self.random.random_range(0..REGIONS.len());
        let second = (first + self.random.random_range(1..REGIONS.len())) % REGIONS.len();
        let mut links = Vec::new();
        for one in hosts_of(REGIONS[first]) {
            links.extend(hosts_of(REGIONS[second]).map(|two| (one.clone(), two)));
        }
        links
    }

    pub(crate) fn strike(&mut self, sim: &mut turmoil::Sim<'_>) {
        let (one, two) = self.pair();
        match self.random.random_range(0..14_u8) {
            0 => {
                self.world.count(|figures| figures.cuts += 1);
                for (one, two) in self.border() {
                    sim.partition(one, two);
                }
            }
            1 | 2 => {
                for (one, two) in self.border() {
                    sim.repair(one, two);
                }
            }
            3 | 4 => {
                self.world.count(|figures| figures.cuts += 1);
                sim.partition(one, two);
            }
            5 => sim.repair(one, two),
            6 | 7 => {
                self.world.count(|figures| figures.stalls += 1);
                sim.hold(one, two);
            }
            8 | 9 => sim.release(one, two),
            10 | 11 if one != APPLICATION && !self.down.contains(&one) => {
                self.world.count(|figures| figures.crashes += 1);
                sim.crash(one.clone());
                self.down.push(one);
            }
            _ => {
                if let Some(host) = self.down.pop() {
                    sim.bounce(host);
                }
            }
        }
    }

    pub(crate) fn heal(&mut self, sim: &mut turmoil::Sim<'_>) {
        for (place, one) in self.hosts.iter().enumerate() {
            for two in &self.hosts[place + 1..] {
                sim.release(one.clone(), two.clone());
                sim.repair(one.clone(), two.clone());
            }
        }
        for host in self.down.drain(..) {
            sim.bounce(host);
        }
    }
}
