//! Starts the consumer groups of a cell as tracked tasks.

use span_log::GroupId;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::handler::GroupHandler;
use crate::lag::{GroupLag, LagBoard};
use crate::runner::{ConsumerRunner, RunnerParts};

/// What the service is made of.
#[derive(Debug)]
pub struct IngesterParts {
    /// What the runners share.
    pub runner: RunnerParts,
    /// The groups: storage-writer, search-indexer, metrics-aggregator, metadata-publisher.
    pub handlers: Vec<Box<dyn GroupHandler>>,
}

/// The running consumer groups. Each has its own task, pace and offsets: one that fails holds no
/// other up.
#[derive(Debug)]
pub struct IngesterService {
    lag: LagBoard,
    groups: Vec<GroupId>,
}

impl IngesterService {
    /// Starts a task for each group on the tracker. They end when the token is cancelled, each
    /// inside its close deadline; wait for them on the tracker.
    #[must_use]
    pub fn spawn(tracker: &TaskTracker, token: &CancellationToken, parts: IngesterParts) -> Self {
        let lag = parts.runner.lag.clone();
        let mut groups = Vec::with_capacity(parts.handlers.len());
        for handler in parts.handlers {
            let group = handler.group();
            groups.push(group);
            lag.post(GroupLag::unstarted(group));
            let runner = ConsumerRunner::new(handler, parts.runner.clone());
            let token = token.clone();
            // A runner has said what went wrong; the next start reads again what it left.
            let task = async move { runner.run(token).await.is_ok() };
            drop(tracker.spawn(task));
        }
        Self { lag, groups }
    }

    /// How far each group is behind.
    #[must_use]
    pub fn lag(&self) -> Vec<GroupLag> {
        self.lag.snapshot()
    }

    /// The groups that were started.
    #[must_use]
    pub fn groups(&self) -> &[GroupId] {
        &self.groups
    }

    /// Whether every group's runner is at work.
    #[must_use]
    pub fn is_running(&self) -> bool {
        let is_running = |group: &GroupId| self.lag.of(*group).is_some_and(|lag| lag.is_running);
        self.groups.iter().all(is_running)
    }
}
