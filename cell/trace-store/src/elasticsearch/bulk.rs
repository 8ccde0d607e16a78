//! Bulk requests: documents with their targets, the body, and what became of each item. No I/O.

use std::ops::Range;

use bytes::Bytes;
use serde::Deserialize;

use super::client::{EngineError, unavailable};
use super::json::{string, text_field};
use super::names::{Kind, Shelf, TenantNames};
use crate::port::StoreError;

/// An index that documents go to.
#[derive(Clone, Debug)]
pub(super) struct Target {
    pub(super) names: TenantNames,
    pub(super) kind: Kind,
    pub(super) shelf: Shelf,
    pub(super) index: String,
}

/// A document on its way.
#[derive(Clone, Debug)]
pub(super) struct Item {
    /// Its place in [`Chunk::targets`].
    pub(super) target: usize,
    pub(super) id: String,
    /// Where its bytes are in [`Chunk::documents`].
    pub(super) document: Range<usize>,
    /// The entry of the catalogue that it is.
    pub(super) entry: Option<u128>,
}

/// Documents that are sent together.
#[derive(Debug, Default)]
pub(super) struct Chunk {
    pub(super) targets: Vec<Target>,
    pub(super) items: Vec<Item>,
    pub(super) documents: Vec<u8>,
}

impl Chunk {
    /// No documents yet, and room for so many bytes of them.
    pub(super) fn with_room(bytes: usize) -> Self {
        Self { documents: Vec::with_capacity(bytes), ..Self::default() }
    }

    /// The place of a target, which is added where it is new.
    pub(super) fn target(&mut self, names: &TenantNames, kind: Kind, shelf: Shelf) -> usize {
        let is_it = |target: &Target| target.shelf == shelf && target.names == *names;
        if let Some(at) = self.targets.iter().position(is_it) {
            return at;
        }
        let index = names.index(shelf);
        self.targets.push(Target { names: names.clone(), kind, shelf, index });
        self.targets.len().saturating_sub(1)
    }

    /// Adds the document that `write` appends.
    pub(super) fn push(
        &mut self,
        target: usize,
        id: String,
        entry: Option<u128>,
        write: impl FnOnce(&mut Vec<u8>),
    ) {
        let start = self.documents.len();
        write(&mut self.documents);
        let document = start..self.documents.len();
        self.items.push(Item { target, id, document, entry });
    }

    pub(super) fn target_of(&self, item: usize) -> Option<&Target> {
        self.targets.get(self.items.get(item)?.target)
    }

    /// The body of a request that creates these items.
    pub(super) fn body(&self, items: &[usize]) -> Bytes {
        let mut body = Vec::with_capacity(self.documents.len().saturating_add(items.len() * 100));
        for item in items.iter().filter_map(|at| self.items.get(*at)) {
            let Some(target) = self.targets.get(item.target) else { continue };
            body.extend_from_slice(b"{\"create\":{");
            text_field(&mut body, "_index", &target.index);
            body.extend_from_slice(b",\"_id\":");
            string(&mut body, &item.id);
            body.extend_from_slice(b"}}\n");
            body.extend_from_slice(self.documents.get(item.document.clone()).unwrap_or_default());
            body.push(b'\n');
        }
        body.into()
    }
}

/// What became of an item.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// It is there now.
    Created,
    /// It was there.
    Exists,
    /// The engine was too busy or lacks a shard: again later.
    Busy(String),
    /// Its disk is full: again later.
    Full(String),
    /// The index takes no writes any more.
    ReadOnly(String),
    /// This document will never be taken.
    Refused(String),
    /// Something that a person has to mend, and no fault of the document.
    Away(String),
}

#[derive(Deserialize)]
struct BulkAnswer {
    errors: bool,
    #[serde(default)]
    items: Vec<ItemAnswer>,
}

#[derive(Deserialize)]
struct ItemAnswer {
    #[serde(alias = "index", alias = "delete")]
    create: ItemStatus,
}

#[derive(Deserialize)]
struct ItemStatus {
    status: u16,
    #[serde(default)]
    error: Option<EngineError>,
}

/// The part of an answer that is read; the rest is not even sent.
pub(super) const ANSWER_FILTER: (&str, &str) =
    ("filter_path", "errors,items.*.status,items.*.error");

/// What became of each item of a request. Half an answer is none.
pub(super) fn outcomes(body: &[u8], sent: usize) -> Result<Vec<Outcome>, StoreError> {
    let answer: BulkAnswer = serde_json::from_slice(body).map_err(|error| {
        unavailable(format!("the answer to a bulk request makes no sense: {error}"))
    })?;
    if answer.items.len() != sent {
        let found = answer.items.len();
        return Err(unavailable(format!(
            "the answer to a bulk request tells of {found} items, not of {sent}"
        )));
    }
    if !answer.errors && answer.items.iter().any(|item| item.create.error.is_some()) {
        return Err(unavailable("the answer to a bulk request contradicts itself"));
    }
    Ok(answer.items.into_iter().map(|item| outcome(item.create)).collect())
}

fn outcome(item: ItemStatus) -> Outcome {
    if item.status < 300 {
        return Outcome::Created;
    }
    let is_plain = item.error.is_none();
    let error = item.error.unwrap_or_default();
    let words = format!("{}: {}", item.status, error.words());
    let is_blocked = error.kind == "cluster_block_exception";
    match item.status {
        409 => Outcome::Exists,
        // What was to be removed is not there.
        404 if is_plain => Outcome::Exists,
        429 | 403 if is_blocked && words.contains("read-only / allow delete") => {
            Outcome::Full(words)
        }
        403 if is_blocked => Outcome::ReadOnly(words),
        400 if error.kind == "index_closed_exception" => Outcome::ReadOnly(words),
        429 | 500.. => Outcome::Busy(words),
        // What the cluster refuses (too many shards) and not the mapping.
        400 if error.kind == "validation_exception" => Outcome::Away(words),
        400 | 413 => Outcome::Refused(words),
        _ => Outcome::Away(words),
    }
}

#[cfg(test)]
mod tests {
    use trace_model::TenantId;

    use super::super::names::Names;
    use super::*;

    fn item(status: u16, kind: &str, reason: &str) -> String {
        format!(
            r#"{{"create":{{"status":{status},"error":{{"type":"{kind}","reason":"{reason}"}}}}}}"#
        )
    }

    #[test]
    fn errors_within_a_success_are_seen_item_by_item() {
        let items = [
            r#"{"create":{"status":201}}"#.to_owned(),
            item(409, "version_conflict_engine_exception", "there"),
            item(429, "es_rejected_execution_exception", "queue"),
            item(503, "unavailable_shards_exception", "no primary"),
            item(403, "cluster_block_exception", "blocked by: [FORBIDDEN/8/index write (api)];"),
            item(
                429,
                "cluster_block_exception",
                "flood [TOO_MANY_REQUESTS/12/disk usage exceeded flood-stage watermark, index has read-only / allow delete block];",
            ),
            item(400, "index_closed_exception", "closed"),
            item(400, "document_parsing_exception", "bad"),
            item(400, "validation_exception", "too many shards"),
            item(403, "security_exception", "who are you"),
        ];
        let body = format!(r#"{{"errors":true,"items":[{}]}}"#, items.join(","));
        let found = outcomes(body.as_bytes(), items.len()).unwrap();
        assert!(
            matches!(
                found.as_slice(),
                [
                    Outcome::Created,
                    Outcome::Exists,
                    Outcome::Busy(_),
                    Outcome::Busy(_),
                    Outcome::ReadOnly(_),
                    Outcome::Full(_),
                    Outcome::ReadOnly(_),
                    Outcome::Refused(_),
                    Outcome::Away(_),
                    Outcome::Away(_),
                ]
            ),
            "{found:?}"
        );
    }

    #[test]
    fn half_an_answer_is_none() {
        let created = r#"{"create":{"status":201}}"#;
        for (body, sent) in [
            (String::new(), 1),
            ("{}".to_owned(), 0),
            (format!(r#"{{"errors":false,"items":[{created}]}}"#), 2),
            (format!(r#"{{"errors":false,"items":[{}]}}"#, item(429, "x", "y")), 1),
            (format!(r#"{{"errors":false,"items":[{created}"#), 1),
        ] {
            let found = outcomes(body.as_bytes(), sent);
            assert!(matches!(found, Err(StoreError::Unavailable(_))), "{body}: {found:?}");
        }
    }

    #[test]
    fn a_body_holds_an_action_and_a_document_for_each_item_asked_for() {
        let names = Names::new("eu".to_owned()).of(&TenantId::default(), Kind::Spans);
        let mut chunk = Chunk::default();
        let outlying = chunk.target(&names, Kind::Spans, Shelf::Outlying);
        assert_eq!(chunk.target(&names, Kind::Spans, Shelf::Outlying), outlying);
        for id in ["a", "b\"", "c"] {
            chunk.push(outlying, id.to_owned(), None, |out| out.extend_from_slice(b"{\"x\":1}"));
        }
        let body = chunk.body(&[0, 1]);
        let lines: Vec<serde_json::Value> = body
            .split(|byte| *byte == b'\n')
            .filter(|line| !line.is_empty())
            .map(|line| serde_json::from_slice(line).unwrap())
            .collect();
        assert_eq!(lines.len(), 4);
        assert_eq!(lines[2]["create"]["_id"], "b\"");
        assert_eq!(lines[2]["create"]["_index"], "eu.default-jaeger-span-outlying");
        assert_eq!(lines[3]["x"], 1);
    }
}
