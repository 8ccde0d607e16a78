//! The signals that end a process: the first SIGINT or SIGTERM asks it to drain, the second to
//! give up draining.
//!
//! They are counted from the start on, whatever the process does when they come: a signal is never
//! missed by who looks later, and never taken by who looks first.

use std::sync::Arc;

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio::task::JoinSet;

/// SIGINT and SIGTERM, counted from its making on. Clones share the count.
#[derive(Clone, Debug)]
pub struct Signals {
    count: watch::Receiver<u32>,
    /// The task that counts: it ends with the last clone.
    _counting: Arc<JoinSet<()>>,
}

impl Signals {
    /// Starts to catch and count both. To be called within a runtime.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn install() -> std::io::Result<Self> {
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut terminate = signal(SignalKind::terminate())?;
        let (counter, count) = watch::channel(0_u32);
        let mut counting = JoinSet::new();
        counting.spawn(async move {
            loop {
                tokio::select! {
                    _ = interrupt.recv() => {}
                    _ = terminate.recv() => {}
                }
                counter.send_modify(|count| *count = count.saturating_add(1));
            }
        });
        Ok(Self { count, _counting: Arc::new(counting) })
    }

    /// Whether the process was asked to drain.
    #[must_use]
    pub fn is_asked(&self) -> bool {
        *self.count.borrow() >= 1
    }

    /// Waits until the process is asked to drain; at once if it was.
    pub async fn asked(&self) {
        self.reach(1).await;
    }

    /// Waits until the process is told to give up draining; at once if it was.
    pub async fn insisted(&self) {
        self.reach(2).await;
    }

    async fn reach(&self, wanted: u32) {
        if self.count.clone().wait_for(|count| *count >= wanted).await.is_err() {
            // Nobody counts any more: the process ends otherwise.
            std::future::pending::<()>().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::Future;
    use std::time::Duration;

    use super::*;

    async fn is_soon(wait: impl Future<Output = ()>) -> bool {
        tokio::time::timeout(Duration::from_secs(1), wait).await.is_ok()
    }

    #[tokio::test(start_paused = true)]
    async fn a_signal_is_seen_by_all_who_look_and_also_by_who_looks_later() {
        let (counter, count) = watch::channel(0);
        let signals = Signals { count, _counting: Arc::new(JoinSet::new()) };
        assert!(!signals.is_asked() && !is_soon(signals.asked()).await);
        counter.send(1).unwrap();
        for _ in 0..2 {
            assert!(signals.is_asked() && is_soon(signals.asked()).await);
            assert!(!is_soon(signals.insisted()).await);
        }
        counter.send(2).unwrap();
        assert!(is_soon(signals.clone().insisted()).await && is_soon(signals.asked()).await);
    }
}
