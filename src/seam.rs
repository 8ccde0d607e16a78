//! Where the command line and the wiring meet: what a started role gives to those that run it.

pub(crate) mod operator;
pub(crate) mod replay;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use prometheus_client::registry::Registry;
use service_kit::config::DirectConfig;
use service_kit::{Drain, Readiness, SystemClock};
use trace_model::{Clock, Region};

/// What a role is started with. In the demo each role has its own, as if it were a process.
#[derive(Debug)]
pub(crate) struct RoleContext {
    /// Where time comes from.
    pub(crate) clock: Arc<dyn Clock>,
    /// Its stages, added in the order in which they must stop.
    pub(crate) drain: Drain,
    /// Its readiness.
    pub(crate) readiness: Readiness,
    /// Its metrics, to be moved behind the admin endpoint once every part has registered.
    pub(crate) registry: Registry,
    /// The flag or key that changes a port, for the error of a taken one.
    pub(crate) change_port_with: &'static str,
}

impl RoleContext {
    /// With the system's clock, and the process itself in the metrics.
    pub(crate) fn new(change_port_with: &'static str) -> Self {
        let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
        let mut registry = Registry::default();
        service_kit::process::register(&mut registry, Arc::clone(&clock));
        Self {
            clock,
            drain: Drain::default(),
            readiness: Readiness::default(),
            registry,
            change_port_with,
        }
    }
}

/// The part of a cell that a process is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum CellRole {
    /// All of them.
    #[default]
    All,
    /// Receives.
    Collector,
    /// Consumes the log.
    Ingester,
    /// Answers.
    Querier,
    /// One of several collectors without Kafka: receives, and writes to the stores. Chosen by `direct`
    /// in the configuration.
    #[value(skip)]
    DirectCollector,
    /// What answers, counts and publishes over such collectors.
    #[value(skip)]
    Front,
}

impl CellRole {
    /// The part that a process is whose configuration says what it is in a cell of several collectors
    /// without Kafka.
    pub(crate) const fn with(self, direct: Option<&DirectConfig>) -> Self {
        match direct {
            None => self,
            Some(DirectConfig::Collector { .. }) => Self::DirectCollector,
            Some(DirectConfig::Front { .. }) => Self::Front,
        }
    }

    /// Whether it takes spans from senders.
    pub(crate) const fn receives(self) -> bool {
        matches!(self, Self::All | Self::Collector | Self::DirectCollector)
    }

    /// Whether it runs consumer groups.
    pub(crate) const fn consumes(self) -> bool {
        matches!(self, Self::All | Self::Ingester | Self::DirectCollector | Self::Front)
    }

    /// Whether it answers gateways.
    pub(crate) const fn answers(self) -> bool {
        matches!(self, Self::All | Self::Querier | Self::Front)
    }
}

/// A role that runs.
pub(crate) struct RunningRole {
    /// Where it listens: what, and the bound address.
    pub(crate) endpoints: Vec<(&'static str, SocketAddr)>,
    /// What stops it.
    pub(crate) drain: Drain,
    /// How it is; shown by the demo.
    pub(crate) snapshot: Box<dyn Fn() -> RoleSnapshot + Send + Sync>,
}

impl std::fmt::Debug for RunningRole {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("RunningRole").field("endpoints", &self.endpoints).finish()
    }
}

/// How a role is: a cell fills the first three, a replicator the last.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct RoleSnapshot {
    /// Spans acknowledged since the start.
    pub(crate) spans: u64,
    /// Traces first seen since the start.
    pub(crate) traces: u64,
    /// How far each consumer group is behind.
    pub(crate) groups: Vec<GroupLag>,
    /// How far the region's index is behind each other region.
    pub(crate) index: Vec<IndexLag>,
}

/// How far a consumer group is behind the log's end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct GroupLag {
    /// The group.
    pub(crate) group: &'static str,
    /// Records not committed.
    pub(crate) records: u64,
    /// Age of the oldest of them.
    pub(crate) age: Duration,
}

/// How far a replica of the index is behind an origin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct IndexLag {
    /// Whose contributions.
    pub(crate) origin: Region,
    /// Age of the origin's watermark; none before the first one came.
    pub(crate) lag: Option<Duration>,
    /// Whether the stream stands.
    pub(crate) is_connected: bool,
}
