//! What may be away when a cell starts: it is waited for, and the readiness of the process says for
//! what and why. What a person must mend first ends the start.

use std::time::Duration;

use service_kit::{BackOff, ReadyCheck};
#[cfg(any(feature = "cassandra", feature = "clickhouse", feature = "elasticsearch"))]
use trace_store::StoreError;

/// Waits between tries.
pub(super) const WAIT_MIN: Duration = Duration::from_millis(200);
pub(super) const WAIT_MAX: Duration = Duration::from_secs(5);

/// Why something was not opened.
#[derive(Debug)]
pub(super) enum Refusal {
    /// It may come by itself, or once it was set up.
    Away(anyhow::Error),
    /// A person must act first: credentials, a schema that does not fit, a configuration.
    Final(anyhow::Error),
}

impl Refusal {
    fn of(is_retryable: bool, error: anyhow::Error) -> Self {
        if is_retryable { Self::Away(error) } else { Self::Final(error) }
    }
}

#[cfg(any(feature = "cassandra", feature = "clickhouse", feature = "elasticsearch"))]
impl From<StoreError> for Refusal {
    fn from(error: StoreError) -> Self {
        Self::of(error.is_retryable(), error.into())
    }
}

#[cfg(feature = "kafka")]
impl From<span_log::kafka::KafkaOpenError> for Refusal {
    fn from(error: span_log::kafka::KafkaOpenError) -> Self {
        Self::of(error.is_retryable(), error.into())
    }
}

/// Tries to open something until it is there. Never ends while it is away: dropping the future does.
///
/// # Errors
/// With what a person must mend first.
pub(super) async fn until_open<T>(
    what: &str,
    ready: &ReadyCheck,
    mut open: impl AsyncFnMut() -> Result<T, Refusal>,
) -> anyhow::Result<T> {
    let mut back_off = BackOff::new(WAIT_MIN, WAIT_MAX, u64::from(std::process::id()));
    let mut said = String::new();
    ready.fail(&format!("opening {what}"));
    loop {
        let words = match open().await {
            Ok(opened) => {
                if !said.is_empty() {
                    tracing::info!("{what} is there: the start goes on");
                }
                ready.fail("starting");
                return Ok(opened);
            }
            Err(Refusal::Final(error)) => return Err(error.context(format!("opening {what}"))),
            Err(Refusal::Away(error)) => format!("{error:#}"),
        };
        ready.fail(&format!("waits for {what}: {words}"));
        if words != said {
            tracing::warn!(error = words, "the start waits for {what}");
            said = words;
        }
        tokio::time::sleep(back_off.next_wait()).await;
    }
}

#[cfg(test)]
mod tests {
    use service_kit::Readiness;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_is_away_is_waited_for_and_named_and_what_cannot_be_ends_the_start() {
        let readiness = Readiness::default();
        let ready = readiness.check("cell");
        let seen = readiness.clone();
        let mut tries = 0;
        let opened = until_open("an engine", &ready, async || {
            tries += 1;
            if tries > 1 {
                let report = seen.report();
                assert!(report.contains("cell: waits for an engine: no answer"), "{report}");
            }
            if tries < 40 { Err(Refusal::Away(anyhow::anyhow!("no answer"))) } else { Ok(7) }
        });
        let started = tokio::time::Instant::now();
        assert_eq!(opened.await.unwrap(), 7);
        assert!(started.elapsed() <= WAIT_MAX * 40);
        assert!(!readiness.is_ready(), "opened is not started");
        let refused = until_open("an engine", &ready, async || {
            Err::<(), _>(Refusal::Final(anyhow::anyhow!("the password is wrong")))
        });
        let refused = format!("{:#}", refused.await.unwrap_err());
        assert_eq!(refused, "opening an engine: the password is wrong");
    }
}
