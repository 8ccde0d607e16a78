//! `farspan store init`: what a cell needs in its engines, made before it is started; and what is done
//! with them later.

mod tiers;

use std::path::PathBuf;

use clap::Subcommand;
use serde_json::json;
use service_kit::config::Config;

use super::failure::{Failure, Outcome};
use super::output::Output;
use crate::wiring::{self, SetUp};

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
    /// Show in which tier each day of the search engine is, and move those that are due: read-only and
    /// merged, cold, frozen, gone. What was stopped anywhere is gone on with.
    Tiers(tiers::TiersArguments),
}

/// Sets the engines up.
pub(super) async fn run(command: &StoreCommand, output: &mut Output) -> Result<Outcome, Failure> {
    let file = match command {
        StoreCommand::Init { config } => config,
        StoreCommand::Tiers(arguments) => return tiers::run(arguments, output).await,
    };
    let Config::Cell(config) = super::config::read(file)?.config else {
        let text = format!("{}: `kind` is another one than cell", file.display());
        return Err(Failure::Usage(text));
    };
    if config.stores.is_embedded() {
        let text = format!("{}: log and stores are embedded; nothing to make", file.display());
        return Err(Failure::Usage(text));
    }
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
