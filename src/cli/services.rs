//! `farspan services`: the services of all regions, or the operations of one.

use clap::Args;
use serde::Deserialize;

use super::answer::CertificateAnswer;
use super::failure::{Failure, Outcome};
use super::gateway_client::{GatewayClient, encode};
use super::output::Output;
use super::table::clean;

/// What to list.
#[derive(Args, Debug)]
pub(super) struct ServicesArguments {
    /// List the operations of this service.
    service: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct ServicesAnswer {
    services: Vec<String>,
    operations: Vec<Operation>,
    #[serde(rename = "completeness")]
    certificate: CertificateAnswer,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Operation {
    name: String,
    kind: String,
}

/// Lists.
pub(super) async fn run(
    arguments: &ServicesArguments,
    client: &GatewayClient,
    output: &mut Output,
) -> Result<Outcome, Failure> {
    let path = match &arguments.service {
        None => "/api/farspan/v1/services".to_owned(),
        Some(service) => format!("/api/farspan/v1/operations?service={}", encode(service)),
    };
    let answer = client.ask_ok(&path).await?;
    let listed: ServicesAnswer = answer.read()?;
    let outcome = outcome(&listed);
    if output.is_json {
        answer.print(output)?;
        return Ok(outcome);
    }
    for service in &listed.services {
        output.line(&clean(service))?;
    }
    for operation in &listed.operations {
        output.line(&clean(&format!("{}  ({})", operation.name, operation.kind)))?;
    }
    if outcome == Outcome::Done {
        return Ok(outcome);
    }
    if outcome == Outcome::NotFound {
        output.line(&nothing(arguments))?;
    }
    for line in listed.certificate.lines() {
        let line = if outcome == Outcome::Partial { output.paint().bad(&line) } else { line };
        output.line(&line)?;
    }
    Ok(outcome)
}

fn outcome(listed: &ServicesAnswer) -> Outcome {
    let is_empty = listed.services.is_empty() && listed.operations.is_empty();
    match (listed.certificate.is_complete(), is_empty) {
        (false, _) => Outcome::Partial,
        (true, true) => Outcome::NotFound,
        (true, false) => Outcome::Done,
    }
}

fn nothing(arguments: &ServicesArguments) -> String {
    match &arguments.service {
        None => "no services in what is kept".to_owned(),
        Some(service) => clean(&format!("no operations of {service} in what is kept")),
    }
}
