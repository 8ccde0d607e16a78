//! Which crate does what: starts the roles from their configurations.

use anyhow::bail;
use service_kit::config::{CellConfig, GatewayConfig, ReplicatorConfig};

use crate::seam::{RoleContext, RunningRole};

/// Starts a region's cell.
#[expect(clippy::unused_async, reason = "what is started here is started asynchronously")]
pub(crate) async fn start_cell(
    _config: CellConfig,
    _context: RoleContext,
) -> anyhow::Result<RunningRole> {
    bail!("the cell is not wired")
}

/// Starts a region's metadata replicator.
#[expect(clippy::unused_async, reason = "what is started here is started asynchronously")]
pub(crate) async fn start_replicator(
    _config: ReplicatorConfig,
    _context: RoleContext,
) -> anyhow::Result<RunningRole> {
    bail!("the replicator is not wired")
}

/// Starts a gateway.
#[expect(clippy::unused_async, reason = "what is started here is started asynchronously")]
pub(crate) async fn start_gateway(
    _config: GatewayConfig,
    _context: RoleContext,
) -> anyhow::Result<RunningRole> {
    bail!("the gateway is not wired")
}
