//! The spans that match, newest first: pages of candidates of ours and of Jaeger's, merged, judged.

use std::collections::{HashSet, VecDeque};
use std::sync::Arc;

use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::{Value, json};
use trace_model::{Region, TenantId, TimeRange, TraceId, UnixNanos};

use super::client::unavailable;
use super::hits::{HALF_THE_DOCUMENTS, Hit};
use super::names::Kind;
use super::plan::Plan;
use super::push_down::Shape;
use super::source::Source;
use super::store::ElasticsearchStore;
use crate::port::StoreError;

/// Candidates that are judged together.
const BATCH_MAX: usize = 200;
/// Bytes of documents that are fetched together; one document may be larger.
const FETCH_BYTES_MAX: u64 = 8 << 20;
/// Candidates in a page.
const PAGE_MAX: usize = 1_000;
/// Size of a document that does not say it.
const UNKNOWN_BYTES: u64 = 64 << 10;
/// Most traces that a question leaves out or asks for by id.
const IDS_MAX: usize = 10_000;

/// A document that may match.
#[derive(Debug)]
struct Candidate {
    index: String,
    id: String,
    placed: UnixNanos,
    trace_id: TraceId,
    region: Option<Region>,
    service: Option<Arc<str>>,
    bytes: u64,
    needs_judge: bool,
}

/// A span that matches.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) placed: UnixNanos,
    pub(super) trace_id: TraceId,
    pub(super) region: Option<Region>,
    pub(super) service: Arc<str>,
}

/// What a search has cost, over all of its scans.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Cost {
    pub(super) candidates: u64,
    pub(super) bytes: u64,
    /// A document could not be read.
    pub(super) is_damaged: bool,
}

/// Candidates of one shape of document.
#[derive(Debug)]
struct Stream {
    shape: Shape,
    after: Option<Vec<Value>>,
    waiting: VecDeque<Candidate>,
    is_done: bool,
}

impl Stream {
    const fn new(shape: Shape) -> Self {
        Self { shape, after: None, waiting: VecDeque::new(), is_done: false }
    }

    fn is_dry(&self) -> bool {
        self.waiting.is_empty() && !self.is_done
    }

    fn front(&self) -> Option<(std::cmp::Reverse<UnixNanos>, TraceId)> {
        self.waiting.front().map(|found| (std::cmp::Reverse(found.placed), found.trace_id))
    }
}

/// Goes through a range of time, newest first.
#[derive(Debug)]
pub(super) struct Scan<'a> {
    store: &'a ElasticsearchStore,
    plan: &'a Plan<'a>,
    range: TimeRange,
    indices: Vec<String>,
    /// Only these traces, where it is said.
    only: Option<Vec<String>>,
    left_out: HashSet<TraceId>,
    ours: Stream,
    jaegers: Stream,
    page: usize,
    previous: String,
    /// A document of Jaeger's was among the candidates.
    pub(super) has_jaegers: bool,
}

impl<'a> Scan<'a> {
    pub(super) fn new(
        store: &'a ElasticsearchStore,
        plan: &'a Plan<'a>,
        range: TimeRange,
        only: Option<&[TraceId]>,
        first_page: usize,
    ) -> Self {
        Self {
            store,
            plan,
            range,
            indices: store.names.of(plan.tenant, Kind::Spans).within(range),
            only: only.map(|ids| ids.iter().flat_map(trace_texts).collect()),
            left_out: HashSet::new(),
            ours: Stream::new(Shape::Ours),
            jaegers: Stream::new(plan.jaegers_shape),
            page: first_page.clamp(50, PAGE_MAX),
            previous: String::new(),
            has_jaegers: false,
        }
    }

    /// From here on the trace's spans are passed over.
    pub(super) fn leave_out(&mut self, trace_id: TraceId) {
        self.left_out.insert(trace_id);
    }

    /// The next spans that match, in order; an empty list is not the end, `None` is.
    pub(super) async fn next(&mut self, cost: &mut Cost) -> Result<Option<Vec<Found>>, StoreError> {
        if self.range.start >= self.range.end {
            return Ok(None);
        }
        if self.ours.is_dry() || self.jaegers.is_dry() {
            self.fetch(cost).await?;
        }
        let candidates = self.take();
        let is_end = candidates.is_empty() && self.ours.is_done && self.jaegers.is_done;
        if is_end && self.ours.waiting.is_empty() && self.jaegers.waiting.is_empty() {
            return Ok(None);
        }
        self.judge(candidates, cost).await.map(Some)
    }

    /// Merges what waits, as far as its order is certain.
    fn take(&mut self) -> Vec<Candidate> {
        let mut taken = Vec::new();
        while taken.len() < BATCH_MAX && !self.ours.is_dry() && !self.jaegers.is_dry() {
            let is_ours = match (self.ours.front(), self.jaegers.front()) {
                (Some(ours), Some(jaegers)) => ours <= jaegers,
                (Some(_), None) => true,
                (None, Some(_)) => false,
                (None, None) => break,
            };
            let stream = if is_ours { &mut self.ours } else { &mut self.jaegers };
            let Some(candidate) = stream.waiting.pop_front() else { break };
            // One span in two indices stands side by side here.
            let is_again = candidate.id == self.previous;
            self.previous.clone_from(&candidate.id);
            if !is_again && !self.left_out.contains(&candidate.trace_id) {
                taken.push(candidate);
            }
        }
        taken
    }

    /// Fetches a page for each stream that has run dry.
    async fn fetch(&mut self, cost: &mut Cost) -> Result<(), StoreError> {
        let mut questions = Vec::new();
        for stream in [&self.ours, &self.jaegers] {
            if stream.is_dry() {
                questions.push(self.question(stream));
            }
        }
        let found = self.store.search_many::<IgnoredAny>(&self.indices, &questions).await?;
        let (page, is_exact) = (self.page, self.plan.ours.is_exact);
        let dry = [&mut self.ours, &mut self.jaegers].into_iter().filter(|stream| stream.is_dry());
        for (stream, hits) in dry.zip(found) {
            let hits = hits.whole()?;
            stream.is_done = hits.len() < page;
            cost.candidates = cost.candidates.saturating_add(hits.len() as u64);
            if let Some(last) = hits.last() {
                stream.after = Some(last.sort.clone());
            }
            let is_ours = stream.shape == Shape::Ours;
            self.has_jaegers |= !is_ours && !hits.is_empty();
            stream
                .waiting
                .extend(hits.into_iter().filter_map(|hit| candidate(hit, is_ours, is_exact)));
        }
        self.page = PAGE_MAX;
        let max = self.store.config.candidates_max;
        if cost.candidates > max {
            return Err(StoreError::Unsupported(format!(
                "this search has to look at more than {max} spans one by one: a shorter time range, a \
                 service or an attribute that equals a value would help"
            )));
        }
        Ok(())
    }

    fn question(&self, stream: &Stream) -> Value {
        let is_ours = stream.shape == Shape::Ours;
        let mut filter = self.plan.question(self.range, is_ours);
        if let Some(ids) = &self.only {
            filter.push(json!({ "terms": { "traceID": ids } }));
        }
        let left_out: Vec<String> =
            self.left_out.iter().take(IDS_MAX).flat_map(trace_texts).collect();
        let mut question = json!({
            "size": self.page,
            "_source": false,
            "track_total_hits": false,
            "query": { "bool": {
                "filter": filter,
                "must_not": [{ "terms": { "traceID": left_out } }],
            } },
            "docvalue_fields": [
                "process.serviceName", "farspan.region", "farspan.bytes", "farspan.irregular",
            ],
            "sort": if is_ours { sort(&["farspan.placed", "traceID", "farspan.key"]) }
                else { sort(&["startTime", "traceID", "spanID", "duration"]) },
        });
        if let (Some(object), Some(after)) = (question.as_object_mut(), &stream.after) {
            object.insert("search_after".to_owned(), json!(after));
        }
        question
    }

    /// Fetches the documents about which the question leaves a doubt, and asks the filter.
    async fn judge(
        &self,
        candidates: Vec<Candidate>,
        cost: &mut Cost,
    ) -> Result<Vec<Found>, StoreError> {
        let mut found = Vec::with_capacity(candidates.len());
        let mut waiting = candidates.into_iter().peekable();
        while waiting.peek().is_some() {
            let (mut group, mut bytes) = (Vec::new(), 0_u64);
            while let Some(next) = waiting.next_if(|next| {
                !next.needs_judge
                    || bytes == 0
                    || bytes.saturating_add(next.bytes) <= FETCH_BYTES_MAX
            }) {
                bytes = bytes.saturating_add(if next.needs_judge { next.bytes } else { 0 });
                group.push(next);
            }
            cost.bytes = cost.bytes.saturating_add(bytes);
            found.extend(self.judge_group(group, cost).await?);
        }
        Ok(found)
    }

    async fn judge_group(
        &self,
        group: Vec<Candidate>,
        cost: &mut Cost,
    ) -> Result<Vec<Found>, StoreError> {
        let doubtful: Vec<Value> = group
            .iter()
            .filter(|candidate| candidate.needs_judge)
            .map(|candidate| json!({ "_index": candidate.index, "_id": candidate.id }))
            .collect();
        let mut documents = self.documents(&doubtful).await?.into_iter();
        let mut found = Vec::with_capacity(group.len());
        for candidate in group {
            let Candidate { placed, trace_id, region, .. } = candidate;
            let service = if candidate.needs_judge {
                let document = documents.next().flatten();
                let Some(document) = document else { continue };
                let Ok(source) = serde_json::from_value::<Source>(document) else {
                    cost.is_damaged = true;
                    continue;
                };
                let Some(span) = source.into_span(trace_id) else { continue };
                if !self.plan.filter.matches(&span) {
                    continue;
                }
                Some(Arc::clone(&span.resource.service))
            } else {
                candidate.service
            };
            let Some(service) = service else { continue };
            found.push(Found { placed, trace_id, region, service });
        }
        Ok(found)
    }

    /// The documents, in order; `None` for one that was removed meanwhile.
    async fn documents(&self, wanted: &[Value]) -> Result<Vec<Option<Value>>, StoreError> {
        if wanted.is_empty() {
            return Ok(vec![]);
        }
        let includes = self.plan.includes.join(",");
        let query = [("_source_includes", includes.as_str())];
        let answer: Documents =
            self.store.client.ask("/_mget", &query, &json!({ "docs": wanted })).await?;
        if answer.docs.len() != wanted.len() || answer.docs.iter().any(|one| one.error.is_some()) {
            return Err(unavailable(HALF_THE_DOCUMENTS));
        }
        Ok(answer.docs.into_iter().map(|one| one.source.filter(|_| one.found)).collect())
    }
}

#[derive(Deserialize)]
struct Documents {
    docs: Vec<Document>,
}

#[derive(Deserialize)]
struct Document {
    #[serde(default)]
    found: bool,
    #[serde(rename = "_source", default)]
    source: Option<Value>,
    #[serde(default)]
    error: Option<Value>,
}

/// The first field from large to small, the others from small to large.
fn sort(fields: &[&str]) -> Value {
    let order = |(place, field): (usize, &&str)| {
        let (order, kind) = if place == 0 { ("desc", "long") } else { ("asc", "keyword") };
        let kind = if *field == "duration" { "long" } else { kind };
        json!({ (*field): { "order": order, "unmapped_type": kind } })
    };
    fields.iter().enumerate().map(order).collect()
}

/// The forms in which a trace id may stand in a document.
pub(super) fn trace_texts(trace_id: &TraceId) -> Vec<String> {
    let text = trace_id.to_string();
    let short = text.strip_prefix("0000000000000000").map(str::to_owned);
    [Some(text), short].into_iter().flatten().collect()
}

fn candidate(hit: Hit<IgnoredAny>, is_ours: bool, is_exact: bool) -> Option<Candidate> {
    let time = hit.sort.first().and_then(Value::as_u64)?;
    let trace_id = hit.sort.get(1).and_then(Value::as_str)?.parse().ok()?;
    let field = |name: &str| hit.fields.get(name).and_then(|values| values.get(0));
    let service: Option<Arc<str>> =
        field("process.serviceName").and_then(Value::as_str).map(Arc::from);
    let is_irregular = field("farspan.irregular").and_then(Value::as_bool).unwrap_or(false);
    let region = field("farspan.region").and_then(Value::as_str);
    Some(Candidate {
        placed: if is_ours { UnixNanos(time) } else { UnixNanos::from_micros(time) },
        trace_id,
        region: region.and_then(|name| Region::new(name).ok()),
        bytes: field("farspan.bytes").and_then(Value::as_u64).unwrap_or(UNKNOWN_BYTES),
        needs_judge: !is_ours || !is_exact || is_irregular || service.is_none(),
        service,
        index: hit.index,
        id: hit.id,
    })
}

/// The tenant of a question: documents without one are those of the index.
pub(super) fn of_tenant(tenant: &TenantId) -> Value {
    json!({ "bool": { "minimum_should_match": 1, "should": [
        { "term": { "farspan.tenant": tenant.as_str() } },
        { "bool": { "must_not": [{ "exists": { "field": "farspan.tenant" } }] } },
    ] } })
}
