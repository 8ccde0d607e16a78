//! The command line: one file per subcommand. Errors say what failed, why and what to do; exit
//! codes are listed in [`failure`].

mod answer;
mod collectors;
mod config;
mod dead_letters;
mod doctor;
pub(crate) mod failure;
pub(crate) mod gateway_client;
mod needed;
mod otlp_json;
pub(crate) mod output;
mod regions;
mod replay;
mod roles;
mod search;
mod services;
mod store;
mod table;
mod trace;
mod waterfall;

use clap::{Args, Parser, Subcommand};

use crate::{bench, demo};
use failure::{Failure, Outcome};
use gateway_client::GatewayClient;
use output::{ColorChoice, Output};
pub(crate) use table::{bytes, clean, duration, moment};

const EXIT_CODES: &str = "Exit codes: 0 done, 1 not found, 2 bad usage, 3 partial (the answer \
                          says what is missing), 4 failed, 130 interrupted twice.";

/// Distributed tracing for many regions.
#[derive(Debug, Parser)]
#[command(name = "farspan", version, about, after_help = EXIT_CODES, max_term_width = 100)]
pub(crate) struct Arguments {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

/// What every subcommand takes.
#[derive(Args, Debug)]
struct Global {
    /// The gateway to ask.
    #[arg(long, global = true, value_name = "URL", default_value = "http://127.0.0.1:16686")]
    gateway: String,
    /// The tenant to ask for (X-Scope-OrgID).
    #[arg(long, global = true, value_name = "TENANT")]
    tenant: Option<String>,
    /// Print the answer as JSON.
    #[arg(long, global = true)]
    json: bool,
    /// Colours: by default on a terminal only.
    #[arg(long, global = true, value_enum, default_value_t)]
    color: ColorChoice,
    /// Columns of the output; by default the terminal's.
    #[arg(long, global = true, value_name = "COLUMNS")]
    width: Option<usize>,
}

/// This program as it was called, to be pasted into the same shell: who ran it with `cargo run` has
/// no `farspan` in the path.
pub(crate) fn program() -> String {
    let called = std::env::args().next().filter(|called| !called.is_empty());
    let called = called.unwrap_or_else(|| "farspan".to_owned());
    if called.contains(|letter: char| letter.is_whitespace() || "'\"$\\".contains(letter)) {
        return format!("'{}'", called.replace('\'', r"'\''"));
    }
    called
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Start three regions in this process, with traffic.
    Demo(demo::DemoArguments),
    /// Run a region's cell.
    Cell(roles::RoleArguments),
    /// Run a region's metadata replicator.
    Replicator(roles::RoleArguments),
    /// Run a gateway.
    Gateway(roles::RoleArguments),
    /// Show a trace.
    Trace(trace::TraceArguments),
    /// Find traces.
    Search(search::SearchArguments),
    /// List services, or the operations of one.
    Services(services::ServicesArguments),
    /// Show how the regions are.
    Regions,
    /// See to what a running cell has set aside or lost.
    DeadLetters(dead_letters::DeadLettersArguments),
    /// See to the collectors of a cell that writes without Kafka.
    Collectors(collectors::CollectorsArguments),
    /// Check or print a configuration file.
    #[command(subcommand)]
    Config(config::ConfigCommand),
    /// Hold the figures of machine, process and engines against their limits.
    Doctor(doctor::DoctorArguments),
    /// Set up what a cell needs in its engines.
    #[command(subcommand)]
    Store(store::StoreCommand),
    /// Do the work of a consumer group again over a part of the log, beside the running cell.
    Replay(replay::ReplayArguments),
    /// Measure a cell or a gateway.
    #[command(subcommand)]
    Bench(bench::BenchCommand),
}

/// Runs the command.
pub(crate) async fn run(arguments: Arguments) -> Result<Outcome, Failure> {
    let Arguments { global, command } = arguments;
    let mut output = Output::to_stdout(global.color, global.width, global.json);
    match dispatch(&global, command, &mut output).await {
        // The reader went away (`| head`): nobody is there to be told.
        Err(Failure::Output(error)) if error.kind() == std::io::ErrorKind::BrokenPipe => {
            Ok(Outcome::Done)
        }
        other => other,
    }
}

async fn dispatch(
    global: &Global,
    command: Command,
    output: &mut Output,
) -> Result<Outcome, Failure> {
    let client = || GatewayClient::new(&global.gateway, global.tenant.as_deref());
    match command {
        Command::Demo(arguments) => Box::pin(demo::run(arguments, output)).await,
        Command::Cell(arguments) => Box::pin(roles::run_cell(&arguments)).await,
        Command::Replicator(arguments) => roles::run_replicator(&arguments).await,
        Command::Gateway(arguments) => roles::run_gateway(&arguments).await,
        Command::Trace(arguments) => trace::run(&arguments, &client()?, output).await,
        Command::Search(arguments) => search::run(&arguments, &client()?, output).await,
        Command::Services(arguments) => services::run(&arguments, &client()?, output).await,
        Command::Regions => regions::run(&client()?, output).await,
        Command::DeadLetters(arguments) => dead_letters::run(&arguments, output).await,
        Command::Collectors(arguments) => collectors::run(&arguments, output).await,
        Command::Config(command) => config::run(&command, output),
        Command::Doctor(arguments) => Box::pin(doctor::run(&arguments, output)).await,
        Command::Store(command) => Box::pin(store::run(&command, output)).await,
        Command::Replay(arguments) => Box::pin(replay::run(&arguments, output)).await,
        Command::Bench(command) => bench::run(command, &client()?, output).await,
    }
}

#[cfg(test)]
mod tests;
