//! A search, a list or a count, and up to which append time it looked at everything: what makes its
//! answer "complete as of" a time.

use proto::v1;
use trace_model::{Coverage, SearchQuery, UnixNanos};
use trace_store::StoreError;
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
    /// The group that has missed records of the range, if one has.
    pub(crate) missed_by: String,
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
        let until = self.reached_until(end, &answer.covered).await;
        let missed_by = self.missed_by_search(query.range);
        Ok(Searched { answer, until, missed_by })
    }

    /// How far the lists reach that are asked for behind this.
    pub(crate) async fn reach_of_lists(&self) -> Option<v1::Reach> {
        let end = self.ports.status.log_end().await;
        self.reach(end, self.ports.catalog.listed().await).await
    }

    /// How far the counts reach that are asked for behind this.
    pub(crate) async fn reach_of_counts(&self) -> Option<v1::Reach> {
        let end = self.ports.status.log_end().await;
        self.reach(end, self.ports.metrics.covered().await).await
    }

    /// `None` where the store cannot say: then nobody believes that it has everything.
    async fn reach(
        &self,
        end: Result<LogEnd, PortError>,
        covered: Result<Coverage, StoreError>,
    ) -> Option<v1::Reach> {
        let covered = match covered {
            Ok(covered) => covered,
            Err(error) => {
                tracing::warn!(%error, "a list or count cannot say how far it reaches");
                return None;
            }
        };
        let until_unix_nano = self.reached_until(end, &covered).await.map_or(0, |until| until.0);
        Some(v1::Reach {
            coverage: Some((&covered).into()),
            until_unix_nano,
            ..v1::Reach::default()
        })
    }

    async fn reached_until(
        &self,
        end: Result<LogEnd, PortError>,
        covered: &Coverage,
    ) -> Option<UnixNanos> {
        match self.searched_until(end, covered).await {
            Ok(until) => Some(until).filter(|until| until.0 > 0),
            Err(error) => {
                tracing::warn!(%error, "an answer cannot say how far it reaches");
                None
            }
        }
    }

    /// Up to which append time these offsets hold everything, where the log ended there before.
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
