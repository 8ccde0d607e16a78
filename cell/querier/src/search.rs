//! A search, and up to which append time it looked at everything: what makes its answer "complete as
//! of" a time.

use trace_model::{Coverage, SearchQuery, UnixNanos};
use trace_store::port::SearchAnswer;

use crate::port::{LogEnd, PortError};
use crate::querier::Querier;
use crate::status::QuerierError;

/// What was found, and how far it was looked for.
#[derive(Clone, Debug)]
pub(crate) struct Searched {
    pub(crate) answer: SearchAnswer,
    /// Everything that the log appended at or before this time was searched; `None`: not known.
    pub(crate) until: Option<UnixNanos>,
}

impl Querier {
    /// Searches the stores. The log's end is read first: what reaches it has everything that was
    /// acknowledged when the question came.
    pub(crate) async fn search_stores(
        &self,
        query: &SearchQuery,
    ) -> Result<Searched, QuerierError> {
        let end = self.ports.status.log_end().await;
        let mut answer = self.ports.search.search(query).await?;
        // Asked behind the search: what was removed before that is known by now.
        let expired = answer.expired_until;
        let expired =
            expired.and_then(|until| self.ports.traces.expired_within(query.range, until));
        answer.expired_until = expired.max(self.ports.tail.lost().expired_until);
        let until = match self.searched_until(end, &answer.covered).await {
            Ok(until) => Some(until).filter(|until| until.0 > 0),
            Err(error) => {
                tracing::warn!(%error, "a search cannot say how far it reaches");
                None
            }
        };
        Ok(Searched { answer, until })
    }

    async fn searched_until(
        &self,
        end: Result<LogEnd, PortError>,
        covered: &Coverage,
    ) -> Result<UnixNanos, PortError> {
        let end = end?;
        if covered.reaches(&end.next) {
            return Ok(end.appended_until);
        }
        self.ports.status.appended_until(covered).await
    }
}
