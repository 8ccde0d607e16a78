//! `farspan collectors list|retire`: the collectors of a cell that writes without Kafka. Asks the running
//! front, over the socket in its data directory.

use clap::{Args, Subcommand};
use http::Method;

use super::dead_letters::{Answer, CellSocket, Place, done};
use super::failure::{Failure, Outcome};
use super::output::Output;
use super::table::{clean, moment, table};
use crate::seam::operator::{Collector, socket_of};

/// Whose collectors, and what to do.
#[derive(Args, Debug)]
pub(super) struct CollectorsArguments {
    #[command(flatten)]
    place: Place,
    #[command(subcommand)]
    command: CollectorsCommand,
}

#[derive(Debug, Subcommand)]
enum CollectorsCommand {
    /// List the collectors, and how they are.
    List,
    /// Give a collector up that is gone for good: what its log held and no store has is lost, answers
    /// name that, and the watermark goes on without it. Its number is never used again.
    Retire {
        /// Its number.
        number: u32,
    },
}

/// Runs the command.
pub(super) async fn run(
    arguments: &CollectorsArguments,
    output: &mut Output,
) -> Result<Outcome, Failure> {
    let cell = CellSocket { path: socket_of(&arguments.place.data_dir()?) };
    match &arguments.command {
        CollectorsCommand::List => {
            let answer = cell.ask(Method::GET, "/collectors").await?;
            list(&answer, output)
        }
        CollectorsCommand::Retire { number } => {
            let path = format!("/collectors/{number}/retire");
            let answer = cell.ask(Method::POST, &path).await?;
            let words = format!(
                "collector {number}: retired, for good; what is lost of it is in `farspan dead-letters list`"
            );
            done(&answer, &words, output)
        }
    }
}

fn list(answer: &Answer, output: &mut Output) -> Result<Outcome, Failure> {
    let collectors: Vec<Collector> = answer.read()?;
    if output.is_json {
        return answer.print(output);
    }
    let head = ["COLLECTOR", "ADDRESS", "STANDING", "RECORDS", "NOT STORED", "AT", "REASON"];
    let rows: Vec<Vec<String>> = collectors.iter().map(row).collect();
    for line in table(&head, &rows, output.width) {
        output.line(&line)?;
    }
    Ok(Outcome::Done)
}

fn row(one: &Collector) -> Vec<String> {
    let at = one.at_unix_nano.parse().ok().filter(|at| *at > 0);
    vec![
        one.number.to_string(),
        clean(&one.address),
        clean(&one.standing),
        one.records.to_string(),
        one.not_stored.to_string(),
        at.map_or_else(|| "-".to_owned(), moment),
        clean(&one.reason),
    ]
}
