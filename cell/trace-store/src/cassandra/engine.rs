//! Requests: bounded in flight, timed, counted, their errors in the words of the port.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream::{FuturesUnordered, StreamExt as _};
use hashbrown::HashMap;
use scylla::client::session::Session;
use scylla::deserialize::row::DeserializeRow;
use scylla::response::query_result::QueryRowsResult;
use scylla::response::{PagingState, PagingStateResponse};
use scylla::serialize::row::SerializeRow;
use scylla::statement::batch::{Batch, BatchType};
use scylla::statement::prepared::PreparedStatement;
use trace_model::Clock;

use super::batches::{BATCH_ROWS_MAX, RowBatch};
use super::fault;
use super::statements::Statements;
use crate::metrics::CassandraMetrics;
use crate::port::StoreError;

/// A session with its statements.
#[derive(Debug)]
pub(super) struct Engine {
    pub(super) session: Session,
    pub(super) statements: Statements,
    /// Under this name the process keeps its accounts: no other has it.
    pub(super) writer: [u8; 8],
    pub(super) concurrency: usize,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) metrics: CassandraMetrics,
    pub(super) repeats: Repeats,
}

/// Batches that repeat a statement so many times, by its id: made once, since they are the same for
/// all values. Each place in one is a copy of the statement's settings, and would be made for each row.
#[derive(Default)]
pub(super) struct Repeats(Mutex<HashMap<(Bytes, usize), Arc<Batch>>>);

impl fmt::Debug for Repeats {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Repeats").finish_non_exhaustive()
    }
}

impl Repeats {
    fn of(&self, statement: &PreparedStatement, rows: usize) -> Arc<Batch> {
        let make = || {
            let mut batch = Batch::new(BatchType::Unlogged);
            batch.set_is_idempotent(true);
            // A batch does not take it from its statements.
            if let Some(level) = statement.get_consistency() {
                batch.set_consistency(level);
            }
            (0..rows).for_each(|_| batch.append_statement(statement.clone()));
            Arc::new(batch)
        };
        if rows > BATCH_ROWS_MAX {
            return make();
        }
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(known.entry((statement.get_id().clone(), rows)).or_insert_with(make))
    }
}

/// A page of rows, and where the next one begins.
pub(super) type Page = (QueryRowsResult, Option<PagingState>);

impl Engine {
    /// Writes batches, each of one partition, so many at once; ends with the first that fails.
    pub(super) async fn write_all<R: SerializeRow + Sync>(
        &self,
        statement: &PreparedStatement,
        batches: &[RowBatch<R>],
    ) -> Result<(), StoreError> {
        let mut waiting = batches.iter();
        let mut running = FuturesUnordered::new();
        loop {
            while running.len() < self.concurrency.max(1)
                && let Some(batch) = waiting.next()
            {
                running.push(self.write(statement, batch));
            }
            let Some(written) = running.next().await else { return Ok(()) };
            written?;
        }
    }

    /// Writes one batch: whole or not at all.
    pub(super) async fn write<R: SerializeRow + Sync>(
        &self,
        statement: &PreparedStatement,
        batch: &RowBatch<R>,
    ) -> Result<(), StoreError> {
        match batch.rows.as_slice() {
            [] => return Ok(()),
            [row] => {
                self.execute(statement, row).await?;
                return self.wrote(1, batch.bytes);
            }
            _ => {}
        }
        let request = self.repeats.of(statement, batch.rows.len());
        let begun = self.clock.monotonic();
        let sent = Box::pin(self.session.batch(&request, batch.rows.as_slice())).await;
        sent.map_err(|error| self.failed(&fault::of_request(&error)))?;
        self.metrics.write_seconds.observe(self.since(begun));
        self.wrote(batch.rows.len(), batch.bytes)
    }

    /// Sends a statement that gives no rows.
    pub(super) async fn execute(
        &self,
        statement: &PreparedStatement,
        values: impl SerializeRow + Send,
    ) -> Result<(), StoreError> {
        let begun = self.clock.monotonic();
        let sent = Box::pin(self.session.execute_unpaged(statement, values)).await;
        sent.map_err(|error| self.failed(&fault::of_request(&error)))?;
        self.metrics.write_seconds.observe(self.since(begun));
        Ok(())
    }

    /// Reads one page of at most so many rows.
    pub(super) async fn page(
        &self,
        statement: &PreparedStatement,
        values: impl SerializeRow + Send,
        (state, rows): (PagingState, i32),
    ) -> Result<Page, StoreError> {
        let mut statement = statement.clone();
        statement.set_page_size(rows.max(1));
        let begun = self.clock.monotonic();
        let sent = Box::pin(self.session.execute_single_page(&statement, values, state)).await;
        let (result, next) = sent.map_err(|error| self.failed(&fault::of_request(&error)))?;
        self.metrics.read_seconds.observe(self.since(begun));
        let rows = result.into_rows_result().map_err(|error| fault::of_answer(&error))?;
        let next = match next {
            PagingStateResponse::HasMorePages { state } => Some(state),
            PagingStateResponse::NoMorePages => None,
        };
        Ok((rows, next))
    }

    /// Reads all rows, page by page. A page that fails fails them all.
    pub(super) async fn each<R>(
        &self,
        statement: &PreparedStatement,
        values: impl SerializeRow + Sync,
        mut see: impl FnMut(R) + Send,
    ) -> Result<(), StoreError>
    where
        R: for<'frame, 'metadata> DeserializeRow<'frame, 'metadata>,
    {
        let mut state = PagingState::start();
        loop {
            let (rows, next) = self.page(statement, &values, (state, 1_000)).await?;
            for row in rows.rows::<R>().map_err(|error| fault::of_types(&error))? {
                see(row.map_err(|error| fault::of_row(&error))?);
            }
            let Some(next) = next else { return Ok(()) };
            state = next;
        }
    }

    fn since(&self, begun: Duration) -> f64 {
        self.clock.monotonic().saturating_sub(begun).as_secs_f64()
    }

    fn failed(&self, error: &StoreError) -> StoreError {
        self.metrics.failed_requests.inc();
        error.clone()
    }

    fn wrote(&self, rows: usize, bytes: usize) -> Result<(), StoreError> {
        self.metrics.written_rows.inc_by(rows as u64);
        self.metrics.written_bytes.inc_by(bytes as u64);
        Ok(())
    }
}

/// Runs so many of the futures at once; ends with the first that fails. In no order.
pub(super) async fn at_once<T>(
    limit: usize,
    futures: Vec<impl Future<Output = Result<T, StoreError>>>,
) -> Result<Vec<T>, StoreError> {
    let mut results = Vec::with_capacity(futures.len());
    let mut waiting = futures.into_iter();
    let mut running = FuturesUnordered::new();
    loop {
        while running.len() < limit.max(1)
            && let Some(future) = waiting.next()
        {
            running.push(future);
        }
        let Some(result) = running.next().await else { return Ok(results) };
        results.push(result?);
    }
}
