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
    let is_complete = listed.certificate.is_complete();
    if output.is_json {
        answer.print(output)?;
        return Ok(if is_complete { Outcome::Done } else { Outcome::Partial });
    }
    for service in &listed.services {
        output.line(&clean(service))?;
    }
    for operation in &listed.operations {
        output.line(&clean(&format!("{}  ({})", operation.name, operation.kind)))?;
    }
    if is_complete {
        return Ok(Outcome::Done);
    }
    for line in listed.certificate.lines() {
        let line = output.paint().bad(&line);
        output.line(&line)?;
    }
    Ok(Outcome::Partial)
}
