//! Removes one trace: tombstone → documents → entries of the catalogue that nothing else supports →
//! segments rewritten.

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::json;
use trace_model::query::{CompareOp, Field, Literal};
use trace_model::{Filter, SearchQuery, SpanKind, TenantId, TimeRange, TraceId, UnixNanos};

use super::bulk::{Chunk, Outcome};
use super::catalog::{BUCKET_NANOS, Entry};
use super::client::unavailable;
use super::encode::shelf;
use super::hits::Hit;
use super::identity::{document_id, entry_hash};
use super::names::Kind;
use super::scan::{of_tenant, trace_texts};
use super::source::Process;
use super::store::ElasticsearchStore;
use crate::port::{ErasureReceipt, StoreError};

/// Documents in a page.
const PAGE: usize = 200;
/// Entries of the catalogue that are removed together.
const ENTRIES: usize = 500;

/// What is read of a document that goes.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Going {
    #[serde(default)]
    operation_name: String,
    #[serde(default)]
    process: Process,
    #[serde(default)]
    farspan: Option<GoingNumbers>,
}

#[derive(Debug, Deserialize)]
struct GoingNumbers {
    #[serde(default)]
    kind: i32,
    #[serde(default)]
    placed: u64,
}

/// An entry of the catalogue.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct EntryKey {
    service: String,
    operation: String,
    kind: SpanKind,
    bucket: u64,
}

impl EntryKey {
    const fn entry<'a>(&'a self, tenant: &'a TenantId) -> Entry<'a> {
        let Self { service, operation, kind, bucket } = self;
        Entry {
            tenant,
            service: service.as_str(),
            operation: operation.as_str(),
            kind: *kind,
            bucket: *bucket,
        }
    }

    fn id(&self, tenant: &TenantId) -> String {
        document_id(entry_hash(tenant, &self.service, &self.operation, self.kind, self.bucket))
    }
}

/// What was removed.
#[derive(Debug, Default)]
struct Removed {
    ids: BTreeSet<String>,
    entries: BTreeSet<EntryKey>,
    /// By index: the highest sequence number of a document that was removed.
    indices: BTreeMap<String, i64>,
}

impl ElasticsearchStore {
    /// See [`crate::Eraser`].
    pub(super) async fn erase_trace(
        &self,
        tenant: &TenantId,
        trace_id: TraceId,
    ) -> Result<ErasureReceipt, StoreError> {
        let left = {
            let _alone = self.gate.write().await;
            self.put_tombstone(tenant, trace_id).await?
        };
        self.remove_trace(tenant, trace_id, left).await
    }

    /// Removes what is there of a trace that has a tombstone.
    pub(super) async fn remove_trace(
        &self,
        tenant: &TenantId,
        trace_id: TraceId,
        left: Vec<String>,
    ) -> Result<ErasureReceipt, StoreError> {
        let alone = self.gate.write().await;
        let removed = self.remove_documents(tenant, trace_id, &left).await?;
        self.state.forget_entries();
        let touched = self.remove_entries(tenant, &removed.entries).await?;
        drop(alone);
        let mut indices = removed.indices;
        // Of these the numbers are not known: everything until now counts.
        indices.extend(left.into_iter().chain(touched).map(|index| (index, i64::MAX)));
        if !indices.is_empty() {
            let expunged =
                tokio::time::timeout(self.config.expunge_timeout, self.expunge(&indices));
            let late =
                |_| unavailable("the engine holds on to what was deleted; erase again later");
            expunged.await.map_err(late)??;
            self.note_expunge(tenant, trace_id, &[]).await?;
        }
        let count = |found: usize| u64::try_from(found).unwrap_or(u64::MAX);
        Ok(ErasureReceipt { files: count(indices.len()), spans: count(removed.ids.len()) })
    }

    /// Removes what a writer, here or in a process that is gone, has written of erased traces.
    pub(super) async fn sweep(
        &self,
        traces: BTreeSet<(TenantId, TraceId)>,
    ) -> Result<(), StoreError> {
        let mut by_tenant: BTreeMap<TenantId, Vec<TraceId>> = BTreeMap::new();
        for (tenant, trace_id) in traces {
            by_tenant.entry(tenant).or_default().push(trace_id);
        }
        for (tenant, traces) in &by_tenant {
            let patterns = self.names.of(tenant, Kind::Spans).all();
            self.refresh(&patterns).await?;
            for some in traces.chunks(ENTRIES) {
                let ids: Vec<String> = some.iter().flat_map(trace_texts).collect();
                let question = json!({
                    "size": 1, "_source": false,
                    "query": { "bool": { "filter": [
                        of_tenant(tenant), { "terms": { "traceID": ids } },
                    ] } },
                });
                let left: Vec<Hit<IgnoredAny>> =
                    self.search_one(&patterns, question).await?.whole()?;
                for trace_id in some.iter().filter(|_| !left.is_empty()) {
                    self.remove_trace(tenant, *trace_id, vec![]).await?;
                }
            }
        }
        Ok(())
    }

    async fn remove_documents(
        &self,
        tenant: &TenantId,
        trace_id: TraceId,
        left: &[String],
    ) -> Result<Removed, StoreError> {
        let patterns = self.names.of(tenant, Kind::Spans).all();
        self.refresh(&patterns).await?;
        let mut removed = Removed::default();
        loop {
            let question = json!({
                "size": PAGE,
                "seq_no_primary_term": true,
                "_source": ["operationName", "process.serviceName", "farspan.kind", "farspan.placed"],
                "query": { "bool": { "filter": [
                    of_tenant(tenant), { "terms": { "traceID": trace_texts(&trace_id) } },
                ] } },
            });
            let hits = self.search_one::<Going>(&patterns, question).await?.whole()?;
            if hits.is_empty() {
                return Ok(removed);
            }
            for hit in &hits {
                let name = self.lasting_name(&hit.index);
                let newest = removed.indices.entry(name).or_default();
                *newest = hit.sequence.max(*newest);
            }
            // Before anything goes: what a crash leaves behind is finished by the next erasure.
            let mut noted: Vec<String> = removed.indices.keys().cloned().collect();
            noted.extend(left.iter().cloned());
            self.note_expunge(tenant, trace_id, &noted).await?;
            let ids: Vec<(&str, &str)> =
                hits.iter().map(|hit| (hit.index.as_str(), hit.id.as_str())).collect();
            self.delete(&ids).await?;
            for hit in hits {
                removed.ids.insert(hit.id);
                removed.entries.extend(hit.source.and_then(entry_of));
            }
            let indices: Vec<String> = removed.indices.keys().cloned().collect();
            self.refresh(&indices).await?;
        }
    }

    /// Deletes documents, also from days that take no writes. What has gone to another index meanwhile
    /// is left there.
    pub(super) async fn delete(&self, documents: &[(&str, &str)]) -> Result<(), StoreError> {
        for blocked in self.try_delete(documents).await? {
            let of_index = |(index, _): &&(&str, &str)| *index == blocked;
            let documents: Vec<(&str, &str)> = documents.iter().filter(of_index).copied().collect();
            self.delete_from_closed_day(&blocked, &documents).await?;
        }
        Ok(())
    }

    /// Deletes documents; gives the indices that refuse it.
    pub(super) async fn try_delete(
        &self,
        documents: &[(&str, &str)],
    ) -> Result<BTreeSet<String>, StoreError> {
        let actions: String = documents
            .iter()
            .map(|(index, id)| format!("{}\n", json!({ "delete": { "_index": index, "_id": id } })))
            .collect();
        let outcomes = self.bulk(actions.into(), documents.len()).await?;
        let mut blocked = BTreeSet::new();
        for ((index, _), outcome) in documents.iter().zip(outcomes) {
            match outcome {
                Outcome::Created | Outcome::Exists => {}
                Outcome::ReadOnly(_) => {
                    blocked.insert((*index).to_owned());
                }
                // A copy of the day has taken its place.
                Outcome::Away(words) if words.contains("index_not_found_exception") => {}
                Outcome::Busy(words)
                | Outcome::Full(words)
                | Outcome::Refused(words)
                | Outcome::Away(words) => return Err(unavailable(words)),
            }
        }
        Ok(blocked)
    }

    /// Removes those entries for which no other span stands; gives the indices that held them.
    ///
    /// Writers that take an entry for written hear of it, and one whose span came in between finds
    /// its entry again.
    async fn remove_entries(
        &self,
        tenant: &TenantId,
        entries: &BTreeSet<EntryKey>,
    ) -> Result<BTreeSet<String>, StoreError> {
        let spans = self.names.of(tenant, Kind::Spans).all();
        let mut gone = Vec::new();
        for entry in entries {
            if !self.is_supported(tenant, entry).await? {
                gone.push(entry);
            }
        }
        let mut touched = BTreeSet::new();
        for some in gone.chunks(ENTRIES) {
            let ids: Vec<String> = some.iter().map(|entry| entry.id(tenant)).collect();
            touched.extend(self.delete_entries(tenant, &ids).await?);
        }
        if gone.is_empty() {
            return Ok(touched);
        }
        self.announce_erasure().await?;
        self.refresh(&spans).await?;
        for entry in gone {
            if self.is_supported(tenant, entry).await? {
                self.put_entry(tenant, entry).await?;
            }
        }
        Ok(touched)
    }

    async fn is_supported(&self, tenant: &TenantId, entry: &EntryKey) -> Result<bool, StoreError> {
        Ok(!self.find(&spans_of(tenant, entry)).await?.matches.is_empty())
    }

    async fn put_entry(&self, tenant: &TenantId, key: &EntryKey) -> Result<(), StoreError> {
        let now = self.clock.now();
        let start = UnixNanos(key.bucket.saturating_mul(BUCKET_NANOS));
        let names = self.names.of(tenant, Kind::Services);
        let mut chunk = Chunk::default();
        let shelf = shelf(start, now, now, self.config.retention);
        let target = chunk.target(&names, Kind::Services, shelf);
        let id = key.id(tenant);
        chunk.push(target, id.clone(), None, |out| key.entry(tenant).write(out, now, &id));
        match self.send(chunk).await? {
            None => Ok(()),
            Some(reason) => Err(StoreError::Refused(reason)),
        }
    }

    async fn delete_entries(
        &self,
        tenant: &TenantId,
        ids: &[String],
    ) -> Result<BTreeSet<String>, StoreError> {
        let patterns = self.names.of(tenant, Kind::Services).all();
        let mut touched = BTreeSet::new();
        loop {
            self.refresh(&patterns).await?;
            let question = json!({
                "size": ENTRIES * 3, "_source": false, "query": { "ids": { "values": ids } },
            });
            let hits: Vec<Hit<IgnoredAny>> = self.search_one(&patterns, question).await?.whole()?;
            if hits.is_empty() {
                return Ok(touched);
            }
            let documents: Vec<(&str, &str)> =
                hits.iter().map(|hit| (hit.index.as_str(), hit.id.as_str())).collect();
            self.delete(&documents).await?;
            touched.extend(hits.iter().map(|hit| self.lasting_name(&hit.index)));
        }
    }
}

fn entry_of(going: Going) -> Option<EntryKey> {
    let numbers = going.farspan?;
    Some(EntryKey {
        service: going.process.service_name,
        operation: going.operation_name,
        kind: SpanKind::from_number(numbers.kind),
        bucket: numbers.placed / BUCKET_NANOS,
    })
}

/// A search for one trace that an entry of the catalogue stands for.
fn spans_of(tenant: &TenantId, entry: &EntryKey) -> SearchQuery {
    let equals = |field, literal| Filter::Compare { field, op: CompareOp::Eq, literal };
    let start = UnixNanos(entry.bucket.saturating_mul(BUCKET_NANOS));
    SearchQuery {
        tenant: tenant.clone(),
        filter: Filter::And(vec![
            equals(Field::Service, Literal::Str(entry.service.clone())),
            equals(Field::Operation, Literal::Str(entry.operation.clone())),
            equals(Field::Kind, Literal::Int(entry.kind as i64)),
        ]),
        range: TimeRange { start, end: start.plus(BUCKET_NANOS) },
        limit: 1,
        before: None,
    }
}
