//! `farspan demo`: several regions in one process, with real sockets between them, a shop's
//! traffic, and a display.
//!
//! Regions share nothing in memory: each role is started from a configuration file of its own, as
//! if it were a process, and reaches the others over (delayed) connections only.

mod check;
mod display;
mod engines;
mod federation;
mod plan;
mod sent;
mod shop;
mod story;
mod traffic;
mod wan;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use service_kit::SystemClock;
use service_kit::config::TelemetryConfig;
use service_kit::config::home::default_data_dir;
use service_kit::signals::Signals;
use trace_model::{Clock, Region};

use crate::cli::failure::{Failure, Outcome};
use crate::cli::gateway_client::GatewayClient;
use crate::cli::output::Output;
use display::Display;
use engines::DemoEngines;
use federation::Federation;
use plan::DemoPlan;
use traffic::Traffic;
use wan::WanMode;

/// Everything must have ended this long after the first Ctrl-C.
const END_TIMEOUT: Duration = Duration::from_millis(9_500);
/// What draining may take of it.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(8);
/// What the three roles of a region can have open in a demo.
const DESCRIPTORS_PER_REGION: u64 = 2_048;
/// How often the display changes on a terminal, and when no person watches.
const REFRESH: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(5));

/// How the demo is run.
#[derive(Args, Debug)]
pub(crate) struct DemoArguments {
    /// Where the data is kept; a second start continues. By default below the home directory.
    #[arg(long, value_name = "DIRECTORY")]
    data_dir: Option<PathBuf>,
    /// The regions, in the order of their ports.
    #[arg(
        long,
        value_delimiter = ',',
        value_name = "A,B,C",
        value_parser = region,
        default_value = "eu-west-1,us-east-1,ap-southeast-1"
    )]
    regions: Vec<Region>,
    /// Send no traffic of its own.
    #[arg(long)]
    no_traffic: bool,
    /// Traces a second that the shop sends.
    #[arg(
        long,
        value_name = "TRACES_PER_S",
        default_value_t = 20.0,
        value_parser = rate,
        allow_negative_numbers = true
    )]
    rate: f64,
    /// End after so long, and check that what was sent can be read back.
    #[arg(long, value_name = "SECONDS", value_parser = seconds, allow_negative_numbers = true)]
    seconds: Option<u64>,
    /// Delay between the regions: as between those cities, or none.
    #[arg(long, value_enum, default_value_t)]
    wan: WanMode,
    /// The first port; by default the usual ones (4317, 4318, 16686, …).
    #[arg(long, value_name = "PORT")]
    base_port: Option<u16>,
    #[command(flatten)]
    engines: DemoEngines,
    /// Chooses what the shop's customers do.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// What is logged to standard error.
    #[arg(long, value_name = "LEVEL", default_value = "warn")]
    log_level: String,
}

fn region(text: &str) -> Result<Region, String> {
    Region::new(text).map_err(|error| error.to_string())
}

fn rate(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(rate) if (0.01..=10_000.0).contains(&rate) => Ok(rate),
        _ => Err("from 0.01 to 10000 traces a second".to_owned()),
    }
}

/// Without a second nothing would be sent, and nothing could be checked.
fn seconds(text: &str) -> Result<u64, String> {
    match text.parse::<u64>() {
        Ok(seconds) if seconds > 0 => Ok(seconds),
        _ => Err("a whole number of seconds, at least 1".to_owned()),
    }
}

/// Runs the demo until it is interrupted or its time is over. Whatever it does when the first
/// signal comes (starting, showing, reading back), it ends that and drains; the second ends it at
/// once.
pub(crate) async fn run(arguments: DemoArguments, output: &mut Output) -> Result<Outcome, Failure> {
    let signals = Signals::install()?;
    let telemetry =
        TelemetryConfig { level: arguments.log_level.clone(), ..TelemetryConfig::default() };
    service_kit::telemetry::check_level(&telemetry.level).map_err(Failure::Usage)?;
    service_kit::telemetry::init(&telemetry).map_err(anyhow::Error::from)?;
    service_kit::descriptors::raise_and_tell(
        DESCRIPTORS_PER_REGION * arguments.regions.len() as u64,
    );
    let usual = || default_data_dir(arguments.engines.directory());
    let data_dir = arguments.data_dir.clone().unwrap_or_else(usual);
    let (regions, base) = (&arguments.regions, arguments.base_port);
    let plan =
        DemoPlan::new(regions, data_dir, base, &arguments.engines).map_err(Failure::Usage)?;
    let time_over = async {
        signals.asked().await;
        tokio::time::sleep(END_TIMEOUT).await;
    };
    tokio::select! {
        ended = run_to_the_end(&arguments, plan, &signals, output) => ended,
        () = signals.insisted() => Ok(Outcome::Interrupted),
        () = time_over => Err(anyhow::anyhow!("not ended within {END_TIMEOUT:?}").into()),
    }
}

/// Starts, shows, reads back where that was asked for, and drains.
async fn run_to_the_end(
    arguments: &DemoArguments,
    plan: DemoPlan,
    signals: &Signals,
    output: &mut Output,
) -> Result<Outcome, Failure> {
    let mut running = Demo::start(arguments, plan, signals).await?;
    let used = running.be_used(arguments.seconds, signals, output).await;
    let drained = running.drain(output).await;
    let outcome = used?;
    drained?;
    Ok(outcome)
}

/// Why watching ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ended {
    /// The time was over.
    InTime,
    /// A signal came.
    Interrupted,
}

/// All that runs.
#[derive(Debug)]
struct Demo {
    clock: Arc<dyn Clock>,
    federation: Federation,
    traffic: Option<Traffic>,
}

impl Demo {
    /// Starts everything; no more than was begun when a signal comes.
    async fn start(
        arguments: &DemoArguments,
        plan: DemoPlan,
        signals: &Signals,
    ) -> Result<Self, Failure> {
        let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
        let federation = Federation::start(plan, arguments.wan, signals).await?;
        let traffic = if arguments.no_traffic || signals.is_asked() {
            None
        } else {
            let settings = traffic::Settings { rate: arguments.rate, seed: arguments.seed };
            let collectors = federation.plan().collectors();
            Some(Traffic::start(&collectors, settings, Arc::clone(&clock))?)
        };
        Ok(Self { clock, federation, traffic })
    }

    /// What lies between start and drain.
    async fn be_used(
        &mut self,
        seconds: Option<u64>,
        signals: &Signals,
        output: &mut Output,
    ) -> Result<Outcome, Failure> {
        if signals.is_asked() {
            return Ok(Outcome::Done);
        }
        for line in self.federation.welcome() {
            output.line(&line)?;
        }
        if self.watch(seconds, signals, output).await? == Ended::Interrupted {
            return Ok(Outcome::Done);
        }
        output.line("reading a sample back")?;
        tokio::select! {
            checked = self.check(output) => checked,
            () = signals.asked() => Ok(Outcome::Done),
        }
    }

    /// Shows how everything is until a signal comes or the time is over.
    async fn watch(
        &self,
        seconds: Option<u64>,
        signals: &Signals,
        output: &mut Output,
    ) -> Result<Ended, Failure> {
        let time_over = async {
            match seconds {
                Some(seconds) => tokio::time::sleep(Duration::from_secs(seconds)).await,
                None => std::future::pending().await,
            }
        };
        tokio::pin!(time_over);
        let refresh = if output.is_terminal { REFRESH.0 } else { REFRESH.1 };
        let mut ticks = tokio::time::interval(refresh);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
        ticks.tick().await;
        let mut display = Display::new(self.federation.plan(), Arc::clone(&self.clock));
        loop {
            tokio::select! {
                () = signals.asked() => return Ok(Ended::Interrupted),
                () = &mut time_over => return Ok(Ended::InTime),
                _ = ticks.tick() => {
                    let sent = self.traffic.as_ref().map(Traffic::sent);
                    display.show(&self.federation.snapshot(), sent, output)?;
                }
            }
        }
    }

    /// Reads a sample of what was sent back through the first gateway.
    async fn check(&mut self, output: &mut Output) -> Result<Outcome, Failure> {
        let Some(traffic) = &mut self.traffic else { return Ok(Outcome::Done) };
        let lost = traffic.stop().await;
        let client = GatewayClient::new(&self.federation.plan().gateway_url(), None)?;
        check::run(traffic.sent(), lost, &client, output).await
    }

    /// Stops the shop, then every role, then the wires between them.
    async fn drain(&mut self, output: &mut Output) -> Result<(), Failure> {
        output.line("draining; what was acknowledged stays in the data directory")?;
        let everything = async {
            if let Some(traffic) = &mut self.traffic {
                traffic.stop().await;
            }
            self.federation.drain().await
        };
        match tokio::time::timeout(DRAIN_TIMEOUT, everything).await {
            Ok(drained) => drained?,
            Err(_) => return Err(anyhow::anyhow!("not drained within {DRAIN_TIMEOUT:?}").into()),
        }
        output.line("drained")?;
        Ok(())
    }
}
