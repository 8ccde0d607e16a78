//! A cell, asked directly over its internal gRPC: what an answer costs without a gateway.

use anyhow::Context;
use bytes::Bytes;
use proto::v1;
use proto::v1::cell_query_client::CellQueryClient;
use tonic::transport::{Channel, Endpoint};
use trace_model::TraceId;

use crate::cli::failure::Failure;

/// Largest message that is taken.
const MESSAGE_BYTES_MAX: usize = 64 << 20;
const TIMEOUT: std::time::Duration = std::time::Duration::from_secs(30);

/// The region of a caller that does not know where it is.
const REGION_UNKNOWN: &str = "bench";

/// A cell.
#[derive(Clone, Debug)]
pub(super) struct CellClient {
    client: CellQueryClient<Channel>,
    caller: v1::Caller,
}

impl CellClient {
    /// Connects to `http://host:port` and asks as a gateway of the cell's own region would.
    pub(super) async fn open(url: &str, tenant: &str) -> Result<Self, Failure> {
        let endpoint = Endpoint::from_shared(url.to_owned())
            .map_err(|error| Failure::Usage(format!("--cell {url}: {error}")))?
            .timeout(TIMEOUT)
            .tcp_nodelay(true);
        let channel = endpoint.connect().await;
        let channel = channel.with_context(|| format!("no cell answers at {url}"))?;
        let mut client = CellQueryClient::new(channel).max_decoding_message_size(MESSAGE_BYTES_MAX);
        // A caller has a region; ours is not known before the cell has said its own.
        let caller = v1::Caller {
            tenant: tenant.to_owned(),
            region: REGION_UNKNOWN.to_owned(),
            ..v1::Caller::default()
        };
        let status = v1::GetCellStatusRequest { caller: Some(caller.clone()) };
        let status = client.get_cell_status(status).await;
        let region = status.context("the cell does not say its region")?.into_inner().region;
        Ok(Self { client, caller: v1::Caller { region, ..caller } })
    }

    /// Spans of a trace that the cell holds.
    pub(super) async fn count_spans(&self, id: TraceId) -> Result<usize, Failure> {
        let request = v1::FindTraceRequest {
            caller: Some(self.caller.clone()),
            trace_id: Bytes::copy_from_slice(id.as_bytes()),
            ..v1::FindTraceRequest::default()
        };
        let response = self.client.clone().find_trace(request).await;
        let mut frames = response.context("the cell refused")?.into_inner();
        let mut spans = 0;
        while let Some(frame) = frames.message().await.context("the cell's answer broke off")? {
            spans += frame.spans.len();
        }
        Ok(spans)
    }

    /// Searches for spans whose field equals the text.
    pub(super) async fn search(
        &self,
        field: v1::Field,
        text: &str,
        (range, limit): (v1::TimeRange, u32),
    ) -> Result<v1::SearchTracesResponse, Failure> {
        let compare = v1::Compare {
            field: Some(field),
            op: v1::compare::Op::Eq.into(),
            literal: Some(v1::compare::Literal::Str(text.to_owned())),
        };
        let filter = v1::Filter { node: Some(v1::filter::Node::Compare(compare)) };
        let request = v1::SearchTracesRequest {
            caller: Some(self.caller.clone()),
            filter: Some(filter),
            range: Some(range),
            limit,
            before: None,
        };
        let response = self.client.clone().search_traces(request).await;
        Ok(response.context("the cell refused")?.into_inner())
    }
}
