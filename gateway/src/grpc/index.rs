//! The metadata index over `farspan.v1.MetadataIndex`.

use async_trait::async_trait;
use proto::convert::index::{
    InvalidIndexMessage, look_up_entry_from_wire, region_state_from_wire, summary_query_to_wire,
};
use proto::convert::query::id_bytes;
use proto::v1;
use proto::v1::metadata_index_client::MetadataIndexClient;
use tonic::transport::Channel;
use trace_model::location::SummaryQuery;
use trace_model::{TenantId, TraceId};

use super::MESSAGE_BYTES_MAX;
use crate::port::{IndexError, IndexRegions, LookUp, MetadataIndex, SummaryPage};

/// Ids in one look-up: what a replica takes.
const LOOK_UP_IDS_MAX: usize = 1_000;

/// A client of the region's replica.
#[derive(Clone, Debug)]
pub struct GrpcMetadataIndex {
    client: MetadataIndexClient<Channel>,
}

impl GrpcMetadataIndex {
    /// A client over this channel; [`super::endpoint`] has the settings that it should be made of.
    #[must_use]
    pub fn new(channel: Channel) -> Self {
        let client = MetadataIndexClient::new(channel);
        Self { client: client.max_decoding_message_size(MESSAGE_BYTES_MAX) }
    }

    /// A client that connects when it is first asked.
    pub fn connect_lazy(url: &str) -> Result<Self, tonic::transport::Error> {
        Ok(Self::new(super::endpoint(url)?.connect_lazy()))
    }

    async fn look_up_part(
        &self,
        tenant: &TenantId,
        trace_ids: &[TraceId],
    ) -> Result<LookUp, IndexError> {
        let message = v1::LookUpRequest {
            tenant: tenant.as_str().to_owned(),
            trace_ids: trace_ids.iter().copied().map(id_bytes).collect(),
        };
        let response =
            self.client.clone().look_up(message).await.map_err(|status| unavailable(&status))?;
        let response = response.into_inner();
        let entries = read_all(response.entries, look_up_entry_from_wire)?;
        let is_as_asked = entries.iter().map(|(trace_id, _)| trace_id).eq(trace_ids);
        if !is_as_asked {
            return Err(IndexError::Invalid("other traces than asked for".to_owned()));
        }
        Ok(LookUp {
            entries: entries.into_iter().map(|(_, entry)| entry).collect(),
            regions: read_all(response.regions, |state| region_state_from_wire(&state))?,
        })
    }
}

#[async_trait]
impl MetadataIndex for GrpcMetadataIndex {
    async fn look_up(
        &self,
        tenant: &TenantId,
        trace_ids: &[TraceId],
    ) -> Result<LookUp, IndexError> {
        let (first, rest) = trace_ids.split_at(trace_ids.len().min(LOOK_UP_IDS_MAX));
        // The regions as of the first part: a later watermark would vouch for rows that came after
        // the earlier parts were read.
        let mut all = self.look_up_part(tenant, first).await?;
        for trace_ids in rest.chunks(LOOK_UP_IDS_MAX) {
            all.entries.extend(self.look_up_part(tenant, trace_ids).await?.entries);
        }
        Ok(all)
    }

    async fn list_summaries(&self, query: &SummaryQuery) -> Result<SummaryPage, IndexError> {
        let message = summary_query_to_wire(query);
        let response = self
            .client
            .clone()
            .list_summaries(message)
            .await
            .map_err(|status| unavailable(&status))?;
        let response = response.into_inner();
        Ok(SummaryPage {
            traces: read_all(response.entries, look_up_entry_from_wire)?,
            regions: read_all(response.regions, |state| region_state_from_wire(&state))?,
            rows_scanned: response.rows_scanned,
        })
    }

    async fn regions(&self) -> Result<IndexRegions, IndexError> {
        let message = v1::ListRegionsRequest {};
        let response = self
            .client
            .clone()
            .list_regions(message)
            .await
            .map_err(|status| unavailable(&status))?;
        let response = response.into_inner();
        Ok(IndexRegions {
            regions: read_all(response.regions, |state| region_state_from_wire(&state))?,
            traces_held: response.traces_held,
        })
    }
}

/// The status's own text names addresses: it goes to the log.
fn unavailable(status: &tonic::Status) -> IndexError {
    tracing::debug!(code = ?status.code(), message = status.message(), "the index did not answer");
    IndexError::Unavailable(format!("gRPC code {}", i32::from(status.code())))
}

fn read_all<M, T>(
    messages: Vec<M>,
    read: impl Fn(M) -> Result<T, InvalidIndexMessage>,
) -> Result<Vec<T>, IndexError> {
    let read = messages.into_iter().map(read).collect::<Result<_, _>>();
    read.map_err(|error| IndexError::Invalid(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(trace: u8) -> v1::LookUpEntry {
        let contribution = v1::Contribution {
            tenant: "default".to_owned(),
            trace_id: vec![trace; 16].into(),
            version: 12,
            ..v1::Contribution::default()
        };
        v1::LookUpEntry {
            trace_id: vec![5; 16].into(),
            contributions: vec![v1::RegionContribution {
                region: "eu".to_owned(),
                contribution: Some(contribution),
                services: Vec::new(),
            }],
        }
    }

    #[test]
    fn one_entry_that_cannot_be_right_makes_the_answer_nonsense() {
        let read = |entries| read_all(entries, look_up_entry_from_wire);
        assert_eq!(read(vec![entry(5), entry(5)]).unwrap().len(), 2);
        let refused = read(vec![entry(5), entry(6)]).unwrap_err();
        assert!(matches!(refused, IndexError::Invalid(_)), "{refused}");
        assert!(!refused.is_retryable());
    }
}
