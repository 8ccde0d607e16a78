//! Traces by id, as the port asks for them: whole, or in pieces of several pages each.

use std::sync::Arc;

use async_trait::async_trait;
use trace_model::{Clock, Coverage, TenantId, TraceId, UnixNanos};

use super::erased::SKEW;
use super::read::TracePages;
use super::store::CassandraStore;
use crate::port::{RestOfTrace, StoreError, StoreFigures, TracePieces, TraceRead, TraceReader};

/// Tells which spans may be gone: those that were appended until some time. Their TTL counts from their
/// receipt, which is before the append by less than clocks may differ.
#[derive(Clone, Debug)]
pub(super) struct Retention {
    pub(super) clock: Arc<dyn Clock>,
    pub(super) nanos: u64,
}

impl Retention {
    pub(super) fn expired_until(&self) -> Option<UnixNanos> {
        let skew = u64::try_from(SKEW.as_nanos()).unwrap_or(0);
        Some(self.clock.now().plus(skew).minus(self.nanos))
    }
}

/// A trace whose pages are not all read.
#[derive(Debug)]
struct Rest {
    pages: TracePages,
    covered: Coverage,
    retention: Retention,
    bytes_max: u64,
    /// A piece was begun and did not come to its end.
    is_broken: bool,
}

impl Rest {
    /// The next piece: pages until they have enough bytes, or all of them.
    async fn read(&mut self) -> Result<TraceRead, StoreError> {
        if std::mem::replace(&mut self.is_broken, true) {
            let words = "cassandra: a piece of the trace was not read to its end";
            return Err(StoreError::Unavailable(words.to_owned()));
        }
        let mut read = nothing(self.covered.clone());
        let mut bytes = 0_u64;
        while bytes < self.bytes_max
            && let Some(page) = self.pages.next_page().await?
        {
            bytes = bytes.saturating_add(page.bytes);
            read.is_damaged |= page.is_damaged;
            read.spans.extend(page.spans);
        }
        // Behind the rows: what was removed before them is known by now.
        read.expired_until = self.retention.expired_until();
        self.is_broken = false;
        Ok(read)
    }
}

#[async_trait]
impl RestOfTrace for Rest {
    async fn next_piece(&mut self) -> Result<Option<TraceRead>, StoreError> {
        if self.pages.is_done() && !self.is_broken {
            return Ok(None);
        }
        self.read().await.map(Some)
    }
}

const fn nothing(covered: Coverage) -> TraceRead {
    TraceRead { spans: Vec::new(), covered, is_damaged: false, is_away: false, expired_until: None }
}

fn bytes_of(read: &TraceRead) -> u64 {
    read.spans.iter().map(|stored| stored.span.len() as u64).sum()
}

#[async_trait]
impl TraceReader for CassandraStore {
    async fn read_trace(
        &self,
        tenant: &TenantId,
        trace_id: TraceId,
    ) -> Result<TraceRead, StoreError> {
        let TracePieces { first: mut read, rest } = self.read_pieces(tenant, trace_id).await?;
        let Some(mut rest) = rest else { return Ok(read) };
        let most = self.config.read_bytes_max;
        let mut bytes = bytes_of(&read);
        while let Some(piece) = rest.next_piece().await? {
            bytes = bytes.saturating_add(bytes_of(&piece));
            if bytes > most {
                let words = format!("a trace of more than {most} bytes is not read at once");
                return Err(StoreError::Unsupported(words));
            }
            read.is_damaged |= piece.is_damaged;
            read.spans.extend(piece.spans);
            read.expired_until = piece.expired_until;
        }
        Ok(read)
    }

    async fn read_pieces(
        &self,
        tenant: &TenantId,
        trace_id: TraceId,
    ) -> Result<TracePieces, StoreError> {
        let engine = self.engine().await?;
        // Before the rows: what is covered is then in them.
        let covered = self.progress.covered(&engine).await?;
        let retention = self.retention();
        let Some(pages) = self.pages(tenant, trace_id).await? else {
            let expired_until = retention.expired_until();
            let first = TraceRead { expired_until, ..nothing(covered) };
            return Ok(TracePieces { first, rest: None });
        };
        let mut rest = Rest {
            pages,
            covered,
            retention,
            bytes_max: self.config.piece_bytes,
            is_broken: false,
        };
        let first = rest.read().await?;
        let is_whole = rest.pages.is_done();
        Ok(TracePieces { first, rest: (!is_whole).then(|| Box::new(rest) as _) })
    }

    fn figures(&self) -> StoreFigures {
        self.progress.figures(self.clock.now())
    }
}
