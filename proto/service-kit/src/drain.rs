//! How a process stops: stage by stage (stop accepting, finish, flush, commit, close), inside one
//! deadline.
//!
//! Every task of a process is spawned on a [`Stage`]. Draining must never wait longer than its
//! deadline, and never cancel a stage before the ones in front of it have ended.

use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// The stages of a process, in the order in which they stop.
#[derive(Clone, Debug, Default)]
pub struct Drain {
    stages: Arc<Mutex<Vec<Stage>>>,
}

/// Tasks that stop together.
#[derive(Clone, Debug)]
pub struct Stage {
    /// What it is, in logs.
    pub name: &'static str,
    /// What its tasks are spawned on.
    pub tracker: TaskTracker,
    /// What tells them to end.
    pub stopping: CancellationToken,
}

/// Stages that had not ended when the time was over.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not ended in time: {}", .unfinished.join(", "))]
pub struct DrainTimedOut {
    /// Their names.
    pub unfinished: Vec<&'static str>,
}

impl DrainTimedOut {
    /// Whether the same call may succeed later: draining again waits for the same tasks.
    #[must_use]
    pub const fn is_retryable(&self) -> bool {
        true
    }
}

impl Drain {
    /// Adds a stage, which stops after those that were added before it.
    #[must_use]
    pub fn stage(&self, name: &'static str) -> Stage {
        let stage = Stage { name, tracker: TaskTracker::new(), stopping: CancellationToken::new() };
        self.stages.lock().unwrap_or_else(PoisonError::into_inner).push(stage.clone());
        stage
    }

    /// Stops all stages in order. When the time is over, what is left is told to end at once and
    /// named.
    ///
    /// # Errors
    /// With the stages that had not ended in time.
    pub async fn drain(&self, at_most: Duration) -> Result<(), DrainTimedOut> {
        let stages = self.stages.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let in_order = async {
            for stage in &stages {
                tracing::debug!(stage = stage.name, "draining");
                stage.stop().await;
            }
        };
        if tokio::time::timeout(at_most, in_order).await.is_ok() {
            return Ok(());
        }
        for stage in &stages {
            stage.stopping.cancel();
        }
        let is_open = |stage: &&Stage| !stage.tracker.is_empty();
        let unfinished = stages.iter().filter(is_open).map(|stage| stage.name).collect();
        Err(DrainTimedOut { unfinished })
    }
}

impl Stage {
    /// Spawns a task that ends by itself when [`Self::stopping`] is cancelled.
    pub fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        drop(self.tracker.spawn(task));
    }

    /// Tells the tasks to end and waits for them.
    pub async fn stop(&self) {
        self.stopping.cancel();
        self.tracker.close();
        self.tracker.wait().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn stages_end_in_the_order_in_which_they_were_added() {
        let drain = Drain::default();
        let ended = Arc::new(Mutex::new(Vec::new()));
        for name in ["receivers", "log"] {
            let stage = drain.stage(name);
            let (stopping, ended) = (stage.stopping.clone(), Arc::clone(&ended));
            stage.spawn(async move {
                stopping.cancelled().await;
                tokio::task::yield_now().await;
                ended.lock().unwrap().push(name);
            });
        }
        assert_eq!(drain.drain(Duration::from_secs(5)).await, Ok(()));
        assert_eq!(*ended.lock().unwrap(), ["receivers", "log"]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_stage_that_hangs_is_named_and_does_not_hold_the_process() {
        let drain = Drain::default();
        let hanging = drain.stage("hanging");
        let behind = drain.stage("behind");
        hanging.spawn(std::future::pending());
        let stopping = behind.stopping.clone();
        behind.spawn(async move { stopping.cancelled().await });
        let error = drain.drain(Duration::from_secs(1)).await.unwrap_err();
        assert_eq!(error.unfinished, ["hanging", "behind"]);
        assert!(behind.stopping.is_cancelled());
    }
}
