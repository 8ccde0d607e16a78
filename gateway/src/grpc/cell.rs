//! A cell over `farspan.v1.CellQuery`.

use std::error::Error as _;
use std::time::Duration;

use async_trait::async_trait;
use futures_util::StreamExt;
use prost::Message;
use proto::convert::query::{id_bytes, search_request};
use proto::v1;
use proto::v1::cell_query_client::CellQueryClient;
use tonic::transport::Channel;
use tonic::{Code, Request, Status, TimeoutExpired};
use trace_model::query::{CompareOp, Field};
use trace_model::{Filter, Region, SearchQuery, TimeRange};

use super::MESSAGE_BYTES_MAX;
use super::counted::{Arriving, CountedChannel, had_no_room};
use crate::pages::PAGE_ROWS;
use crate::port::{Caller, CellClient, CellError, EdgeTraceAsk, FrameStream, RedAsk, TraceAsk};
use crate::room::AnswerRoom;

/// Before each message on the wire: whether it is compressed, and its length.
const GRPC_HEADER_BYTES: usize = 5;

/// A client of one region's querier.
#[derive(Clone, Debug)]
pub struct GrpcCellClient {
    region: Region,
    client: CellQueryClient<CountedChannel>,
}

impl GrpcCellClient {
    /// A client over this channel; [`super::endpoint`] has the settings that it should be made of.
    /// What arrives takes room from this budget: the gateway's own.
    #[must_use]
    pub fn new(region: Region, channel: Channel, room: AnswerRoom) -> Self {
        let client = CellQueryClient::new(CountedChannel::new(channel, room));
        Self { region, client: client.max_decoding_message_size(MESSAGE_BYTES_MAX) }
    }

    /// A client that connects when it is first asked.
    pub fn connect_lazy(
        region: Region,
        url: &str,
        room: AnswerRoom,
    ) -> Result<Self, tonic::transport::Error> {
        Ok(Self::new(region, super::endpoint(url)?.connect_lazy(), room))
    }
}

fn caller_message(caller: &Caller) -> v1::Caller {
    v1::Caller {
        tenant: caller.tenant.as_str().to_owned(),
        region: caller.region.as_str().to_owned(),
        ..v1::Caller::default()
    }
}

/// A request that carries how long the asker waits.
fn timed<T>(message: T, time: Duration) -> Request<T> {
    let mut request = Request::new(message);
    request.set_timeout(time);
    request
}

/// What a gRPC status says about the region. The cause goes to the log: certificates show our words.
fn cell_error(status: &Status) -> CellError {
    tracing::debug!(code = ?status.code(), message = status.message(), "a cell did not answer");
    if had_no_room(status) {
        return CellError::CutOff;
    }
    if has_run_out_of_time(status) {
        return CellError::TimedOut("no answer in time".to_owned());
    }
    let broken = status.source().is_some();
    match status.code() {
        Code::DeadlineExceeded => CellError::TimedOut("it ran out of time".to_owned()),
        Code::ResourceExhausted => CellError::Refused("it is too busy".to_owned()),
        Code::Unauthenticated | Code::PermissionDenied => {
            CellError::Refused("it refuses this gateway".to_owned())
        }
        Code::InvalidArgument | Code::FailedPrecondition | Code::NotFound => {
            CellError::Refused("it refuses the question".to_owned())
        }
        Code::Unimplemented => CellError::Refused("it cannot answer such a question".to_owned()),
        Code::DataLoss => CellError::Unavailable("its store is damaged".to_owned()),
        // tonic reports messages that are too large, or are none, without a cause of their own.
        Code::OutOfRange => CellError::Invalid("a message larger than allowed".to_owned()),
        Code::Internal if !broken => CellError::Invalid("a message that is none".to_owned()),
        // A connection that breaks under a question cancels it.
        Code::Cancelled
        | Code::Unknown
        | Code::Ok
        | Code::AlreadyExists
        | Code::Aborted
        | Code::Internal
        | Code::Unavailable => CellError::Unavailable("it could not be reached".to_owned()),
    }
}

/// The same of a search. A cell without a search engine finds traces by service alone, and says so by the
/// code alone: what whoever asked may do about it is told by what was asked.
fn search_error(filter: &Filter, status: &Status) -> CellError {
    let refused = cell_error(status);
    if status.code() != Code::Unimplemented {
        return refused;
    }
    let way = match names_a_service(filter) {
        true => {
            "it cannot answer such a search: fewer hours, or a service and operation alone, \
                 may be answered"
        }
        false => "it cannot answer such a search: one that names a service may be answered",
    };
    CellError::Refused(way.to_owned())
}

/// Whether every match is of one service.
fn names_a_service(filter: &Filter) -> bool {
    let mut parts = vec![filter];
    while let Some(part) = parts.pop() {
        match part {
            Filter::And(more) => parts.extend(more),
            Filter::Compare { field: Field::Service, op: CompareOp::Eq, .. } => return true,
            Filter::All
            | Filter::Or(_)
            | Filter::Not(_)
            | Filter::Compare { .. }
            | Filter::Matches { .. }
            | Filter::Exists(_) => {}
        }
    }
    false
}

/// Whether the time that the request carried has passed. tonic cancels such a question: here, with a
/// cause of its own, or at the peer, whose status then has none. A connection that breaks under a
/// question cancels it as well; that cause is another, unless it was given up since nothing came over
/// it any more.
fn has_run_out_of_time(status: &Status) -> bool {
    let mut source = status.source();
    if source.is_none() {
        return status.code() == Code::Cancelled;
    }
    while let Some(cause) = source {
        let is_silent = cause.downcast_ref::<hyper::Error>().is_some_and(hyper::Error::is_timeout);
        if is_silent || cause.is::<TimeoutExpired>() {
            return true;
        }
        source = cause.source();
    }
    false
}

#[async_trait]
impl CellClient for GrpcCellClient {
    fn region(&self) -> &Region {
        &self.region
    }

    async fn find_traces(&self, ask: TraceAsk) -> Result<FrameStream, CellError> {
        let caller = Some(caller_message(&ask.caller));
        let mut client = self.client.clone();
        let first_frame_millis = u32::try_from(ask.first_frame.as_millis()).unwrap_or(u32::MAX);
        let response = match ask.trace_ids.as_slice() {
            [trace_id] => {
                let trace_id = id_bytes(*trace_id);
                let is_miss_round = ask.is_miss_round;
                let placed = ask.placed.first().copied().flatten().map(v1::TimeRange::from);
                let message = v1::FindTraceRequest {
                    caller,
                    trace_id,
                    is_miss_round,
                    placed,
                    first_frame_millis,
                };
                client.find_trace(timed(message, ask.time)).await
            }
            several => {
                let trace_ids = several.iter().copied().map(id_bytes).collect();
                // An empty range: not known.
                let placed = ask
                    .placed
                    .iter()
                    .map(|placed| placed.map_or_else(Default::default, Into::into));
                let placed = placed.collect();
                let message =
                    v1::FindTracesRequest { caller, trace_ids, placed, first_frame_millis };
                client.find_traces(timed(message, ask.time)).await
            }
        };
        let response = response.map_err(|status| cell_error(&status))?;
        let arriving = response.extensions().get::<Arriving>().cloned();
        let handed_over = move |frame: v1::FindTraceResponse| {
            if let Some(arriving) = &arriving {
                arriving.handed_over(frame.encoded_len().saturating_add(GRPC_HEADER_BYTES));
            }
            frame
        };
        let stream = response.into_inner();
        let frames =
            stream.map(move |frame| frame.map(&handed_over).map_err(|status| cell_error(&status)));
        Ok(frames.boxed())
    }

    async fn search(
        &self,
        caller: &Caller,
        query: &SearchQuery,
        time: Duration,
    ) -> Result<v1::SearchTracesResponse, CellError> {
        let message = search_request(query, caller_message(caller));
        let response = self.client.clone().search_traces(timed(message, time)).await;
        let failed = |status| search_error(&query.filter, &status);
        response.map(tonic::Response::into_inner).map_err(failed)
    }

    async fn services(
        &self,
        caller: &Caller,
        range: TimeRange,
        time: Duration,
    ) -> Result<v1::ListServicesResponse, CellError> {
        let caller = Some(caller_message(caller));
        let message = v1::ListServicesRequest { caller, range: Some(range.into()) };
        let response = self.client.clone().list_services(timed(message, time)).await;
        response.map(tonic::Response::into_inner).map_err(|status| cell_error(&status))
    }

    async fn operations(
        &self,
        caller: &Caller,
        service: &str,
        range: TimeRange,
        time: Duration,
    ) -> Result<v1::ListOperationsResponse, CellError> {
        let (caller, service) = (Some(caller_message(caller)), service.to_owned());
        let message = v1::ListOperationsRequest { caller, service, range: Some(range.into()) };
        let response = self.client.clone().list_operations(timed(message, time)).await;
        response.map(tonic::Response::into_inner).map_err(|status| cell_error(&status))
    }

    async fn edges(
        &self,
        caller: &Caller,
        range: TimeRange,
        after: Option<v1::EdgePlace>,
        time: Duration,
    ) -> Result<v1::ListEdgesResponse, CellError> {
        let (caller, range) = (Some(caller_message(caller)), Some(range.into()));
        let message = v1::ListEdgesRequest { caller, range, page_edges: PAGE_ROWS, after };
        let response = self.client.clone().list_edges(timed(message, time)).await;
        response.map(tonic::Response::into_inner).map_err(|status| cell_error(&status))
    }

    async fn red(
        &self,
        caller: &Caller,
        ask: &RedAsk,
        after: Option<v1::RedPlace>,
        time: Duration,
    ) -> Result<v1::QueryRedResponse, CellError> {
        let message = v1::QueryRedRequest {
            caller: Some(caller_message(caller)),
            service: ask.service.as_deref().unwrap_or_default().to_owned(),
            by_operation: ask.by_operation,
            range: Some(ask.range.into()),
            page_points: PAGE_ROWS,
            after,
        };
        let response = self.client.clone().query_red(timed(message, time)).await;
        response.map(tonic::Response::into_inner).map_err(|status| cell_error(&status))
    }

    async fn edge_traces(
        &self,
        caller: &Caller,
        ask: &EdgeTraceAsk,
        time: Duration,
    ) -> Result<v1::FindEdgeTracesResponse, CellError> {
        let message = v1::FindEdgeTracesRequest {
            caller: Some(caller_message(caller)),
            edge_caller: (*ask.caller).to_owned(),
            edge_callee: (*ask.callee).to_owned(),
            only_errors: ask.only_errors,
            range: Some(ask.range.into()),
            limit: u32::try_from(ask.limit).unwrap_or(u32::MAX),
        };
        let response = self.client.clone().find_edge_traces(timed(message, time)).await;
        response.map(tonic::Response::into_inner).map_err(|status| cell_error(&status))
    }

    async fn status(
        &self,
        caller: &Caller,
        time: Duration,
    ) -> Result<v1::GetCellStatusResponse, CellError> {
        let message = v1::GetCellStatusRequest { caller: Some(caller_message(caller)) };
        let response = self.client.clone().get_cell_status(timed(message, time)).await;
        response.map(tonic::Response::into_inner).map_err(|status| cell_error(&status))
    }
}

#[cfg(test)]
mod tests {
    use trace_model::RegionOutcome;
    use trace_model::query::Literal;

    use super::*;

    #[test]
    fn each_code_has_its_outcome_and_no_remote_text_is_shown() {
        use RegionOutcome as Outcome;
        for (code, outcome) in [
            (Code::DeadlineExceeded, Outcome::TimedOut),
            // Nothing broke: the peer's own timer has cancelled the question.
            (Code::Cancelled, Outcome::TimedOut),
            (Code::ResourceExhausted, Outcome::Unavailable),
            (Code::Unavailable, Outcome::Unavailable),
            (Code::Unknown, Outcome::Unavailable),
            (Code::DataLoss, Outcome::Unavailable),
            (Code::Unimplemented, Outcome::Unavailable),
            (Code::OutOfRange, Outcome::Invalid),
            (Code::Internal, Outcome::Invalid),
        ] {
            let error = cell_error(&Status::new(code, "10.1.2.3:4317 refused"));
            assert_eq!(error.outcome(), outcome, "{code:?}");
            assert!(!error.to_string().contains("10.1.2.3"), "{code:?}");
        }
    }

    #[test]
    fn a_search_that_a_cell_cannot_answer_is_told_what_it_lacks() {
        let filter = |field| Filter::Compare {
            field,
            op: CompareOp::Eq,
            literal: Literal::Text("cart".to_owned()),
        };
        let said = |code, filter: &Filter| {
            let status = Status::new(code, "10.1.2.3:4317 refused");
            search_error(filter, &status).to_string()
        };
        let by_operation = filter(Field::Operation);
        for nameless in [Filter::All, Filter::Not(Box::new(filter(Field::Service)))] {
            let words = said(Code::Unimplemented, &nameless);
            assert!(words.ends_with("one that names a service may be answered"), "{words}");
        }
        let both = Filter::And(vec![by_operation, Filter::And(vec![filter(Field::Service)])]);
        let words = said(Code::Unimplemented, &both);
        assert!(words.contains("fewer hours"), "{words}");
        assert_eq!(said(Code::DataLoss, &Filter::All), "its store is damaged");
    }
}
