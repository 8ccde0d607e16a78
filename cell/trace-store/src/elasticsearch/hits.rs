//! Answers to searches: whole, or an error.

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::client::{EngineError, unavailable};
use super::store::ElasticsearchStore;
use crate::port::StoreError;

const NOT_EVERY_SHARD: &str = "not every shard has answered the search";
/// Of an answer to a question for single documents.
pub(super) const HALF_THE_DOCUMENTS: &str = "half an answer about the documents of a search";

/// An answer to one search.
#[derive(Debug, Deserialize)]
pub(super) struct Hits<T> {
    #[serde(default)]
    error: Option<EngineError>,
    #[serde(default)]
    timed_out: Option<bool>,
    #[serde(rename = "_shards", default)]
    shards: Option<Shards>,
    #[serde(default = "Option::default")]
    hits: Option<HitList<T>>,
    #[serde(default)]
    aggregations: Value,
}

#[derive(Debug, Deserialize)]
struct Shards {
    failed: u64,
}

#[derive(Debug, Deserialize)]
struct HitList<T> {
    hits: Vec<Hit<T>>,
}

/// A document that was found.
#[derive(Debug, Deserialize)]
pub(super) struct Hit<T> {
    #[serde(rename = "_index")]
    pub(super) index: String,
    #[serde(rename = "_id")]
    pub(super) id: String,
    #[serde(rename = "_source", default = "Option::default")]
    pub(super) source: Option<T>,
    #[serde(rename = "_seq_no", default)]
    pub(super) sequence: i64,
    #[serde(default)]
    pub(super) fields: Value,
    #[serde(default)]
    pub(super) sort: Vec<Value>,
}

impl<T> Hits<T> {
    /// The hits and the aggregations, where each shard has answered in time.
    pub(super) fn whole_with_aggregations(self) -> Result<(Vec<Hit<T>>, Value), StoreError> {
        if let Some(error) = self.error {
            let words = format!("the engine cannot search: {}", error.words());
            let is_question = error.words().contains("parsing_exception")
                || error.words().contains("too_many_clauses")
                || error.words().contains("too_many_nested_clauses");
            return Err(if is_question {
                StoreError::Unsupported(words)
            } else {
                unavailable(words)
            });
        }
        // An answer that does not say that it is whole is not.
        let has_all = self.shards.is_some_and(|shards| shards.failed == 0);
        if !has_all || self.timed_out != Some(false) {
            return Err(unavailable(NOT_EVERY_SHARD));
        }
        let Some(list) = self.hits else {
            return Err(unavailable("the engine's answer to a search has no hits"));
        };
        Ok((list.hits, self.aggregations))
    }

    /// The hits, where each shard has answered in time.
    pub(super) fn whole(self) -> Result<Vec<Hit<T>>, StoreError> {
        self.whole_with_aggregations().map(|(hits, _)| hits)
    }
}

/// What an engine says of an index that went, was closed or was not open yet while it was searched.
const REPLACED: [&str; 7] = [
    // Some shard failed, and the causes are not told.
    "search_phase_execution_exception",
    "index_not_found_exception",
    "index_closed_exception",
    "shard_not_found_exception",
    "no_shard_available_action_exception",
    NOT_EVERY_SHARD,
    HALF_THE_DOCUMENTS,
];

/// Whether a search failed in a way in which one fails whose index was replaced meanwhile.
pub(super) fn was_replaced(error: &StoreError) -> bool {
    matches!(error, StoreError::Unavailable(words) if REPLACED.iter().any(|one| words.contains(one)))
}

#[derive(Deserialize)]
struct ManyHits<T> {
    responses: Vec<Hits<T>>,
}

impl ElasticsearchStore {
    /// Asks several questions of the same indices at once; the answers come in their order. Indices
    /// are patterns: what matches none is fine, what is closed is an error.
    pub(super) async fn search_many<T: DeserializeOwned>(
        &self,
        indices: &[String],
        questions: &[Value],
    ) -> Result<Vec<Hits<T>>, StoreError> {
        let header = json!({
            "index": indices,
            "expand_wildcards": ["open", "closed"],
            "allow_no_indices": true,
            "ignore_unavailable": false,
            "allow_partial_search_results": false,
        });
        let mut body = String::new();
        for question in questions {
            body.push_str(&format!("{header}\n{question}\n"));
        }
        let method = elasticsearch::http::Method::Post;
        let answer = self.client.read(method, "/_msearch", &[], body.into()).await?;
        let found: ManyHits<T> = answer.json()?;
        if found.responses.len() != questions.len() {
            return Err(unavailable("half an answer to several searches"));
        }
        Ok(found.responses)
    }

    /// Asks one question.
    pub(super) async fn search_one<T: DeserializeOwned>(
        &self,
        indices: &[String],
        question: Value,
    ) -> Result<Hits<T>, StoreError> {
        let mut found = self.search_many(indices, &[question]).await?;
        found.pop().ok_or_else(|| unavailable("no answer to a search"))
    }
}
