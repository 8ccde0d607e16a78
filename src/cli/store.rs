//! `farspan store init|status|migrate|tiers`: what a cell needs in its engines, made before it is started,
//! how it stands, led to the schema of a new release, and the days of its search engine moved on.

use std::path::{Path, PathBuf};

use clap::Subcommand;
use serde_json::json;
use service_kit::config::{CellConfig, Config};

use super::failure::{Failure, Outcome};
use super::output::Output;
use crate::wiring::{self, SetUp};

mod standing;
mod tiers;

/// What to do with a cell's engines.
#[derive(Debug, Subcommand)]
pub(super) enum StoreCommand {
    /// Make topics, keyspace, templates and database where they are missing, and say what differs
    /// from the configuration. What is there is never changed; repeating it is harmless.
    Init {
        /// The cell's configuration.
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
    },
    /// Say of each engine whether it is there, which schema it has, how much it holds, how far it holds
    /// the log, and what differs from the configuration. Changes nothing.
    Status {
        /// The cell's configuration.
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
    },
    /// Lead the schemas to that of this release, step by step, while the processes of the release before
    /// run on. Interrupted, it is repeated.
    Migrate {
        /// The cell's configuration.
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
        /// Only say which steps are due.
        #[arg(long)]
        dry_run: bool,
    },
    /// Show in which tier each day of the search engine is, and move those that are due: read-only and
    /// merged, cold, frozen, gone. What was stopped anywhere is gone on with.
    Tiers(tiers::TiersArguments),
}

/// Sets the engines up, looks at them, or leads their schemas forward.
pub(super) async fn run(command: &StoreCommand, output: &mut Output) -> Result<Outcome, Failure> {
    match command {
        StoreCommand::Init { config } => init(config, output).await,
        StoreCommand::Status { config } => {
            let config = cell_on_engines(config)?;
            Box::pin(standing::status(&config, output)).await
        }
        StoreCommand::Tiers(arguments) => tiers::run(arguments, output).await,
        StoreCommand::Migrate { config, dry_run } => {
            let config = cell_on_engines(config)?;
            Box::pin(standing::migrate(&config, *dry_run, output)).await
        }
    }
}

/// The configuration of a cell that has something in engines.
fn cell_on_engines(file: &Path) -> Result<Box<CellConfig>, Failure> {
    let Config::Cell(config) = super::config::read(file)?.config else {
        let text = format!("{}: `kind` is another one than cell", file.display());
        return Err(Failure::Usage(text));
    };
    if config.stores.is_embedded() {
        let text = format!("{}: log and stores are embedded; nothing to make", file.display());
        return Err(Failure::Usage(text));
    }
    Ok(config)
}

async fn init(file: &Path, output: &mut Output) -> Result<Outcome, Failure> {
    let config = cell_on_engines(file)?;
    let done = wiring::set_up(&config).await?;
    if output.is_json {
        let one = |done: &SetUp| json!({ "what": done.what, "notes": done.notes, "differs": done.is_different });
        output.line(&json!({ "stores": done.iter().map(one).collect::<Vec<_>>() }).to_string())?;
    } else {
        for done in &done {
            output.line(&format!("{}: ready", done.what))?;
            for note in &done.notes {
                output.line(&format!("  {note}"))?;
            }
        }
    }
    let is_different = done.iter().any(|done| done.is_different);
    Ok(if is_different { Outcome::BadInput } else { Outcome::Done })
}
