//! `farspan cell|replicator|gateway --config FILE`: one role as a process of its own.

use std::future::Future;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use service_kit::Drain;
use service_kit::config::{Config, TelemetryConfig};
use service_kit::signals::Signals;

use super::failure::{Failure, Outcome};
use super::needed;
use crate::seam::{CellRole, RoleContext, RunningRole};
use crate::wiring;

/// What a role is started with.
#[derive(Args, Debug)]
pub(super) struct RoleArguments {
    /// The role's configuration.
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// The part of a cell to run. Any number of processes of each part share a cell whose log and
    /// stores are engines; embedded ones are files that one process owns: all.
    #[arg(long, value_enum, default_value_t)]
    role: CellRole,
}

const CHANGE_PORT_WITH: &str = "the keys below `listen` of the configuration";

/// Runs a cell until it is drained.
pub(super) async fn run_cell(arguments: &RoleArguments) -> Result<Outcome, Failure> {
    let Config::Cell(config) = super::config::read(&arguments.config)?.config else {
        return Err(wrong_kind(arguments, "cell"));
    };
    let embedded = config.stores.embedded_parts();
    if arguments.role != CellRole::All && !embedded.is_empty() {
        let text = format!(
            "--role: `embedded` keeps {} in files that one process owns, so that the roles of this \
             cell cannot run apart; leave the flag out, or choose engines",
            embedded.join(", ")
        );
        return Err(Failure::Usage(text));
    }
    let role = arguments.role.with(config.direct.as_ref());
    let (telemetry, drain) = (config.telemetry.clone(), config.drain_timeout);
    let context = RoleContext::new(CHANGE_PORT_WITH);
    let limits = (context.drain.clone(), drain);
    let needed = needed::by_cell(&config, role);
    let start = Box::pin(wiring::start_cell(*config, role, context));
    run_role("cell", &telemetry, limits, needed, start).await
}

/// Runs a replicator until it is drained.
pub(super) async fn run_replicator(arguments: &RoleArguments) -> Result<Outcome, Failure> {
    let Config::Replicator(config) = super::config::read(&arguments.config)?.config else {
        return Err(wrong_kind(arguments, "replicator"));
    };
    let (telemetry, drain) = (config.telemetry.clone(), config.drain_timeout);
    let context = RoleContext::new(CHANGE_PORT_WITH);
    let limits = (context.drain.clone(), drain);
    let needed = needed::by_replicator(&config);
    run_role("replicator", &telemetry, limits, needed, wiring::start_replicator(*config, context))
        .await
}

/// Runs a gateway until it is drained.
pub(super) async fn run_gateway(arguments: &RoleArguments) -> Result<Outcome, Failure> {
    let Config::Gateway(config) = super::config::read(&arguments.config)?.config else {
        return Err(wrong_kind(arguments, "gateway"));
    };
    let (telemetry, drain) = (config.telemetry.clone(), config.drain_timeout);
    let context = RoleContext::new(CHANGE_PORT_WITH);
    let limits = (context.drain.clone(), drain);
    let needed = needed::by_gateway(&config);
    run_role("gateway", &telemetry, limits, needed, wiring::start_gateway(*config, context)).await
}

fn wrong_kind(arguments: &RoleArguments, kind: &str) -> Failure {
    let file = arguments.config.display();
    Failure::Usage(format!("{file}: `kind` is another one than {kind}"))
}

async fn run_role(
    name: &'static str,
    telemetry: &TelemetryConfig,
    (starting, drain_timeout): (Drain, Duration),
    descriptors: u64,
    start: impl Future<Output = anyhow::Result<RunningRole>>,
) -> Result<Outcome, Failure> {
    service_kit::telemetry::init(telemetry).map_err(anyhow::Error::from)?;
    service_kit::descriptors::raise_and_tell(descriptors);
    let signals = Signals::install()?;
    let role = tokio::select! {
        started = start => started?,
        () = signals.asked() => {
            // Perhaps it waits for an engine: what serves already stops in order.
            tracing::info!(role = name, "stopped while it was starting");
            return until_drained(&starting, drain_timeout, &signals).await;
        }
    };
    announce(name, &role);
    signals.asked().await;
    tracing::info!(role = name, "draining");
    until_drained(&role.drain, drain_timeout, &signals).await
}

fn announce(name: &str, role: &RunningRole) {
    for (what, address) in &role.endpoints {
        tracing::info!(role = name, what, %address, "listening");
    }
}

/// Drains; a second signal ends the process at once.
async fn until_drained(
    drain: &Drain,
    at_most: Duration,
    signals: &Signals,
) -> Result<Outcome, Failure> {
    tokio::select! {
        drained = drain.drain(at_most) => drained.map_err(anyhow::Error::from)?,
        () = signals.insisted() => return Ok(Outcome::Interrupted),
    }
    Ok(Outcome::Done)
}
