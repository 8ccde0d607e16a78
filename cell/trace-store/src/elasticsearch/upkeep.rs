//! What nobody else empties: the outlying indices take spans of any date and have no day to go with,
//! and lifecycle management that moves the days knows nothing of their companions.

use serde::de::IgnoredAny;
use serde_json::json;

use super::hits::Hit;
use super::names::Kind;
use super::store::ElasticsearchStore;
use crate::port::StoreError;

/// Documents in a page.
const PAGE: usize = 1_000;
/// Most pages in a round: what is left goes in the next one.
const PAGES_MAX: usize = 100;

impl ElasticsearchStore {
    /// One round of upkeep, for all tenants: removes from the outlying indices what arrived longer ago
    /// than the retention, and says how many documents went; where the engine's lifecycle management
    /// moves the days, removes the companions of those that have passed their retention. Its owner calls
    /// it from a task, every hour or so; one process of a cell is enough, and more do no harm. Dropping
    /// the future is harmless.
    pub async fn maintain(&self) -> Result<u64, StoreError> {
        let removed = async {
            let removed = self.remove_expired().await?;
            self.remove_companions().await?;
            Ok(removed)
        };
        let removed = removed.await;
        match &removed {
            Ok(_) => self.metrics.upkeep_rounds.inc(),
            Err(_) => self.metrics.failed_upkeep_rounds.inc(),
        };
        removed
    }

    async fn remove_expired(&self) -> Result<u64, StoreError> {
        let retention = u64::try_from(self.config.retention.as_nanos()).unwrap_or(u64::MAX);
        let until = i64::try_from(self.clock.now().minus(retention).0).unwrap_or(i64::MAX);
        let mut removed = 0_u64;
        for kind in [Kind::Spans, Kind::Services] {
            let pattern = vec![self.names.outlying_pattern(kind)];
            for _ in 0..PAGES_MAX {
                self.refresh(&pattern).await?;
                let question = json!({
                    "size": PAGE, "_source": false,
                    "query": { "range": { "farspan.received": { "lt": until } } },
                });
                let hits: Vec<Hit<IgnoredAny>> =
                    self.search_one(&pattern, question).await?.whole()?;
                if hits.is_empty() {
                    break;
                }
                let documents: Vec<(&str, &str)> =
                    hits.iter().map(|hit| (hit.index.as_str(), hit.id.as_str())).collect();
                self.delete(&documents).await?;
                let gone = u64::try_from(documents.len()).unwrap_or(0);
                self.metrics.expired_documents.inc_by(gone);
                removed = removed.saturating_add(gone);
            }
        }
        if removed > 0 {
            self.state.forget_entries();
        }
        Ok(removed)
    }
}
