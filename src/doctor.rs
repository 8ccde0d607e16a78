//! The doctor: reads the figures of machine, process and engines, and holds them against their limits.
//! The same findings are the lines of `farspan doctor` and the gauges of a cell
//! (docs/DECISIONS/024).
//!
//! | part | files |
//! |---|---|
//! | limits and judgement, pure | `limits` `finding` |
//! | what is read here | `machine` `process` |
//! | engines: asked, then judged | `engines`, one file an engine |
//! | gauges | `metrics` |
//!
//! **Must never** change what it looks at, wait without an end, or let one part hold up another.

#[cfg(feature = "cassandra")]
mod cassandra;
#[cfg(feature = "clickhouse")]
mod clickhouse;
#[cfg(feature = "elasticsearch")]
mod elasticsearch;
mod engines;
pub(crate) mod finding;
#[cfg(feature = "kafka")]
mod kafka;
pub(crate) mod limits;
mod machine;
mod metrics;
mod process;
#[cfg(feature = "redis")]
mod redis;

use std::path::Path;
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesOrdered;
use service_kit::config::{CellConfig, GatewayConfig};
use trace_model::Clock as _;

use finding::{Finding, Part, Reading};
pub(crate) use metrics::watch;

/// Until a part must have answered.
const PART_TIMEOUT: Duration = Duration::from_secs(10);
/// A group may lag so long, in seconds (the issue of the doctor).
const LAG_SECONDS_MAX: f64 = 900.0;
const ROOT: &str = "/";

/// What is asked of one part.
struct Question<'a> {
    part: Part,
    answer: BoxFuture<'a, Vec<Finding>>,
}

fn question<'a>(
    part: Part,
    answer: impl Future<Output = Vec<Finding>> + Send + 'a,
) -> Question<'a> {
    Question { part, answer: Box::pin(answer) }
}

/// Whose file is read.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Patient<'a> {
    /// A cell.
    Cell(&'a CellConfig),
    /// A gateway.
    Gateway(&'a GatewayConfig),
}

impl Patient<'_> {
    fn questions(&self) -> Vec<Question<'_>> {
        match self {
            Self::Cell(config) => of_cell(config),
            Self::Gateway(config) => of_gateway(config),
        }
    }

    /// The parts that the file has.
    pub(crate) fn parts(&self) -> Vec<Part> {
        self.questions().into_iter().map(|question| question.part).collect()
    }

    /// Asks the parts that are wanted, all at once; an empty list wants all.
    pub(crate) async fn examine(&self, only: &[Part]) -> Vec<Finding> {
        let is_wanted = |question: &Question<'_>| only.is_empty() || only.contains(&question.part);
        ask(self.questions().into_iter().filter(is_wanted).collect()).await
    }
}

fn of_cell(config: &CellConfig) -> Vec<Question<'_>> {
    let stores = &config.stores;
    let lag_within = stores.kafka.is_none().then_some(config.log.retention);
    let mut questions = vec![question(Part::Machine, async {
        let mut findings = machine::load(Path::new(ROOT), &config.data_dir).await;
        let is_with_engines = is_any_here(&hosts(config)).await;
        findings.extend(machine::settings(Path::new(ROOT), is_with_engines));
        findings
    })];
    questions.push(question(Part::Embedded, async { process::embedded(config) }));
    questions.push(question(Part::Cell, process::ask(config.listen.admin, lag_within)));
    questions.extend(of_engines(config));
    questions
}

fn of_engines(config: &CellConfig) -> Vec<Question<'_>> {
    let stores = &config.stores;
    let mut questions = Vec::new();
    if let Some(kafka) = &stores.kafka {
        questions.push(question(Part::Kafka, engines::kafka(config, kafka)));
    }
    if let Some(cassandra) = &stores.cassandra {
        questions.push(question(Part::Cassandra, engines::cassandra(config, cassandra)));
    }
    if let Some(elasticsearch) = &stores.elasticsearch {
        let answer = engines::elasticsearch(config, elasticsearch);
        questions.push(question(Part::Elasticsearch, answer));
    }
    if let Some(clickhouse) = &stores.clickhouse {
        questions.push(question(Part::Clickhouse, engines::clickhouse(config, clickhouse)));
    }
    questions
}

fn of_gateway(config: &GatewayConfig) -> Vec<Question<'_>> {
    let hosts: Vec<String> = config.redis.iter().map(|redis| redis.host.clone()).collect();
    let mut questions = vec![question(Part::Machine, async move {
        let mut findings = machine::load(Path::new(ROOT), Path::new(".")).await;
        findings.extend(machine::settings(Path::new(ROOT), is_any_here(&hosts).await));
        findings
    })];
    questions.push(question(Part::Cell, process::ask(config.listen_admin, None)));
    if let Some(redis) = &config.redis {
        questions.push(question(Part::Redis, engines::redis(redis)));
    }
    questions
}

/// Asks all at once, and gives the findings in the order of the questions.
async fn ask(questions: Vec<Question<'_>>) -> Vec<Finding> {
    let answered = questions.into_iter().map(|Question { part, answer }| async move {
        let answered = tokio::time::timeout(PART_TIMEOUT, answer).await;
        answered.unwrap_or_else(|_| late(part))
    });
    // As many as there are parts.
    let mut answered: FuturesOrdered<_> = answered.collect();
    let mut findings = Vec::new();
    while let Some(found) = answered.next().await {
        findings.extend(found);
    }
    findings
}

fn late(part: Part) -> Vec<Finding> {
    let why = format!("no answer within {} s", PART_TIMEOUT.as_secs());
    match engines::up(part) {
        Some(_) => engines::away(part, &why),
        None => {
            vec![Finding { reading: Reading::Unknown(why), ..Finding::told(part, "answers", "") }]
        }
    }
}

/// The hosts of a cell's engines, as its file names them.
fn hosts(config: &CellConfig) -> Vec<String> {
    let stores = &config.stores;
    let addresses = stores.kafka.iter().flat_map(|kafka| &kafka.brokers);
    let addresses = addresses.chain(stores.cassandra.iter().flat_map(|one| &one.nodes));
    let urls = stores.elasticsearch.iter().flat_map(|one| &one.urls);
    let urls = urls.chain(stores.clickhouse.iter().map(|one| &one.url));
    let hosts = addresses.filter_map(|address| Some(address.rsplit_once(':')?.0.to_owned()));
    let of_urls =
        urls.filter_map(|url| url.as_str().parse::<http::Uri>().ok()?.host().map(str::to_owned));
    let plain = |host: String| host.trim_matches(['[', ']']).to_owned();
    hosts.chain(of_urls).map(plain).collect()
}

async fn is_any_here(hosts: &[String]) -> bool {
    for host in hosts {
        if machine::is_here(host).await {
            return true;
        }
    }
    false
}

/// The date of UTC, as in the names of indices.
#[cfg(feature = "elasticsearch")]
fn today() -> String {
    let millis = i64::try_from(service_kit::SystemClock::new().now().millis()).unwrap_or(0);
    let today = jiff::Timestamp::from_millisecond(millis).unwrap_or_default().to_string();
    today.chars().take("2026-11-28".len()).collect()
}

#[cfg(test)]
mod tests;
