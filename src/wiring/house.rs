//! What a cell does again and again beside its work: retention, compaction, upkeep.

use std::fmt;
use std::time::Duration;

use futures_util::future::BoxFuture;
use service_kit::Stage;

/// Work that is due again and again, such as retention.
pub(super) struct Chore {
    pub(super) what: &'static str,
    pub(super) every: Duration,
    /// What happens when the process stops in the middle of it.
    pub(super) when_stopped: WhenStopped,
    pub(super) run: Box<dyn Fn() -> BoxFuture<'static, anyhow::Result<()>> + Send + Sync>,
}

/// What happens to a chore when the process stops in the middle of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum WhenStopped {
    /// It is waited for.
    Finish,
    /// It is left where it waits: what it did holds, and the next round does the rest.
    Leave,
}

impl fmt::Debug for Chore {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Chore").field("what", &self.what).finish()
    }
}

/// A chore that is finished when the process stops in the middle of it.
pub(super) fn chore<F>(
    what: &'static str,
    every: Duration,
    run: impl Fn() -> F + Send + Sync + 'static,
) -> Chore
where
    F: Future<Output = anyhow::Result<()>> + Send + 'static,
{
    let when_stopped = WhenStopped::Finish;
    Chore { what, every, when_stopped, run: Box::new(move || Box::pin(run())) }
}

/// Does the chores until the stage stops.
pub(super) fn keep_house(chores: Vec<Chore>, stage: &Stage) {
    for chore in chores {
        let stopping = stage.stopping.clone();
        stage.spawn(async move {
            while stopping.run_until_cancelled(tokio::time::sleep(chore.every)).await.is_some() {
                let ran = match chore.when_stopped {
                    WhenStopped::Finish => Some((chore.run)().await),
                    WhenStopped::Leave => stopping.run_until_cancelled((chore.run)()).await,
                };
                if let Some(Err(error)) = ran {
                    tracing::warn!(error = format!("{error:#}"), "{} failed", chore.what);
                }
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use service_kit::Drain;

    use super::*;

    const EVERY: Duration = Duration::from_secs(3_600);

    /// A chore that takes ten minutes, and how often it was begun and done.
    fn slow(when_stopped: WhenStopped) -> (Chore, Arc<[AtomicUsize; 2]>) {
        let counts = Arc::new([AtomicUsize::new(0), AtomicUsize::new(0)]);
        let counted = Arc::clone(&counts);
        let slow = chore("a slow chore", EVERY, move || {
            let counts = Arc::clone(&counted);
            async move {
                counts[0].fetch_add(1, Ordering::SeqCst);
                tokio::time::sleep(Duration::from_secs(600)).await;
                counts[1].fetch_add(1, Ordering::SeqCst);
                anyhow::bail!("as a test wants it")
            }
        });
        (Chore { when_stopped, ..slow }, counts)
    }

    #[tokio::test(start_paused = true)]
    async fn a_chore_that_fails_is_done_again_and_a_stop_leaves_or_finishes_it() {
        for (when_stopped, done, waited) in [
            (WhenStopped::Finish, 3, Duration::from_secs(300)),
            (WhenStopped::Leave, 2, Duration::ZERO),
        ] {
            let stage = Drain::default().stage("house");
            let (chore, counts) = slow(when_stopped);
            keep_house(vec![chore], &stage);
            // In the middle of the third time.
            tokio::time::sleep(3 * EVERY + Duration::from_secs(2 * 600 + 300)).await;
            let stopped = tokio::time::Instant::now();
            stage.stop().await;
            assert_eq!(stopped.elapsed(), waited, "{when_stopped:?}");
            let counts = [0, 1].map(|place: usize| counts[place].load(Ordering::SeqCst));
            assert_eq!(counts, [3, done], "{when_stopped:?}");
        }
    }
}
