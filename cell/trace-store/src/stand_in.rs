//! Two stores that answer searches and lists for one another: the tables of the trace store, which find
//! by service, operation and time, and the index of a search engine, which finds by anything.
//!
//! What the tables can answer by themselves goes to them, the rest to the index. Where the one that is
//! asked first fails, the other is asked; where it is silent for [`PATIENCE`], both are, and the first
//! answer counts. Each answer is one store's alone and says how far that one reaches: nothing is merged.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::Semaphore;
use trace_model::query::{CompareOp, Field};
use trace_model::{Coverage, Filter, SearchQuery, TenantId, TimeRange};

use crate::port::{NameList, Operation, SearchAnswer, ServiceCatalog, StoreError, TraceSearch};

/// How long one store may be silent before the other is asked as well: a fraction of what a question of a
/// person may take (2 s a region), and more than either takes when it is well.
pub const PATIENCE: Duration = Duration::from_millis(700);
/// So many questions may be put to both at once: a store that is slow for all must not make the other so.
const BOTH_AT_ONCE: usize = 8;

type Asked<'a, T> = std::pin::Pin<Box<dyn Future<Output = Result<T, StoreError>> + Send + 'a>>;

/// What a store searches and lists by.
#[derive(Clone, Debug)]
pub struct Searcher {
    /// Finds traces.
    pub search: Arc<dyn TraceSearch>,
    /// Lists services and operations.
    pub catalog: Arc<dyn ServiceCatalog>,
}

/// The pair; behind the ports it is one store.
#[derive(Debug)]
pub struct StandIn {
    tables: Searcher,
    index: Searcher,
    both: Semaphore,
    /// How far the lists of each reached when it was last asked: at least that far they still do.
    reached: Mutex<[Coverage; 2]>,
}

impl StandIn {
    /// Of the tables of a trace store and the index of a search engine.
    #[must_use]
    pub fn new(tables: Searcher, index: Searcher) -> Self {
        let reached = Mutex::new([Coverage::none(0), Coverage::none(0)]);
        Self { tables, index, both: Semaphore::new(BOTH_AT_ONCE), reached }
    }

    /// The answer of the first, or else of the second.
    ///
    /// # Errors
    /// What both say, where both fail.
    async fn ask<'a, T>(
        &self,
        mut first: Asked<'a, T>,
        second: impl FnOnce() -> Asked<'a, T>,
    ) -> Result<T, StoreError> {
        match tokio::time::timeout(PATIENCE, &mut first).await {
            Ok(Ok(answer)) => return Ok(answer),
            Ok(Err(error)) => return second().await.map_err(|other| of_both(error, &other)),
            Err(_) => {}
        }
        let Ok(_room) = self.both.try_acquire() else { return first.await };
        let mut second = second();
        let (failed, mut left) = tokio::select! {
            answer = &mut first => match answer {
                Ok(answer) => return Ok(answer),
                Err(error) => (error, second),
            },
            answer = &mut second => match answer {
                Ok(answer) => return Ok(answer),
                Err(error) => (error, first),
            },
        };
        (&mut left).await.map_err(|error| of_both(error, &failed))
    }

    /// Notes how far a store reaches, if it says so; gives how far both do.
    fn note_reached(&self, told: [Result<Coverage, StoreError>; 2]) -> Coverage {
        let mut reached = self.reached.lock().unwrap_or_else(PoisonError::into_inner);
        for (reached, told) in reached.iter_mut().zip(told) {
            if let Ok(told) = told {
                *reached = told;
            }
        }
        let [left, right] = &*reached;
        what_both_cover(left, right)
    }
}

async fn listed_by(store: &Searcher) -> Result<Coverage, StoreError> {
    let told = tokio::time::timeout(PATIENCE, store.catalog.listed()).await;
    let silent = || StoreError::Unavailable(format!("silent for {PATIENCE:?}"));
    told.unwrap_or_else(|_| Err(silent()))
}

/// Whether a filter asks for a service, or for an operation of one, and for nothing else.
fn is_by_name(filter: &Filter) -> bool {
    let (mut services, mut operations) = (0, 0);
    let mut parts = vec![filter];
    while let Some(part) = parts.pop() {
        match part {
            Filter::All => {}
            Filter::And(more) => parts.extend(more),
            Filter::Compare { field: Field::Service, op: CompareOp::Eq, .. } => services += 1,
            Filter::Compare { field: Field::Operation, op: CompareOp::Eq, .. } => operations += 1,
            Filter::Or(_)
            | Filter::Not(_)
            | Filter::Compare { .. }
            | Filter::Matches { .. }
            | Filter::Exists(_) => return false,
        }
    }
    services == 1 && operations <= 1
}

/// Why neither answers. What may pass with one of them may pass.
fn of_both(left: StoreError, right: &StoreError) -> StoreError {
    let passes = |error: &StoreError| {
        matches!(error, StoreError::Unavailable(_) | StoreError::Busy | StoreError::Full)
    };
    match (passes(&left), passes(right)) {
        (true, true) => left,
        (true, false) => StoreError::Unavailable(format!("{left}; in its place: {right}")),
        (false, true) => StoreError::Unavailable(format!("{right}; in its place: {left}")),
        (false, false) => left,
    }
}

/// The offsets that both cover, of the newest incarnation that both know.
fn what_both_cover(left: &Coverage, right: &Coverage) -> Coverage {
    let incarnation = left.incarnation.min(right.incarnation);
    let mut both = Coverage::none(incarnation);
    let of = |coverage: &Coverage| match coverage.incarnation == incarnation {
        true => coverage.next.clone(),
        false => coverage.earlier.get(&incarnation).cloned().unwrap_or_default(),
    };
    for partition in of(left).into_keys() {
        let next = left.next_in(incarnation, partition).min(right.next_in(incarnation, partition));
        if next > 0 {
            both.extend(partition, next);
        }
    }
    both
}

#[async_trait]
impl TraceSearch for StandIn {
    async fn search(&self, query: &SearchQuery) -> Result<SearchAnswer, StoreError> {
        let (first, second) = match is_by_name(&query.filter) {
            true => (&self.tables, &self.index),
            false => (&self.index, &self.tables),
        };
        self.ask(first.search.search(query), || second.search.search(query)).await
    }
}

#[async_trait]
impl ServiceCatalog for StandIn {
    async fn services(
        &self,
        tenant: &TenantId,
        range: TimeRange,
    ) -> Result<NameList<Arc<str>>, StoreError> {
        let tables = || self.tables.catalog.services(tenant, range);
        self.ask(self.index.catalog.services(tenant, range), tables).await
    }

    async fn operations(
        &self,
        tenant: &TenantId,
        service: &str,
        range: TimeRange,
    ) -> Result<NameList<Operation>, StoreError> {
        let tables = || self.tables.catalog.operations(tenant, service, range);
        self.ask(self.index.catalog.operations(tenant, service, range), tables).await
    }

    /// What both have, as far as each was known to reach at last: the list that is asked for next may be
    /// either's.
    async fn listed(&self) -> Result<Coverage, StoreError> {
        let told = tokio::join!(listed_by(&self.tables), listed_by(&self.index));
        if let (Err(_), Err(index)) = told {
            return Err(index);
        }
        Ok(self.note_reached([told.0, told.1]))
    }
}

#[cfg(test)]
mod tests;
