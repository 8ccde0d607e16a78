//! The metadata index over `farspan.v1.MetadataIndex`.

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use proto::convert::query::id_bytes;
use proto::v1;
use proto::v1::metadata_index_client::MetadataIndexClient;
use tonic::transport::Channel;
use trace_model::location::{Cursor, Detail, EntrySpan, Epoch, Keep, RootSpan, ServiceCount};
use trace_model::{
    Contribution, Region, SpanId, TenantId, TimeRange, TraceEntry, TraceId, UnixNanos, Watermark,
    WriterId,
};

use super::MESSAGE_BYTES_MAX;
use crate::port::{
    IndexError, IndexRegions, LookUp, MetadataIndex, RegionState, SummaryPage, SummaryQuery,
};

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
}

#[async_trait]
impl MetadataIndex for GrpcMetadataIndex {
    async fn look_up(
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
        let entries = read_all(response.entries, read_entry)?;
        let is_as_asked = entries.iter().map(|(trace_id, _)| trace_id).eq(trace_ids);
        if !is_as_asked {
            return Err(nonsense("other traces than asked for"));
        }
        Ok(LookUp {
            entries: entries.into_iter().map(|(_, entry)| entry).collect(),
            regions: read_all(response.regions, read_state)?,
        })
    }

    async fn list_summaries(&self, query: &SummaryQuery) -> Result<SummaryPage, IndexError> {
        let text = |text: &Option<Arc<str>>| text.as_deref().unwrap_or_default().to_owned();
        let message = v1::ListSummariesRequest {
            tenant: query.tenant.as_str().to_owned(),
            start_unix_nano: query.range.start.0,
            end_unix_nano: query.range.end.0,
            service: text(&query.service),
            root_service: text(&query.root_service),
            root_operation: text(&query.root_operation),
            min_duration_nanos: query.min_duration_nanos,
            max_duration_nanos: query.max_duration_nanos.unwrap_or(0),
            only_errors: query.only_errors,
            limit: query.limit,
        };
        let response = self
            .client
            .clone()
            .list_summaries(message)
            .await
            .map_err(|status| unavailable(&status))?;
        let response = response.into_inner();
        Ok(SummaryPage {
            traces: read_all(response.entries, read_entry)?,
            regions: read_all(response.regions, read_state)?,
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
            regions: read_all(response.regions, read_state)?,
            traces_held: response.traces_held,
        })
    }
}

/// The status's own text names addresses: it goes to the log.
fn unavailable(status: &tonic::Status) -> IndexError {
    tracing::debug!(code = ?status.code(), message = status.message(), "the index did not answer");
    IndexError::Unavailable(format!("gRPC code {}", i32::from(status.code())))
}

fn nonsense(reason: &str) -> IndexError {
    IndexError::Invalid(reason.to_owned())
}

fn read_all<M, T>(
    messages: Vec<M>,
    read: impl Fn(M) -> Result<T, IndexError>,
) -> Result<Vec<T>, IndexError> {
    messages.into_iter().map(read).collect()
}

fn read_entry(message: v1::LookUpEntry) -> Result<(TraceId, TraceEntry), IndexError> {
    let trace_id = read_id(&message.trace_id)?;
    let mut entry = TraceEntry::default();
    for contribution in message.contributions {
        let contribution = read_contribution(contribution)?;
        if contribution.trace_id != trace_id {
            return Err(nonsense("a contribution about another trace"));
        }
        entry.join(contribution);
    }
    Ok((trace_id, entry))
}

fn read_contribution(message: v1::RegionContribution) -> Result<Contribution, IndexError> {
    let region = read_region(&message.region)?;
    let names: BTreeMap<u32, Arc<str>> =
        message.services.into_iter().map(|service| (service.id, service.name.into())).collect();
    let held = message.contribution.ok_or_else(|| nonsense("an empty contribution"))?;
    Ok(Contribution {
        version: held.version,
        tenant: TenantId::new(&held.tenant).map_err(|_| nonsense("an invalid tenant"))?,
        trace_id: read_id(&held.trace_id)?,
        writer: WriterId { region, incarnation: held.incarnation, partition: held.partition },
        last_append: UnixNanos(held.last_append_unix_nano),
        keep: match held.keep {
            0 => Keep::Pending,
            1 => Keep::SampledOut,
            2 => Keep::Keep,
            _ => return Err(nonsense("an unknown keep-decision")),
        },
        is_erased: held.is_erased,
        detail: held.detail.map(|detail| read_detail(detail, &names)).transpose()?,
    })
}

fn read_detail(message: v1::Detail, names: &BTreeMap<u32, Arc<str>>) -> Result<Detail, IndexError> {
    // A service whose name has not arrived yet is shown by its number.
    let service = |id: u32| names.get(&id).cloned().unwrap_or_else(|| format!("#{id}").into());
    let counts = message.services.into_iter().map(|count| ServiceCount {
        service: service(count.service),
        spans: count.spans,
        errors: count.errors,
    });
    let root = message.root.map(|root| {
        Ok(RootSpan {
            service: service(root.service),
            operation: root.operation.into(),
            start: UnixNanos(root.start_unix_nano),
            span_id: read_span_id(&root.span_id)?,
            duration_nanos: root.duration_nanos,
            is_error: root.is_error,
        })
    });
    let entries = read_all(message.entries, |entry| {
        Ok(EntrySpan {
            span_id: read_span_id(&entry.span_id)?,
            parent_span_id: read_span_id(&entry.parent_span_id)?,
            service: service(entry.service),
            start: UnixNanos(entry.start_unix_nano),
            duration_nanos: entry.duration_nanos,
            is_error: entry.is_error,
        })
    });
    Ok(Detail {
        min_start: UnixNanos(message.min_start_unix_nano),
        max_end: UnixNanos(message.max_end_unix_nano),
        span_count: message.span_count,
        error_count: message.error_count,
        is_lower_bound: message.is_lower_bound,
        services: counts.collect(),
        root: root.transpose()?,
        entries: entries?,
    })
}

fn read_state(message: v1::RegionState) -> Result<RegionState, IndexError> {
    let region = read_region(&message.region)?;
    Ok(RegionState {
        cursor: message.cursor.map(|cursor| Cursor {
            epoch: Epoch { millis: cursor.epoch_millis, random: cursor.epoch_random },
            sequence: cursor.sequence,
        }),
        watermark: message.watermark.map(|watermark| read_watermark(&region, watermark)),
        region,
        silent_millis: message.silent_millis,
        is_connected: message.is_connected,
        lag_records: message.lag_records,
        lag_millis: message.lag_millis,
    })
}

fn read_watermark(region: &Region, message: v1::Watermark) -> Watermark {
    let hole = |hole: v1::Hole| TimeRange {
        start: UnixNanos(hole.start_unix_nano),
        end: UnixNanos(hole.end_unix_nano),
    };
    Watermark {
        region: region.clone(),
        incarnation: message.incarnation,
        as_of: UnixNanos(message.as_of_unix_nano),
        next: message.next.into_iter().map(|next| (next.partition, next.offset)).collect(),
        holes: message.holes.into_iter().map(hole).collect(),
    }
}

fn read_region(name: &str) -> Result<Region, IndexError> {
    Region::new(name).map_err(|_| nonsense("an invalid region"))
}

fn read_id(bytes: &[u8]) -> Result<TraceId, IndexError> {
    TraceId::try_from(bytes).map_err(|_| nonsense("an invalid trace id"))
}

fn read_span_id(bytes: &[u8]) -> Result<SpanId, IndexError> {
    SpanId::try_from(bytes).map_err(|_| nonsense("an invalid span id"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(trace: u8, keep: u32) -> v1::LookUpEntry {
        let id = vec![trace; 16];
        let root = v1::RootSpan { span_id: vec![1; 8].into(), service: 4, ..Default::default() };
        let detail = v1::Detail { span_count: 3, root: Some(root), ..v1::Detail::default() };
        let contribution = v1::Contribution {
            tenant: "default".to_owned(),
            trace_id: id.into(),
            version: 12,
            keep,
            detail: Some(detail),
            ..v1::Contribution::default()
        };
        v1::LookUpEntry {
            trace_id: vec![5; 16].into(),
            contributions: vec![v1::RegionContribution {
                region: "eu".to_owned(),
                contribution: Some(contribution),
                services: vec![v1::ServiceName { id: 4, name: "web".to_owned() }],
            }],
        }
    }

    #[test]
    fn an_entry_is_read_with_its_services_spelled_out() {
        let (trace_id, entry) = read_entry(message(5, 2)).unwrap();
        assert_eq!(trace_id.as_bytes(), &[5; 16]);
        let held = entry.contributions.values().next().unwrap();
        assert_eq!((held.version, held.keep, held.writer.region.as_str()), (12, Keep::Keep, "eu"));
        assert_eq!(&*entry.summary().root.unwrap().service, "web");
    }

    #[test]
    fn an_entry_that_cannot_be_right_is_refused_whole() {
        assert!(read_entry(message(6, 0)).is_err(), "about another trace");
        assert!(read_entry(message(5, 3)).is_err(), "an unknown decision");
        let mut nameless = message(5, 0);
        nameless.contributions[0].region = "EU".to_owned();
        assert!(read_entry(nameless).is_err());
        let mut empty = message(5, 0);
        empty.contributions[0].contribution = None;
        assert!(read_entry(empty).is_err());
    }

    #[test]
    fn a_region_without_a_watermark_proves_nothing() {
        let state = v1::RegionState { region: "eu".to_owned(), ..v1::RegionState::default() };
        assert!(!read_state(state.clone()).unwrap().proves_absence(None));
        let whole = v1::Watermark::default();
        let state = v1::RegionState { watermark: Some(whole.clone()), ..state };
        assert!(read_state(state.clone()).unwrap().proves_absence(None));
        let holed = v1::Watermark { holes: vec![v1::Hole::default()], ..whole };
        let state = v1::RegionState { watermark: Some(holed), ..state };
        assert!(!read_state(state).unwrap().proves_absence(None));
    }
}
