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
        let loaded = read(file)?;
        for note in loaded.effective.notes() {
            output.line(&format!("{}: note: {note}", file.display()))?;
        }
        output.line(&format!("{}: no faults", file.display()))?;
        return Ok(Outcome::Done);
    }
    let (faults, notes) = match load(file) {
        Ok(loaded) => (Vec::new(), loaded.effective.notes().to_vec()),
        Err(ConfigError::Faults(faults)) => {
            (faults.list().iter().map(fault_json).collect::<Vec<_>>(), Vec::new())
        }
        Err(error) => return Err(Failure::Usage(words(&error))),
    };
    let is_clean = faults.is_empty();
    output.line(&json!({ "file": file, "faults": faults, "notes": notes }).to_string())?;
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
        for note in effective.notes() {
            output.line(&format!("# note: {note}"))?;
        }
    }
    Ok(Outcome::Done)
}

fn effective_json(effective: &Effective) -> serde_json::Value {
    let entry = |(key, value, origin): (&str, &str, Origin)| {
        let (line, profile) = match origin {
            Origin::Line(line) => (Some(line), None),
            Origin::Default => (None, None),
            Origin::Profile(name) => (None, Some(name)),
        };
        (key.to_owned(), json!({ "value": value, "line": line, "profile": profile }))
    };
    serde_json::Value::Object(effective.values().map(entry).collect())
}
