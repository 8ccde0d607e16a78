//! All roles of all regions, started from configuration files and stopped in order.

use std::time::Duration;

use anyhow::Context;
use futures_util::StreamExt;
use service_kit::config::{Config, parse};
use service_kit::signals::Signals;
use service_kit::{Drain, Stage};
use trace_model::Region;

use super::plan::{DemoPlan, Peer, RegionPlan, local};
use super::wan::{WanMode, start_proxy};
use crate::seam::{CellRole, RoleContext, RoleSnapshot, RunningRole};
use crate::wiring;

/// What one role may take to drain.
const ROLE_DRAIN_TIMEOUT: Duration = Duration::from_secs(3);
/// The flag that changes the ports of a demo.
const CHANGE_PORT_WITH: &str = "--base-port";
/// Roles that drain at once.
const DRAINING_MAX: usize = 16;

/// Everything that runs but the shop.
#[derive(Debug)]
pub(crate) struct Federation {
    plan: DemoPlan,
    mode: WanMode,
    regions: Vec<RunningRegion>,
    wires: Drain,
}

#[derive(Debug)]
struct RunningRegion {
    region: Region,
    cell: RunningRole,
    replicator: RunningRole,
    gateway: RunningRole,
}

/// How a region is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RegionSnapshot {
    /// The region.
    pub(crate) region: Region,
    /// Its cell, with the index lag of its replicator.
    pub(crate) state: RoleSnapshot,
}

impl Federation {
    /// Starts the distance between the regions, then every role; no further region once a signal
    /// came.
    pub(crate) async fn start(
        plan: DemoPlan,
        mode: WanMode,
        signals: &Signals,
    ) -> anyhow::Result<Self> {
        check_ports(&plan).await?;
        let wires = Drain::default();
        let stage = wires.stage("wan");
        let mut regions = Vec::new();
        for own in &plan.regions {
            if signals.is_asked() {
                break;
            }
            let peers = connect_peers(own, &plan, mode, &stage).await?;
            make_directory(own)?;
            match start_region(own, &peers).await {
                Ok(region) => {
                    regions.push(region);
                    write_configs(own, &plan)?;
                }
                Err(error) => {
                    // What runs already must not be left holding its files.
                    Self { plan: plan.clone(), mode, regions, wires }.drain().await?;
                    return Err(error);
                }
            }
        }
        Ok(Self { plan, mode, regions, wires })
    }

    /// Which region has which ports.
    pub(crate) const fn plan(&self) -> &DemoPlan {
        &self.plan
    }

    /// How every region is.
    pub(crate) fn snapshot(&self) -> Vec<RegionSnapshot> {
        let snapshot = |running: &RunningRegion| {
            let mut state = (running.cell.snapshot)();
            state.index = (running.replicator.snapshot)().index;
            RegionSnapshot { region: running.region.clone(), state }
        };
        self.regions.iter().map(snapshot).collect()
    }

    /// What a person needs to know first.
    pub(crate) fn welcome(&self) -> Vec<String> {
        let mut lines = vec![format!("data directory  {}", self.plan.data_dir.display())];
        for plan in &self.plan.regions {
            lines.push(format!(
                "{:<15} OTLP gRPC {}  OTLP HTTP {}  Zipkin {}  gateway http://{}",
                plan.region.as_str(),
                local(plan.ports.otlp_grpc),
                local(plan.ports.otlp_http),
                local(plan.ports.zipkin),
                local(plan.ports.gateway),
            ));
        }
        lines.push(self.distances());
        lines.push(format!("open {}/ for endpoints and examples", self.plan.gateway_url()));
        lines
    }

    fn distances(&self) -> String {
        if self.mode == WanMode::Off {
            return "distances       none (--wan off)".to_owned();
        }
        let mut text = "distances      ".to_owned();
        for (index, one) in self.plan.regions.iter().enumerate() {
            for other in self.plan.regions.iter().skip(index + 1) {
                let millis = self.mode.round_trip(&one.region, &other.region).as_millis();
                text.push_str(&format!(" {} - {} {millis} ms;", one.region, other.region));
            }
        }
        format!("{} (round trip; --wan off removes them)", text.trim_end_matches(';'))
    }

    /// Stops gateways, then replicators, then cells, then the wires.
    pub(crate) async fn drain(&self) -> anyhow::Result<()> {
        let roles: [fn(&RunningRegion) -> &RunningRole; 3] =
            [|region| &region.gateway, |region| &region.replicator, |region| &region.cell];
        let mut first_error = None;
        for role in roles {
            let drains = self.regions.iter().map(|region| async move {
                let drained = role(region).drain.drain(ROLE_DRAIN_TIMEOUT).await;
                drained.with_context(|| format!("draining {}", region.region))
            });
            let drains = futures_util::stream::iter(drains).buffer_unordered(DRAINING_MAX);
            let errors: Vec<anyhow::Error> =
                drains.filter_map(|drained| async { drained.err() }).collect().await;
            first_error = first_error.or_else(|| errors.into_iter().next());
        }
        self.wires.drain(ROLE_DRAIN_TIMEOUT).await?;
        first_error.map_or(Ok(()), Err)
    }
}

/// Binds every port and lets go of it: a taken one is named before anything is started.
async fn check_ports(plan: &DemoPlan) -> anyhow::Result<()> {
    for ports in plan.regions.iter().map(|plan| plan.ports) {
        for port in ports.all() {
            drop(service_kit::listen::bind(local(port), CHANGE_PORT_WITH).await?);
        }
    }
    Ok(())
}

/// Where `own` reaches the other regions: every byte goes through a proxy.
async fn connect_peers(
    own: &RegionPlan,
    plan: &DemoPlan,
    mode: WanMode,
    stage: &Stage,
) -> anyhow::Result<Vec<Peer>> {
    let mut peers = Vec::new();
    for other in plan.regions.iter().filter(|other| other.region != own.region) {
        let round_trip = mode.round_trip(&own.region, &other.region);
        peers.push(Peer {
            region: other.region.clone(),
            cell: start_proxy(local(other.ports.cell), round_trip, stage).await?,
            replicator: start_proxy(local(other.ports.replicator), round_trip, stage).await?,
            otlp: other.ports.otlp(),
        });
    }
    Ok(peers)
}

const FILES: [&str; 3] = ["cell.yaml", "replicator.yaml", "gateway.yaml"];

fn make_directory(own: &RegionPlan) -> anyhow::Result<()> {
    let directory = &own.directory;
    std::fs::create_dir_all(directory)
        .with_context(|| format!("cannot make {} (--data-dir)", directory.display()))
}

/// Writes the region's configurations, with the addresses of the regions themselves: what runs can
/// be read, and run apart as processes when the demo has ended. (The demo reaches other regions
/// through the distance between them, on ports that end with it.)
fn write_configs(own: &RegionPlan, plan: &DemoPlan) -> anyhow::Result<()> {
    let others = plan.regions.iter().filter(|other| other.region != own.region);
    let peers: Vec<Peer> = others
        .map(|other| Peer {
            region: other.region.clone(),
            cell: local(other.ports.cell),
            replicator: local(other.ports.replicator),
            otlp: other.ports.otlp(),
        })
        .collect();
    for (file, text) in FILES.iter().zip(texts(own, &peers)) {
        let path = own.directory.join(file);
        std::fs::write(&path, text)
            .with_context(|| format!("cannot write {} (--data-dir)", path.display()))?;
    }
    Ok(())
}

fn texts(own: &RegionPlan, peers: &[Peer]) -> [String; 3] {
    [own.cell_yaml(), own.replicator_yaml(peers), own.gateway_yaml(peers)]
}

async fn start_region(own: &RegionPlan, peers: &[Peer]) -> anyhow::Result<RunningRegion> {
    let [cell, replicator, gateway] = texts(own, peers);
    let region = &own.region;
    let cell = start_role(&cell).await.with_context(|| format!("the cell of {region}"))?;
    let replicator =
        start_role(&replicator).await.with_context(|| format!("the replicator of {region}"))?;
    let gateway = start_role(&gateway).await.with_context(|| format!("the gateway of {region}"))?;
    Ok(RunningRegion { region: region.clone(), cell, replicator, gateway })
}

async fn start_role(text: &str) -> anyhow::Result<RunningRole> {
    let context = RoleContext::new(CHANGE_PORT_WITH);
    match parse("farspan demo", text)?.config {
        Config::Cell(config) => {
            let set_up = wiring::set_up(&config).await;
            set_up.context("setting its engines up (`tests/engines/all.sh start` starts them)")?;
            wiring::start_cell(*config, CellRole::All, context).await
        }
        Config::Replicator(config) => wiring::start_replicator(*config, context).await,
        Config::Gateway(config) => wiring::start_gateway(*config, context).await,
    }
}

#[cfg(test)]
mod tests {
    use super::super::engines::tests::engines;
    use super::*;

    #[tokio::test]
    async fn a_taken_port_is_named_before_anything_is_started() {
        let held = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = held.local_addr().unwrap().port();
        let regions = [Region::new("eu-west-1").unwrap()];
        let directory = tempfile::tempdir().unwrap();
        let plan =
            DemoPlan::new(&regions, directory.path().into(), Some(port), &engines(&[])).unwrap();
        let signals = Signals::install().unwrap();
        let error = Federation::start(plan, WanMode::Off, &signals).await.unwrap_err();
        let text = format!("{error:#}");
        assert!(text.contains(&format!("port {port} on 127.0.0.1 is taken")), "{text}");
        assert!(text.contains("--base-port"), "{text}");
        assert!(!directory.path().join("eu-west-1").exists(), "something was written");
    }
}
