//! How many files a role can have open at once, as its configuration says: what `RLIMIT_NOFILE` is
//! held against. docs/OPERATIONS.md has the figures for people.

use service_kit::config::{CellConfig, GatewayConfig, ReplicatorConfig};

use crate::seam::CellRole;

/// The runtime, libraries, logs, connections to other parts, files that are being written.
const ITSELF: u64 = 256;
/// Segments of an embedded trace store (two files each) and files of an embedded span log.
const EMBEDDED: u64 = 2 * 256 + 128;
/// Of one region's origin log, or of a copy of it: its lock, the file that is written to, and those
/// that are being read.
const ORIGIN: u64 = 16;

/// Of a cell: connections to its OTLP gRPC, OTLP HTTP and Zipkin listeners, and its files.
pub(crate) fn by_cell(config: &CellConfig, role: CellRole) -> u64 {
    let connections = u64::from(config.receiver.connections.connections_max);
    let receiving = if role.receives() { 3 * connections } else { 0 };
    let files = if config.stores.embedded_parts().is_empty() { 0 } else { EMBEDDED };
    let origin = if role.consumes() { ORIGIN } else { 0 };
    ITSELF + receiving + files + origin
}

/// Of a replicator: the copies of all regions.
pub(crate) fn by_replicator(config: &ReplicatorConfig) -> u64 {
    ITSELF + ORIGIN * (config.peers.len() as u64 + 1)
}

/// Of a gateway: its clients, and a few connections to each cell.
pub(crate) fn by_gateway(config: &GatewayConfig) -> u64 {
    ITSELF + u64::from(config.connections.connections_max) + 8 * config.cells.len() as u64
}
