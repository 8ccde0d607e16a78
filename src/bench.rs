//! `farspan bench write|receive|read|search`: a load generator, to size a cell and to measure ours.
//!
//! It must cost little beside what it measures: requests are encoded once and only ids, times and
//! rare values are patched in.

mod cell_client;
mod latency;
mod ledger;
mod read;
mod receive;
mod search;
mod server;
mod template;
mod wire;
mod write;

use clap::Subcommand;
use serde_json::{Map, Value};

use crate::cli::failure::{Failure, Outcome};
use crate::cli::gateway_client::GatewayClient;
use crate::cli::output::Output;

/// What to measure.
#[derive(Debug, Subcommand)]
pub(crate) enum BenchCommand {
    /// Send spans to a collector as fast as it takes them.
    Write(write::WriteArguments),
    /// A collector and its log alone, for `bench write` to send to.
    Receive(receive::ReceiveArguments),
    /// Read traces by id that `bench write` recorded.
    Read(read::ReadArguments),
    /// Search by service, or by a rare attribute that `bench write` recorded.
    Search(search::SearchArguments),
}

/// Measures.
pub(crate) async fn run(
    command: BenchCommand,
    client: &GatewayClient,
    output: &mut Output,
) -> Result<Outcome, Failure> {
    let report = match command {
        BenchCommand::Receive(arguments) => return receive::run(&arguments, output).await,
        BenchCommand::Write(arguments) => write::run(arguments, client).await?,
        BenchCommand::Read(arguments) => read::run(arguments, client).await?,
        BenchCommand::Search(arguments) => search::run(&arguments, client).await?,
    };
    report.print(output)?;
    Ok(if report.is_well { Outcome::Done } else { Outcome::CheckFailed })
}

/// What was measured: named values in order, and whether everything came back as it should.
#[derive(Debug)]
struct Report {
    values: Vec<(String, Value)>,
    is_well: bool,
}

impl Report {
    fn new() -> Self {
        Self { values: Vec::new(), is_well: true }
    }

    /// Adds a value, or replaces the one of that name.
    fn add(&mut self, name: &str, value: impl Into<Value>) -> &mut Self {
        let value = value.into();
        match self.values.iter_mut().find(|(known, _)| known == name) {
            Some((_, slot)) => *slot = value,
            None => self.values.push((name.to_owned(), value)),
        }
        self
    }

    #[cfg(test)]
    fn value(&self, name: &str) -> &Value {
        self.values.iter().find(|(known, _)| known == name).map(|(_, value)| value).unwrap()
    }

    /// Adds a number with two decimals.
    fn add_ratio(&mut self, name: &str, value: f64) -> &mut Self {
        self.add(name, (value * 100.0).round() / 100.0)
    }

    /// Adds P50, P95, P99 and the largest, in microseconds.
    fn add_latencies(&mut self, name: &str, latencies: &mut latency::Latencies) -> &mut Self {
        for (suffix, percent) in [("p50", 50.0), ("p95", 95.0), ("p99", 99.0), ("max", 100.0)] {
            let micros = latencies.percentile(percent).as_micros();
            self.add(&format!("{name}_{suffix}_us"), u64::try_from(micros).unwrap_or(u64::MAX));
        }
        self
    }

    fn print(&self, output: &mut Output) -> std::io::Result<()> {
        if output.is_json {
            let object: Map<String, Value> = self.values.iter().cloned().collect();
            return output.line(&Value::Object(object).to_string());
        }
        for (name, value) in &self.values {
            let value = value.as_str().map_or_else(|| value.to_string(), ToOwned::to_owned);
            output.line(&format!("{name:<32} {value}"))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
