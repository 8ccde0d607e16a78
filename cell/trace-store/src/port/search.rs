//! Search and the service catalogue.

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use proto::LoggedBatch;
use trace_model::query::SearchStats;
use trace_model::{Coverage, SearchQuery, SpanKind, TenantId, TimeRange, TraceMatch, UnixNanos};

use super::{NameList, StoreError};

/// What a search found.
#[derive(Clone, Debug)]
pub struct SearchAnswer {
    /// Newest first, each trace once, at most the query's limit.
    pub matches: Vec<TraceMatch>,
    /// What it cost.
    pub stats: SearchStats,
    /// How far the log is searchable: nothing below was left out.
    pub covered: Coverage,
    /// A file that may hold a match could not be read.
    pub is_damaged: bool,
    /// A part of the store that may hold a match does not answer for now: cold spans whose objects are
    /// away. The matches are those of the rest.
    pub is_away: bool,
    /// Retention has removed spans: those that the log appended at or before this time may be gone,
    /// though `covered` reaches over them. `None`: it has removed nothing yet.
    pub expired_until: Option<UnixNanos>,
}

/// Fills the search index, for the group search-indexer.
///
/// **Idempotence** and **order** as for [`super::SpanWriter`].
#[async_trait]
pub trait SearchIndexer: Send + Sync + fmt::Debug {
    /// Takes batches. An adapter whose index is built from its own sealed segments may look at
    /// their ranges alone. One without traces stands for records that were stepped over and will not
    /// come: the cover goes on over them.
    async fn index(&self, batches: &[LoggedBatch]) -> Result<(), StoreError>;

    /// Takes a batch of a dead letter again, as [`super::SpanWriter::write_again`] does.
    async fn index_again(&self, _batch: &LoggedBatch) -> Result<(), StoreError> {
        Err(StoreError::Unsupported("records beside the order of the log".to_owned()))
    }

    /// [`Self::index_again`] for many batches, in any order of their offsets: a part of the log that is
    /// replayed.
    async fn index_all_again(&self, batches: &[LoggedBatch]) -> Result<(), StoreError> {
        for batch in batches {
            self.index_again(batch).await?;
        }
        Ok(())
    }

    /// Makes due parts of the index durable.
    async fn flush(&self, now: UnixNanos, force: bool) -> Result<(), StoreError>;

    /// How far the log is durably indexed: the group commits that and no more.
    fn indexed(&self) -> Coverage;
}

/// Finds traces.
///
/// A trace is found when one of its spans whose placement time lies in the range matches the whole
/// filter. Every adapter agrees with [`trace_model::Filter::matches`]. What is written but not
/// indexed yet is found as well, only slower.
#[async_trait]
pub trait TraceSearch: Send + Sync + fmt::Debug {
    /// Searches.
    async fn search(&self, query: &SearchQuery) -> Result<SearchAnswer, StoreError>;
}

/// An operation of a service.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Operation {
    /// The span name.
    pub name: Arc<str>,
    /// Its kind.
    pub kind: SpanKind,
}

/// Which services and operations there are.
///
/// A list that lacks some is cut and says so ([`NameList::is_cut`]), whether the answer would have been
/// too long or the store did not keep every name. What one tenant sends cuts no other tenant's list.
#[async_trait]
pub trait ServiceCatalog: Send + Sync + fmt::Debug {
    /// Services with a span placed in the range (bucket-exact: 10 minutes), in order.
    async fn services(
        &self,
        tenant: &TenantId,
        range: TimeRange,
    ) -> Result<NameList<Arc<str>>, StoreError>;

    /// Operations of a service with a span placed in the range, in order. An adapter keeps at least
    /// 10,000 a service.
    async fn operations(
        &self,
        tenant: &TenantId,
        service: &str,
        range: TimeRange,
    ) -> Result<NameList<Operation>, StoreError>;

    /// How far the log is in the lists: whoever asks for one afterwards is given all of that.
    async fn listed(&self) -> Result<Coverage, StoreError>;
}
