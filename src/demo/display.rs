//! How the demo shows itself: a block that is drawn over on a terminal, plain lines elsewhere.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use service_kit::process::Process;
use trace_model::{Clock, Region};

use super::federation::RegionSnapshot;
use super::plan::DemoPlan;
use super::sent::SentTraces;
use crate::cli::output::Output;
use crate::cli::{bytes, duration, program};
use crate::seam::{GroupLag, IndexLag};

/// A trace is shown as an example when it has had this long to arrive everywhere.
const EXAMPLE_AGE_MILLIS: u64 = 3_000;

/// The display and what it showed last.
#[derive(Debug)]
pub(crate) struct Display {
    clock: Arc<dyn Clock>,
    gateway: String,
    regions: usize,
    last: HashMap<Region, (Duration, u64)>,
    drawn: usize,
    has_example: bool,
}

impl Display {
    /// Of a plan.
    pub(crate) fn new(plan: &DemoPlan, clock: Arc<dyn Clock>) -> Self {
        Self {
            clock,
            gateway: plan.gateway_url(),
            regions: plan.regions.len(),
            last: HashMap::new(),
            drawn: 0,
            has_example: false,
        }
    }

    /// Shows how everything is.
    pub(crate) fn show(
        &mut self,
        regions: &[RegionSnapshot],
        sent: Option<&SentTraces>,
        output: &mut Output,
    ) -> std::io::Result<()> {
        let example = sent.and_then(|sent| self.example(sent)).unwrap_or_default();
        let mut lines: Vec<String> =
            regions.iter().flat_map(|region| self.region_lines(region)).collect();
        lines.push(totals_line(sent));
        let width = output.width;
        let mut text = String::new();
        if output.is_terminal && self.drawn > 0 {
            // Up to the block's first line, and clear from there.
            text.push_str(&format!("\u{1b}[{}A\u{1b}[J", self.drawn));
        }
        for line in &example {
            text.push_str(line);
            text.push('\n');
        }
        for line in &lines {
            let cut: String = line.chars().take(width.saturating_sub(1)).collect();
            text.push_str(if output.is_terminal { &cut } else { line });
            text.push('\n');
        }
        self.drawn = lines.len();
        output.raw(&text)
    }

    /// What to try, once there is a trace over as many regions as there can be.
    fn example(&mut self, sent: &SentTraces) -> Option<Vec<String>> {
        if self.has_example {
            return None;
        }
        let now = u64::try_from(self.clock.monotonic().as_millis()).unwrap_or(u64::MAX);
        let id = sent.newest_over(self.regions.min(3), now.checked_sub(EXAMPLE_AGE_MILLIS)?)?;
        self.has_example = true;
        let gateway = &self.gateway;
        Some(vec![
            String::new(),
            format!("a trace over {} regions: {id}", self.regions.min(3)),
            format!("  {} trace {id} --gateway {gateway}", program()),
            format!("  curl {gateway}/api/farspan/v1/traces/{id}"),
            String::new(),
        ])
    }

    /// Two lines, so that neither is cut on a narrow terminal.
    fn region_lines(&mut self, snapshot: &RegionSnapshot) -> [String; 2] {
        let RegionSnapshot { region, state } = snapshot;
        let now = self.clock.monotonic();
        let last = self.last.insert(region.clone(), (now, state.spans));
        let (since, before) = last.unwrap_or((now, state.spans));
        let seconds = now.saturating_sub(since).as_secs_f64().max(0.001);
        let spans = u32::try_from(state.spans.saturating_sub(before)).unwrap_or(u32::MAX);
        let rate = f64::from(spans) / seconds;
        let (name, traces) = (region.as_str(), state.traces);
        let index = index_lags(&state.index);
        [
            format!("{name:<15} {rate:>7.0} spans/s {traces:>8} traces | index lag {index}"),
            format!("{:<15} log lag {}", "", group_lags(&state.groups)),
        ]
    }
}

fn totals_line(sent: Option<&SentTraces>) -> String {
    let memory = Process::Own.memory().unwrap_or_default();
    let memory = format!(
        "memory {} ({} anonymous)",
        bytes(memory.resident_bytes),
        bytes(memory.anonymous_bytes)
    );
    let Some(sent) = sent else { return format!("no traffic of its own | {memory}") };
    let (traces, spans) = sent.totals();
    format!("sent {traces} traces, {spans} spans | {memory} | Ctrl-C drains and ends")
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

fn group_lags(groups: &[GroupLag]) -> String {
    let text = |lag: &GroupLag| {
        if lag.records == 0 {
            return format!("{} 0", lag.group);
        }
        format!("{} {} ({})", lag.group, lag.records, duration(nanos(lag.age)))
    };
    groups.iter().map(text).collect::<Vec<_>>().join(", ")
}

fn index_lags(index: &[IndexLag]) -> String {
    let text = |lag: &IndexLag| {
        let state = match (lag.is_connected, lag.lag) {
            (true, Some(time)) => duration(nanos(time)),
            (true, None) => "waiting".to_owned(),
            (false, _) => "cut off".to_owned(),
        };
        format!("{} {state}", lag.origin)
    };
    index.iter().map(text).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use service_kit::ManualClock;
    use trace_model::UnixNanos;

    use super::super::engines::tests::engines;
    use super::*;
    use crate::seam::RoleSnapshot;

    fn region(name: &str) -> Region {
        Region::new(name).unwrap()
    }

    #[test]
    fn a_region_shows_its_rate_since_the_last_time_and_its_lags() {
        let clock = Arc::new(ManualClock::at(UnixNanos(1)));
        let plan = DemoPlan::new(&[region("eu-west-1")], "/d".into(), None, &engines(&[])).unwrap();
        let mut display = Display::new(&plan, clock.clone());
        let snapshot = |spans| RegionSnapshot {
            region: region("eu-west-1"),
            state: RoleSnapshot {
                spans,
                traces: 7,
                groups: vec![GroupLag {
                    group: "storage-writer",
                    records: 3,
                    age: Duration::from_millis(40),
                }],
                index: vec![IndexLag {
                    origin: region("us-east-1"),
                    lag: Some(Duration::from_millis(120)),
                    is_connected: true,
                }],
            },
        };
        display.region_lines(&snapshot(1_000));
        clock.advance(Duration::from_secs(2));
        assert_eq!(
            display.region_lines(&snapshot(2_000)),
            [
                "eu-west-1           500 spans/s        7 traces | index lag us-east-1 120 ms",
                "                log lag storage-writer 3 (40.0 ms)",
            ]
        );
    }
}
