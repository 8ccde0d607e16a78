//! `farspan store status|migrate`: how the engines of a cell stand, and their schemas led forward.

use serde_json::{Value, json};
use service_kit::config::CellConfig;
use trace_model::Coverage;

use crate::cli::bytes;
use crate::cli::failure::{Failure, Outcome};
use crate::cli::output::Output;
use crate::wiring::{self, Migrated, Standing};

/// Says how every engine stands.
pub(super) async fn status(config: &CellConfig, output: &mut Output) -> Result<Outcome, Failure> {
    let found = wiring::look(config).await;
    if output.is_json {
        let stores: Vec<Value> = found.iter().map(as_json).collect();
        output.line(&json!({ "stores": stores }).to_string())?;
    } else {
        for line in found.iter().flat_map(lines) {
            output.line(&line)?;
        }
    }
    let is_any = |of: fn(&Standing) -> bool| found.iter().any(of);
    Ok(match () {
        () if is_any(|at| at.failure.is_some()) => Outcome::CheckFailed,
        () if is_any(|at| at.advice.is_some() || !at.differences.is_empty()) => Outcome::BadInput,
        () => Outcome::Done,
    })
}

fn lines(at: &Standing) -> Vec<String> {
    if let Some(failure) = &at.failure {
        return vec![format!("{}: cannot be asked: {failure}", at.what)];
    }
    let schema = match at.schema {
        None => String::new(),
        Some((None, _)) => ", no schema".to_owned(),
        Some((Some(found), wanted)) if found == wanted => format!(", schema version {found}"),
        Some((Some(found), wanted)) => {
            format!(", schema version {found}, this release's is {wanted}")
        }
    };
    let mut lines = vec![format!("{}: {}{schema}", at.what, at.engine)];
    for size in &at.sizes {
        let rows = size.rows.map(|rows| format!("{rows} rows, ")).unwrap_or_default();
        lines.push(format!("  {}: {rows}{}", size.name, bytes(size.bytes)));
    }
    for (group, covered) in &at.covered {
        lines.push(format!("  {group}: {}", reach(covered)));
    }
    let differs = at.differences.iter().map(|words| format!("  differs: {words}"));
    lines.extend(differs);
    lines.extend(at.notes.iter().map(|words| format!("  note: {words}")));
    lines.extend(at.advice.iter().map(|words| format!("  {words}")));
    lines
}

/// How far the log is held, in words.
fn reach(covered: &Coverage) -> String {
    // Calls joined across borders are counted beside the partitions of the log.
    let log = || covered.next.iter().filter(|(partition, _)| **partition != u32::MAX);
    let (partitions, records) = (log().count(), log().map(|(_, next)| next).sum::<u64>());
    if partitions == 0 {
        return "nothing of the log yet".to_owned();
    }
    let ends = || log().map(|(_, next)| *next);
    let (least, most) = (ends().min().unwrap_or(0), ends().max().unwrap_or(0));
    format!("{partitions} partitions up to {least} … {most}, {records} records in all")
}

fn as_json(at: &Standing) -> Value {
    let sizes = at.sizes.iter();
    let sizes =
        sizes.map(|size| json!({ "name": size.name, "rows": size.rows, "bytes": size.bytes }));
    let covered = at.covered.iter().map(|(group, covered)| {
        let next = covered.next.iter().filter(|(partition, _)| **partition != u32::MAX);
        let next: serde_json::Map<String, Value> =
            next.map(|(partition, next)| (partition.to_string(), json!(next))).collect();
        json!({ "group": group, "incarnation": covered.incarnation.to_string(), "next": next })
    });
    json!({
        "what": at.what,
        "isReachable": at.failure.is_none(),
        "failure": at.failure,
        "engine": at.engine,
        "schema": at.schema.map(|(found, wanted)| json!({ "found": found, "wanted": wanted })),
        "advice": at.advice,
        "differences": at.differences,
        "notes": at.notes,
        "sizes": sizes.collect::<Vec<_>>(),
        "covered": covered.collect::<Vec<_>>(),
    })
}

/// Leads the schemas forward.
pub(super) async fn migrate(
    config: &CellConfig,
    is_dry_run: bool,
    output: &mut Output,
) -> Result<Outcome, Failure> {
    let done = wiring::migrate(config, is_dry_run).await?;
    if output.is_json {
        let one = |one: &Migrated| {
            let steps = one.steps.iter().map(|(to, what)| json!({ "to": to, "what": what }));
            let steps = steps.collect::<Vec<_>>();
            json!({ "what": one.what, "found": one.versions.0, "wanted": one.versions.1, "steps": steps })
        };
        let stores = done.iter().map(one).collect::<Vec<_>>();
        output.line(&json!({ "isDryRun": is_dry_run, "stores": stores }).to_string())?;
        return Ok(Outcome::Done);
    }
    for Migrated { what, versions: (found, wanted), steps } in &done {
        if steps.is_empty() {
            output.line(&format!("{what}: schema version {found}, nothing to do"))?;
            continue;
        }
        let verb = if is_dry_run { "would be led" } else { "led" };
        output.line(&format!("{what}: {verb} from schema version {found} to {wanted}"))?;
        for (to, step) in steps {
            output.line(&format!("  {to}: {step}"))?;
        }
    }
    Ok(Outcome::Done)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_engine_is_told_of_in_lines_and_what_is_wrong_stands_last() {
        let mut covered = Coverage::none(7);
        for (partition, next) in [(0, 5), (1, 9), (u32::MAX, 1_000)] {
            covered.extend(partition, next);
        }
        let at = Standing {
            what: "Cassandra keyspace k".to_owned(),
            engine: "Cassandra 5".to_owned(),
            schema: Some((Some(1), 2)),
            advice: Some("do something".to_owned()),
            differences: vec!["a is b, not c".to_owned()],
            covered: vec![("storage-writer", covered)],
            ..Standing::default()
        };
        assert_eq!(
            lines(&at),
            [
                "Cassandra keyspace k: Cassandra 5, schema version 1, this release's is 2",
                "  storage-writer: 2 partitions up to 5 … 9, 14 records in all",
                "  differs: a is b, not c",
                "  do something",
            ]
        );
        let away = Standing { failure: Some("no answer".to_owned()), ..at };
        assert_eq!(lines(&away), ["Cassandra keyspace k: cannot be asked: no answer"]);
    }
}
