//! Sends chunks: makes the indices, takes each item's answer, sends again what the engine was too
//! busy for, and takes what a day refuses to its companion.
//!
//! What is refused for good is told at the end, when everything else is there: the caller narrows it
//! down and sets it aside.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use elasticsearch::http::Method;
use futures_util::stream::FuturesUnordered;
use futures_util::{FutureExt as _, StreamExt};
use proto::LoggedBatch;
use serde::Deserialize;
use serde_json::json;
use trace_model::Coverage;

use super::bulk::{ANSWER_FILTER, Chunk, Outcome, Target, outcomes};
use super::client::unavailable;
use super::encode::{Encoder, erased_traces};
use super::names::{Day, Shelf};
use super::state::Erased;
use super::store::ElasticsearchStore;
use crate::port::StoreError;

#[derive(Deserialize)]
struct ManyDocuments {
    docs: Vec<OneDocument>,
}

#[derive(Deserialize)]
struct OneDocument {
    #[serde(default)]
    found: bool,
}

/// What is left of a chunk after a request.
#[derive(Debug, Default)]
struct Left {
    /// To be sent again after a pause.
    busy: Vec<usize>,
    /// To be sent again at once.
    moved: Vec<usize>,
    /// Why the last of them was not taken.
    reason: Option<StoreError>,
    refused: Option<String>,
}

/// Why late documents have no place now: the engine's own words.
fn both_closed(late: &str, words: &str) -> StoreError {
    unavailable(format!("neither a day nor its companion {late} takes writes: {words}"))
}

impl Outcome {
    /// Why an item is not there.
    pub(super) fn failure(&self) -> Option<&str> {
        match self {
            Self::Created | Self::Exists => None,
            Self::Busy(words)
            | Self::Full(words)
            | Self::ReadOnly(words)
            | Self::Refused(words)
            | Self::Away(words) => Some(words),
        }
    }
}

impl ElasticsearchStore {
    /// Takes batches, and counts them as written.
    pub(super) async fn write_batches(&self, batches: &[LoggedBatch]) -> Result<(), StoreError> {
        self.put_batches(batches).await?;
        self.state.change_progress(|progress| {
            for logged in batches {
                let mut cover = Coverage::none(logged.incarnation);
                cover.extend(logged.range.partition, logged.range.next);
                progress.written.join(&cover);
            }
        });
        Ok(())
    }

    /// Takes batches: send → again, where something was erased meanwhile → sweep.
    pub(super) async fn put_batches(&self, batches: &[LoggedBatch]) -> Result<(), StoreError> {
        let mut erased = self.current_tombstones().await?;
        let refused = loop {
            let gate = self.gate.read().await;
            let refused = self.write_once(batches, &erased).await?;
            drop(gate);
            let now_erased = self.current_tombstones().await?;
            let is_same = now_erased.sequence == erased.sequence;
            erased = now_erased;
            if is_same {
                break refused;
            }
            // Entries of the catalogue may be gone that were taken for written.
        };
        self.sweep(erased_traces(batches, &erased.hashes)).await?;
        if let Some(reason) = refused {
            self.metrics.refused_batches.inc();
            return Err(StoreError::Refused(reason));
        }
        Ok(())
    }

    /// Encodes and sends, a bounded number of chunks at once; says why a document was refused.
    async fn write_once(
        &self,
        batches: &[LoggedBatch],
        erased: &Erased,
    ) -> Result<Option<String>, StoreError> {
        let limits = (self.config.retention, self.config.bulk_bytes_max);
        let parts = (&self.names, &self.state);
        let hashes = Arc::clone(&erased.hashes);
        let mut encoder = Encoder::new(batches, parts, hashes, self.clock.now(), limits);
        let mut flying = FuturesUnordered::new();
        let mut refused = None;
        loop {
            while flying.len() < self.config.bulk_in_flight_max {
                let Some(chunk) = encoder.next_chunk() else { break };
                flying.push(self.send(chunk));
                // It goes out now, not when the next one is encoded.
                if let Some(sent) = flying.next().now_or_never().flatten() {
                    refused = sent?.or(refused);
                }
                // Encoding a chunk takes milliseconds: others may run in between.
                tokio::task::yield_now().await;
            }
            let Some(sent) = flying.next().await else { break };
            refused = sent?.or(refused);
        }
        drop(flying);
        self.metrics.erased_spans.inc_by(encoder.left_out.erased);
        self.metrics.unreadable_spans.inc_by(encoder.left_out.unreadable);
        self.metrics.outlying_spans.inc_by(encoder.left_out.outlying);
        Ok(refused)
    }

    /// Sends a chunk until each item is there or refused for good; says why one is.
    pub(super) async fn send(&self, mut chunk: Chunk) -> Result<Option<String>, StoreError> {
        for target in &chunk.targets {
            self.make_index(&target.names, target.shelf).await?;
        }
        let mut pending: Vec<usize> = (0..chunk.items.len()).collect();
        let (mut refused, mut tries) = (None, 0);
        while !pending.is_empty() {
            let left = self.send_once(&mut chunk, &pending).await?;
            refused = left.refused.or(refused);
            pending = left.moved;
            if left.busy.is_empty() {
                continue;
            }
            tries += 1;
            if tries >= self.config.bulk_tries_max {
                return Err(left.reason.unwrap_or_else(|| unavailable("the engine is busy")));
            }
            self.metrics.bulk_retries.inc();
            tokio::time::sleep(self.pause(tries, left.busy.len())).await;
            pending.extend(left.busy);
        }
        self.state.know_entries(chunk.items.iter().filter_map(|item| item.entry));
        Ok(refused)
    }

    /// Doubles with each try; between half and all of it, so that writers part.
    fn pause(&self, tries: u32, salt: usize) -> Duration {
        let doubled = self.config.backoff_min.saturating_mul(1 << tries.min(16).saturating_sub(1));
        let longest = doubled.min(self.config.backoff_max);
        let seed = self.clock.now().0 ^ (salt as u64);
        let part =
            u32::try_from(xxhash_rust::xxh3::xxh3_64(&seed.to_le_bytes()) % 512).unwrap_or(0);
        longest.saturating_mul(512 + part) / 1_024
    }

    /// One request for the items, halved where the engine takes no body of that size.
    async fn send_once(&self, chunk: &mut Chunk, items: &[usize]) -> Result<Left, StoreError> {
        let mut left = Left::default();
        let mut queue = vec![items.to_vec()];
        while let Some(part) = queue.pop() {
            let answer = self.post_bulk(chunk.body(&part)).await?;
            match answer.status {
                200..300 => {
                    let found = outcomes(&answer.body, part.len())?;
                    self.settle(chunk, &part, found, &mut left).await?;
                }
                400 | 413 if part.len() > 1 => {
                    let (one, other) = part.split_at(part.len() / 2);
                    queue.extend([one.to_vec(), other.to_vec()]);
                }
                400 | 413 => left.refused = Some(answer.failure().to_string()),
                429 | 502..=504 => {
                    left.reason = Some(unavailable(answer.failure().to_string()));
                    left.busy.extend(part);
                }
                _ => return Err(unavailable(answer.failure().to_string())),
            }
        }
        Ok(left)
    }

    /// Sorts the items by what became of them.
    async fn settle(
        &self,
        chunk: &mut Chunk,
        items: &[usize],
        found: Vec<Outcome>,
        left: &mut Left,
    ) -> Result<(), StoreError> {
        let mut read_only = Vec::new();
        for (item, outcome) in items.iter().copied().zip(found) {
            match outcome {
                Outcome::Created | Outcome::Exists => {
                    let is_new = outcome == Outcome::Created;
                    let counter = if is_new {
                        &self.metrics.documents
                    } else {
                        &self.metrics.known_documents
                    };
                    counter.inc();
                    // Who wrote it before us may not have let it be found yet.
                    if let Some(target) = chunk.target_of(item) {
                        self.state.soil(&target.index);
                    }
                }
                Outcome::Busy(words) => {
                    left.reason = Some(unavailable(words));
                    left.busy.push(item);
                }
                Outcome::Full(_) => {
                    left.reason = Some(StoreError::Full);
                    left.busy.push(item);
                }
                Outcome::ReadOnly(words) => read_only.push((item, words)),
                Outcome::Refused(words) => left.refused = Some(words),
                Outcome::Away(words) => {
                    self.state.forget_indices();
                    return Err(unavailable(words));
                }
            }
        }
        self.move_to_late(chunk, read_only, left).await
    }

    /// Takes items to the companion of their day, but for those that the day has already; those whose
    /// companion takes nothing either (it is being merged into its day, or somebody has blocked it) wait,
    /// and then try the day again.
    async fn move_to_late(
        &self,
        chunk: &mut Chunk,
        items: Vec<(usize, String)>,
        left: &mut Left,
    ) -> Result<(), StoreError> {
        let (mut moved, mut docs) = (Vec::new(), Vec::new());
        for (item, words) in items {
            let target = chunk.target_of(item).cloned();
            let (Some(target), Some(found)) = (target, chunk.items.get(item)) else { continue };
            let day = match target.shelf {
                Shelf::Day(day) => day,
                Shelf::Late(day) => {
                    // One that is merged is gone in a moment, and then made anew.
                    self.state.forget_index(&target.index);
                    Self::back_to_day(chunk, item, &target, day);
                    left.reason.get_or_insert_with(|| both_closed(&target.index, &words));
                    left.busy.push(item);
                    continue;
                }
                Shelf::Outlying => return Err(unavailable(words)),
            };
            docs.push(json!({ "_index": target.index, "_id": found.id, "_source": false }));
            moved.push((item, target, Shelf::Late(day)));
        }
        if moved.is_empty() {
            return Ok(());
        }
        let known: ManyDocuments = self.client.ask("/_mget", &[], &json!({ "docs": docs })).await?;
        if known.docs.len() != moved.len() {
            return Err(unavailable(
                "half an answer about the documents of a day that is read-only",
            ));
        }
        let mut made = BTreeSet::new();
        for ((item, target, shelf), _) in
            moved.into_iter().zip(known.docs).filter(|(_, document)| !document.found)
        {
            let place = chunk.target(&target.names, target.kind, shelf);
            let index = target.names.index(shelf);
            // It comes and goes with each merge: what this process remembers of it is worth nothing.
            if made.insert(index.clone()) {
                self.state.forget_index(&index);
                self.make_index(&target.names, shelf).await?;
            }
            if let Some(item) = chunk.items.get_mut(item) {
                item.target = place;
            }
            self.metrics.late_documents.inc();
            left.moved.push(item);
        }
        Ok(())
    }

    fn back_to_day(chunk: &mut Chunk, item: usize, target: &Target, day: Day) {
        let place = chunk.target(&target.names, target.kind, Shelf::Day(day));
        if let Some(item) = chunk.items.get_mut(item) {
            item.target = place;
        }
    }

    async fn post_bulk(&self, body: Bytes) -> Result<super::client::Answer, StoreError> {
        self.metrics.bulk_requests.inc();
        self.client.write(Method::Post, "/_bulk", &[ANSWER_FILTER], body).await
    }

    /// Sends a small body of other actions and gives each one's outcome.
    pub(super) async fn bulk(
        &self,
        body: Bytes,
        actions: usize,
    ) -> Result<Vec<Outcome>, StoreError> {
        let answer = self.post_bulk(body).await?;
        if !answer.is_success() {
            return Err(unavailable(answer.failure().to_string()));
        }
        outcomes(&answer.body, actions)
    }
}
