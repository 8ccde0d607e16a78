//! The cell's side of an operator's commands: dead letters and lost records, on a socket in the data
//! directory. Who may open the file is the operator; nothing of this is reachable over a network.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::Arc;

use anyhow::Context as _;
use axum::extract::{Path as UrlPath, Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{delete, get, post};
use axum::{Json, Router};
use ingester::{
    DeadLetterConfig, DeadLetterError, DeadLetterSummary, DeadLetters, Retries, RetryError,
};
use proto::SpanBatch;
use serde::Deserialize;
use service_kit::Stage;
use span_log::direct::{CollectorStanding, FrontLog, RetireError, Standing};
use span_log::port::TOLD_GROUPS;
use span_log::{ForgetLost, GroupId, LostRun, SpanLog, SteppedOver, SteppedRun};
use tokio::net::UnixListener;

use super::keepers::Keepers;
use crate::seam::operator as wire;

/// What an operator may look at and change.
#[derive(Clone, Debug)]
pub(super) struct OperatorDesk {
    log: Arc<dyn SpanLog>,
    dead_letters: Arc<DeadLetters>,
    retries: Retries,
    stepped_over: Arc<SteppedOver>,
    /// Of the front of several collectors.
    front: Option<Arc<FrontLog>>,
}

impl OperatorDesk {
    pub(super) fn new(keepers: &Keepers, retries: Retries, stepped_over: Arc<SteppedOver>) -> Self {
        let (log, dead_letters) = (Arc::clone(&keepers.log), Arc::clone(&keepers.dead_letters));
        let front = keepers.direct.front.clone();
        Self { log, dead_letters, retries, stepped_over, front }
    }

    /// The desk of a process that only receives: it has no letters but for those of a role that it
    /// had before.
    pub(super) async fn of_collector(
        data_dir: &Path,
        log: &Arc<dyn SpanLog>,
        stepped_over: Arc<SteppedOver>,
    ) -> anyhow::Result<Self> {
        let letters = DeadLetterConfig::new(data_dir.join("dead-letters"));
        let dead_letters = Arc::new(off_thread(move || DeadLetters::open(letters)).await?);
        let (log, retries) = (Arc::clone(log), Retries::default());
        Ok(Self { log, dead_letters, retries, stepped_over, front: None })
    }
}

/// Listens until the stage stops. A cell whose socket cannot be made runs all the same, without
/// these commands.
pub(super) fn serve(desk: OperatorDesk, data_dir: &Path, stage: &Stage) {
    let socket = wire::socket_of(data_dir);
    let listener = match listen(&socket) {
        Ok(listener) => listener,
        Err(error) => {
            let error = format!("{error:#}");
            tracing::warn!(error, "operators' commands cannot reach this cell");
            return;
        }
    };
    let stopping = stage.stopping.clone();
    stage.spawn(async move {
        let served = axum::serve(listener, router(desk));
        if let Err(error) = served.with_graceful_shutdown(stopping.cancelled_owned()).await {
            tracing::error!(%error, "operators' commands are no longer served");
        }
        // One that stays is replaced at the next start.
        drop(std::fs::remove_file(&socket));
    });
}

/// The data directory is this process's alone: a socket that is there is a dead one's.
fn listen(socket: &Path) -> anyhow::Result<UnixListener> {
    let place = || format!("the socket {}", socket.display());
    match std::fs::remove_file(socket) {
        Ok(()) => {}
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        Err(error) => return Err(error).with_context(place),
    }
    let listener = UnixListener::bind(socket).with_context(place)?;
    let only_owner = std::fs::Permissions::from_mode(0o600);
    std::fs::set_permissions(socket, only_owner).with_context(place)?;
    Ok(listener)
}

fn router(desk: OperatorDesk) -> Router {
    Router::new()
        .route("/dead-letters", get(list))
        .route("/dead-letters/{number}", get(show).delete(drop_letter))
        .route("/dead-letters/{number}/retry", post(retry))
        .route("/collectors", get(collectors))
        .route("/collectors/{number}/retire", post(retire))
        .route("/lost/{incarnation}/{partition}/{first}", delete(drop_lost))
        .route("/lost/{incarnation}/{partition}/{first}/{group}", delete(drop_missed))
        .with_state(desk)
}

#[derive(Debug, Deserialize)]
struct Page {
    #[serde(default)]
    from: u64,
    limit: Option<usize>,
}

async fn list(State(desk): State<OperatorDesk>, Query(page): Query<Page>) -> Response {
    let limit = page.limit.unwrap_or(wire::LETTERS_MAX).clamp(1, wire::LETTERS_MAX);
    let letters = Arc::clone(&desk.dead_letters);
    let listed = off_thread(move || letters.list(page.from, limit.saturating_add(1))).await;
    let mut listed = match listed {
        Ok(listed) => listed,
        Err(error) => return refuse_letter(&error),
    };
    let has_more = listed.len() > limit;
    listed.truncate(limit);
    let mut answer = wire::SetAside { has_more, ..wire::SetAside::default() };
    for letter in listed {
        match letter {
            Ok(letter) => answer.letters.push(letter_json(letter)),
            Err(error) => {
                answer.unreadable.push(wire::Unreadable { error: error.to_string() });
            }
        }
    }
    answer.stepped_over = desk.stepped_over.list().into_iter().map(stepped_json).collect();
    let lost = desk.log.lost();
    answer.lost = lost.runs.iter().map(|run| lost_json(run, None)).collect();
    let missed = lost.missed.iter();
    answer.lost.extend(missed.map(|missed| lost_json(&missed.run, Some(missed.group))));
    Json(answer).into_response()
}

async fn show(State(desk): State<OperatorDesk>, UrlPath(number): UrlPath<u64>) -> Response {
    let letters = Arc::clone(&desk.dead_letters);
    let read = off_thread(move || {
        let summary = letters.list(number, 1)?.into_iter().next().transpose()?;
        let letter = letters.take_for_retry(number)?;
        Ok(summary.filter(|summary| summary.sequence == number).zip(letter))
    });
    match read.await {
        Ok(Some((summary, letter))) => {
            let batch = SpanBatch::decode(letter.encoded).ok();
            let traces = batch.iter().flat_map(SpanBatch::traces);
            let ids = traces.filter(|trace| !trace.is_erased());
            let trace_ids = ids.map(|trace| trace.trace_id.to_string()).collect();
            Json(wire::Letter { trace_ids, ..letter_json(summary) }).into_response()
        }
        Ok(None) => absent(number),
        Err(error) => refuse_letter(&error),
    }
}

async fn retry(State(desk): State<OperatorDesk>, UrlPath(number): UrlPath<u64>) -> Response {
    match desk.retries.retry(&desk.dead_letters, number).await {
        Ok(()) => StatusCode::NO_CONTENT.into_response(),
        Err(RetryError::Absent(_)) => absent(number),
        Err(error @ RetryError::Refused { .. }) => refuse(StatusCode::CONFLICT, error.to_string()),
        Err(error @ RetryError::NotNow { .. }) => {
            refuse(StatusCode::SERVICE_UNAVAILABLE, error.to_string())
        }
        Err(RetryError::Letter(error)) => refuse_letter(&error),
    }
}

async fn drop_letter(State(desk): State<OperatorDesk>, UrlPath(number): UrlPath<u64>) -> Response {
    let letters = Arc::clone(&desk.dead_letters);
    match off_thread(move || letters.settle(number)).await {
        Ok(true) => {
            tracing::warn!(number, "an operator dropped a dead letter: its spans are given up");
            StatusCode::NO_CONTENT.into_response()
        }
        Ok(false) => absent(number),
        Err(error) => refuse_letter(&error),
    }
}

async fn drop_lost(
    State(desk): State<OperatorDesk>,
    UrlPath((incarnation, partition, first)): UrlPath<(u64, u32, u64)>,
) -> Response {
    forget(&desk, ForgetLost::Run { incarnation, partition, first }).await
}

async fn drop_missed(
    State(desk): State<OperatorDesk>,
    UrlPath((incarnation, partition, first, group)): UrlPath<(u64, u32, u64, String)>,
) -> Response {
    let Some(group) = TOLD_GROUPS.into_iter().find(|known| known.0 == group) else {
        return refuse(StatusCode::NOT_FOUND, "there is no such group that misses records".into());
    };
    forget(&desk, ForgetLost::Missed { group, incarnation, partition, first }).await
}

async fn forget(desk: &OperatorDesk, which: ForgetLost) -> Response {
    match desk.log.forget_lost(which).await {
        Ok(0) => refuse(StatusCode::NOT_FOUND, "there is no such run of lost records".to_owned()),
        Ok(_) => {
            tracing::warn!(
                ?which,
                "an operator dropped a run of lost records: answers no longer name it"
            );
            StatusCode::NO_CONTENT.into_response()
        }
        Err(error) => refuse(StatusCode::SERVICE_UNAVAILABLE, error.to_string()),
    }
}

async fn collectors(State(desk): State<OperatorDesk>) -> Response {
    let Some(front) = &desk.front else { return no_front() };
    let all: Vec<_> = front.standings().into_iter().map(collector_json).collect();
    Json(all).into_response()
}

async fn retire(State(desk): State<OperatorDesk>, UrlPath(number): UrlPath<u32>) -> Response {
    let Some(front) = &desk.front else { return no_front() };
    match front.retire(number).await {
        Ok(()) => StatusCode::NO_CONTENT.into_response(),
        Err(error @ RetireError::Absent(_)) => refuse(StatusCode::NOT_FOUND, error.to_string()),
        Err(
            error @ (RetireError::Answers(_) | RetireError::MayRun { .. } | RetireError::Fenced),
        ) => refuse(StatusCode::CONFLICT, error.to_string()),
        Err(error @ RetireError::NotKept(_)) => {
            refuse(StatusCode::SERVICE_UNAVAILABLE, error.to_string())
        }
    }
}

fn no_front() -> Response {
    let text = "this process is no front of collectors (`direct.collectors`)";
    refuse(StatusCode::CONFLICT, text.to_owned())
}

fn collector_json(one: CollectorStanding) -> wire::Collector {
    let (standing, reason, at) = match one.standing {
        Standing::Up => ("up", String::new(), one.heard_until),
        Standing::New => ("new", String::new(), one.heard_until),
        Standing::Away(reason) => ("away", reason, one.heard_until),
        Standing::Retired { at, .. } => ("retired", String::new(), at),
    };
    wire::Collector {
        number: one.number,
        address: one.url,
        standing: standing.to_owned(),
        reason,
        records: one.next,
        not_stored: one.next.saturating_sub(one.stored),
        at_unix_nano: at.0.to_string(),
    }
}

/// Files are read and changed off the runtime's threads.
async fn off_thread<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, DeadLetterError> + Send + 'static,
) -> Result<T, DeadLetterError> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|error| DeadLetterError::Disk(error.into()))?
}

fn letter_json(letter: DeadLetterSummary) -> wire::Letter {
    wire::Letter {
        number: letter.sequence,
        group: letter.group,
        reason: letter.reason,
        tenant: letter.tenant.as_str().to_owned(),
        partition: letter.range.partition,
        first: letter.range.first,
        next: letter.range.next,
        appended_unix_nano: letter.append_time.0.to_string(),
        traces: letter.traces,
        spans: letter.spans,
        bytes: letter.bytes,
        trace_ids: Vec::new(),
    }
}

/// A run that no store has, or that a group has missed.
fn lost_json(run: &LostRun, missed_by: Option<GroupId>) -> wire::LostRun {
    let range = run.range;
    let id = format!("{}/{}/{}", run.incarnation, range.partition, range.first);
    wire::LostRun {
        id: missed_by.map_or_else(|| id.clone(), |group| format!("{id}/{group}")),
        missed_by: missed_by.map(|group| group.0.to_owned()),
        cause: run.cause.as_str().to_owned(),
        first: range.first,
        next: (range.next < u64::MAX).then_some(range.next),
        appended_from_unix_nano: run.append_times.0.0.to_string(),
        appended_until_unix_nano: run.append_times.1.0.to_string(),
    }
}

fn stepped_json(run: SteppedRun) -> wire::Stepped {
    wire::Stepped {
        group: run.group,
        topic: run.topic,
        partition: run.partition,
        first: run.first,
        next: run.next,
        reason: run.reason,
        key: run.key,
        bytes: run.bytes,
        noted_unix_nano: run.at.to_string(),
    }
}

fn absent(number: u64) -> Response {
    refuse(StatusCode::NOT_FOUND, format!("there is no dead letter {number}"))
}

fn refuse_letter(error: &DeadLetterError) -> Response {
    let status = if error.is_retryable() {
        StatusCode::SERVICE_UNAVAILABLE
    } else {
        StatusCode::UNPROCESSABLE_ENTITY
    };
    refuse(status, error.to_string())
}

fn refuse(status: StatusCode, error: String) -> Response {
    (status, Json(wire::Refusal { error })).into_response()
}
