//! What the kernel says about a process: memory and processor time, and as metrics.
//!
//! Read from `/proc` (proc(5)); elsewhere everything is 0. Must never fail a process that asks.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Registry, Unit};
use trace_model::Clock;

use crate::descriptors;

/// Ticks a second of the times in `/proc/PID/stat`: `USER_HZ`, 100 on every Linux that we run on.
const TICKS_PER_SECOND: u64 = 100;

/// Memory of a process, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Memory {
    /// All that is resident.
    pub resident_bytes: u64,
    /// What no file stands behind: heap and stacks.
    pub anonymous_bytes: u64,
    /// The most that was ever resident.
    pub resident_peak_bytes: u64,
}

/// Which process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Process {
    /// This one.
    Own,
    /// Another of the same user, by its number.
    Other(u32),
}

impl Process {
    fn read(self, file: &str) -> std::io::Result<String> {
        let path = match self {
            Self::Own => format!("/proc/self/{file}"),
            Self::Other(pid) => format!("/proc/{pid}/{file}"),
        };
        std::fs::read_to_string(path)
    }

    /// Its memory.
    ///
    /// # Errors
    /// When there is no such process or no `/proc`.
    pub fn memory(self) -> std::io::Result<Memory> {
        self.read("status").map(|status| parse_status(&status))
    }

    /// Processor time that it has used, in user and kernel.
    ///
    /// # Errors
    /// When there is no such process or no `/proc`.
    pub fn cpu_time(self) -> std::io::Result<Duration> {
        self.read("stat").map(|stat| parse_stat(&stat))
    }
}

fn parse_status(status: &str) -> Memory {
    let bytes = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        let number = line.and_then(|rest| rest.split_whitespace().next());
        number.and_then(|text| text.parse::<u64>().ok()).unwrap_or(0).saturating_mul(1_024)
    };
    Memory {
        resident_bytes: bytes("VmRSS:"),
        anonymous_bytes: bytes("RssAnon:"),
        resident_peak_bytes: bytes("VmHWM:"),
    }
}

/// Fields 14 and 15 of `stat`; the second field, the name, may hold blanks and brackets.
fn parse_stat(stat: &str) -> Duration {
    let behind_name = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
    let ticks = behind_name.split_whitespace().skip(11).take(2);
    let ticks = ticks.filter_map(|text| text.parse::<u64>().ok()).fold(0, u64::saturating_add);
    Duration::from_millis(ticks.saturating_mul(1_000 / TICKS_PER_SECOND))
}

/// Adds the process's memory, processor time, age and build to the metrics.
pub fn register(registry: &mut Registry, clock: Arc<dyn Clock>) {
    let version = Info::new(vec![("version", env!("CARGO_PKG_VERSION"))]);
    registry.register("farspan_build", "Which build this is", version);
    let started = clock.monotonic();
    registry.register_collector(Box::new(ProcessCollector { clock, started }));
}

#[derive(Debug)]
struct ProcessCollector {
    clock: Arc<dyn Clock>,
    started: Duration,
}

impl Collector for ProcessCollector {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let memory = Process::Own.memory().unwrap_or_default();
        for (name, help, bytes) in [
            ("resident_memory", "Memory that is resident", memory.resident_bytes),
            ("anonymous_memory", "Memory that no file stands behind", memory.anonymous_bytes),
            ("resident_memory_peak", "Most memory ever resident", memory.resident_peak_bytes),
        ] {
            let gauge = ConstGauge::new(i64::try_from(bytes).unwrap_or(i64::MAX));
            let name = format!("farspan_process_{name}");
            let unit = Some(&Unit::Bytes);
            let descriptor = encoder.encode_descriptor(&name, help, unit, gauge.metric_type())?;
            gauge.encode(descriptor)?;
        }
        for (name, help, count) in [
            ("open_fds", "File descriptors that are open", descriptors::open().ok()),
            ("max_fds", "File descriptors that may be open at once", descriptors::limit()),
        ] {
            // No figure is better than a wrong one: 0 open files are none that anybody has.
            let Some(count) = count else { continue };
            let gauge = ConstGauge::new(i64::try_from(count).unwrap_or(i64::MAX));
            let name = format!("farspan_process_{name}");
            gauge.encode(encoder.encode_descriptor(&name, help, None, gauge.metric_type())?)?;
        }
        let cpu = Process::Own.cpu_time().unwrap_or_default();
        let counter = ConstCounter::new(cpu.as_secs_f64());
        let (name, help) = ("farspan_process_cpu", "Processor time used, user and kernel");
        let unit = Some(&Unit::Seconds);
        counter.encode(encoder.encode_descriptor(name, help, unit, counter.metric_type())?)?;
        let age = self.clock.monotonic().saturating_sub(self.started);
        let gauge = ConstGauge::new(age.as_secs_f64());
        let (name, help) = ("farspan_process_age", "Time since the process started");
        gauge.encode(encoder.encode_descriptor(name, help, unit, gauge.metric_type())?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn status_is_read_and_what_is_missing_is_zero() {
        let memory = parse_status("Name:\tx\nVmHWM:\t  3000 kB\nVmRSS:\t  2000 kB\nRssAnon:\tx\n");
        assert_eq!(memory.resident_bytes, 2_048_000);
        assert_eq!(memory.resident_peak_bytes, 3_072_000);
        assert_eq!(memory.anonymous_bytes, 0);
        assert_eq!(parse_status(""), Memory::default());
    }

    #[test]
    fn a_name_with_blanks_and_brackets_hides_no_time() {
        let stat = "7 (a) b (c)) S 1 2 3 4 5 6 7 8 9 10 150 50 0 0 20";
        assert_eq!(parse_stat(stat), Duration::from_secs(2));
        assert_eq!(parse_stat("nonsense"), Duration::ZERO);
    }

    #[test]
    fn descriptors_are_shown_and_their_limit() {
        let mut registry = Registry::default();
        register(&mut registry, Arc::new(crate::SystemClock::new()));
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
        let shown = |name: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(name));
            line.and_then(|rest| rest.trim().parse::<u64>().ok()).unwrap()
        };
        let (open, most) = (shown("farspan_process_open_fds "), shown("farspan_process_max_fds "));
        assert!((3..=most).contains(&open), "{open} of {most}");
    }

    #[test]
    fn the_own_process_has_memory() {
        assert!(Process::Own.memory().unwrap().anonymous_bytes > 0);
        assert!(Process::Other(u32::MAX).memory().is_err());
    }
}
