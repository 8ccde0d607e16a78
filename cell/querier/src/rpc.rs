//! The methods of `farspan.v1.CellQuery`. Each one checks its question, asks a port, and lets the
//! policy decide what leaves.

use proto::convert::query::{id_bytes, required_range, search_query};
use proto::v1;
use proto::v1::cell_query_server::CellQuery;
use tonic::{Request, Response, Status};
use trace_model::Coverage;
use trace_model::query::SearchStats;
use trace_store::port::EdgeTraceQuery;

use crate::caller::{Access, Caller};
use crate::cuts::cut_if;
use crate::deadline::allowed_time;
use crate::lists;
use crate::metrics::Query;
use crate::querier::Querier;
use crate::search::Searched;
use crate::status::QuerierError;
use crate::stream::FrameStream;

#[tonic::async_trait]
impl CellQuery for Querier {
    type FindTraceStream = FrameStream;
    type FindTracesStream = FrameStream;

    async fn find_trace(
        &self,
        request: Request<v1::FindTraceRequest>,
    ) -> Result<Response<FrameStream>, Status> {
        let time = allowed_time(request.metadata(), self.config.query_time_max);
        let frames = self.stream_trace(request.into_inner(), time).await;
        frames.map(Response::new).map_err(|error| self.refuse(Query::FindTrace, error))
    }

    async fn find_traces(
        &self,
        request: Request<v1::FindTracesRequest>,
    ) -> Result<Response<FrameStream>, Status> {
        let time = allowed_time(request.metadata(), self.config.query_time_max);
        let frames = self.stream_traces(request.into_inner(), time);
        frames.map(Response::new).map_err(|error| self.refuse(Query::FindTraces, error))
    }

    async fn search_traces(
        &self,
        request: Request<v1::SearchTracesRequest>,
    ) -> Result<Response<v1::SearchTracesResponse>, Status> {
        let time = allowed_time(request.metadata(), self.config.query_time_max);
        self.answer(Query::SearchTraces, time, self.search(request.into_inner())).await
    }

    async fn list_services(
        &self,
        request: Request<v1::ListServicesRequest>,
    ) -> Result<Response<v1::ListServicesResponse>, Status> {
        let time = allowed_time(request.metadata(), self.config.query_time_max);
        self.answer(Query::ListServices, time, self.services(request.into_inner())).await
    }

    async fn list_operations(
        &self,
        request: Request<v1::ListOperationsRequest>,
    ) -> Result<Response<v1::ListOperationsResponse>, Status> {
        let time = allowed_time(request.metadata(), self.config.query_time_max);
        self.answer(Query::ListOperations, time, self.operations(request.into_inner())).await
    }

    async fn list_edges(
        &self,
        request: Request<v1::ListEdgesRequest>,
    ) -> Result<Response<v1::ListEdgesResponse>, Status> {
        let time = allowed_time(request.metadata(), self.config.query_time_max);
        self.answer(Query::ListEdges, time, self.edges(request.into_inner())).await
    }

    async fn query_red(
        &self,
        request: Request<v1::QueryRedRequest>,
    ) -> Result<Response<v1::QueryRedResponse>, Status> {
        let time = allowed_time(request.metadata(), self.config.query_time_max);
        self.answer(Query::Red, time, self.red(request.into_inner())).await
    }

    async fn find_edge_traces(
        &self,
        request: Request<v1::FindEdgeTracesRequest>,
    ) -> Result<Response<v1::FindEdgeTracesResponse>, Status> {
        let time = allowed_time(request.metadata(), self.config.query_time_max);
        self.answer(Query::FindEdgeTraces, time, self.edge_traces(request.into_inner())).await
    }

    async fn get_cell_status(
        &self,
        request: Request<v1::GetCellStatusRequest>,
    ) -> Result<Response<v1::GetCellStatusResponse>, Status> {
        let time = allowed_time(request.metadata(), self.config.query_time_max);
        self.answer(Query::GetCellStatus, time, self.cell_status(request.into_inner())).await
    }
}

impl Querier {
    async fn search(
        &self,
        mut request: v1::SearchTracesRequest,
    ) -> Result<(Access, v1::SearchTracesResponse), QuerierError> {
        let caller = Caller::identify(request.caller.take())?;
        self.check_limit(request.limit)?;
        let access = caller.access(&self.config);
        let query = search_query(request, caller.tenant)?;
        let found = match access {
            Access::Granted => Some(self.search_stores(&query).await?),
            Access::Forbidden => None,
        };
        Ok((access, self.search_response(access, found)))
    }

    fn search_response(&self, access: Access, found: Option<Searched>) -> v1::SearchTracesResponse {
        let outcome = Self::outcome_of(access);
        let Some(Searched { answer: found, until, missed_by }) = found else {
            let region = self.region_name();
            return v1::SearchTracesResponse { outcome, region, ..Default::default() };
        };
        let stats: SearchStats = found.stats;
        v1::SearchTracesResponse {
            outcome,
            matches: found.matches.iter().map(Into::into).collect(),
            stats: Some(stats.into()),
            coverage: Some((&found.covered).into()),
            region: self.region_name(),
            is_damaged: found.is_damaged || found.is_away || !missed_by.is_empty(),
            lacks_store: found.is_away,
            expired_until_unix_nano: found.expired_until.map_or(0, |until| until.0),
            searched_until_unix_nano: until.map_or(0, |until| until.0),
            missed_by,
        }
    }

    async fn services(
        &self,
        request: v1::ListServicesRequest,
    ) -> Result<(Access, v1::ListServicesResponse), QuerierError> {
        let caller = Caller::identify(request.caller)?;
        let range = required_range(request.range)?;
        let access = caller.access(&self.config);
        let (reach, services) = match access {
            Access::Granted => {
                let reach = self.reach_of_lists().await;
                let reach = self.with_unlisted(reach, &caller.tenant, range);
                let list = lists::services(&*self.ports.catalog, &caller.tenant, range).await?;
                (cut_if(reach, list.is_cut), list.names)
            }
            Access::Forbidden => (None, Vec::new()),
        };
        let services = services.iter().map(|service| (**service).to_owned()).collect();
        let (outcome, region) = (Self::outcome_of(access), self.region_name());
        Ok((access, v1::ListServicesResponse { outcome, services, region, reach }))
    }

    async fn operations(
        &self,
        request: v1::ListOperationsRequest,
    ) -> Result<(Access, v1::ListOperationsResponse), QuerierError> {
        let caller = Caller::identify(request.caller)?;
        let range = required_range(request.range)?;
        let access = caller.access(&self.config);
        let catalog = &*self.ports.catalog;
        let (reach, found) = match access {
            Access::Granted => {
                let reach = self.reach_of_lists().await;
                let reach = self.with_unlisted(reach, &caller.tenant, range);
                let list =
                    lists::operations(catalog, &caller.tenant, &request.service, range).await?;
                (cut_if(reach, list.is_cut), list.names)
            }
            Access::Forbidden => (None, Vec::new()),
        };
        let operations = found
            .into_iter()
            .map(|operation| v1::Operation {
                name: (*operation.name).to_owned(),
                kind: operation.kind as u32,
            })
            .collect();
        let (outcome, region) = (Self::outcome_of(access), self.region_name());
        Ok((access, v1::ListOperationsResponse { outcome, operations, region, reach }))
    }

    async fn edge_traces(
        &self,
        request: v1::FindEdgeTracesRequest,
    ) -> Result<(Access, v1::FindEdgeTracesResponse), QuerierError> {
        let caller = Caller::identify(request.caller)?;
        let access = caller.access(&self.config);
        let query = EdgeTraceQuery {
            tenant: caller.tenant,
            caller: request.edge_caller.into(),
            callee: request.edge_callee.into(),
            only_errors: request.only_errors,
            range: required_range(request.range)?,
            limit: self.check_limit(request.limit)?,
        };
        let (reach, found) = match access {
            Access::Granted => {
                let reach = self.reach_of_counts().await;
                let found = self.ports.metrics.edge_traces(&query).await?;
                let is_cut = found.is_cut || self.counts_other_edges(&query).await?;
                let reach = cut_if(reach, is_cut);
                (self.with_uncounted(reach, query.range), found.trace_ids)
            }
            Access::Forbidden => (None, Vec::new()),
        };
        let trace_ids = found.into_iter().map(id_bytes).collect();
        let (outcome, region) = (Self::outcome_of(access), self.region_name());
        Ok((access, v1::FindEdgeTracesResponse { outcome, trace_ids, region, reach }))
    }

    /// Offsets, lags and sizes of the cell: no word of any tenant's data, so open to every region.
    async fn cell_status(
        &self,
        request: v1::GetCellStatusRequest,
    ) -> Result<(Access, v1::GetCellStatusResponse), QuerierError> {
        Caller::identify(request.caller)?;
        let log = self.ports.status.log_status().await?;
        let figures = self.ports.traces.figures();
        let log_end: &Coverage = &log.log_end;
        let groups = log.groups.iter().map(|lag| v1::GroupLag {
            group: (*lag.group).to_owned(),
            records: lag.records,
            age_millis: lag.age_millis,
            dead_letters: lag.dead_letters,
            failing_millis: lag.failing_millis,
        });
        let response = v1::GetCellStatusResponse {
            region: self.region_name(),
            log_end: Some(log_end.into()),
            groups: groups.collect(),
            spans_stored: figures.spans,
            bytes_stored: figures.bytes,
            now_unix_nano: self.ports.clock.now().0,
            away_collectors: log.away.clone(),
            retired_collectors: log.retired.clone(),
        };
        Ok((Access::Granted, response))
    }

    fn check_limit(&self, limit: u32) -> Result<usize, QuerierError> {
        let max = self.config.matches_max;
        let limit = usize::try_from(limit).unwrap_or(usize::MAX);
        if (1..=max).contains(&limit) {
            return Ok(limit);
        }
        Err(QuerierError::OutOfLimits { what: "limit", min: 1, max })
    }
}
