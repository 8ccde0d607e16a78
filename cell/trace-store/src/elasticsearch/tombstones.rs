//! Which traces are erased: a document each, known by a hash, and one document that changes with
//! every erasure, so that writers learn of a new one from a single read.

use std::sync::Arc;

use bytes::Bytes;
use elasticsearch::http::Method;
use serde::Deserialize;
use serde_json::{Value, json};
use trace_model::{TenantId, TraceId};

use super::client::{json as body, unavailable};
use super::hits::Hits;
use super::identity::{document_id, trace_hash};
use super::state::Erased;
use super::store::ElasticsearchStore;
use crate::port::StoreError;

/// The document that changes with every erasure.
const SEQUENCE: &str = "erasures";
/// Tombstones in a page.
const PAGE: usize = 5_000;
/// Clocks of those who erase differ at most so much.
const SKEW_NANOS: u64 = 3_600 * 1_000_000_000;

#[derive(Deserialize)]
struct Tombstone {
    /// The hash in hex: the document's id is a form of it that cannot be read back by us.
    hash: String,
    at: u64,
}

/// A tombstone's unfinished business.
#[derive(Debug, Default, Deserialize)]
struct Stored {
    #[serde(default)]
    expunge: Vec<String>,
}

#[derive(Deserialize)]
struct Got<T> {
    #[serde(default)]
    found: bool,
    #[serde(rename = "_seq_no", default)]
    sequence: u64,
    #[serde(rename = "_source", default = "Option::default")]
    source: Option<T>,
}

impl ElasticsearchStore {
    /// The erased traces, up to date: reads the newer ones where there are any.
    pub(super) async fn current_tombstones(&self) -> Result<Erased, StoreError> {
        let sequence = self.got::<Value>(SEQUENCE).await?.map(|got| got.sequence);
        let known = self.state.erased();
        if sequence == known.sequence {
            return Ok(known);
        }
        let (mut newest, mut hashes) = (known.newest, (*known.hashes).clone());
        let since = newest.saturating_sub(SKEW_NANOS);
        let mut after: Option<Value> = None;
        loop {
            let mut question = json!({
                "size": PAGE,
                "query": { "bool": { "filter": [
                    { "term": { "what": "erased" } },
                    { "range": { "at": { "gte": since } } },
                ] } },
                "sort": [{ "erased": "asc" }],
            });
            if let (Some(object), Some(after)) = (question.as_object_mut(), after) {
                object.insert("search_after".to_owned(), after);
            }
            let path = format!("/{}/_search", self.names.state());
            let found: Hits<Tombstone> = self.client.ask(&path, &[], &question).await?;
            let hits = found.whole()?;
            let is_last = hits.len() < PAGE;
            after = hits.last().map(|hit| json!(hit.sort));
            for tombstone in hits.into_iter().filter_map(|hit| hit.source) {
                newest = newest.max(tombstone.at);
                let hash = u128::from_str_radix(&tombstone.hash, 16);
                hashes.extend(hash);
            }
            if is_last {
                break;
            }
        }
        // An erasure may have removed what the cache holds for written.
        self.state.forget_entries();
        let erased = Erased { sequence, newest, hashes: Arc::new(hashes) };
        self.state.set_erased(erased.clone());
        Ok(erased)
    }

    /// Says that a trace is erased: the tombstone first, then that there is one. Gives the indices
    /// that an earlier erasure of it has left to be rewritten.
    pub(super) async fn put_tombstone(
        &self,
        tenant: &TenantId,
        trace_id: TraceId,
    ) -> Result<Vec<String>, StoreError> {
        let hash = trace_hash(tenant, trace_id);
        let id = tombstone_id(hash);
        let stored = self.got::<Stored>(&id).await?.and_then(|got| got.source);
        let left = stored.unwrap_or_default().expunge;
        self.write_tombstone(hash, &left).await?;
        self.announce_erasure().await?;
        self.current_tombstones().await?;
        Ok(left)
    }

    /// Tells writers that something was erased: they read the tombstones and write entries of the
    /// catalogue again.
    pub(super) async fn announce_erasure(&self) -> Result<(), StoreError> {
        let changed = json!({ "what": "erasures", "at": self.clock.now().0 });
        self.put(SEQUENCE, &changed).await
    }

    /// Notes which indices still hold bytes of the trace in files.
    pub(super) async fn note_expunge(
        &self,
        tenant: &TenantId,
        trace_id: TraceId,
        indices: &[String],
    ) -> Result<(), StoreError> {
        self.write_tombstone(trace_hash(tenant, trace_id), indices).await
    }

    async fn write_tombstone(&self, hash: u128, expunge: &[String]) -> Result<(), StoreError> {
        let at = i64::try_from(self.clock.now().0).unwrap_or(i64::MAX);
        let tombstone = json!({
            "what": "erased", "erased": document_id(hash), "hash": format!("{hash:032x}"), "at": at,
            "expunge": expunge,
        });
        self.put(&tombstone_id(hash), &tombstone).await
    }

    async fn put(&self, id: &str, document: &Value) -> Result<(), StoreError> {
        let path = format!("/{}/_doc/{id}", self.names.state());
        let query = [("refresh", "true")];
        let answer = self.client.write(Method::Put, &path, &query, body(document)).await?;
        if answer.is_success() {
            return Ok(());
        }
        Err(unavailable(answer.failure().to_string()))
    }

    /// A document of the state index as it is now.
    async fn got<T: serde::de::DeserializeOwned>(
        &self,
        id: &str,
    ) -> Result<Option<Got<T>>, StoreError> {
        let path = format!("/{}/_doc/{id}", self.names.state());
        let answer = self.client.read(Method::Get, &path, &[], Bytes::new()).await?;
        if answer.status == 404 && answer.error().kind.is_empty() {
            return Ok(None);
        }
        let got: Got<T> = answer.json()?;
        Ok(Some(got).filter(|got| got.found))
    }
}

fn tombstone_id(hash: u128) -> String {
    format!("erased-{}", document_id(hash))
}
