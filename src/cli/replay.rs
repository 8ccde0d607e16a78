//! `farspan replay`: does the work of a consumer group again over a part of the log, beside the running
//! cell, which goes on undisturbed.

use std::num::NonZeroU64;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use ingester::{LeftOut, Replay, ReplayReport};
use serde_json::json;
use service_kit::SystemClock;
use service_kit::config::{CellConfig, Config};
use service_kit::signals::Signals;
use tokio_util::sync::CancellationToken;
use trace_model::{Clock as _, LogRange};

use super::failure::{Failure, Outcome};
use super::output::Output;
use super::table::duration;
use crate::seam::replay::{Place, ReplayGroup, ReplayRefusal, ReplayRequest};
use crate::wiring::{self, PreparedReplay};

mod bar;
mod place;

use bar::Bar;
use place::{place, text_of};

/// The line on a terminal is drawn again after this time, and elsewhere a new one written.
const DRAW_EVERY: Duration = Duration::from_millis(200);
const WRITE_EVERY: Duration = Duration::from_secs(5);
/// Runs that are named one by one.
const NAMED_MAX: usize = 20;

/// What to replay, and where to.
#[derive(Args, Debug)]
pub(super) struct ReplayArguments {
    /// The cell's configuration.
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// The group whose work is done again.
    #[arg(long, value_enum)]
    group: ReplayGroup,
    /// From here on: a time (2026-11-28T02:00:00Z), a time ago (2h), `earliest`, an offset of all
    /// partitions (1200) or offsets of some (0:1200,3:40). Without it, with --into: from where the view ends.
    #[arg(long, value_name = "PLACE", value_parser = place)]
    from: Option<Place>,
    /// Up to here, in the same forms; by default to the log's end as it is at the start.
    #[arg(long, value_name = "PLACE", value_parser = place, default_value = "end")]
    until: Place,
    /// Into a view beside the cell's store, made where it is missing: a prefix of Elasticsearch, a keyspace
    /// of Cassandra, a database of ClickHouse.
    #[arg(long, value_name = "NAME")]
    into: Option<String>,
    /// At most so many records in a second.
    #[arg(long, value_name = "RECORDS_PER_S")]
    rate: Option<NonZeroU64>,
    /// When the view is whole, put it in the place of what the cell has: counts or raw spans. No process of
    /// the group may be running then.
    #[arg(long)]
    swap: bool,
    /// With --swap: also where the view begins later than what the cell has.
    #[arg(long, requires = "swap")]
    yes: bool,
}

impl From<ReplayRefusal> for Failure {
    fn from(refusal: ReplayRefusal) -> Self {
        match refusal {
            ReplayRefusal::Usage(text) => Self::Usage(text),
            ReplayRefusal::Failed(error) => Self::Other(error),
        }
    }
}

impl ReplayArguments {
    fn request(&self) -> Result<ReplayRequest, Failure> {
        let is_swapped =
            matches!(self.group, ReplayGroup::MetricsAggregator | ReplayGroup::AnalyticsWriter);
        if self.swap && !is_swapped {
            let group = self.group;
            let text =
                format!("--swap: counts and raw spans alone are swapped, not what {group} writes");
            return Err(Failure::Usage(text));
        }
        if self.from.is_none() && self.into.is_none() {
            let text = "--from is needed: a time, a time ago, an offset or `earliest`".to_owned();
            return Err(Failure::Usage(text));
        }
        if self.from == Some(Place::End) {
            return Err(Failure::Usage("--from end: nothing would be replayed".to_owned()));
        }
        Ok(ReplayRequest {
            group: self.group,
            from: self.from.clone(),
            until: self.until.clone(),
            into: self.into.clone(),
            records_per_second: self.rate,
        })
    }

    fn cell(&self) -> Result<Box<CellConfig>, Failure> {
        match super::config::read(&self.config)?.config {
            Config::Cell(config) => Ok(config),
            Config::Replicator(_) | Config::Gateway(_) => {
                let file = self.config.display();
                Err(Failure::Usage(format!("{file}: `kind` is another one than cell")))
            }
        }
    }
}

/// Replays.
pub(super) async fn run(
    arguments: &ReplayArguments,
    output: &mut Output,
) -> Result<Outcome, Failure> {
    let request = arguments.request()?;
    let config = arguments.cell()?;
    if let (true, Some(into)) = (arguments.swap, &arguments.into)
        && wiring::is_swap_begun(&config, request.group, into).await?
    {
        return swap(&config, (request.group, into), arguments.yes, output).await;
    }
    let (signals, stop) = (Signals::install()?, CancellationToken::new());
    let preparing = Box::pin(wiring::prepare_replay(&config, &request, stop.clone()));
    let prepared = tokio::select! {
        prepared = preparing => prepared?,
        () = signals.asked() => return Ok(Outcome::Interrupted),
    };
    let shown = announce(&request, &prepared, output)?;
    let PreparedReplay { log, replay, ranges, .. } = prepared;
    let began = SystemClock::new();
    let report = Box::pin(watch(replay, (&signals, &stop), &began, output)).await;
    drop(log.close().await);
    let Some(report) = report? else { return Ok(Outcome::Interrupted) };
    finish(&request, &ranges, &report, (&shown, began.monotonic()), output)?;
    if let Some(reason) = &report.fenced {
        return Err(anyhow::anyhow!("the replay was refused for good: {reason}").into());
    }
    let is_whole = report.is_whole();
    if !is_whole || !arguments.swap {
        return Ok(if is_whole { Outcome::Done } else { Outcome::Partial });
    }
    swap(&config, (request.group, &shown.into), arguments.yes, output).await
}

/// Runs it and shows how far it is. The first signal stops it in order, the second at once.
async fn watch(
    replay: Replay,
    (signals, stop): (&Signals, &CancellationToken),
    began: &SystemClock,
    output: &mut Output,
) -> Result<Option<ReplayReport>, Failure> {
    let mut progress = replay.progress();
    let mut running = Box::pin(replay.run());
    let every = if output.is_terminal { DRAW_EVERY } else { WRITE_EVERY };
    let (mut bar, mut is_drawn) = (Bar::default(), false);
    loop {
        let report = tokio::select! {
            report = &mut running => Some(report),
            () = tokio::time::sleep(every) => None,
            () = signals.asked(), if !stop.is_cancelled() => {
                stop.cancel();
                None
            }
            () = signals.insisted() => return Ok(None),
        };
        let line = bar.line(&progress.borrow_and_update(), began.monotonic(), output.is_terminal);
        draw(&line, &mut is_drawn, output)?;
        if report.is_some() {
            return Ok(report);
        }
    }
}

async fn swap(
    config: &CellConfig,
    (group, into): (ReplayGroup, &str),
    is_confirmed: bool,
    output: &mut Output,
) -> Result<Outcome, Failure> {
    let swapped = wiring::swap(config, group, into, is_confirmed).await?;
    match output.is_json {
        true => output.line(&json!({ "swapped": true, "notes": swapped }).to_string())?,
        false => swapped.iter().try_for_each(|line| output.line(line))?,
    }
    Ok(Outcome::Done)
}

/// What is told again at the end.
struct Shown {
    into: String,
    what: String,
    warnings: Vec<String>,
}

fn announce(
    request: &ReplayRequest,
    prepared: &PreparedReplay,
    output: &mut Output,
) -> Result<Shown, Failure> {
    let PreparedReplay { ranges, into, what, warnings, .. } = prepared;
    if !output.is_json {
        let records: u64 = ranges.iter().map(|range| range.next.saturating_sub(range.first)).sum();
        let partitions = ranges.len();
        output.line(&format!(
            "{}: {records} records of {partitions} partitions into {what}",
            request.group
        ))?;
        for warning in warnings {
            output.line(&output.paint().warn(&format!("  {warning}")))?;
        }
    }
    Ok(Shown { into: into.clone(), what: what.clone(), warnings: warnings.clone() })
}

fn draw(line: &str, drawn: &mut bool, output: &mut Output) -> Result<(), Failure> {
    if output.is_json {
        return Ok(());
    }
    if !output.is_terminal {
        return Ok(output.line(line)?);
    }
    let cut: String = line.chars().take(output.width.saturating_sub(1)).collect();
    // Up to the line, and clear it.
    let up = if *drawn { "\u{1b}[1A\u{1b}[J" } else { "" };
    *drawn = true;
    Ok(output.raw(&format!("{up}{cut}\n"))?)
}

fn finish(
    request: &ReplayRequest,
    ranges: &[LogRange],
    report: &ReplayReport,
    (shown, took): (&Shown, Duration),
    output: &mut Output,
) -> Result<(), Failure> {
    if output.is_json {
        return Ok(output.line(&summary(request, ranges, report, (shown, took)).to_string())?);
    }
    let progress = &report.progress;
    output.line(&format!(
        "{} of {} records, {} spans in {}",
        progress.records,
        progress.total,
        progress.spans,
        duration(u64::try_from(took.as_nanos()).unwrap_or(u64::MAX))
    ))?;
    name("refused by the store", &report.refused, report.refused_records, output)?;
    name("damaged in the log", &report.damaged, report.damaged_records, output)?;
    if report.expired_records > 0 {
        let records = report.expired_records;
        output.line(&format!("the log gave up {records} records before they were read"))?;
    }
    if !report.left.is_empty() {
        let from = text_of(report.left.iter().map(|left| (left.partition, left.first)));
        let until = text_of(report.left.iter().map(|left| (left.partition, left.next)));
        output.line(&format!("stopped; to go on: --from {from} --until {until}"))?;
    }
    Ok(())
}

fn name(
    what: &str,
    left_out: &[LeftOut],
    records: u64,
    output: &mut Output,
) -> Result<(), Failure> {
    if records == 0 {
        return Ok(());
    }
    output.line(&format!("{what}: {records} records"))?;
    for LeftOut { range, reason } in left_out.iter().take(NAMED_MAX) {
        let LogRange { partition, first, next } = range;
        output.line(&format!("  {partition}:{first}..{next}: {reason}"))?;
    }
    if left_out.len() > NAMED_MAX {
        output.line("  … (--json names up to 1000)")?;
    }
    Ok(())
}

fn summary(
    request: &ReplayRequest,
    ranges: &[LogRange],
    report: &ReplayReport,
    (shown, took): (&Shown, Duration),
) -> serde_json::Value {
    let range = |range: &LogRange| json!({ "partition": range.partition, "first": range.first, "next": range.next });
    let left_out = |one: &LeftOut| {
        let mut value = range(&one.range);
        if let Some(object) = value.as_object_mut() {
            object.insert("reason".to_owned(), json!(one.reason));
        }
        value
    };
    json!({
        "group": request.group.to_string(),
        "into": shown.what,
        "name": shown.into,
        "warnings": shown.warnings,
        "ranges": ranges.iter().map(range).collect::<Vec<_>>(),
        "records": report.progress.records,
        "totalRecords": report.progress.total,
        "spans": report.progress.spans,
        "seconds": took.as_secs_f64(),
        "refusedRecords": report.refused_records,
        "refused": report.refused.iter().map(left_out).collect::<Vec<_>>(),
        "damagedRecords": report.damaged_records,
        "damaged": report.damaged.iter().map(left_out).collect::<Vec<_>>(),
        "expiredRecords": report.expired_records,
        "left": report.left.iter().map(range).collect::<Vec<_>>(),
        "isWhole": report.is_whole(),
    })
}
