//! Two stores that answer searches and lists for one another: the tables of the trace store, which find
//! by service, operation and time, and the index of a search engine, which finds by anything.
//!
//! What the tables can answer by themselves goes to them, the rest to the index. Where the one that is
//! asked first fails, the other is asked; where it is silent for [`PATIENCE`], both are, and the first
//! answer counts. Each answer is one store's alone and says how far that one reaches: nothing is merged.
//! Tables that are behind what the index was last known to have are asked, and the index is too.

use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::registry::Registry;
use tokio::sync::{Semaphore, SemaphorePermit};
use trace_model::query::{CompareOp, Field};
use trace_model::{Coverage, Filter, SearchQuery, TenantId, TimeRange};

use crate::port::{NameList, Operation, SearchAnswer, ServiceCatalog, StoreError, TraceSearch};

/// How long one store may be silent before the other is asked as well: a fraction of what a question of a
/// person may take (2 s a region), and more than either takes when it is well.
pub const PATIENCE: Duration = Duration::from_millis(700);
/// So many questions may be put to both at once: a store that is slow for all must not make the other so.
const BOTH_AT_ONCE: usize = 8;
/// So many may be put to one since the other has failed; more wait.
const INSTEAD_AT_ONCE: usize = 32;

type Asked<'a, T> = Pin<Box<dyn Future<Output = Result<T, StoreError>> + Send + 'a>>;

/// What a store searches and lists by.
#[derive(Clone, Debug)]
pub struct Searcher {
    /// Finds traces.
    pub search: Arc<dyn TraceSearch>,
    /// Lists services and operations.
    pub catalog: Arc<dyn ServiceCatalog>,
}

/// Counts of a pair.
#[derive(Clone, Debug, Default)]
pub struct StandInMetrics {
    /// Questions put to the tables since the index failed or was silent.
    pub tables_instead: Counter,
    /// Questions put to the index since the tables failed or were silent.
    pub index_instead: Counter,
}

impl StandInMetrics {
    /// Registers them all.
    pub fn register(&self, registry: &mut Registry) {
        for (name, help, counter) in [
            ("tables", "Questions put to the tables in the index's place", &self.tables_instead),
            ("index", "Questions put to the index in the tables' place", &self.index_instead),
        ] {
            registry.register(format!("farspan_search_{name}_instead"), help, counter.clone());
        }
    }
}

/// Which store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Which {
    Tables,
    Index,
}

/// The pair; behind the ports it is one store.
#[derive(Debug)]
pub struct StandIn {
    tables: Searcher,
    index: Searcher,
    /// The index has documents that no other store has.
    is_index_fuller: bool,
    metrics: StandInMetrics,
    both: Semaphore,
    instead: Semaphore,
    /// How far each reached when it last answered: at least that far it still does.
    reached: Mutex<Reached>,
}

#[derive(Debug)]
struct Reached {
    tables: Coverage,
    index: Coverage,
}

impl StandIn {
    /// Of the tables of a trace store and the index of a search engine. Where others write to the index as
    /// well (`is_index_fuller`), it is asked first, whatever the question.
    #[must_use]
    pub fn new(
        tables: Searcher,
        index: Searcher,
        is_index_fuller: bool,
        metrics: StandInMetrics,
    ) -> Self {
        let nothing = || Coverage::none(0);
        let reached = Mutex::new(Reached { tables: nothing(), index: nothing() });
        let (both, instead) = (Semaphore::new(BOTH_AT_ONCE), Semaphore::new(INSTEAD_AT_ONCE));
        Self { tables, index, is_index_fuller, metrics, both, instead, reached }
    }

    const fn of(&self, which: Which) -> &Searcher {
        match which {
            Which::Tables => &self.tables,
            Which::Index => &self.index,
        }
    }

    /// The answer of the first, or else of the second.
    ///
    /// # Errors
    /// What both say, where both fail.
    async fn ask<'a, T>(
        &'a self,
        first: Which,
        ask: impl Fn(Which) -> Asked<'a, T>,
        of_both: fn(StoreError, &StoreError) -> StoreError,
    ) -> Result<T, StoreError> {
        let (second, instead) = match first {
            Which::Tables => (Which::Index, &self.metrics.index_instead),
            Which::Index => (Which::Tables, &self.metrics.tables_instead),
        };
        let mut asked = ask(first);
        let answer = match tokio::time::timeout(PATIENCE, &mut asked).await {
            Ok(answer) => answer,
            Err(_) => match self.both.try_acquire() {
                Ok(room) => {
                    instead.inc();
                    return either((asked, ask(second)), room, of_both).await;
                }
                Err(_) => asked.await,
            },
        };
        match answer {
            Ok(answer) => Ok(answer),
            Err(error) => {
                instead.inc();
                let _room = self.instead.acquire().await;
                ask(second).await.map_err(|other| of_both(error, &other))
            }
        }
    }

    /// Searches one of them, and notes how far it reaches.
    fn search_one<'a>(&'a self, which: Which, query: &'a SearchQuery) -> Asked<'a, SearchAnswer> {
        Box::pin(async move {
            let answer = self.of(which).search.search(query).await?;
            self.note_reached(which, &answer.covered);
            Ok(answer)
        })
    }

    /// Of an answer of tables that are behind the index, the index's is the fuller one.
    async fn or_fuller(&self, answer: SearchAnswer, query: &SearchQuery) -> SearchAnswer {
        let known = self.reached().index.clone();
        if answer.covered.reaches(&known) {
            return answer;
        }
        let of_index = tokio::time::timeout(PATIENCE, self.search_one(Which::Index, query)).await;
        match of_index {
            Ok(Ok(fuller)) if fuller.covered.reaches(&answer.covered) => fuller,
            Ok(_) | Err(_) => answer,
        }
    }

    fn reached(&self) -> MutexGuard<'_, Reached> {
        self.reached.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A store never reaches less far than it did, but for an answer that comes late.
    fn note_reached(&self, which: Which, told: &Coverage) {
        let mut reached = self.reached();
        let known = match which {
            Which::Tables => &mut reached.tables,
            Which::Index => &mut reached.index,
        };
        if !known.reaches(told) {
            known.clone_from(told);
        }
    }
}

/// The first answer of the two, of which there is room for both.
async fn either<T>(
    (mut one, mut other): (Asked<'_, T>, Asked<'_, T>),
    room: SemaphorePermit<'_>,
    of_both: fn(StoreError, &StoreError) -> StoreError,
) -> Result<T, StoreError> {
    let (failed, left) = tokio::select! {
        answer = &mut one => match answer {
            Ok(answer) => return Ok(answer),
            Err(error) => (error, other),
        },
        answer = &mut other => match answer {
            Ok(answer) => return Ok(answer),
            Err(error) => (error, one),
        },
    };
    // What waits for one alone takes no room from others.
    drop(room);
    left.await.map_err(|error| of_both(error, &failed))
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

/// Why neither lists. What is refused may be asked in another way.
fn refused(left: StoreError, right: &StoreError) -> StoreError {
    if matches!(right, StoreError::Unsupported(_)) { right.clone() } else { of_both(left, right) }
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

#[async_trait]
impl TraceSearch for StandIn {
    async fn search(&self, query: &SearchQuery) -> Result<SearchAnswer, StoreError> {
        let ask = |which| self.search_one(which, query);
        if self.is_index_fuller || !is_by_name(&query.filter) {
            return self.ask(Which::Index, ask, of_both).await;
        }
        let answer = self.ask(Which::Tables, ask, of_both).await?;
        Ok(self.or_fuller(answer, query).await)
    }
}

#[async_trait]
impl ServiceCatalog for StandIn {
    async fn services(
        &self,
        tenant: &TenantId,
        range: TimeRange,
    ) -> Result<NameList<Arc<str>>, StoreError> {
        let ask = |which| self.of(which).catalog.services(tenant, range);
        self.ask(Which::Index, ask, refused).await
    }

    async fn operations(
        &self,
        tenant: &TenantId,
        service: &str,
        range: TimeRange,
    ) -> Result<NameList<Operation>, StoreError> {
        let ask = |which| self.of(which).catalog.operations(tenant, service, range);
        self.ask(Which::Index, ask, refused).await
    }

    /// What both have, as far as each was known to reach at last: the list that is asked for next may be
    /// either's.
    async fn listed(&self) -> Result<Coverage, StoreError> {
        let told = tokio::join!(listed_by(&self.tables), listed_by(&self.index));
        if let (Err(_), Err(index)) = told {
            return Err(index);
        }
        for (which, told) in [(Which::Tables, told.0), (Which::Index, told.1)] {
            if let Ok(told) = told {
                self.note_reached(which, &told);
            }
        }
        let reached = self.reached();
        Ok(reached.tables.meet(&reached.index))
    }
}

#[cfg(test)]
mod tests;
