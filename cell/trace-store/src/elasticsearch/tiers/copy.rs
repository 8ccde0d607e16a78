//! The copy of a day that takes its place: shrunk or as it is, with the late documents in it. It is
//! found by nobody until it is whole.

use bytes::Bytes;
use elasticsearch::http::Method;
use serde::Deserialize;
use serde_json::{Value, json};

use super::super::bulk::{ANSWER_FILTER, Outcome, outcomes};
use super::super::client::{json as body, unavailable};
use super::super::store::ElasticsearchStore;
use super::super::templates::is_there_already;
use super::days::DayKey;
use super::steps::{Runner, Work, acknowledged};
use crate::port::StoreError;

/// Documents that are moved together; each has some megabytes at most.
const PAGE: usize = 20;
/// Documents whose ids alone are compared together.
const PAGE_OF_IDS: usize = 1_000;
/// The engine keeps a scroll for so long between two pages.
const SCROLL: &str = "2m";

#[derive(Deserialize)]
struct Page {
    #[serde(rename = "_scroll_id", default)]
    scroll_id: Option<String>,
    #[serde(rename = "_shards")]
    shards: Shards,
    hits: PageHits,
}

#[derive(Deserialize)]
struct Shards {
    #[serde(default)]
    failed: u64,
}

#[derive(Deserialize)]
struct PageHits {
    hits: Vec<Document>,
}

#[derive(Debug, Deserialize)]
struct Document {
    #[serde(rename = "_id")]
    id: String,
    #[serde(rename = "_source", default)]
    source: Value,
}

#[derive(Deserialize)]
struct Known {
    docs: Vec<KnownDocument>,
}

#[derive(Deserialize)]
struct KnownDocument {
    #[serde(default)]
    found: bool,
    #[serde(default)]
    error: Option<Value>,
}

impl Runner<'_> {
    /// Makes the copy: the engine links the files.
    pub(super) async fn copy(
        &mut self,
        key: &DayKey,
        (from, to): (&str, &str),
        shards: u32,
    ) -> Result<(), StoreError> {
        let store = self.store;
        let facts = store.day_facts(key).await?;
        let Some(source) = facts.current.filter(|current| current.name == from) else {
            return Err(unavailable("the day has changed meanwhile: the next run looks again"));
        };
        let method = if shards < source.shards() { "_shrink" } else { "_clone" };
        let mut settings = json!({
            "index.number_of_shards": shards,
            "index.number_of_replicas": source.replicas(),
            "index.blocks.write": null,
        });
        if let (Some(_), Some(settings)) = (source.required("_name"), settings.as_object_mut()) {
            settings.insert("index.routing.allocation.require._name".to_owned(), Value::Null);
        }
        let aliases = json!({ (key.filling_alias(&store.names)): {} });
        let wanted = json!({ "settings": settings, "aliases": aliases });
        let path = format!("/{from}/{method}/{to}");
        let answer = store.client.write(Method::Put, &path, &[], body(&wanted)).await?;
        if !is_there_already(&answer) {
            acknowledged(&answer)?;
        }
        self.ready(to).await
    }

    /// Waits until an index has all of its primary shards.
    pub(super) async fn ready(&mut self, index: &str) -> Result<(), StoreError> {
        self.wait_for(&Work::Start { index }).await
    }

    /// Late documents in → merge → close.
    pub(super) async fn fill(&mut self, key: &DayKey, copy: &str) -> Result<(), StoreError> {
        let store = self.store;
        self.ready(copy).await?;
        let facts = store.day_facts(key).await?;
        let is_there = facts.unfinished.iter().any(|index| index.name == copy);
        let (Some(current), true) = (facts.current, is_there) else {
            return Err(unavailable("the day has changed meanwhile: the next run looks again"));
        };
        if let Some(late) = facts.late {
            store.refresh(std::slice::from_ref(&late.name)).await?;
            let alias = key.filling_alias(&store.names);
            let mut pages = Pages::new(&late.name, true);
            while let Some(page) = pages.next(store).await? {
                let page = store.not_in(&current.name, page).await?;
                store.put_into(&alias, page).await?;
                self.lock.renew().await?;
            }
        }
        self.merge(copy).await?;
        store.block_writes(copy).await
    }
}

/// All documents of an index, page by page.
struct Pages<'a> {
    index: &'a str,
    has_source: bool,
    scroll_id: Option<String>,
    is_done: bool,
}

impl<'a> Pages<'a> {
    const fn new(index: &'a str, has_source: bool) -> Self {
        Self { index, has_source, scroll_id: None, is_done: false }
    }

    async fn next(
        &mut self,
        store: &ElasticsearchStore,
    ) -> Result<Option<Vec<Document>>, StoreError> {
        if self.is_done {
            return Ok(None);
        }
        let page: Page = if let Some(id) = &self.scroll_id {
            let next = json!({ "scroll": SCROLL, "scroll_id": id });
            store.client.ask("/_search/scroll", &[], &next).await?
        } else {
            let size = if self.has_source { PAGE } else { PAGE_OF_IDS };
            let first = json!({ "size": size, "sort": ["_doc"], "_source": self.has_source });
            let path = format!("/{}/_search", self.index);
            store.client.ask(&path, &[("scroll", SCROLL)], &first).await?
        };
        if page.shards.failed > 0 {
            return Err(unavailable(format!("not every shard of {} was read", self.index)));
        }
        self.scroll_id = page.scroll_id.or_else(|| self.scroll_id.take());
        if page.hits.hits.is_empty() {
            self.is_done = true;
            self.end(store).await;
            return Ok(None);
        }
        Ok(Some(page.hits.hits))
    }

    /// The engine ends it by itself where this fails.
    async fn end(&mut self, store: &ElasticsearchStore) {
        let Some(id) = self.scroll_id.take() else { return };
        let id = json!({ "scroll_id": [id] });
        drop(store.client.write(Method::Delete, "/_search/scroll", &[], body(&id)).await);
    }
}

impl ElasticsearchStore {
    /// Documents of one index that another one lacks.
    pub(super) async fn count_apart(&self, late: &str, day: &str) -> Result<u64, StoreError> {
        let mut count = 0_u64;
        let mut pages = Pages::new(late, false);
        while let Some(page) = pages.next(self).await? {
            let apart = self.not_in(day, page).await?.len();
            count = count.saturating_add(u64::try_from(apart).unwrap_or(u64::MAX));
        }
        Ok(count)
    }

    async fn not_in(
        &self,
        index: &str,
        documents: Vec<Document>,
    ) -> Result<Vec<Document>, StoreError> {
        let asked: Vec<Value> =
            documents.iter().map(|found| json!({ "_id": found.id, "_source": false })).collect();
        let path = format!("/{index}/_mget");
        let known: Known = self.client.ask(&path, &[], &json!({ "docs": asked })).await?;
        let is_half = known.docs.len() != documents.len();
        if is_half || known.docs.iter().any(|found| found.error.is_some()) {
            return Err(unavailable(format!("half an answer about the documents of {index}")));
        }
        let pairs = documents.into_iter().zip(known.docs);
        Ok(pairs.filter(|(_, known)| !known.found).map(|(document, _)| document).collect())
    }

    /// Creates documents behind an alias; one that is there is fine.
    async fn put_into(&self, alias: &str, documents: Vec<Document>) -> Result<(), StoreError> {
        if documents.is_empty() {
            return Ok(());
        }
        let count = documents.len();
        let mut bulk = String::new();
        for Document { id, source } in documents {
            let action = json!({ "create": { "_index": alias, "_id": id } });
            bulk.push_str(&format!("{action}\n{source}\n"));
        }
        let query = [ANSWER_FILTER, ("require_alias", "true")];
        let answer = self.client.write(Method::Post, "/_bulk", &query, bulk.into()).await?;
        if !answer.is_success() {
            return Err(unavailable(answer.failure().to_string()));
        }
        let found = outcomes(&answer.body, count)?;
        match found.iter().find_map(Outcome::failure) {
            Some(words) => Err(unavailable(format!("a late document was not taken: {words}"))),
            None => Ok(()),
        }
    }

    pub(super) async fn is_ready(&self, index: &str) -> Result<bool, StoreError> {
        let path = format!("/_cluster/health/{index}");
        let query = [("wait_for_status", "yellow"), ("timeout", "1s")];
        let answer = self.client.read(Method::Get, &path, &query, Bytes::new()).await?;
        // 408: not yet.
        let value: Value = serde_json::from_slice(&answer.body).unwrap_or_default();
        let status = value.get("status").and_then(Value::as_str);
        Ok(matches!(status, Some("yellow" | "green")))
    }
}
