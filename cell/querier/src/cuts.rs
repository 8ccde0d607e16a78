//! Whether counts lack names that lie beyond a limit of the cell: what has no place of its own is
//! counted under `__other__`, and an answer that it may be part of says so.

use std::collections::BTreeSet;
use std::sync::Arc;

use proto::convert::index::OTHER_SERVICE;
use proto::v1;
use trace_model::{TenantId, TimeRange, UnixNanos};
use trace_store::memory_metrics::BUCKET_NANOS;
use trace_store::port::{EdgeKey, EdgeRow, EdgeTraceQuery, RedKey, RedQuery, RedRow};

use crate::querier::Querier;
use crate::status::QuerierError;

impl Querier {
    /// Whether rates lack names: of the service that is asked for, which may be counted, in full or in
    /// part, among those that have no counts of their own; of services, where all are asked for; of
    /// operations. What holds of the whole answer is looked for with its first page alone.
    pub(crate) async fn cuts_red(
        &self,
        query: &RedQuery,
        is_first: bool,
        rows: &[(RedKey, RedRow)],
    ) -> Result<bool, QuerierError> {
        if query.service.as_ref().is_some_and(is_other) {
            return Ok(false);
        }
        let lacks_names = |(key, _): &(RedKey, RedRow)| {
            is_other(&key.service) || key.operation.as_ref().is_some_and(is_other)
        };
        if rows.iter().any(lacks_names) {
            return Ok(true);
        }
        Ok(is_first
            && query.service.is_some()
            && self.counts_others(&query.tenant, query.range).await?)
    }

    /// Whether edges lack names. What is asked for are whole buckets, so that spans anywhere in one may
    /// have had calls in it.
    pub(crate) async fn cuts_edges(
        &self,
        tenant: &TenantId,
        range: TimeRange,
        is_first: bool,
        rows: &[(EdgeKey, EdgeRow)],
    ) -> Result<bool, QuerierError> {
        let has_other =
            |(key, _): &(EdgeKey, EdgeRow)| is_other(&key.caller) || is_other(&key.callee);
        let is_cut = rows.iter().any(has_other);
        Ok(is_cut || (is_first && self.counts_others(tenant, whole_buckets(range)).await?))
    }

    /// Whether spans of the tenant are counted under services that have no counts of their own.
    async fn counts_others(
        &self,
        tenant: &TenantId,
        range: TimeRange,
    ) -> Result<bool, QuerierError> {
        let (tenant, service) = (tenant.clone(), Some(OTHER_SERVICE.into()));
        let others = RedQuery { tenant, service, by_operation: false, range };
        Ok(!self.ports.metrics.red_page(&others, None, 1).await?.rows.is_empty())
    }

    /// Whether calls between the two services may be counted, in full or in part, as those of services
    /// that have no counts of their own.
    pub(crate) async fn counts_other_edges(
        &self,
        query: &EdgeTraceQuery,
    ) -> Result<bool, QuerierError> {
        let other: Arc<str> = OTHER_SERVICE.into();
        let ends = |named: &Arc<str>| BTreeSet::from([Arc::clone(named), Arc::clone(&other)]);
        for caller in ends(&query.caller) {
            for callee in ends(&query.callee) {
                if caller == query.caller && callee == query.callee {
                    continue;
                }
                let others = EdgeTraceQuery {
                    caller: Arc::clone(&caller),
                    callee,
                    limit: 1,
                    ..query.clone()
                };
                if !self.ports.metrics.edge_traces(&others).await?.trace_ids.is_empty() {
                    return Ok(true);
                }
            }
        }
        Ok(false)
    }
}

/// Says of an answer that a limit cut it. Where nobody knows how far it reaches that is still said.
pub(crate) fn cut_if(reach: Option<v1::Reach>, is_cut: bool) -> Option<v1::Reach> {
    if !is_cut {
        return reach;
    }
    Some(v1::Reach { is_cut, ..reach.unwrap_or_default() })
}

fn is_other(name: &Arc<str>) -> bool {
    **name == *OTHER_SERVICE
}

/// The range of the buckets that touch a range.
fn whole_buckets(range: TimeRange) -> TimeRange {
    let whole = |buckets: u64| UnixNanos(buckets.saturating_mul(BUCKET_NANOS));
    let first = range.start.0.checked_div(BUCKET_NANOS).unwrap_or(0);
    TimeRange { start: whole(first), end: whole(range.end.0.div_ceil(BUCKET_NANOS)) }
}
