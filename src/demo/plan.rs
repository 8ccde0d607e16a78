//! Which region gets which ports and directories, and the configuration of each role.
//!
//! Pure: nothing is bound or written here.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

use trace_model::Region;

use super::engines::DemoEngines;

/// Most regions: more would run into each other's ports.
const REGIONS_MAX: usize = 8;
/// Ports of a region below `--base-port`.
const PORTS_PER_REGION: u16 = 20;

/// All regions of a demo.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct DemoPlan {
    /// The regions, in the order of their ports.
    pub(crate) regions: Vec<RegionPlan>,
    /// Where everything is kept.
    pub(crate) data_dir: PathBuf,
}

/// One region.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RegionPlan {
    /// The region.
    pub(crate) region: Region,
    /// Its ports.
    pub(crate) ports: Ports,
    /// Its directory.
    pub(crate) directory: PathBuf,
    /// What its cell's configuration says of engines.
    pub(crate) engines: String,
}

/// The ports of a region.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ports {
    /// OTLP over gRPC.
    pub(crate) otlp_grpc: u16,
    /// OTLP over HTTP.
    pub(crate) otlp_http: u16,
    /// Zipkin.
    pub(crate) zipkin: u16,
    /// The gateway.
    pub(crate) gateway: u16,
    /// The cell's internal gRPC.
    pub(crate) cell: u16,
    /// The replicator's gRPC.
    pub(crate) replicator: u16,
    /// Admin endpoints of cell, replicator and gateway.
    pub(crate) admin: [u16; 3],
}

/// Where a region reaches another one: through the distance between them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Peer {
    /// The other region.
    pub(crate) region: Region,
    /// Its cell.
    pub(crate) cell: SocketAddr,
    /// Its replicator.
    pub(crate) replicator: SocketAddr,
    /// Its collector, OTLP over gRPC and over HTTP: where applications of that region send, so never
    /// through the distance.
    pub(crate) otlp: [SocketAddr; 2],
}

impl Ports {
    /// The collector's addresses: OTLP over gRPC and over HTTP.
    pub(crate) const fn otlp(&self) -> [SocketAddr; 2] {
        [local(self.otlp_grpc), local(self.otlp_http)]
    }

    /// The usual ports, ten higher for each further region; or all in a row.
    fn of(index: u16, base: Option<u16>) -> Option<Self> {
        let usual = [4_317, 4_318, 9_411, 16_686, 17_400, 17_401, 17_402, 17_403, 17_404];
        let mut ports = [0_u16; 9];
        for (place, (port, usual)) in (0_u16..).zip(ports.iter_mut().zip(usual)) {
            *port = match base {
                None => index.checked_mul(10)?.checked_add(usual)?,
                Some(base) => {
                    base.checked_add(index.checked_mul(PORTS_PER_REGION)?)?.checked_add(place)?
                }
            };
        }
        let [otlp_grpc, otlp_http, zipkin, gateway, cell, replicator, admin @ ..] = ports;
        Some(Self { otlp_grpc, otlp_http, zipkin, gateway, cell, replicator, admin })
    }
}

impl Ports {
    /// All of them.
    pub(crate) fn all(self) -> impl Iterator<Item = u16> {
        let Self { otlp_grpc, otlp_http, zipkin, gateway, cell, replicator, admin } = self;
        [otlp_grpc, otlp_http, zipkin, gateway, cell, replicator].into_iter().chain(admin)
    }
}

/// An address of this machine.
pub(crate) const fn local(port: u16) -> SocketAddr {
    SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), port)
}

impl DemoPlan {
    /// Places the regions; the error says what is wrong with the arguments.
    pub(crate) fn new(
        regions: &[Region],
        data_dir: PathBuf,
        base_port: Option<u16>,
        engines: &DemoEngines,
    ) -> Result<Self, String> {
        if regions.is_empty() || regions.len() > REGIONS_MAX {
            return Err(format!("--regions: from one to {REGIONS_MAX} regions"));
        }
        let mut plans: Vec<RegionPlan> = Vec::new();
        for (index, region) in (0_u16..).zip(regions) {
            if plans.iter().any(|plan| plan.region == *region) {
                return Err(format!("--regions: {region} is listed twice"));
            }
            let ports = Ports::of(index, base_port.map(|base| base.max(1))).ok_or_else(|| {
                "--base-port: the regions' ports do not fit below 65536".to_owned()
            })?;
            let directory = data_dir.join(region.as_str());
            let engines = engines.yaml(region);
            plans.push(RegionPlan { region: region.clone(), ports, directory, engines });
        }
        Ok(Self { regions: plans, data_dir })
    }

    /// Each region and its OTLP gRPC address.
    pub(crate) fn collectors(&self) -> Vec<(Region, SocketAddr)> {
        let pair = |plan: &RegionPlan| (plan.region.clone(), local(plan.ports.otlp_grpc));
        self.regions.iter().map(pair).collect()
    }

    /// The first region's gateway.
    pub(crate) fn gateway_url(&self) -> String {
        let port = self.regions.first().map_or(0, |plan| plan.ports.gateway);
        format!("http://{}", local(port))
    }
}

impl RegionPlan {
    /// The configuration of the region's cell.
    pub(crate) fn cell_yaml(&self) -> String {
        let Self { region, ports, directory, engines } = self;
        let [admin, ..] = ports.admin;
        format!(
            "# The cell of {region} in `farspan demo`. `farspan config print` shows the defaults.\n\
             kind: cell\nregion: {region}\ndata_dir: {}\nlisten:\n  otlp_grpc: {}\n  otlp_http: \
             {}\n  zipkin: {}\n  internal: {}\n  admin: {}\nreplicator: http://{}\n\
             drain_timeout: 5s\n{engines}",
            quoted(&directory.join("cell")),
            local(ports.otlp_grpc),
            local(ports.otlp_http),
            local(ports.zipkin),
            local(ports.cell),
            local(admin),
            local(ports.replicator),
        )
    }

    /// The configuration of the region's replicator.
    pub(crate) fn replicator_yaml(&self, peers: &[Peer]) -> String {
        let Self { region, ports, directory, .. } = self;
        let [_, admin, _] = ports.admin;
        let peers = list(peers.iter().map(|peer| (&peer.region, peer.replicator)));
        format!(
            "# The replicator of {region} in `farspan demo`.\nkind: replicator\nregion: \
             {region}\ndata_dir: {}\nlisten:\n  grpc: {}\n  admin: {}\ncell: http://{}\npeers:{peers}\n\
             drain_timeout: 5s\n",
            quoted(&directory.join("replicator")),
            local(ports.replicator),
            local(admin),
            local(ports.cell),
        )
    }

    /// The configuration of the region's gateway.
    pub(crate) fn gateway_yaml(&self, peers: &[Peer]) -> String {
        let Self { region, ports, .. } = self;
        let [.., admin] = ports.admin;
        let own = std::iter::once((region, local(ports.cell)));
        let cells = list(own.chain(peers.iter().map(|peer| (&peer.region, peer.cell))));
        let own = std::iter::once((region, ports.otlp()));
        let collectors = own.chain(peers.iter().map(|peer| (&peer.region, peer.otlp)));
        let collectors: String = collectors
            .map(|(region, [grpc, http])| {
                format!("\n  - {{region: {region}, otlp_grpc: 'http://{grpc}', otlp_http: 'http://{http}'}}")
            })
            .collect();
        format!(
            "# The gateway of {region} in `farspan demo`.\nkind: gateway\nregion: {region}\n\
             listen:\n  http: {}\n  admin: {}\nreplicator: http://{}\ncells:{cells}\n\
             collectors:{collectors}\ndrain_timeout: 5s\n",
            local(ports.gateway),
            local(admin),
            local(ports.replicator),
        )
    }
}

fn list<R: std::fmt::Display>(addresses: impl Iterator<Item = (R, SocketAddr)>) -> String {
    let line = |(region, address)| format!("\n  - region: {region}\n    address: http://{address}");
    let lines: String = addresses.map(line).collect();
    if lines.is_empty() { " []".to_owned() } else { lines }
}

/// A path as a YAML text.
fn quoted(path: &Path) -> String {
    super::engines::quoted(&path.display().to_string())
}

#[cfg(test)]
mod tests {
    use service_kit::config::{Config, parse};

    use super::super::engines::tests::engines;
    use super::*;

    fn regions(names: &[&str]) -> Vec<Region> {
        names.iter().map(|name| Region::new(name).unwrap()).collect()
    }

    fn plan(base: Option<u16>) -> DemoPlan {
        let names = regions(&["eu-west-1", "us-east-1", "ap-southeast-1"]);
        DemoPlan::new(&names, "/tmp/a \"b\"".into(), base, &engines(&[])).unwrap()
    }

    #[test]
    fn each_further_region_is_ten_ports_higher() {
        let ports = |pick: fn(&Ports) -> u16| {
            plan(None).regions.iter().map(|plan| pick(&plan.ports)).collect::<Vec<_>>()
        };
        assert_eq!(ports(|ports| ports.otlp_grpc), [4_317, 4_327, 4_337]);
        assert_eq!(ports(|ports| ports.otlp_http), [4_318, 4_328, 4_338]);
        assert_eq!(ports(|ports| ports.gateway), [16_686, 16_696, 16_706]);
    }

    #[test]
    fn no_port_is_used_twice_with_as_many_regions_as_there_can_be() {
        let names: Vec<String> = (0..REGIONS_MAX).map(|index| format!("r{index}")).collect();
        let names = regions(&names.iter().map(String::as_str).collect::<Vec<_>>());
        for base in [None, Some(20_000)] {
            let plan = DemoPlan::new(&names, "/d".into(), base, &engines(&[])).unwrap();
            let mut seen = std::collections::BTreeSet::new();
            for port in plan.regions.iter().flat_map(|plan| plan.ports.all()) {
                assert!(seen.insert(port), "{port} twice with base {base:?}");
            }
        }
    }

    #[test]
    fn every_role_gets_a_configuration_without_faults() {
        let plan = plan(Some(30_000));
        let peer = |index: usize| Peer {
            region: plan.regions[index].region.clone(),
            cell: local(1),
            replicator: local(2),
            otlp: plan.regions[index].ports.otlp(),
        };
        let first = &plan.regions[0];
        for yaml in [
            first.cell_yaml(),
            first.replicator_yaml(&[peer(1), peer(2)]),
            first.replicator_yaml(&[]),
            first.gateway_yaml(&[peer(1), peer(2)]),
        ] {
            parse("demo", &yaml).unwrap_or_else(|faults| panic!("{faults}\n{yaml}"));
        }
    }

    #[test]
    fn on_engines_each_region_has_a_keyspace_topics_indices_and_a_database_of_its_own() {
        let names = regions(&["eu-west-1", "us-east-1"]);
        let mut keyspaces = std::collections::HashSet::new();
        for (profile, has_kafka) in [("startup", false), ("growth", true)] {
            let engines = engines(&["--profile", profile]);
            let plan = DemoPlan::new(&names, "/d".into(), None, &engines).unwrap();
            let stores = plan.regions.iter().map(|region| {
                let yaml = region.cell_yaml();
                let parsed = parse("demo", &yaml).unwrap_or_else(|faults| panic!("{faults}"));
                let Config::Cell(config) = parsed.config else { panic!("not a cell") };
                assert!((config.head.rate - 1.0).abs() < f64::EPSILON);
                config.stores
            });
            let stores: Vec<_> = stores.collect();
            let [one, other] = stores.as_slice() else { panic!("two regions") };
            for region in [one, other] {
                let keyspace = &region.cassandra.as_ref().unwrap().keyspace;
                assert!(
                    keyspaces.insert(keyspace.clone()),
                    "{keyspace} is another region's or profile's"
                );
            }
            let prefix = |stores: &service_kit::config::engines::StoresConfig| {
                stores.elasticsearch.as_ref().unwrap().prefix.clone()
            };
            assert_ne!(prefix(one), prefix(other));
            assert_eq!(one.kafka.is_some(), has_kafka);
            let topics = |kafka: &service_kit::config::engines::KafkaConfig| kafka.prefix.clone();
            let differ = one.kafka.as_ref().map(topics) != other.kafka.as_ref().map(topics);
            assert_eq!(differ, has_kafka);
            assert_eq!(one.clickhouse != other.clickhouse, has_kafka);
        }
    }

    #[test]
    fn regions_that_cannot_be_placed_are_refused() {
        for names in [&[][..], &["a", "a"], &["a", "b", "c", "d", "e", "f", "g", "h", "i"]] {
            let plan = DemoPlan::new(&regions(names), "/d".into(), None, &engines(&[]));
            assert!(plan.is_err(), "{names:?}");
        }
        let plan = DemoPlan::new(&regions(&["a", "b"]), "/d".into(), Some(65_530), &engines(&[]));
        assert!(plan.is_err());
    }
}
