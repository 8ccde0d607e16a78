//! `farspan store tiers`: in which tier each day of the search engine is, and its next step.

use std::path::PathBuf;

use clap::Args;
use serde_json::json;
use service_kit::config::Config;

use super::super::failure::{Failure, Outcome};
use super::super::output::Output;
use super::super::table::{bytes, clean, table};
use crate::wiring::{self, Moves, TiersShown};

/// Which cell's days, and what to do with them.
#[derive(Args, Debug)]
pub(in crate::cli) struct TiersArguments {
    /// The cell's configuration.
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// Show the days and their next steps, and change nothing.
    #[arg(long, conflicts_with = "once")]
    dry_run: bool,
    /// Make the next step of each day alone.
    #[arg(long)]
    once: bool,
}

/// Shows the days, after making the steps that are due.
pub(super) async fn run(
    arguments: &TiersArguments,
    output: &mut Output,
) -> Result<Outcome, Failure> {
    let file = &arguments.config;
    let Config::Cell(config) = super::super::config::read(file)?.config else {
        let text = format!("{}: `kind` is another one than cell", file.display());
        return Err(Failure::Usage(text));
    };
    if config.stores.elasticsearch.is_none() {
        let text = format!("{}: no Elasticsearch, whose days these tiers hold", file.display());
        return Err(Failure::Usage(text));
    }
    let moves = match (arguments.dry_run, arguments.once) {
        (true, _) => Moves::None,
        (false, true) => Moves::OneOfEachDay,
        (false, false) => Moves::All,
    };
    let shown = Box::pin(wiring::store_tiers(&config, moves)).await?;
    show(&shown, output)?;
    let has_failed = shown.days.iter().any(|day| day.error.is_some());
    Ok(if has_failed { Outcome::Partial } else { Outcome::Done })
}

fn show(shown: &TiersShown, output: &mut Output) -> std::io::Result<()> {
    if output.is_json {
        return output.line(&as_json(shown).to_string());
    }
    let head = ["DAY", "TIER", "DUE", "DOCUMENTS", "SIZE", "NEXT"];
    let rows: Vec<Vec<String>> = shown
        .days
        .iter()
        .map(|day| {
            let next = day.error.as_ref().map(|error| format!("failed: {error}"));
            vec![
                clean(&day.name),
                day.tier.to_owned(),
                day.due.to_owned(),
                day.documents.to_string(),
                bytes(day.bytes),
                clean(&next.or_else(|| day.next.clone()).unwrap_or_default()),
            ]
        })
        .collect();
    for line in table(&head, &rows, output.width) {
        output.line(&line)?;
    }
    for day in &shown.days {
        for step in &day.done {
            output.line(&clean(&format!("{}: done: {step}", day.name)))?;
        }
    }
    for note in &shown.notes {
        output.line(&format!("note: {}", clean(note)))?;
    }
    Ok(())
}

fn as_json(shown: &TiersShown) -> serde_json::Value {
    let days = shown.days.iter().map(|day| {
        json!({
            "day": day.name, "tier": day.tier, "due": day.due, "documents": day.documents,
            "bytes": day.bytes, "indices": day.indices, "done": day.done, "next": day.next,
            "error": day.error,
        })
    });
    json!({
        "driver": shown.driver, "notes": shown.notes, "days": days.collect::<Vec<_>>(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wiring::DayShown;

    fn shown() -> TiersShown {
        let day = DayShown {
            name: "eu.a-jaeger-span-2026-09-21".to_owned(),
            tier: "hot",
            due: "warm",
            documents: 12,
            bytes: 3 << 20,
            indices: vec!["eu.a-jaeger-span-2026-09-21".to_owned()],
            done: vec!["make it read-only".to_owned()],
            next: Some("copy".to_owned()),
            error: None,
        };
        let failed = DayShown { error: Some("no node".to_owned()), ..day.clone() };
        TiersShown { driver: "own", notes: vec!["a note".to_owned()], days: vec![day, failed] }
    }

    #[test]
    fn each_day_is_a_row_with_its_next_step_or_what_failed() {
        let (mut output, buffer) = Output::to_buffer(false);
        show(&shown(), &mut output).unwrap();
        let text = buffer.text();
        let lines: Vec<&str> = text.lines().collect();
        assert!(lines[1].contains("hot   warm  12         3.0 MiB  copy"), "{text}");
        assert!(lines[2].ends_with("failed: no node"), "{text}");
        assert_eq!(lines[3], "eu.a-jaeger-span-2026-09-21: done: make it read-only");
        assert_eq!(lines.last(), Some(&"note: a note"));
    }

    #[test]
    fn as_json_it_is_one_line_with_everything() {
        let (mut output, buffer) = Output::to_buffer(true);
        show(&shown(), &mut output).unwrap();
        let value: serde_json::Value = serde_json::from_str(&buffer.text()).unwrap();
        assert_eq!((&value["driver"], &value["days"][0]["documents"]), (&json!("own"), &json!(12)));
        assert_eq!(value["days"][1]["error"], "no node");
    }
}
