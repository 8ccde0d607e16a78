//! How far the log is indexed, as documents that outlive the process: one a log incarnation, group
//! and partition, written after what it covers can be found. Its external version is the offset, so
//! that a writer that lags behind another changes nothing.

use std::time::Duration;

use bytes::Bytes;
use elasticsearch::http::Method;
use serde::Deserialize;
use serde_json::{Value, json};
use trace_model::Coverage;

use super::client::unavailable;
use super::hits::Hits;
use super::state::State;
use super::store::ElasticsearchStore;
use crate::port::StoreError;

/// The group whose progress this is.
const GROUP: &str = "search-indexer";
/// Progress is written, and that of other processes read, at most this often.
const EVERY: Duration = Duration::from_secs(1);
/// Names in one request to refresh: they stand in its first line.
const REFRESH_NAMES_MAX: usize = 20;
/// Most partitions and incarnations that are read.
const PROGRESS_MAX: u32 = 10_000;

#[derive(Deserialize)]
struct ProgressSource {
    incarnation: String,
    partition: u32,
    next: u64,
}

/// Indices on their way to be refreshed; those that are left when it goes are dirty again. Who waits for
/// an answer may drop it half-way, and what was written before is to be found by the next.
struct Refreshing<'a> {
    state: &'a State,
    indices: Vec<String>,
}

impl Drop for Refreshing<'_> {
    fn drop(&mut self) {
        self.indices.iter().for_each(|index| self.state.soil(index));
    }
}

/// Has the dirty indices refreshed.
async fn refresh_dirty<F>(
    state: &State,
    refresh: impl FnOnce(Vec<String>) -> F,
) -> Result<(), StoreError>
where
    F: Future<Output = Result<(), StoreError>>,
{
    let indices = state.take_dirty().into_iter().collect();
    let mut refreshing = Refreshing { state, indices };
    refresh(refreshing.indices.clone()).await?;
    refreshing.indices.clear();
    Ok(())
}

impl ElasticsearchStore {
    /// Lets everything that this process wrote be found.
    pub(super) async fn refresh_own(&self) -> Result<(), StoreError> {
        let _alone = self.refreshing.lock().await;
        refresh_dirty(&self.state, |indices| async move { self.refresh(&indices).await }).await
    }

    /// Lets everything within these indices be found.
    pub(super) async fn refresh(&self, indices: &[String]) -> Result<(), StoreError> {
        for names in indices.chunks(REFRESH_NAMES_MAX) {
            let path = format!("/{}/_refresh", names.join(","));
            let query = [("ignore_unavailable", "true"), ("allow_no_indices", "true")];
            let answer: Value =
                self.client.write(Method::Post, &path, &query, Bytes::new()).await?.json()?;
            let failed = answer.pointer("/_shards/failed").and_then(Value::as_u64);
            if failed != Some(0) {
                return Err(unavailable(format!(
                    "{} was not refreshed on each shard",
                    names.join(",")
                )));
            }
        }
        Ok(())
    }

    /// Writes how far the log is indexed, where that has moved.
    pub(super) async fn store_progress(&self, force: bool) -> Result<(), StoreError> {
        let progress = self.state.progress();
        let now = self.clock.monotonic();
        let is_due = progress.stored_at.is_none_or(|at| now.saturating_sub(at) >= EVERY);
        let moved = advanced(&progress.written, &progress.stored);
        if moved.is_empty() && force {
            // What was written again moves no cover and is to be found all the same.
            return self.refresh_own().await;
        }
        if moved.is_empty() || !(force || is_due) {
            return Ok(());
        }
        self.refresh_own().await?;
        let mut body = String::new();
        for (partition, next) in &moved {
            let id = format!("progress-{}-{GROUP}-{partition}", progress.written.incarnation);
            let action = json!({ "index": {
                "_index": self.names.state(), "_id": id, "version": next, "version_type": "external",
            } });
            let document = json!({
                "what": "progress", "group": GROUP, "partition": partition, "next": next,
                "incarnation": progress.written.incarnation.to_string(),
            });
            body.push_str(&format!("{action}\n{document}\n"));
        }
        let outcomes = self.bulk(body.into(), moved.len()).await?;
        // 409: another writer is further.
        if let Some(words) = outcomes.iter().find_map(super::bulk::Outcome::failure) {
            return Err(unavailable(format!("the progress was not written: {words}")));
        }
        self.state.change_progress(|state| {
            state.stored.join(&progress.written);
            state.of_all.join(&progress.written);
            state.stored_at = Some(now);
        });
        Ok(())
    }

    /// Reads where the last process stopped.
    pub(super) async fn load_progress(&self) -> Result<(), StoreError> {
        self.refresh(&[self.names.state()]).await?;
        let stored = self.read_progress().await?;
        let now = self.clock.monotonic();
        self.state.change_progress(|state| {
            state.written = stored.clone();
            state.of_all = stored.clone();
            state.stored = stored;
            state.read_at = Some(now);
        });
        Ok(())
    }

    /// How far the log is indexed by all processes, as of a second ago at most.
    pub(super) async fn progress_of_all(&self) -> Result<Coverage, StoreError> {
        let now = self.clock.monotonic();
        let progress = self.state.progress();
        if progress.read_at.is_some_and(|at| now.saturating_sub(at) < EVERY) {
            return Ok(progress.of_all);
        }
        let mut read = self.read_progress().await?;
        self.state.change_progress(|state| {
            state.of_all.join(&read);
            state.read_at = Some(now);
            read.clone_from(&state.of_all);
        });
        Ok(read)
    }

    async fn read_progress(&self) -> Result<Coverage, StoreError> {
        let body = json!({
            "size": PROGRESS_MAX,
            "query": { "bool": { "filter": [
                { "term": { "what": "progress" } }, { "term": { "group": GROUP } },
            ] } },
        });
        let path = format!("/{}/_search", self.names.state());
        let found: Hits<ProgressSource> = self.client.ask(&path, &[], &body).await?;
        let mut coverage = Coverage::default();
        for source in found.whole()?.into_iter().filter_map(|hit| hit.source) {
            let Ok(incarnation) = source.incarnation.parse() else { continue };
            let mut one = Coverage::none(incarnation);
            one.extend(source.partition, source.next);
            coverage.join(&one);
        }
        Ok(coverage)
    }
}

/// The partitions in which `written` is further than `stored`.
fn advanced(written: &Coverage, stored: &Coverage) -> Vec<(u32, u64)> {
    let held = |partition: &u32| {
        let next = stored.next.get(partition).copied().unwrap_or(0);
        if stored.incarnation == written.incarnation { next } else { 0 }
    };
    let moved = written.next.iter().filter(|(partition, next)| **next > held(partition));
    moved.map(|(partition, next)| (*partition, *next)).collect()
}

#[cfg(test)]
mod tests {
    use std::future::{pending, ready};

    use futures_util::FutureExt;

    use super::*;

    #[test]
    fn what_a_refresh_that_failed_or_was_dropped_had_taken_is_refreshed_by_the_next() {
        let state = State::default();
        let written = ["spans-1", "spans-2"];
        written.iter().for_each(|index| state.soil(index));
        assert!(refresh_dirty(&state, |_| pending()).now_or_never().is_none());
        let failed = refresh_dirty(&state, |_| ready(Err(StoreError::Busy))).now_or_never();
        assert!(matches!(failed, Some(Err(StoreError::Busy))));
        for expected in [&written[..], &[]] {
            let refreshed = refresh_dirty(&state, |indices| {
                assert_eq!(indices, expected);
                ready(Ok(()))
            });
            assert!(matches!(refreshed.now_or_never(), Some(Ok(()))));
        }
    }
}
