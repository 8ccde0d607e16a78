//! `farspan trace <id>`: one trace as a waterfall.

use clap::Args;
use trace_model::TraceId;

use super::failure::{Failure, Outcome};
use super::gateway_client::{GatewayAnswer, GatewayClient};
use super::otlp_json::TraceAnswer;
use super::output::Output;
use super::waterfall;

/// What to show.
#[derive(Args, Debug)]
pub(super) struct TraceArguments {
    /// The trace's id, in any form: 32 or 16 hex digits, upper case, with dashes, X-Ray's.
    id: String,
    /// How fresh the answer must be.
    #[arg(long, value_enum, default_value_t)]
    freshness: Freshness,
    /// Lines at most; a larger trace is cut in the middle of its children.
    #[arg(long, value_name = "LINES", default_value_t = 500)]
    lines: usize,
}

/// How fresh an answer must be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
enum Freshness {
    /// Ask the regions that the index names, or all when it names none.
    #[default]
    Default,
    /// Believe the index alone: a miss is a proof as of its watermarks.
    Index,
    /// Ask every region.
    Now,
}

/// Shows a trace.
pub(super) async fn run(
    arguments: &TraceArguments,
    client: &GatewayClient,
    output: &mut Output,
) -> Result<Outcome, Failure> {
    let id: TraceId = arguments.id.parse().map_err(|error| {
        Failure::Usage(format!("`{}` is not a trace id: {error}", arguments.id))
    })?;
    let freshness = match arguments.freshness {
        Freshness::Default => "",
        Freshness::Index => "?freshness=index",
        Freshness::Now => "?freshness=now",
    };
    let answer = client.ask(&format!("/api/farspan/v1/traces/{id}{freshness}")).await?;
    if answer.status == 404 {
        return not_found(id, &answer, output);
    }
    let answer = answer.ok()?;
    let trace: TraceAnswer = answer.read()?;
    let is_complete = trace.certificate.is_complete();
    if output.is_json {
        answer.print(output)?;
    } else {
        let size = waterfall::Size { columns: output.width, lines: arguments.lines };
        for line in waterfall::draw(id, trace, size, output.paint()) {
            output.line(&line)?;
        }
    }
    Ok(if is_complete { Outcome::Done } else { Outcome::Partial })
}

fn not_found(id: TraceId, answer: &GatewayAnswer, output: &mut Output) -> Result<Outcome, Failure> {
    if output.is_json {
        answer.print(output)?;
        return Ok(Outcome::NotFound);
    }
    output.line(&format!("no trace {id}"))?;
    let certificate = answer.read::<TraceAnswer>().unwrap_or_default().certificate;
    if !certificate.text.is_empty() {
        for line in certificate.lines() {
            output.line(&line)?;
        }
    }
    Ok(Outcome::NotFound)
}
