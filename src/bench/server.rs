//! What a server uses while it is measured: processor time and anonymous memory of a process on
//! this machine.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use service_kit::Stage;
use service_kit::process::Process;

use super::Report;
use crate::cli::failure::Failure;

const SAMPLE_EVERY: Duration = Duration::from_millis(50);
/// A server that uses less of a core than this over [`QUIET_FOR`] has nothing left to do.
const QUIET_SHARE: f64 = 0.03;
const QUIET_FOR: Duration = Duration::from_secs(2);

/// A server process under measurement.
#[derive(Debug)]
pub(super) struct Server {
    process: Process,
    cpu_before: Duration,
    anonymous_peak: Arc<AtomicU64>,
}

impl Server {
    /// Begins to watch.
    pub(super) fn watch(pid: u32, stage: &Stage) -> Result<Self, Failure> {
        let process = Process::Other(pid);
        let no_such = |error| Failure::Usage(format!("--server-pid {pid}: {error}"));
        let cpu_before = process.cpu_time().map_err(no_such)?;
        let anonymous_peak = Arc::new(AtomicU64::new(0));
        let (peak, stopping) = (Arc::clone(&anonymous_peak), stage.stopping.clone());
        stage.spawn(async move {
            let mut ticks = tokio::time::interval(SAMPLE_EVERY);
            while stopping.run_until_cancelled(ticks.tick()).await.is_some() {
                let memory = process.memory().unwrap_or_default();
                peak.fetch_max(memory.anonymous_bytes, Ordering::Relaxed);
            }
        });
        Ok(Self { process, cpu_before, anonymous_peak })
    }

    /// Processor time since the watch began.
    pub(super) fn cpu(&self) -> Duration {
        let now = self.process.cpu_time().unwrap_or(self.cpu_before);
        now.saturating_sub(self.cpu_before)
    }

    /// Waits until the server has nothing left to do; false where it had after all this time.
    pub(super) async fn settle(&self, at_most: Duration) -> bool {
        let settled = async {
            loop {
                let before = self.cpu();
                tokio::time::sleep(QUIET_FOR).await;
                let used = self.cpu().saturating_sub(before);
                if used.as_secs_f64() < QUIET_SHARE * QUIET_FOR.as_secs_f64() {
                    return;
                }
            }
        };
        tokio::time::timeout(at_most, settled).await.is_ok()
    }

    /// Adds what was used to the report. `when` says until which moment.
    pub(super) fn report(&self, report: &mut Report, when: &str, cpu: Duration, spans: u64) {
        #[expect(clippy::cast_precision_loss, reason = "spans of a run, far below 2^52")]
        let spans = spans as f64;
        let seconds = cpu.as_secs_f64();
        report.add_ratio(&format!("server_cpu_{when}_s"), seconds);
        report.add_ratio(
            &format!("server_{when}_spans_per_cpu_s"),
            (spans / seconds.max(0.01)).round(),
        );
        report.add_ratio(&format!("server_{when}_cpu_us_per_span"), seconds * 1e6 / spans.max(1.0));
        let peak = self.anonymous_peak.load(Ordering::Relaxed);
        report.add("server_anonymous_peak_bytes", peak);
        let now = self.process.memory().unwrap_or_default();
        report.add("server_anonymous_bytes", now.anonymous_bytes);
    }
}
