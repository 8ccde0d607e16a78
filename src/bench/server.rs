//! What a server uses while it is measured: processor time and anonymous memory of its processes on
//! this machine, together and each by itself.

use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use service_kit::Stage;
use service_kit::process::Process;

use super::Report;
use crate::cli::failure::Failure;

const SAMPLE_EVERY: Duration = Duration::from_millis(50);
/// A process that uses less of a core than this over [`QUIET_FOR`] has nothing left to do.
const QUIET_SHARE: f64 = 0.03;
const QUIET_FOR: Duration = Duration::from_secs(2);

/// A process of the server as the command line names it: `PID`, or `NAME=PID`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct NamedProcess {
    name: String,
    pid: u32,
}

impl FromStr for NamedProcess {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (name, pid) = text.split_once('=').unwrap_or((text, text));
        let is_name = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-';
        if name.is_empty() || !name.bytes().all(is_name) {
            return Err("a name is of letters, digits, _ and -".to_owned());
        }
        let pid = pid.parse().map_err(|_| format!("{pid:?} is no process's number"))?;
        Ok(Self { name: name.to_owned(), pid })
    }
}

/// One process under measurement.
#[derive(Clone, Debug)]
struct Watched {
    name: String,
    process: Process,
    cpu_before: Duration,
    anonymous_peak: Arc<AtomicU64>,
}

/// The processes of a server under measurement.
#[derive(Debug)]
pub(super) struct Server {
    processes: Vec<Watched>,
    /// The most that they had together at one moment.
    anonymous_peak: Arc<AtomicU64>,
}

impl Watched {
    fn new(named: &NamedProcess) -> Result<Self, Failure> {
        let process = Process::Other(named.pid);
        let no_such = |error| Failure::Usage(format!("--server-pid {}: {error}", named.pid));
        let cpu_before = process.cpu_time().map_err(no_such)?;
        let anonymous_peak = Arc::default();
        Ok(Self { name: named.name.clone(), process, cpu_before, anonymous_peak })
    }

    /// Processor time since the watch began.
    fn cpu(&self) -> Duration {
        let now = self.process.cpu_time().unwrap_or(self.cpu_before);
        now.saturating_sub(self.cpu_before)
    }

    fn anonymous_bytes(&self) -> u64 {
        self.process.memory().unwrap_or_default().anonymous_bytes
    }

    /// Notes its memory and gives it.
    fn sample(&self) -> u64 {
        let bytes = self.anonymous_bytes();
        self.anonymous_peak.fetch_max(bytes, Ordering::Relaxed);
        bytes
    }
}

impl Server {
    /// Begins to watch; `None` where there is nothing to watch.
    pub(super) fn watch(named: &[NamedProcess], stage: &Stage) -> Result<Option<Self>, Failure> {
        let processes = named.iter().map(Watched::new).collect::<Result<Vec<_>, _>>()?;
        if processes.is_empty() {
            return Ok(None);
        }
        let anonymous_peak = Arc::<AtomicU64>::default();
        let (peak, stopping) = (Arc::clone(&anonymous_peak), stage.stopping.clone());
        let watched = processes.clone();
        stage.spawn(async move {
            let mut ticks = tokio::time::interval(SAMPLE_EVERY);
            while stopping.run_until_cancelled(ticks.tick()).await.is_some() {
                let together = watched.iter().map(Watched::sample).sum();
                peak.fetch_max(together, Ordering::Relaxed);
            }
        });
        Ok(Some(Self { processes, anonymous_peak }))
    }

    /// Processor time of each process since the watch began.
    pub(super) fn cpu(&self) -> Vec<Duration> {
        self.processes.iter().map(Watched::cpu).collect()
    }

    /// Waits until no process has anything left to do; false where one had after all this time.
    pub(super) async fn settle(&self, at_most: Duration) -> bool {
        let most = QUIET_SHARE * QUIET_FOR.as_secs_f64();
        let settled = async {
            loop {
                let before = self.cpu();
                tokio::time::sleep(QUIET_FOR).await;
                let used = self.cpu().into_iter().zip(before);
                let mut used = used.map(|(after, before)| after.saturating_sub(before));
                if used.all(|used| used.as_secs_f64() < most) {
                    return;
                }
            }
        };
        tokio::time::timeout(at_most, settled).await.is_ok()
    }

    /// Adds what was used to the report: by all, and where there are several by each. `when` says
    /// until which moment.
    pub(super) fn report(&self, report: &mut Report, when: &str, cpu: &[Duration], spans: u64) {
        #[expect(clippy::cast_precision_loss, reason = "spans of a run, far below 2^52")]
        let spans = spans as f64;
        let micros = |seconds: f64| seconds * 1e6 / spans.max(1.0);
        let seconds = cpu.iter().sum::<Duration>().as_secs_f64();
        report.add_ratio(&format!("server_cpu_{when}_s"), seconds);
        report.add_ratio(
            &format!("server_{when}_spans_per_cpu_s"),
            (spans / seconds.max(0.01)).round(),
        );
        report.add_ratio(&format!("server_{when}_cpu_us_per_span"), micros(seconds));
        let peak = self.anonymous_peak.load(Ordering::Relaxed);
        report.add("server_anonymous_peak_bytes", peak);
        let now: u64 = self.processes.iter().map(Watched::anonymous_bytes).sum();
        report.add("server_anonymous_bytes", now);
        if self.processes.len() < 2 {
            return;
        }
        for (one, cpu) in self.processes.iter().zip(cpu) {
            let name = &one.name;
            let micros = micros(cpu.as_secs_f64());
            report.add_ratio(&format!("{name}_{when}_cpu_us_per_span"), micros);
            let peak = one.anonymous_peak.load(Ordering::Relaxed);
            report.add(&format!("{name}_anonymous_peak_bytes"), peak);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_has_a_name_or_its_number_for_one() {
        let named = |text: &str| text.parse::<NamedProcess>();
        let process = |name: &str, pid| Ok(NamedProcess { name: name.to_owned(), pid });
        assert_eq!(named("4711"), process("4711", 4711));
        assert_eq!(named("storage-writer=12"), process("storage-writer", 12));
        for fault in ["", "=1", "a=", "a=b", "a b=1", "collector"] {
            assert!(named(fault).is_err(), "{fault:?}");
        }
    }
}
