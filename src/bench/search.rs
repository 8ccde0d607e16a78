//! `farspan bench search`: by service, and by a value that one trace alone has.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use proto::v1;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use serde::Deserialize;
use serde_json::json;
use service_kit::SystemClock;
use trace_model::{Clock, UnixNanos};

use super::Report;
use super::cell_client::CellClient;
use super::latency::Latencies;
use super::ledger::{self, Entry};
use super::template::{RARE_KEY, SERVICES};
use crate::cli::failure::Failure;
use crate::cli::gateway_client::{GatewayClient, encode};

/// How to search.
#[derive(Args, Clone, Debug)]
pub(crate) struct SearchArguments {
    /// What to search by.
    #[arg(long, value_enum, default_value_t)]
    by: By,
    /// What `bench write` recorded; needed for rare values.
    #[arg(long, value_name = "FILE", required_if_eq("by", "rare"))]
    ledger: Option<PathBuf>,
    /// Searches in all, one after another.
    #[arg(long, default_value_t = 200)]
    searches: u32,
    /// How far back from now to search.
    #[arg(long, default_value_t = 15)]
    minutes: u64,
    /// Traces of an answer at most.
    #[arg(long, default_value_t = 20)]
    limit: u32,
    /// Ask this cell's internal gRPC and no gateway.
    #[arg(long, value_name = "URL")]
    cell: Option<String>,
    /// Chooses what is searched for.
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

/// What to search by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
enum By {
    /// One of the services that `bench write` sends.
    #[default]
    Service,
    /// The session of one trace.
    Rare,
}

/// One search: what is looked for, and how many traces must be found.
#[derive(Debug)]
struct Question {
    text: String,
    expected: Option<String>,
}

/// What was found.
#[derive(Debug, Default)]
struct Found {
    trace_ids: Vec<String>,
    blocks_total: u64,
    blocks_opened: u64,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct GatewayFound {
    traces: Vec<GatewayTrace>,
    stats: GatewayStats,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct GatewayTrace {
    trace_id: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct GatewayStats {
    blocks_total: u64,
    blocks_opened: u64,
}

/// Searches and reports.
pub(super) async fn run(
    arguments: &SearchArguments,
    gateway: &GatewayClient,
) -> Result<Report, Failure> {
    let questions = questions(arguments)?;
    let cell = match &arguments.cell {
        Some(url) => Some(CellClient::open(url, "default").await?),
        None => None,
    };
    let clock = SystemClock::new();
    let mut latencies = Latencies::default();
    let (mut found_all, mut opened, mut total) = (0_u64, 0_u64, 0_u64);
    for question in &questions {
        let begun = clock.monotonic();
        let found = match &cell {
            Some(cell) => ask_cell(arguments, question, cell, clock.now()).await?,
            None => ask_gateway(arguments, question, gateway, clock.now()).await?,
        };
        latencies.add(clock.monotonic().saturating_sub(begun));
        found_all += u64::from(question.is_answered(&found));
        opened += found.blocks_opened;
        total += found.blocks_total;
    }
    let asked = u64::try_from(questions.len()).unwrap_or(u64::MAX);
    let mut report = Report::new();
    report
        .add("target", if cell.is_some() { "cell" } else { "gateway" })
        .add("by", if arguments.by == By::Service { "service" } else { "rare" })
        .add("searches", asked)
        .add("answered_rightly", found_all)
        .add("blocks_opened", opened)
        .add("blocks_total", total)
        .add_latencies("search", &mut latencies);
    report.is_well = found_all == asked;
    Ok(report)
}

fn questions(arguments: &SearchArguments) -> Result<Vec<Question>, Failure> {
    let mut rng = SmallRng::seed_from_u64(arguments.seed);
    let entries: Vec<Entry> = match (&arguments.by, &arguments.ledger) {
        (By::Rare, Some(path)) => ledger::read(path)?,
        (By::Rare | By::Service, _) => Vec::new(),
    };
    let question = |_| match arguments.by {
        By::Service => {
            let service = SERVICES.get(rng.random_range(0..SERVICES.len()));
            Question { text: (*service.unwrap_or(&"")).to_owned(), expected: None }
        }
        By::Rare => {
            let entry = entries.get(rng.random_range(0..entries.len().max(1)));
            Question {
                text: entry.map_or_else(String::new, |entry| entry.session.clone()),
                expected: entry.map(|entry| entry.id.to_string()),
            }
        }
    };
    Ok((0..arguments.searches).map(question).collect())
}

impl Question {
    /// A rare value finds its trace and no other; a service finds something.
    fn is_answered(&self, found: &Found) -> bool {
        match &self.expected {
            Some(id) => found.trace_ids == [id.as_str()],
            None => !found.trace_ids.is_empty(),
        }
    }
}

fn range(arguments: &SearchArguments, now: UnixNanos) -> (UnixNanos, UnixNanos) {
    let back = Duration::from_secs(arguments.minutes.saturating_mul(60));
    let back = u64::try_from(back.as_nanos()).unwrap_or(u64::MAX);
    (now.minus(back), now)
}

async fn ask_cell(
    arguments: &SearchArguments,
    question: &Question,
    cell: &CellClient,
    now: UnixNanos,
) -> Result<Found, Failure> {
    let (start, end) = range(arguments, now);
    let range = v1::TimeRange { start_unix_nano: start.0, end_unix_nano: end.0 };
    let field = match arguments.by {
        By::Service => v1::Field { name: v1::field::Name::Service.into(), ..v1::Field::default() },
        By::Rare => v1::Field {
            name: v1::field::Name::Attribute.into(),
            place: v1::field::Place::Span.into(),
            key: RARE_KEY.to_owned(),
        },
    };
    let response = cell.search(field, &question.text, (range, arguments.limit)).await?;
    let id = |bytes: &[u8]| trace_model::TraceId::try_from(bytes).map(|id| id.to_string());
    let stats = response.stats.unwrap_or_default();
    Ok(Found {
        trace_ids: response.matches.iter().filter_map(|found| id(&found.trace_id).ok()).collect(),
        blocks_total: stats.blocks_total,
        blocks_opened: stats.blocks_opened,
    })
}

async fn ask_gateway(
    arguments: &SearchArguments,
    question: &Question,
    gateway: &GatewayClient,
    now: UnixNanos,
) -> Result<Found, Failure> {
    let (start, end) = range(arguments, now);
    let wanted = match arguments.by {
        By::Service => format!("service={}", encode(&question.text)),
        By::Rare => format!("tags={}", encode(&json!({ RARE_KEY: question.text }).to_string())),
    };
    let path = format!(
        "/api/farspan/v1/search?{wanted}&start={}&end={}&limit={}",
        start.micros(),
        end.micros(),
        arguments.limit
    );
    let found: GatewayFound = gateway.ask_ok(&path).await?.read()?;
    Ok(Found {
        trace_ids: found.traces.into_iter().map(|trace| trace.trace_id).collect(),
        blocks_total: found.stats.blocks_total,
        blocks_opened: found.stats.blocks_opened,
    })
}
