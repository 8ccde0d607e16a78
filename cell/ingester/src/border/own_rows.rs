//! [`OwnTraces`] from the region's own origin log: a row there is a trace that is held here.

use std::sync::Arc;

use async_trait::async_trait;
use metadata_replicator::{ContributionLog, RowKey};
use span_log::LogIdentity;
use trace_model::location::Keep;
use trace_model::{Contribution, TenantId, TraceId};

use super::{LookupError, OwnTraces};

/// The rows of the region's own log, of the current incarnation of its span log.
///
/// The publisher writes them a moment after the spans are acknowledged. A trace whose spans all
/// came under an earlier incarnation (a log that was made anew) is not found.
#[derive(Clone, Debug)]
pub struct OwnRows {
    log: Arc<dyn ContributionLog>,
    identity: LogIdentity,
}

impl OwnRows {
    /// Over this origin log, written from this span log.
    #[must_use]
    pub const fn new(log: Arc<dyn ContributionLog>, identity: LogIdentity) -> Self {
        Self { log, identity }
    }

    /// Which partition has the trace is the span log's affair: all are asked, misses cost a hash.
    fn keys(&self, (tenant, trace_id): &(TenantId, TraceId)) -> impl Iterator<Item = RowKey> {
        let LogIdentity { incarnation, partitions } = self.identity;
        let (tenant, trace_id) = (tenant.clone(), *trace_id);
        (0..partitions).map(move |partition| RowKey {
            tenant: tenant.clone(),
            trace_id,
            incarnation,
            partition,
        })
    }
}

fn version_of(row: &Contribution) -> Option<u64> {
    let is_held = !row.is_erased && row.keep != Keep::SampledOut;
    is_held.then_some(row.version)
}

#[async_trait]
impl OwnTraces for OwnRows {
    async fn versions(
        &self,
        traces: &[(TenantId, TraceId)],
    ) -> Result<Vec<Option<u64>>, LookupError> {
        let keys: Vec<RowKey> = traces.iter().flat_map(|trace| self.keys(trace)).collect();
        let rows = self.log.own_rows(&keys).await;
        let rows = rows.map_err(|error| LookupError(error.to_string()))?;
        let each = usize::try_from(self.identity.partitions).unwrap_or(usize::MAX).max(1);
        // Where several partitions hold a part of the trace, the number grows with each of them.
        let grown = |rows: &[Option<Contribution>]| {
            rows.iter().flatten().filter_map(version_of).reduce(u64::saturating_add)
        };
        Ok(rows.chunks(each).map(grown).collect())
    }
}
