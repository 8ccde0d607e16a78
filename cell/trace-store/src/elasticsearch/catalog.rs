//! Services and operations: documents as Jaeger writes them, one a kind and ten minutes, in the
//! service index of their day.
//!
//! Entries that a Jaeger wrote are known to the day alone and have no kind.

use std::sync::Arc;

use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::{Value, json};
use trace_model::{SpanKind, TenantId, TimeRange, UnixNanos};

use super::document::is_term;
use super::json::{number_field, text_field};
use super::names::Kind;
use super::scan::of_tenant;
use super::store::ElasticsearchStore;
use crate::port::{NameList, NamesFound, Operation, StoreError};

/// Width of the catalogue's buckets: 10 minutes.
pub(super) const BUCKET_NANOS: u64 = 600 * 1_000_000_000;
/// Names in a page.
const PAGE: usize = 1_000;
/// Documents in a page of names that are too long for the engine.
const LONG_PAGE: usize = 20;

/// An entry: the operation of a service had a span placed in these ten minutes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Entry<'a> {
    pub(super) tenant: &'a TenantId,
    pub(super) service: &'a str,
    pub(super) operation: &'a str,
    pub(super) kind: SpanKind,
    pub(super) bucket: u64,
}

impl Entry<'_> {
    /// Appends its document. `received`: when the span arrived for which it was made.
    pub(super) fn write(&self, out: &mut Vec<u8>, received: UnixNanos, id: &str) {
        out.push(b'{');
        text_field(out, "serviceName", self.service);
        text_field(out, "operationName", self.operation);
        out.extend_from_slice(b",\"farspan\":{");
        text_field(out, "tenant", self.tenant.as_str());
        number_field(out, "kind", self.kind as u8);
        number_field(out, "bucket", self.bucket);
        number_field(out, "received", i64::try_from(received.0).unwrap_or(i64::MAX));
        text_field(out, "key", id);
        out.extend_from_slice(b"}}");
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct EntrySource {
    service_name: String,
    #[serde(default)]
    operation_name: String,
    #[serde(default)]
    farspan: EntryNumbers,
}

#[derive(Default, Deserialize)]
struct EntryNumbers {
    #[serde(default)]
    kind: i32,
}

#[derive(Deserialize)]
struct Composite {
    buckets: Vec<CompositeBucket>,
    #[serde(default)]
    after_key: Option<Value>,
}

#[derive(Deserialize)]
struct CompositeBucket {
    key: Names,
}

/// A bucket's key; the kind is absent in a Jaeger's entry.
#[derive(Deserialize)]
struct Names {
    name: String,
    #[serde(default)]
    kind: Option<i32>,
}

impl ElasticsearchStore {
    pub(super) async fn list_services(
        &self,
        tenant: &TenantId,
        range: TimeRange,
    ) -> Result<NameList<Arc<str>>, StoreError> {
        if range.start >= range.end {
            return Ok(NameList::default());
        }
        self.refresh_own().await?;
        let filter = entries_of(tenant, range);
        let source = json!([{ "name": { "terms": { "field": "serviceName" } } }]);
        let mut services: NamesFound<Arc<str>> = NamesFound::new(self.config.names_max);
        self.each_name(tenant, range, (&filter, &source), |names| {
            services.insert_text(&names.name);
            !services.is_cut()
        })
        .await?;
        let long = with(&filter, json!({ "term": { "_ignored": "serviceName" } }));
        self.each_long_entry(tenant, range, &long, |entry| {
            services.insert_text(&entry.service_name);
            true
        })
        .await?;
        Ok(services.into_list())
    }

    pub(super) async fn list_operations(
        &self,
        tenant: &TenantId,
        service: &str,
        range: TimeRange,
    ) -> Result<NameList<Operation>, StoreError> {
        if range.start >= range.end {
            return Ok(NameList::default());
        }
        self.refresh_own().await?;
        let filter = entries_of(tenant, range);
        let mut operations = NamesFound::new(self.config.names_max);
        let mut add = |name: String, kind: i32| {
            operations.insert(Operation { name: name.into(), kind: SpanKind::from_number(kind) });
            !operations.is_cut()
        };
        let of_service = if is_term(service) {
            let filter = with(&filter, json!({ "term": { "serviceName": service } }));
            let source = json!([
                { "name": { "terms": { "field": "operationName" } } },
                { "kind": { "terms": { "field": "farspan.kind", "missing_bucket": true } } },
            ]);
            self.each_name(tenant, range, (&filter, &source), |names| {
                add(names.name, names.kind.unwrap_or(0))
            })
            .await?;
            with(&filter, json!({ "term": { "_ignored": "operationName" } }))
        } else {
            with(&filter, json!({ "term": { "_ignored": "serviceName" } }))
        };
        self.each_long_entry(tenant, range, &of_service, |entry| {
            if entry.service_name == service {
                add(entry.operation_name, entry.farspan.kind);
            }
            true
        })
        .await?;
        Ok(operations.into_list())
    }

    /// Calls for each distinct name until `see` has enough.
    async fn each_name(
        &self,
        tenant: &TenantId,
        range: TimeRange,
        (filter, sources): (&[Value], &Value),
        mut see: impl FnMut(Names) -> bool,
    ) -> Result<(), StoreError> {
        let indices = self.names.of(tenant, Kind::Services).within(range);
        let mut after = None;
        loop {
            let mut composite = json!({ "size": PAGE, "sources": sources });
            if let (Some(object), Some(after)) = (composite.as_object_mut(), after) {
                object.insert("after".to_owned(), after);
            }
            let question = json!({
                "size": 0,
                "track_total_hits": false,
                "query": { "bool": { "filter": filter } },
                "aggs": { "names": { "composite": composite } },
            });
            let found = self.search_one::<IgnoredAny>(&indices, question).await?;
            let (_, mut aggregations) = found.whole_with_aggregations()?;
            let Some(names) = aggregations.get_mut("names").map(Value::take) else { return Ok(()) };
            let names: Composite = serde_json::from_value(names)
                .map_err(|error| super::client::unavailable(error.to_string()))?;
            let is_last = names.buckets.len() < PAGE;
            for bucket in names.buckets {
                if !see(bucket.key) {
                    return Ok(());
                }
            }
            after = names.after_key;
            if is_last || after.is_none() {
                return Ok(());
            }
        }
    }

    /// Calls for each of our entries with a name that is too long to be a term.
    async fn each_long_entry(
        &self,
        tenant: &TenantId,
        range: TimeRange,
        filter: &[Value],
        mut see: impl FnMut(EntrySource) -> bool,
    ) -> Result<(), StoreError> {
        let indices = self.names.of(tenant, Kind::Services).within(range);
        let ours = with(filter, json!({ "term": { "farspan.tenant": tenant.as_str() } }));
        let mut after: Option<Vec<Value>> = None;
        loop {
            let mut question = json!({
                "size": LONG_PAGE,
                "track_total_hits": false,
                "query": { "bool": { "filter": ours } },
                "sort": [{ "farspan.key": { "order": "asc", "unmapped_type": "keyword" } }],
            });
            if let (Some(object), Some(after)) = (question.as_object_mut(), &after) {
                object.insert("search_after".to_owned(), json!(after));
            }
            let hits = self.search_one::<EntrySource>(&indices, question).await?.whole()?;
            let is_last = hits.len() < LONG_PAGE;
            after = hits.last().map(|hit| hit.sort.clone());
            for entry in hits.into_iter().filter_map(|hit| hit.source) {
                if !see(entry) {
                    return Ok(());
                }
            }
            if is_last {
                return Ok(());
            }
        }
    }
}

/// Entries of a tenant whose ten minutes touch the range.
fn entries_of(tenant: &TenantId, range: TimeRange) -> Vec<Value> {
    let first = range.start.0 / BUCKET_NANOS;
    let last = range.end.minus(1).0 / BUCKET_NANOS;
    let buckets = json!({ "bool": { "minimum_should_match": 1, "should": [
        { "range": { "farspan.bucket": { "gte": first, "lte": last } } },
        { "bool": { "must_not": [{ "exists": { "field": "farspan.bucket" } }] } },
    ] } });
    vec![of_tenant(tenant), buckets]
}

fn with(filter: &[Value], more: Value) -> Vec<Value> {
    filter.iter().cloned().chain([more]).collect()
}
