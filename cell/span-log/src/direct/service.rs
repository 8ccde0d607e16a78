//! A collector's log over gRPC, for the cell's front.

use std::sync::Arc;
use std::time::Duration;

use proto::convert::query::FramePacker;
use proto::v1;
use proto::v1::collector_log_server::{CollectorLog as Service, CollectorLogServer};
use tonic::{Request, Response, Status};
use trace_model::{TenantId, TraceId, UnixNanos};

use super::wire::{lost_messages, told_group};
use super::{CollectorLog, FRONT_GROUPS, INCARNATION};
use crate::port::{
    CommitError, ForgetLost, GroupId, LogError, SEARCH_INDEXER, STORAGE_WRITER, SpanLog as _,
};

/// Longest wait that a front may ask for.
const WAIT_MAX: Duration = Duration::from_secs(5);
/// Most encoded bytes read at once.
const READ_BYTES_MAX: u64 = 16 << 20;
/// The collector's own groups, whose place the front is told, beside what the front has told it.
const OWN_GROUPS: [GroupId; 2] = [STORAGE_WRITER, SEARCH_INDEXER];

#[derive(Debug)]
struct Desk {
    log: Arc<CollectorLog>,
}

/// The service as it is added to a gRPC server.
#[must_use]
pub fn server(log: Arc<CollectorLog>) -> CollectorLogServer<impl Service> {
    CollectorLogServer::new(Desk { log })
}

impl Desk {
    /// Whom the front means, and whether it is the latest.
    async fn admit(&self, front: Option<&v1::Front>) -> Result<(), Status> {
        let front = front.ok_or_else(|| Status::invalid_argument("who asks is not said"))?;
        let (number, cell) = (self.log.number(), self.log.cell());
        if front.region != cell.region.as_str() || front.keyspace != cell.keyspace {
            let (region, keyspace) = (&front.region, &front.keyspace);
            let text = format!(
                "it is a collector of {cell}, and was asked by the front of region {region} with \
                 keyspace {keyspace}"
            );
            return Err(Status::failed_precondition(text));
        }
        if front.collector != number {
            let asked = front.collector;
            let text = format!("it is collector {number}, and was taken for collector {asked}");
            return Err(Status::failed_precondition(text));
        }
        if front.log != 0 && front.log != self.log.log_id() {
            let text = format!("collector {number} has another log than the one of that number");
            return Err(Status::failed_precondition(text));
        }
        let Some(is_new) = self.log.admit_front(front.epoch) else {
            return Err(Status::permission_denied("a later front of the cell has taken over"));
        };
        if is_new {
            let (log, epoch) = (Arc::clone(&self.log), front.epoch);
            off_thread(move || log.keep_front(epoch)).await?;
        }
        Ok(())
    }

    fn state(&self) -> Result<v1::LogState, Status> {
        let log = &self.log;
        let number = log.number();
        let (is_registered, is_retired) = log.standing();
        let end = log.end(number).map_err(|error| failed(&error))?;
        let commit = |group: GroupId, next| v1::GroupCommit { group: group.0.to_owned(), next };
        let mut commits = Vec::new();
        for group in OWN_GROUPS {
            let next = log.committed(group, number).map_err(|error| failed(&error))?;
            commits.push(commit(group, next));
        }
        let told = FRONT_GROUPS.into_iter();
        commits.extend(told.filter_map(|group| Some(commit(group, log.told_by_front(group)?))));
        // What is lost is asked for behind the number of notes.
        let notes = log.notes();
        let lost = log.lost();
        Ok(v1::LogState {
            log: log.log_id(),
            is_registered,
            is_retired,
            next: end.next,
            append_time_unix_nano: end.append_time.0,
            first: end.first,
            commits,
            lost: lost_messages(&lost),
            lost_expired_until_unix_nano: lost.expired_until.map_or(0, |until| until.0),
            notes,
        })
    }

    async fn take_lease(&self, until: u64) -> Result<(), Status> {
        let (log, until) = (Arc::clone(&self.log), UnixNanos(until));
        if log.lease(until).map_err(|error| failed(&error))? {
            off_thread(move || log.keep_lease(until)).await?;
        }
        Ok(())
    }

    async fn take_commits(&self, commits: &[v1::GroupCommit]) -> Result<(), Status> {
        for commit in commits {
            let Some(group) = FRONT_GROUPS.into_iter().find(|group| group.0 == commit.group) else {
                continue;
            };
            match self.log.commit(group, self.log.number(), commit.next).await {
                // An earlier word of the same front that comes late.
                Ok(()) | Err(CommitError::Backwards { .. } | CommitError::Fenced(_)) => {}
                Err(CommitError::Log(error)) => return Err(failed(&error)),
            }
        }
        Ok(())
    }
}

/// The front asks again, whatever it was.
fn failed(error: &LogError) -> Status {
    Status::unavailable(error.to_string())
}

fn logged(batch: &proto::LoggedBatch) -> v1::LoggedRecords {
    v1::LoggedRecords {
        first: batch.range.first,
        next: batch.range.next,
        append_time_unix_nano: batch.append_time.0,
        batch: batch.batch.encoded().clone(),
    }
}

#[tonic::async_trait]
impl Service for Desk {
    async fn watch_log(
        &self,
        request: Request<v1::WatchLogRequest>,
    ) -> Result<Response<v1::LogState>, Status> {
        let request = request.into_inner();
        self.admit(request.front.as_ref()).await?;
        self.take_lease(request.leased_until_unix_nano).await?;
        self.take_commits(&request.commits).await?;
        self.log.note_heard(request.notes);
        let at_most = Duration::from_millis(request.at_most_millis.into()).min(WAIT_MAX);
        let waited = self.log.wait_for_news((request.beyond, request.notes), at_most).await;
        waited.map_err(|error| failed(&error))?;
        Ok(Response::new(self.state()?))
    }

    async fn register_collector(
        &self,
        request: Request<v1::RegisterCollectorRequest>,
    ) -> Result<Response<v1::LogState>, Status> {
        let request = request.into_inner();
        self.admit(request.front.as_ref()).await?;
        let (log, not_before) = (Arc::clone(&self.log), UnixNanos(request.not_before_unix_nano));
        off_thread(move || log.register(not_before)).await?;
        self.take_lease(request.leased_until_unix_nano).await?;
        tracing::info!(collector = self.log.number(), "the cell's front knows this collector");
        Ok(Response::new(self.state()?))
    }

    async fn read_log(
        &self,
        request: Request<v1::ReadLogRequest>,
    ) -> Result<Response<v1::ReadLogResponse>, Status> {
        let request = request.into_inner();
        self.admit(request.front.as_ref()).await?;
        let bytes_max = usize::try_from(request.bytes_max.min(READ_BYTES_MAX)).unwrap_or(0);
        let mut response = v1::ReadLogResponse::default();
        match self.log.read(self.log.number(), request.from, bytes_max).await {
            Ok(batches) => response.batches = batches.iter().map(logged).collect(),
            Err(LogError::Damaged(damaged)) => {
                response.damaged = Some(v1::DamagedRecords {
                    first: damaged.range.first,
                    next: damaged.range.next,
                    appended_from_unix_nano: damaged.append_times.0.0,
                    appended_until_unix_nano: damaged.append_times.1.0,
                    reason: damaged.reason,
                });
            }
            Err(LogError::Expired { first, .. }) => response.kept_from = Some(first),
            Err(error) => return Err(failed(&error)),
        }
        Ok(Response::new(response))
    }

    async fn find_offset(
        &self,
        request: Request<v1::FindOffsetRequest>,
    ) -> Result<Response<v1::FindOffsetResponse>, Status> {
        let request = request.into_inner();
        self.admit(request.front.as_ref()).await?;
        let time = UnixNanos(request.time_unix_nano);
        let offset = self.log.offset_at(self.log.number(), time).await;
        let offset = offset.map_err(|error| failed(&error))?;
        Ok(Response::new(v1::FindOffsetResponse { offset }))
    }

    async fn read_tail(
        &self,
        request: Request<v1::ReadTailRequest>,
    ) -> Result<Response<v1::ReadTailResponse>, Status> {
        let request = request.into_inner();
        self.admit(request.front.as_ref()).await?;
        let invalid = |error: String| Status::invalid_argument(error);
        let tenant = TenantId::new(&request.tenant).map_err(|error| invalid(error.to_string()))?;
        let trace_id = TraceId::try_from(request.trace_id.as_ref());
        let trace_id = trace_id.map_err(|error| invalid(error.to_string()))?;
        let number = self.log.number();
        let tail = self.log.tail(&tenant, trace_id).await.map_err(|error| failed(&error))?;
        // Behind the tail: what was committed then or later, as readers need it.
        let committed = self.log.committed(STORAGE_WRITER, number);
        let committed = committed.map_err(|error| failed(&error))?;
        // Behind that: what was set aside is noted before it is committed.
        let notes = self.log.notes();
        let lost = self.log.lost();
        let begins = tail.begins.as_ref().map(|begins| begins.next_in(INCARNATION, number));
        Ok(Response::new(v1::ReadTailResponse {
            frames: FramePacker::new(trace_id, tail.spans.into_iter()).collect(),
            committed,
            covered: tail.covered.next_in(INCARNATION, number),
            is_damaged: tail.is_damaged || tail.is_behind,
            lost: lost_messages(&lost),
            lost_expired_until_unix_nano: lost.expired_until.map_or(0, |until| until.0),
            begins: begins.unwrap_or(committed),
            notes,
        }))
    }

    async fn retire_collector(
        &self,
        request: Request<v1::RetireCollectorRequest>,
    ) -> Result<Response<v1::LogState>, Status> {
        self.admit(request.into_inner().front.as_ref()).await?;
        let log = Arc::clone(&self.log);
        off_thread(move || log.retire()).await?;
        tracing::error!(
            collector = self.log.number(),
            "this collector was retired: it takes no spans any more; stop it"
        );
        Ok(Response::new(self.state()?))
    }

    async fn forget_lost_records(
        &self,
        request: Request<v1::ForgetLostRecordsRequest>,
    ) -> Result<Response<v1::ForgetLostRecordsResponse>, Status> {
        let request = request.into_inner();
        self.admit(request.front.as_ref()).await?;
        let partition = self.log.number();
        let invalid = |text: &str| Status::invalid_argument(text.to_owned());
        let incarnation = INCARNATION;
        let which = match (request.first, request.before_unix_nano) {
            (Some(first), _) if request.missed_by.is_empty() => {
                ForgetLost::Run { incarnation, partition, first }
            }
            (Some(first), _) => {
                let group = told_group(&request.missed_by);
                let group = group.ok_or_else(|| invalid("there is no such group"))?;
                ForgetLost::Missed { group, incarnation, partition, first }
            }
            (None, Some(before)) => ForgetLost::Before(UnixNanos(before)),
            (None, None) => return Err(invalid("which runs is not said")),
        };
        let forgotten = self.log.forget_lost(which).await.map_err(|error| failed(&error))?;
        let forgotten = u64::try_from(forgotten).unwrap_or(u64::MAX);
        Ok(Response::new(v1::ForgetLostRecordsResponse { forgotten }))
    }
}

/// Files are written off the runtime's threads.
async fn off_thread(
    work: impl FnOnce() -> Result<(), LogError> + Send + 'static,
) -> Result<(), Status> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|error| Status::internal(error.to_string()))?.map_err(|error| failed(&error))
}
