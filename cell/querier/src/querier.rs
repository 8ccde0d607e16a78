//! The querier itself: a question is admitted, answered within its time, and counted.

use std::sync::Arc;
use std::time::Duration;

use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use proto::v1::CellOutcome;
use proto::v1::cell_query_server::CellQueryServer;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;
use tonic::{Response, Status};

use crate::answers::Answers;
use crate::caller::Access;
use crate::config::QuerierConfig;
use crate::losses::HonestSearch;
use crate::metrics::{DurationLabels, Outcome, QuerierMetrics, Query, QueryLabels};
use crate::port::QuerierPorts;
use crate::status::QuerierError;

/// One cell's querier.
#[derive(Clone, Debug)]
pub struct Querier {
    pub(crate) config: Arc<QuerierConfig>,
    pub(crate) ports: QuerierPorts,
    pub(crate) metrics: QuerierMetrics,
    /// What the stores have answered and its readers have not taken yet.
    pub(crate) answers: Answers,
    running: Arc<Semaphore>,
    miss_rounds: Arc<Semaphore>,
}

/// The service as it is added to a gRPC server.
#[must_use]
pub fn server(querier: Querier) -> CellQueryServer<Querier> {
    let bytes_max = querier.config.request_bytes_max;
    CellQueryServer::new(querier).max_decoding_message_size(bytes_max)
}

/// The place of a question at work: dropped when the stores have answered.
#[derive(Debug)]
pub(crate) struct Admitted {
    pub(crate) deadline: Instant,
    started: Duration,
    _running: OwnedSemaphorePermit,
    _miss_round: Option<OwnedSemaphorePermit>,
    gauge: Gauge,
}

impl Drop for Admitted {
    fn drop(&mut self) {
        self.gauge.dec();
    }
}

impl Querier {
    /// A querier over these ports; its metrics go into the registry.
    pub fn new(config: QuerierConfig, mut ports: QuerierPorts, registry: &mut Registry) -> Self {
        let (search, tail) = (Arc::clone(&ports.search), Arc::clone(&ports.tail));
        ports.search = Arc::new(HonestSearch { search, tail });
        let metrics = QuerierMetrics::register(registry);
        Self {
            running: Arc::new(Semaphore::new(config.queries_max)),
            miss_rounds: Arc::new(Semaphore::new(config.miss_rounds_max)),
            answers: Answers::new(&config, metrics.clone()),
            metrics,
            config: Arc::new(config),
            ports,
        }
    }

    /// Takes a place among the running questions, or refuses: nothing queues here.
    pub(crate) fn admit(
        &self,
        time: Duration,
        is_miss_round: bool,
    ) -> Result<Admitted, QuerierError> {
        let miss_round = if is_miss_round {
            let permit = Arc::clone(&self.miss_rounds).try_acquire_owned();
            Some(permit.map_err(|_| QuerierError::MissBudget)?)
        } else {
            None
        };
        let running = Arc::clone(&self.running).try_acquire_owned();
        let running = running.map_err(|_| QuerierError::Busy)?;
        Ok(self.admitted(Instant::now() + time, running, miss_round))
    }

    /// A place for the next part of an answer that has begun. Those wait, in order, and until their
    /// deadline: there are no more of them than answers on their way out.
    pub(crate) async fn wait_for_place(&self, deadline: Instant) -> Result<Admitted, QuerierError> {
        let running = Arc::clone(&self.running).acquire_owned();
        let running = tokio::time::timeout_at(deadline, running).await;
        let running = running.map_err(|_| QuerierError::Deadline)?;
        Ok(self.admitted(deadline, running.map_err(|_| QuerierError::Busy)?, None))
    }

    fn admitted(
        &self,
        deadline: Instant,
        running: OwnedSemaphorePermit,
        miss_round: Option<OwnedSemaphorePermit>,
    ) -> Admitted {
        self.metrics.running.inc();
        Admitted {
            deadline,
            started: self.ports.clock.monotonic(),
            _running: running,
            _miss_round: miss_round,
            gauge: self.metrics.running.clone(),
        }
    }

    /// Answers a question that has one message for an answer.
    pub(crate) async fn answer<T>(
        &self,
        query: Query,
        time: Duration,
        work: impl Future<Output = Result<(Access, T), QuerierError>>,
    ) -> Result<Response<T>, Status> {
        let admitted = self.admit(time, false).map_err(|error| self.refuse(query, error))?;
        let worked = tokio::time::timeout_at(admitted.deadline, work).await;
        let worked = worked.unwrap_or(Err(QuerierError::Deadline));
        let (access, answer) = worked.map_err(|error| self.refuse(query, error))?;
        self.count_answer(query, access, &admitted);
        Ok(Response::new(answer))
    }

    pub(crate) fn count_answer(&self, query: Query, access: Access, admitted: &Admitted) {
        let outcome = match access {
            Access::Granted => Outcome::Answered,
            Access::Forbidden => Outcome::Forbidden,
        };
        self.metrics.queries.get_or_create(&QueryLabels { query, outcome }).inc();
        let took = self.ports.clock.monotonic().saturating_sub(admitted.started);
        self.metrics.duration.get_or_create(&DurationLabels { query }).observe(took.as_secs_f64());
    }

    /// Counts, logs once what a person may have to look at, and gives the caller our words.
    pub(crate) fn refuse(&self, query: Query, error: QuerierError) -> Status {
        let outcome = match &error {
            QuerierError::NoCaller
            | QuerierError::Invalid(_)
            | QuerierError::OutOfLimits { .. } => Outcome::Invalid,
            QuerierError::Busy | QuerierError::MissBudget => Outcome::Refused,
            QuerierError::Deadline | QuerierError::TooSlow => Outcome::DeadlineExceeded,
            QuerierError::Store(_) | QuerierError::Log(_) => Outcome::Failed,
        };
        self.metrics.queries.get_or_create(&QueryLabels { query, outcome }).inc();
        if outcome == Outcome::Failed {
            let cause = std::error::Error::source(&error).map(ToString::to_string);
            tracing::warn!(?query, %error, cause, "a query failed");
        }
        error.into()
    }

    /// The outcome's number on the wire.
    pub(crate) fn outcome_of(access: Access) -> i32 {
        match access {
            Access::Granted => CellOutcome::Answered.into(),
            Access::Forbidden => CellOutcome::Forbidden.into(),
        }
    }

    /// The region's name, as answers carry it.
    pub(crate) fn region_name(&self) -> String {
        self.config.region.as_str().to_owned()
    }
}
