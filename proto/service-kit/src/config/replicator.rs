//! The configuration of a metadata replicator.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use trace_model::Region;

use super::cell::read_drain_timeout;
use super::home::default_data_dir;
use super::listen::{Listeners, TelemetryConfig, read_telemetry};
use super::section::Section;
use super::{RegionAddress, ServiceUrl, read_region_addresses};

/// A metadata replicator: its region's replica of the index.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReplicatorConfig {
    /// The region.
    pub region: Region,
    /// Where the index is kept.
    pub data_dir: PathBuf,
    /// Whether addresses other than loopback may be bound.
    pub is_insecure: bool,
    /// gRPC: look-ups of the region's gateways, subscriptions of peers.
    pub listen_grpc: SocketAddr,
    /// `/livez`, `/readyz`, `/metrics`.
    pub listen_admin: SocketAddr,
    /// The region's own cell, whose origin log is subscribed to.
    pub cell: ServiceUrl,
    /// The replicators of the other regions.
    pub peers: Vec<RegionAddress>,
    /// How long rows are kept: the same as the cells' `retention`.
    pub retention: Duration,
    /// Time to finish what is under way when the process stops.
    pub drain_timeout: Duration,
    /// Logging.
    pub telemetry: TelemetryConfig,
}

pub(super) fn read(root: &mut Section<'_>) -> Option<ReplicatorConfig> {
    let region = root.required::<Region>("region");
    let name = region.as_ref().map_or("replicator", Region::as_str).to_owned();
    let data_dir = root.value("data_dir", default_data_dir(&format!("{name}-replicator")));
    let is_insecure = root.value("insecure", false);
    let mut listeners = Listeners::new(is_insecure);
    let mut listen = root.section("listen");
    let listen_grpc = listeners.read(&mut listen, "grpc", 17_401);
    let listen_admin = listeners.read(&mut listen, "admin", 17_481);
    listen.finish();
    let cell = root.required::<ServiceUrl>("cell");
    let peers = read_region_addresses(root, "peers");
    if let Some(own) = region.as_ref()
        && peers.iter().any(|peer| peer.region == *own)
    {
        root.refuse("peers", &format!("{own} is this replicator's own region"));
    }
    let day = Duration::from_secs(86_400);
    let hour = Duration::from_secs(3_600);
    let retention = root.within("retention", day * 7, hour..=day * 3_650);
    let drain_timeout = read_drain_timeout(root);
    let telemetry = read_telemetry(root);
    Some(ReplicatorConfig {
        region: region?,
        data_dir,
        is_insecure,
        listen_grpc,
        listen_admin,
        cell: cell?,
        peers,
        retention,
        drain_timeout,
        telemetry,
    })
}
