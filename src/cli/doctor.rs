//! `farspan doctor`: one line a figure, with its limit and what to do.

use std::path::PathBuf;

use clap::Args;
use serde_json::{Value, json};
use service_kit::config::Config;

use super::failure::{Failure, Outcome};
use super::output::Output;
use super::table::{clean, table, width};
use crate::doctor::Patient;
use crate::doctor::finding::{Finding, Part, Reading, Verdict};
use crate::doctor::limits::{Edge, Unit};

const EXIT_CODES: &str = "Exit codes: 0 all well, 3 something to look at or that could not be read, \
                          2 bad usage. What an engine never tells does not count.";

/// What to look at.
#[derive(Args, Debug)]
#[command(after_help = EXIT_CODES)]
pub(super) struct DoctorArguments {
    /// The configuration of a cell or a gateway.
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// Only these parts of it, divided by commas.
    #[arg(long, value_enum, value_delimiter = ',', value_name = "PART")]
    only: Vec<Part>,
}

/// Asks and tells.
pub(super) async fn run(
    arguments: &DoctorArguments,
    output: &mut Output,
) -> Result<Outcome, Failure> {
    let file = &arguments.config;
    let config = super::config::read(file)?.config;
    let patient = match &config {
        Config::Cell(config) => Patient::Cell(config),
        Config::Gateway(config) => Patient::Gateway(config),
        Config::Replicator(_) => {
            let text = format!("{}: `kind` is neither cell nor gateway", file.display());
            return Err(Failure::Usage(text));
        }
    };
    let parts = patient.parts();
    if let Some(absent) = arguments.only.iter().find(|part| !parts.contains(part)) {
        let has: Vec<_> = parts.iter().map(|part| part.name()).collect();
        let words = format!("--only {}: {} has {}", absent.name(), file.display(), has.join(", "));
        return Err(Failure::Usage(words));
    }
    let findings = patient.examine(&arguments.only).await;
    if output.is_json {
        output.line(&in_json(&findings).to_string())?;
    } else {
        in_lines(&findings, output)?;
    }
    let is_well = !findings.iter().any(Finding::is_trouble);
    Ok(if is_well { Outcome::Done } else { Outcome::Partial })
}

/// A table; what to do stands behind the line where there is room, else below it.
fn in_lines(findings: &[Finding], output: &mut Output) -> std::io::Result<()> {
    let rows: Vec<Vec<String>> = findings.iter().map(row).collect();
    let head = ["PART", "CHECK", "VALUE", "LIMIT", "VERDICT"];
    let mut lines = table(&head, &rows, output.width).into_iter();
    let paint = output.paint();
    output.line(&lines.next().unwrap_or_default())?;
    for (finding, line) in findings.iter().zip(lines) {
        let advice = clean(&finding.advice());
        let has_room = width(&line) + width(&advice) + 2 <= output.width;
        let (line, below) = match advice.as_str() {
            "" => (line, None),
            advice if has_room => (format!("{line}  {advice}"), None),
            advice => (line, Some(format!("    {advice}"))),
        };
        for text in [Some(line), below].into_iter().flatten() {
            output.line(&match finding.verdict() {
                Verdict::Ok => text,
                Verdict::Unknown => paint.dim(&text),
                Verdict::Warn => paint.warn(&text),
                Verdict::Act => paint.bad(&text),
            })?;
        }
    }
    output.line(&summary(findings))
}

fn row(finding: &Finding) -> Vec<String> {
    let check = match finding.subject.as_str() {
        "" => finding.check.to_owned(),
        subject => format!("{}: {}", finding.check, clean(subject)),
    };
    let (value, verdict) = (clean(&finding.value()), finding.verdict().name().to_owned());
    vec![finding.part.name().to_owned(), check, value, finding.threshold(), verdict]
}

fn count(findings: &[Finding], verdict: Verdict) -> usize {
    findings.iter().filter(|finding| finding.verdict() == verdict).count()
}

fn summary(findings: &[Finding]) -> String {
    let of = |verdict: Verdict| format!("{} {}", count(findings, verdict), verdict.name());
    let counts = [Verdict::Act, Verdict::Warn, Verdict::Unknown, Verdict::Ok].map(of);
    format!("{} checks: {}", findings.len(), counts.join(", "))
}

fn in_json(findings: &[Finding]) -> Value {
    let of = |verdict| count(findings, verdict);
    json!({
        "checks": findings.iter().map(one_in_json).collect::<Vec<_>>(),
        "ok": of(Verdict::Ok),
        "warn": of(Verdict::Warn),
        "act": of(Verdict::Act),
        "unknown": of(Verdict::Unknown),
        "isWell": !findings.iter().any(Finding::is_trouble),
    })
}

fn one_in_json(finding: &Finding) -> Value {
    let (warn, act) = finding.edges();
    let edge = |edge: Option<Edge>| edge.map(Edge::at);
    let value = match &finding.reading {
        Reading::Number(value) => json!(value),
        Reading::Fact(..) | Reading::Unknown(_) | Reading::Untold(_) => Value::Null,
    };
    let unit = finding.limit.filter(|_| !value.is_null()).map(|limit| match limit.unit {
        Unit::Ratio => "ratio",
        Unit::Seconds => "seconds",
        Unit::Bytes => "bytes",
        Unit::Count => "count",
    });
    json!({
        "part": finding.part.name(),
        "check": finding.check,
        "subject": finding.subject,
        "value": value,
        "unit": unit,
        "text": finding.value(),
        "limit": { "warn": edge(warn), "act": edge(act), "text": finding.threshold() },
        "verdict": finding.verdict().name(),
        "isTrouble": finding.is_trouble(),
        "advice": finding.advice(),
        "source": finding.limit.map(|limit| limit.source),
    })
}

#[cfg(test)]
mod tests;
