//! Rates, errors and durations, and calls between services: whole, or by pages that fit into a message.

use prost::Message;
use proto::convert::query::{id_bytes, required_range};
use proto::v1;
use trace_model::{SpanKind, StatusCode, TenantId, TimeRange, UnixNanos};
use trace_store::port::{EdgeKey, EdgePlace, EdgeRow, Page, RedKey, RedQuery, RedRow, StoreError};

use crate::caller::{Access, Caller};
use crate::cuts::cut_if;
use crate::querier::Querier;
use crate::status::QuerierError;

/// Most bytes of a page, unless one row has more.
const PAGE_BYTES_MAX: usize = 16 << 20;

impl Querier {
    pub(crate) async fn edges(
        &self,
        request: v1::ListEdgesRequest,
    ) -> Result<(Access, v1::ListEdgesResponse), QuerierError> {
        let caller = Caller::identify(request.caller)?;
        let range = required_range(request.range)?;
        let access = caller.access(&self.config);
        let page_edges = request.page_edges as usize;
        let after = request.after.map(|place| (place.caller.into(), place.callee.into()));
        let (reach, page) = match access {
            Access::Granted => {
                let reach = self.reach_of_counts().await;
                let page = self.edges_of(&caller.tenant, range, after.as_ref(), page_edges).await?;
                let is_cut = self.cuts_edges(&caller.tenant, range, after.is_none(), &page.rows);
                let reach = cut_if(reach, is_cut.await?);
                (self.with_uncounted(reach, range), page)
            }
            Access::Forbidden => (None, Page::default()),
        };
        let mut edges: Vec<_> = page.rows.into_iter().map(edge_message).collect();
        let is_cut = page_edges > 0 && cut_edges(&mut edges);
        let last = edges.last().filter(|_| is_cut || page.has_more);
        let next = last.map(v1::EdgePlace::from);
        let (outcome, region) = (Self::outcome_of(access), self.region_name());
        Ok((access, v1::ListEdgesResponse { outcome, edges, region, reach, next }))
    }

    pub(crate) async fn red(
        &self,
        request: v1::QueryRedRequest,
    ) -> Result<(Access, v1::QueryRedResponse), QuerierError> {
        let caller = Caller::identify(request.caller)?;
        let access = caller.access(&self.config);
        let query = RedQuery {
            tenant: caller.tenant,
            service: (!request.service.is_empty()).then(|| request.service.into()),
            by_operation: request.by_operation,
            range: required_range(request.range)?,
        };
        let page_points = request.page_points as usize;
        let after = request.after.map(|place| red_key(place, &query));
        let (reach, page) = match access {
            Access::Granted => {
                let reach = self.reach_of_counts().await;
                let page = self.red_of(&query, after.as_ref(), page_points).await?;
                let is_cut = self.cuts_red(&query, after.is_none(), &page.rows).await?;
                (self.with_uncounted(cut_if(reach, is_cut), query.range), page)
            }
            Access::Forbidden => (None, Page::default()),
        };
        let mut points: Vec<_> = page.rows.into_iter().map(red_message).collect();
        let is_cut = page_points > 0 && cut_points(&mut points);
        let last = points.last().filter(|_| is_cut || page.has_more);
        let next = last.map(v1::RedPlace::from);
        let (outcome, region) = (Self::outcome_of(access), self.region_name());
        Ok((access, v1::QueryRedResponse { outcome, points, region, reach, next }))
    }

    /// A page of points; all of them where no size is asked for.
    async fn red_of(
        &self,
        query: &RedQuery,
        after: Option<&RedKey>,
        page_points: usize,
    ) -> Result<Page<(RedKey, RedRow)>, QuerierError> {
        let metrics = &self.ports.metrics;
        if page_points == 0 && after.is_none() {
            return Ok(Page { rows: metrics.red(query).await?, has_more: false });
        }
        let most = page_points.clamp(1, self.config.page_rows_max);
        whole_page(metrics.red_page(query, after, most).await?)
    }

    /// The same of edges.
    async fn edges_of(
        &self,
        tenant: &TenantId,
        range: TimeRange,
        after: Option<&EdgePlace>,
        page_edges: usize,
    ) -> Result<Page<(EdgeKey, EdgeRow)>, QuerierError> {
        let metrics = &self.ports.metrics;
        if page_edges == 0 && after.is_none() {
            return Ok(Page { rows: metrics.edges(tenant, range).await?, has_more: false });
        }
        let most = page_edges.clamp(1, self.config.page_rows_max);
        whole_page(metrics.edges_page(tenant, range, after, most).await?)
    }
}

/// A page of nothing is the last: else nobody knows where the next one begins.
fn whole_page<T>(page: Page<T>) -> Result<Page<T>, QuerierError> {
    if page.rows.is_empty() && page.has_more {
        let words = "a page of counts that were there is empty";
        return Err(StoreError::Unavailable(words.to_owned()).into());
    }
    Ok(page)
}

/// How many of these messages fit into one page; one at least.
fn fitting(messages: &[impl Message]) -> usize {
    let mut bytes = 0_usize;
    let fits = |message: &&_| {
        bytes = bytes.saturating_add(Message::encoded_len(*message));
        bytes <= PAGE_BYTES_MAX
    };
    messages.iter().take_while(fits).count().max(1)
}

/// Leaves as many points as fit; says whether some did not.
fn cut_points(points: &mut Vec<v1::RedPoint>) -> bool {
    let before = points.len();
    points.truncate(fitting(points));
    points.len() < before
}

/// The same of edges, whose messages with and without errors stay together.
fn cut_edges(edges: &mut Vec<v1::Edge>) -> bool {
    let before = edges.len();
    let most = fitting(edges);
    let behind = edges.get(most).map(v1::EdgePlace::from);
    let is_split = |edge: &v1::Edge| Some(v1::EdgePlace::from(edge)) == behind;
    let whole = edges.iter().take(most).rposition(|edge| !is_split(edge));
    edges.truncate(whole.map_or(most.max(2), |last| last.saturating_add(1)));
    edges.len() < before
}

fn red_key(place: v1::RedPlace, query: &RedQuery) -> RedKey {
    RedKey {
        tenant: query.tenant.clone(),
        minute: UnixNanos(place.minute_unix_nano),
        service: place.service.into(),
        operation: query.by_operation.then(|| place.operation.into()),
        kind: SpanKind::from_number(i32::try_from(place.kind).unwrap_or(0)),
        status: StatusCode::from_number(i32::try_from(place.status).unwrap_or(0)),
    }
}

/// Calls with and without errors are two rows of the store; the gateway adds them up.
fn edge_message((key, row): (EdgeKey, EdgeRow)) -> v1::Edge {
    v1::Edge {
        caller: (*key.caller).to_owned(),
        callee: (*key.callee).to_owned(),
        calls: row.seen,
        errors: if key.is_error { row.seen } else { 0 },
        calls_estimated: row.estimated,
        durations: Some(v1::Sketch { ddsketch: row.durations.to_bytes().into() }),
    }
}

fn red_message((key, row): (RedKey, RedRow)) -> v1::RedPoint {
    v1::RedPoint {
        service: (*key.service).to_owned(),
        operation: key.operation.map(|name| (*name).to_owned()).unwrap_or_default(),
        kind: key.kind as u32,
        status: key.status as u32,
        minute_unix_nano: key.minute.0,
        seen: row.seen,
        estimated: row.estimated,
        durations: Some(v1::Sketch { ddsketch: row.durations.to_bytes().into() }),
        exemplar_trace_id: row.exemplar.map(|(_, trace_id)| id_bytes(trace_id)).unwrap_or_default(),
    }
}
