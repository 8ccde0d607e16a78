//! `farspan bench receive`: a collector and its span log without anything behind them, to measure
//! what receiving alone costs. Nothing reads the log: do not send to it what is to be kept.

use std::path::PathBuf;

use clap::Args;
use service_kit::config::{Config, parse};
use service_kit::signals::Signals;

use crate::cli::failure::{Failure, Outcome};
use crate::cli::output::Output;
use crate::seam::RoleContext;
use crate::wiring;

/// Where the lone collector listens and writes.
#[derive(Args, Debug)]
pub(crate) struct ReceiveArguments {
    /// Where OTLP over gRPC is taken.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:4317")]
    listen: std::net::SocketAddr,
    /// Where the span log is written.
    #[arg(long, value_name = "DIRECTORY")]
    data_dir: PathBuf,
}

/// Runs until it is told to stop.
pub(super) async fn run(
    arguments: &ReceiveArguments,
    output: &mut Output,
) -> Result<Outcome, Failure> {
    let text = format!(
        "kind: cell\nregion: bench\ndata_dir: {:?}\nlisten:\n  otlp_grpc: {}\n  otlp_http: \
         127.0.0.1:0\n  zipkin: 127.0.0.1:0\n",
        arguments.data_dir, arguments.listen
    );
    let loaded = parse("bench receive", &text).map_err(anyhow::Error::from)?;
    let Config::Cell(config) = loaded.config else {
        return Err(Failure::Usage("not a cell".to_owned()));
    };
    let drain_timeout = config.drain_timeout;
    let signals = Signals::install()?;
    let role = wiring::start_receiver(*config, RoleContext::new("--listen")).await?;
    output.line(&format!("pid {} receives on {}", std::process::id(), arguments.listen))?;
    signals.asked().await;
    role.drain.drain(drain_timeout).await.map_err(anyhow::Error::from)?;
    Ok(Outcome::Done)
}
