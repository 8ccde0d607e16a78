//! `farspan dead-letters list|show|retry|drop`: what a cell has set aside, and what it has lost. Asks
//! the running cell, over the socket in its data directory.

use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use clap::{Args, Subcommand};
use http::{Method, StatusCode};
use http_body_util::{BodyExt, Empty, Limited};
use hyper_util::rt::TokioIo;
use service_kit::config::Config;
use tokio::net::UnixStream;

use super::failure::{Failure, Outcome};
use super::output::Output;
use super::table::{bytes, clean, moment, table};
use crate::seam::operator::{Letter, LostRun, Refusal, SetAside, Stepped, socket_of};

/// Largest answer that is taken.
const ANSWER_BYTES_MAX: usize = 64 << 20;
/// A retry waits for its group, and for the store behind it.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);

/// Which cell, and what to do.
#[derive(Args, Debug)]
pub(super) struct DeadLettersArguments {
    #[command(flatten)]
    place: Place,
    #[command(subcommand)]
    command: DeadLettersCommand,
}

/// Where the cell keeps its data.
#[derive(Args, Debug)]
#[group(required = true, multiple = false)]
pub(super) struct Place {
    /// The data directory of the running cell.
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// The cell's configuration, which names its data directory.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
enum DeadLettersCommand {
    /// List dead letters and lost records.
    List {
        /// From this number on.
        #[arg(long, default_value_t = 0)]
        from: u64,
        /// At most so many letters.
        #[arg(long, default_value_t = 100)]
        limit: usize,
    },
    /// Show one letter, with the ids of its traces.
    Show {
        /// Its number.
        number: u64,
    },
    /// Hand a letter to its group again: it goes once the store has its spans.
    Retry {
        /// Its number.
        number: u64,
    },
    /// Give up a letter, or forget a run of lost records: answers no longer name it.
    Drop {
        /// A letter's number, or a run's id as listed: incarnation/partition/first, with the group behind
        /// it where one group has missed the run.
        #[arg(value_name = "NUMBER|RUN")]
        what: String,
    },
}

/// Lists, shows, retries, drops.
pub(super) async fn run(
    arguments: &DeadLettersArguments,
    output: &mut Output,
) -> Result<Outcome, Failure> {
    let cell = CellSocket { path: socket_of(&arguments.place.data_dir()?) };
    match &arguments.command {
        DeadLettersCommand::List { from, limit } => {
            let path = format!("/dead-letters?from={from}&limit={limit}");
            let answer = cell.ask(Method::GET, &path).await?;
            list(&answer, output)
        }
        DeadLettersCommand::Show { number } => {
            let answer = cell.ask(Method::GET, &format!("/dead-letters/{number}")).await?;
            show(&answer, output)
        }
        DeadLettersCommand::Retry { number } => {
            let answer = cell.ask(Method::POST, &format!("/dead-letters/{number}/retry")).await?;
            done(&answer, &format!("dead letter {number}: taken, and gone"), output)
        }
        DeadLettersCommand::Drop { what } => {
            let answer = cell.ask(Method::DELETE, &path_of(what)?).await?;
            done(&answer, &format!("{what}: dropped"), output)
        }
    }
}

impl Place {
    pub(super) fn data_dir(&self) -> Result<PathBuf, Failure> {
        if let Some(directory) = &self.data_dir {
            return Ok(directory.clone());
        }
        let file = self.config.as_deref().unwrap_or(Path::new(""));
        match super::config::read(file)?.config {
            Config::Cell(config) => Ok(config.data_dir),
            Config::Replicator(_) | Config::Gateway(_) => {
                let file = file.display();
                Err(Failure::Usage(format!("{file}: `kind` is another one than cell")))
            }
        }
    }
}

/// A letter's number, or the three parts of a run's id, and the group that has missed it.
fn path_of(what: &str) -> Result<String, Failure> {
    let (run, group) = match what.splitn(4, '/').nth(3) {
        Some(group) => {
            (what.strip_suffix(group).and_then(|run| run.strip_suffix('/')), Some(group))
        }
        None => (Some(what), None),
    };
    let is_name = |group: &str| group.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'-');
    let numbers = run.unwrap_or_default().split('/').map(|part| part.parse().ok());
    let numbers: Option<Vec<u64>> = numbers.collect();
    match (numbers.as_deref(), group) {
        (Some([incarnation, partition, first]), Some(group)) if is_name(group) => {
            Ok(format!("/lost/{incarnation}/{partition}/{first}/{group}"))
        }
        (Some([number]), None) => Ok(format!("/dead-letters/{number}")),
        (Some([incarnation, partition, first]), None) => {
            Ok(format!("/lost/{incarnation}/{partition}/{first}"))
        }
        _ => Err(Failure::Usage(format!(
            "{what}: neither a letter's number nor a run's id (incarnation/partition/first[/group])"
        ))),
    }
}

fn list(answer: &Answer, output: &mut Output) -> Result<Outcome, Failure> {
    let listed: SetAside = answer.read()?;
    if output.is_json {
        return answer.print(output);
    }
    let is_empty = listed.letters.is_empty() && listed.unreadable.is_empty();
    if is_empty && listed.lost.is_empty() && listed.stepped_over.is_empty() {
        output.line("no dead letters, nothing lost")?;
        return Ok(Outcome::Done);
    }
    if !listed.letters.is_empty() {
        let head = ["LETTER", "GROUP", "TENANT", "APPENDED", "SPANS", "SIZE", "REASON"];
        let rows: Vec<Vec<String>> = listed.letters.iter().map(row).collect();
        for line in table(&head, &rows, output.width) {
            output.line(&line)?;
        }
    }
    for letter in &listed.unreadable {
        let line = output.paint().bad(&clean(&letter.error));
        output.line(&line)?;
    }
    if listed.has_more {
        output.line("there are more letters: --from")?;
    }
    if !listed.lost.is_empty() {
        let head = ["LOST RUN", "BY", "CAUSE", "RECORDS", "APPENDED FROM", "UNTIL"];
        let rows: Vec<Vec<String>> = listed.lost.iter().map(lost_row).collect();
        for line in table(&head, &rows, output.width) {
            output.line(&line)?;
        }
    }
    if !listed.stepped_over.is_empty() {
        let head = ["STEPPED OVER BY", "AT", "RECORDS", "KEY", "SIZE", "NOTED", "REASON"];
        let rows: Vec<Vec<String>> = listed.stepped_over.iter().map(stepped_row).collect();
        for line in table(&head, &rows, output.width) {
            output.line(&line)?;
        }
    }
    Ok(Outcome::Done)
}

fn stepped_row(run: &Stepped) -> Vec<String> {
    let topic = if run.topic.is_empty() { "span log" } else { run.topic.as_str() };
    let key = if run.key.is_empty() { "none" } else { run.key.as_str() };
    vec![
        clean(&run.group),
        clean(&format!("{topic} {}:{}", run.partition, run.first)),
        run.next.saturating_sub(run.first).to_string(),
        clean(key),
        bytes(run.bytes),
        time(&run.noted_unix_nano),
        clean(&run.reason),
    ]
}

fn row(letter: &Letter) -> Vec<String> {
    vec![
        letter.number.to_string(),
        clean(&letter.group),
        clean(&letter.tenant),
        time(&letter.appended_unix_nano),
        letter.spans.to_string(),
        bytes(letter.bytes),
        clean(&letter.reason),
    ]
}

fn lost_row(run: &LostRun) -> Vec<String> {
    let records = run
        .next
        .map_or_else(|| "unknown".to_owned(), |next| next.saturating_sub(run.first).to_string());
    vec![
        clean(&run.id),
        clean(run.missed_by.as_deref().unwrap_or("all")),
        clean(&run.cause),
        records,
        time(&run.appended_from_unix_nano),
        time(&run.appended_until_unix_nano),
    ]
}

fn time(nanos: &str) -> String {
    nanos.parse().map_or_else(|_| clean(nanos), moment)
}

fn show(answer: &Answer, output: &mut Output) -> Result<Outcome, Failure> {
    if answer.status == StatusCode::NOT_FOUND {
        return done(answer, "", output);
    }
    let letter: Letter = answer.read()?;
    if output.is_json {
        return answer.print(output);
    }
    let place =
        format!("partition {}, offsets {}..{}", letter.partition, letter.first, letter.next);
    for (name, value) in [
        ("letter", letter.number.to_string()),
        ("group", letter.group),
        ("reason", letter.reason),
        ("tenant", letter.tenant),
        ("appended", time(&letter.appended_unix_nano)),
        ("place", place),
        ("size", format!("{}, {} spans", bytes(letter.bytes), letter.spans)),
    ] {
        output.line(&format!("{name:<9} {}", clean(&value)))?;
    }
    for trace_id in &letter.trace_ids {
        output.line(&format!("trace     {}", clean(trace_id)))?;
    }
    Ok(Outcome::Done)
}

/// The end of a command that changes something: nothing there is a provable no.
pub(super) fn done(answer: &Answer, words: &str, output: &mut Output) -> Result<Outcome, Failure> {
    let (outcome, words) = match answer.status {
        StatusCode::NO_CONTENT => (Outcome::Done, words.to_owned()),
        StatusCode::NOT_FOUND => (Outcome::NotFound, answer.message()),
        _ => return Err(answer.failure()),
    };
    if output.is_json {
        let is_done = outcome == Outcome::Done;
        let json = serde_json::json!({ "done": is_done, "message": words });
        output.line(&json.to_string())?;
    } else {
        output.line(&clean(&words))?;
    }
    Ok(outcome)
}

/// The socket of a running cell.
pub(super) struct CellSocket {
    pub(super) path: PathBuf,
}

/// What the cell answered.
pub(super) struct Answer {
    status: StatusCode,
    body: String,
}

impl CellSocket {
    pub(super) async fn ask(&self, method: Method, path: &str) -> Result<Answer, Failure> {
        match tokio::time::timeout(ANSWER_TIMEOUT, self.ask_untimed(method, path)).await {
            Ok(answer) => answer,
            Err(_) => Err(self.unreachable("it did not answer within a minute")),
        }
    }

    async fn ask_untimed(&self, method: Method, path: &str) -> Result<Answer, Failure> {
        let stream = UnixStream::connect(&self.path).await;
        let stream = stream.map_err(|error| self.unreachable(&error.to_string()))?;
        let shaken = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await;
        let (mut sender, connection) =
            shaken.map_err(|error| self.unreachable(&error.to_string()))?;
        let request = http::Request::builder().method(method).uri(path).header("host", "cell");
        let request = request.body(Empty::<Bytes>::new());
        let request = request.map_err(|error| Failure::Usage(format!("not a request: {error}")))?;
        let exchange = async move {
            let response = sender.send_request(request).await;
            let response = response.map_err(|error| self.unreachable(&error.to_string()))?;
            let status = response.status();
            let body = Limited::new(response.into_body(), ANSWER_BYTES_MAX).collect().await;
            let body = body.map_err(|error| Failure::Unreadable(error.to_string()))?.to_bytes();
            Ok(Answer { status, body: String::from_utf8_lossy(&body).into_owned() })
        };
        // The connection ends when its sender is dropped; how it ended does not change the answer.
        let (answer, _) = tokio::join!(exchange, connection);
        answer
    }

    fn unreachable(&self, why: &str) -> Failure {
        Failure::NoCell { socket: self.path.clone(), why: why.to_owned() }
    }
}

impl Answer {
    pub(super) fn read<T: serde::de::DeserializeOwned>(&self) -> Result<T, Failure> {
        if self.status != StatusCode::OK {
            return Err(self.failure());
        }
        serde_json::from_str(&self.body).map_err(|error| Failure::Unreadable(error.to_string()))
    }

    pub(super) fn print(&self, output: &mut Output) -> Result<Outcome, Failure> {
        output.line(self.body.trim_end())?;
        Ok(Outcome::Done)
    }

    fn message(&self) -> String {
        let refusal: Option<Refusal> = serde_json::from_str(&self.body).ok();
        clean(&refusal.map_or_else(|| self.body.clone(), |refusal| refusal.error))
    }

    fn failure(&self) -> Failure {
        Failure::RefusedByCell { status: self.status.as_u16(), message: self.message() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_dropped_is_a_letter_or_a_run_and_nothing_else() {
        assert_eq!(path_of("7").unwrap(), "/dead-letters/7");
        assert_eq!(path_of("17/0/40").unwrap(), "/lost/17/0/40");
        let missed = "17/0/40/search-indexer";
        assert_eq!(path_of(missed).unwrap(), format!("/lost/{missed}"));
        for bad in ["", "x", "-1", "1/2", "1/2/3/4", "1/2/x", "../1"] {
            assert!(matches!(path_of(bad), Err(Failure::Usage(_))), "{bad}");
        }
    }

    #[test]
    fn a_list_shows_letters_and_what_is_lost_for_good() {
        let body = r#"{"letters":[{"number":7,"group":"storage-writer","reason":"no\u0007such",
            "tenant":"default","partition":0,"first":4,"next":6,
            "appendedUnixNano":"1790000000000000000","traces":2,"spans":3,"bytes":2048}],
            "unreadable":[{"error":"dead letter 9 is damaged"}],"hasMore":true,
            "lost":[{"id":"5/0/40","cause":"damaged","first":40,"next":44,
            "appendedFromUnixNano":"1790000000000000000",
            "appendedUntilUnixNano":"1790000000000000000"}],
            "steppedOver":[{"group":"foreign-spans","topic":"otlp_spans","partition":3,"first":41,
            "next":42,"reason":"the body is not","key":"6b31","bytes":12,
            "notedUnixNano":"1790000000000000000"}]}"#;
        let answer = Answer { status: StatusCode::OK, body: body.to_owned() };
        let (mut output, buffer) = Output::to_buffer(false);
        assert_eq!(list(&answer, &mut output).unwrap(), Outcome::Done);
        let text = buffer.text();
        let told = ["storage-writer", "no\u{fffd}such", "letter 9 is damaged", "--from", "5/0/40"];
        for words in told.into_iter().chain(["otlp_spans 3:41", "6b31", "the body is not"]) {
            assert!(text.contains(words), "{words} is not in\n{text}");
        }
    }

    #[test]
    fn what_is_not_there_is_not_found_and_what_was_refused_is_a_failure() {
        let (mut output, buffer) = Output::to_buffer(true);
        let body = r#"{"error":"there is no dead letter 3"}"#.to_owned();
        let absent = Answer { status: StatusCode::NOT_FOUND, body };
        assert_eq!(done(&absent, "", &mut output).unwrap(), Outcome::NotFound);
        assert!(buffer.text().contains("\"done\":false"));
        let body = r#"{"error":"the group refused it again"}"#.to_owned();
        let refused = Answer { status: StatusCode::CONFLICT, body };
        let failure = done(&refused, "", &mut output).unwrap_err();
        assert!(matches!(failure, Failure::RefusedByCell { status: 409, .. }), "{failure}");
    }

    #[tokio::test]
    async fn where_no_cell_runs_the_error_says_what_to_try() {
        let directory = tempfile::tempdir().unwrap();
        let cell = CellSocket { path: socket_of(directory.path()) };
        let failure = cell.ask(Method::GET, "/dead-letters").await.map(|_| ()).unwrap_err();
        let text = failure.to_string();
        assert!(text.contains("no cell answers") && text.contains("--data-dir"), "{text}");
    }
}
