//! `farspan config check|print`: a configuration file before it is run.

use std::path::{Path, PathBuf};

use clap::Subcommand;
use serde_json::json;
use service_kit::config::effective::Origin;
use service_kit::config::{ConfigError, Effective, Fault, Loaded, load};

use super::failure::{Failure, Outcome};
use super::output::Output;

/// What to do with a file.
#[derive(Debug, Subcommand)]
pub(super) enum ConfigCommand {
    /// Report all faults of a file, with their lines.
    Check {
        /// The file.
        file: PathBuf,
    },
    /// Print every value that would be in force, and where it comes from.
    Print {
        /// The file.
        file: PathBuf,
    },
}

/// Checks or prints.
pub(super) fn run(command: &ConfigCommand, output: &mut Output) -> Result<Outcome, Failure> {
    match command {
        ConfigCommand::Check { file } => check(file, output),
        ConfigCommand::Print { file } => print(file, output),
    }
}

/// Reads a file; its faults are bad usage.
pub(super) fn read(file: &Path) -> Result<Loaded, Failure> {
    load(file).map_err(|error| Failure::Usage(words(&error)))
}

fn words(error: &ConfigError) -> String {
    match error {
        ConfigError::Unreadable { source, .. } => format!("{error}: {source}"),
        ConfigError::TooLarge { .. } | ConfigError::Faults(_) => error.to_string(),
    }
}

fn check(file: &Path, output: &mut Output) -> Result<Outcome, Failure> {
    if !output.is_json {
        drop(read(file)?);
        output.line(&format!("{}: no faults", file.display()))?;
        return Ok(Outcome::Done);
    }
    let faults = match load(file) {
        Ok(_) => Vec::new(),
        Err(ConfigError::Faults(faults)) => faults.list().iter().map(fault_json).collect(),
        Err(error) => return Err(Failure::Usage(words(&error))),
    };
    let is_clean = faults.is_empty();
    output.line(&json!({ "file": file, "faults": faults }).to_string())?;
    Ok(if is_clean { Outcome::Done } else { Outcome::BadInput })
}

fn fault_json(fault: &Fault) -> serde_json::Value {
    json!({
        "line": fault.line,
        "column": fault.column,
        "key": fault.key,
        "message": fault.message,
    })
}

fn print(file: &Path, output: &mut Output) -> Result<Outcome, Failure> {
    let effective = read(file)?.effective;
    if output.is_json {
        output.line(&effective_json(&effective).to_string())?;
    } else {
        output.raw(&effective.to_string())?;
    }
    Ok(Outcome::Done)
}

fn effective_json(effective: &Effective) -> serde_json::Value {
    let entry = |(key, value, origin): (&str, &str, Origin)| {
        let line = match origin {
            Origin::Line(line) => Some(line),
            Origin::Default => None,
        };
        (key.to_owned(), json!({ "value": value, "line": line }))
    };
    serde_json::Value::Object(effective.values().map(entry).collect())
}
