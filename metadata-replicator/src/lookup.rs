//! The gRPC service `MetadataIndex`: a gateway's questions to the replica of its region.

use std::sync::Arc;

use proto::convert::index::{
    InvalidIndexMessage, look_up_entry_to_wire, region_state_to_wire, summary_query_from_wire,
    trace_id_from_wire,
};
use proto::v1;
use proto::v1::metadata_index_server::MetadataIndex;
use tonic::{Request, Response, Status};
use trace_model::TenantId;
use trace_model::location::RegionState;

use crate::error::ReplicatorError;
use crate::replica::Replica;
use crate::status;

/// Most ids in one look-up.
const TRACE_IDS_MAX: usize = 1_000;
/// Most summaries in one answer, and how many where none is asked for.
const SUMMARIES: (u32, u32) = (5_000, 20);

/// Serves a replica's index.
#[derive(Clone, Debug)]
pub struct IndexServer {
    replica: Arc<Replica>,
}

impl IndexServer {
    /// Serves this replica.
    #[must_use]
    pub const fn new(replica: Arc<Replica>) -> Self {
        Self { replica }
    }

    /// States that were read before rows were looked up, with what has been forgotten since: an entry
    /// may be newer than they say, never older, and none is missing that they vouch for.
    fn states_to_wire(&self, mut states: Vec<RegionState>) -> Vec<v1::RegionState> {
        self.replica.add_forgotten(&mut states);
        states.iter().map(region_state_to_wire).collect()
    }
}

fn invalid(error: InvalidIndexMessage) -> Status {
    status::of(&ReplicatorError::Message(error))
}

#[tonic::async_trait]
impl MetadataIndex for IndexServer {
    async fn look_up(
        &self,
        request: Request<v1::LookUpRequest>,
    ) -> Result<Response<v1::LookUpResponse>, Status> {
        let request = request.into_inner();
        let tenant = TenantId::new(&request.tenant)
            .map_err(|_| Status::invalid_argument("`tenant` is not a tenant"))?;
        if request.trace_ids.len() > TRACE_IDS_MAX {
            return Err(Status::invalid_argument("too many trace ids"));
        }
        let mut trace_ids = Vec::with_capacity(request.trace_ids.len());
        for bytes in &request.trace_ids {
            trace_ids.push(trace_id_from_wire(bytes).map_err(invalid)?);
        }
        let states = self.replica.list_regions();
        let entries = self.replica.look_up(&tenant, &trace_ids);
        let regions = self.states_to_wire(states);
        let entries = trace_ids.iter().zip(&entries);
        let entries = entries.map(|(trace_id, entry)| look_up_entry_to_wire(*trace_id, entry));
        Ok(Response::new(v1::LookUpResponse { entries: entries.collect(), regions }))
    }

    async fn list_summaries(
        &self,
        request: Request<v1::ListSummariesRequest>,
    ) -> Result<Response<v1::ListSummariesResponse>, Status> {
        let mut request = request.into_inner();
        let (limit_max, limit_default) = SUMMARIES;
        request.limit = match request.limit {
            0 => limit_default,
            limit => limit.min(limit_max),
        };
        let query = summary_query_from_wire(&request).map_err(invalid)?;
        let states = self.replica.list_regions();
        let found = self.replica.list_summaries(&query).await;
        let regions = self.states_to_wire(states);
        let entries = found.entries.iter();
        let entries = entries.map(|(trace_id, entry)| look_up_entry_to_wire(*trace_id, entry));
        Ok(Response::new(v1::ListSummariesResponse {
            entries: entries.collect(),
            regions,
            rows_scanned: found.rows_scanned,
        }))
    }

    async fn list_regions(
        &self,
        _request: Request<v1::ListRegionsRequest>,
    ) -> Result<Response<v1::ListRegionsResponse>, Status> {
        Ok(Response::new(v1::ListRegionsResponse {
            own_region: self.replica.region().as_str().to_owned(),
            regions: self.states_to_wire(self.replica.list_regions()),
            traces_held: self.replica.traces_held() as u64,
        }))
    }
}
