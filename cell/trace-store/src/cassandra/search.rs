//! Searches by service, operation and time: the index newest first, hour by hour, all buckets of an
//! hour side by side, until the page is full. Never a short answer: a bound that is reached refuses.

use std::collections::BTreeSet;
use std::sync::Arc;

use async_trait::async_trait;
use hashbrown::HashMap;
use proto::LoggedBatch;
use proto::decode::{ReadContext, read_context, read_span};
use scylla::response::PagingState;
use trace_model::query::SearchStats;
use trace_model::time::place;
use trace_model::{
    Coverage, Region, ScopeContext, SearchQuery, StoredSpan, TraceId, TraceMatch, UnixNanos,
};

use super::engine::{Engine, at_once};
use super::entries::{Entry, decode};
use super::fault;
use super::gather::Gather;
use super::hours::{Hour, check_days, days, hours_of_day};
use super::places::{MINUTE, bigint, key_of, unsigned};
use super::question::Question;
use super::store::CassandraStore;
use crate::port::{SearchAnswer, SearchIndexer, StoreError, TraceSearch};

/// Buckets, and traces, that are read at once.
const READS_AT_ONCE: usize = 8;
/// Rows of the smallest and of the largest page of a bucket.
const PAGE_ROWS: (usize, usize) = (32, 2_000);

/// A row of the index as it is read.
struct IndexLine {
    trace_id: TraceId,
    region: Region,
    entries: Vec<Entry>,
}

/// A bucket that is being read.
struct Stream {
    bucket: i32,
    /// `None`: all is read.
    state: Option<PagingState>,
    /// What was not read is not newer.
    frontier: UnixNanos,
    rows: i32,
}

#[async_trait]
impl TraceSearch for CassandraStore {
    async fn search(&self, query: &SearchQuery) -> Result<SearchAnswer, StoreError> {
        query.filter.check_size().map_err(|error| StoreError::Unsupported(error.to_string()))?;
        let question = Question::of(&query.filter)?;
        let engine = self.engine().await?;
        self.erased.refresh(&engine).await?;
        let covered = self.progress.covered(&engine).await?;
        let mut search = Search {
            store: self,
            engine: &engine,
            query,
            question: &question,
            gather: Gather::new(query, &question),
            stats: SearchStats::default(),
            rows: 0,
            traces: 0,
            is_damaged: false,
        };
        if query.limit > 0 && query.range.start < query.range.end {
            search.run().await?;
        }
        let (stats, is_damaged) = (search.stats, search.is_damaged);
        let matches = search.gather.into_matches();
        let expired_until = self.retention().expired_until();
        Ok(SearchAnswer { matches, stats, covered, is_damaged, is_away: false, expired_until })
    }
}

/// The index is written with the spans: what is durable is indexed.
#[async_trait]
impl SearchIndexer for CassandraStore {
    async fn index(&self, _batches: &[LoggedBatch]) -> Result<(), StoreError> {
        Ok(())
    }

    async fn index_again(&self, _batch: &LoggedBatch) -> Result<(), StoreError> {
        Ok(())
    }

    /// Looks how far others have written, where another process writes.
    async fn flush(&self, _now: UnixNanos, _force: bool) -> Result<(), StoreError> {
        let engine = self.engine().await?;
        self.progress.covered(&engine).await.map(drop)
    }

    fn indexed(&self) -> Coverage {
        self.progress.durable()
    }
}

struct Search<'s> {
    store: &'s CassandraStore,
    engine: &'s Engine,
    query: &'s SearchQuery,
    question: &'s Question,
    gather: Gather<'s>,
    stats: SearchStats,
    rows: u64,
    traces: usize,
    is_damaged: bool,
}

impl Search<'_> {
    async fn run(&mut self) -> Result<(), StoreError> {
        let operation = self.question.operation.as_ref().map(|(name, _)| name.as_str());
        let name = (self.question.service.as_str(), operation);
        let range = self.query.range;
        let days = days(self.engine, &self.query.tenant, range).await?;
        for (place, day) in days.into_iter().enumerate() {
            check_days(place)?;
            let hours = hours_of_day(self.engine, &self.query.tenant, name, (day, range)).await?;
            for hour in hours {
                // Nothing that comes is newer than the end of this hour.
                if self.gather.is_full(hour.to) {
                    return Ok(());
                }
                self.stats.buckets_checked += hour.buckets.len() as u64;
                self.scan(&hour).await?;
            }
        }
        Ok(())
    }

    /// Looks through an hour until the page is full or the hour is at its end.
    async fn scan(&mut self, hour: &Hour) -> Result<(), StoreError> {
        let first = self.query.limit.saturating_mul(2) / hour.buckets.len().max(1);
        let rows = i32::try_from(first.clamp(PAGE_ROWS.0, PAGE_ROWS.1)).unwrap_or(i32::MAX);
        let open = |bucket: &i32| Stream {
            bucket: *bucket,
            state: Some(PagingState::start()),
            frontier: hour.to,
            rows,
        };
        let mut streams: Vec<Stream> = hour.buckets.iter().map(open).collect();
        while !streams.is_empty() {
            let newest = streams.iter().map(|stream| stream.frontier).max().unwrap_or(hour.from);
            if self.gather.is_full(newest) {
                return Ok(());
            }
            let (due, waiting): (Vec<_>, Vec<_>) =
                streams.into_iter().partition(|stream| stream.frontier == newest);
            streams = waiting;
            for (stream, lines) in self.read(hour, due).await? {
                self.take(&lines).await?;
                streams.extend(stream.state.is_some().then_some(stream));
            }
        }
        Ok(())
    }

    /// The next page of each of these buckets.
    async fn read(
        &mut self,
        hour: &Hour,
        streams: Vec<Stream>,
    ) -> Result<Vec<(Stream, Vec<IndexLine>)>, StoreError> {
        let service = key_of(&self.question.service);
        // A row spans a minute at most: what begins before the end of the range may end after it.
        let end = self.query.range.end.minus(1);
        let end = UnixNanos((end.0 - end.0 % MINUTE).saturating_add(MINUTE - 1));
        let from = bigint(hour.from.max(self.query.range.start).0);
        let to = bigint(hour.to.min(end).0);
        let (engine, tenant) = (self.engine, self.query.tenant.as_str());
        let service = &*service;
        let mut reads = Vec::with_capacity(streams.len());
        for stream in streams {
            reads.push(read_page(engine, (tenant, service), hour, stream, (from, to)));
        }
        let pages = at_once(READS_AT_ONCE, reads).await?;
        for (_, lines, bytes) in &pages {
            self.rows = self.rows.saturating_add(lines.len() as u64);
            self.stats.bytes_read += bytes;
            self.stats.buckets_opened += 1;
        }
        let most = self.store.config.search_rows_max;
        if self.rows > most {
            let words = format!("more than {most} index rows to look at: narrow the time range");
            return Err(StoreError::Unsupported(words));
        }
        Ok(pages.into_iter().map(|(stream, lines, _)| (stream, lines)).collect())
    }

    /// Takes rows in; reads the traces that they name where the index alone cannot tell.
    async fn take(&mut self, lines: &[IndexLine]) -> Result<(), StoreError> {
        let mut unread: BTreeSet<TraceId> = BTreeSet::new();
        for line in lines {
            self.stats.spans_scanned += line.entries.len() as u64;
            if self.store.erased.contains(&self.query.tenant, line.trace_id) {
                continue;
            }
            let Some(matching) = self.gather.matching(&line.entries) else { continue };
            if !self.question.is_partial {
                self.gather.see(line.trace_id, matching, line.region.clone());
            } else if !self.gather.knows(line.trace_id) {
                unread.insert(line.trace_id);
            }
        }
        self.traces = self.traces.saturating_add(unread.len());
        let most = self.store.config.search_traces_max;
        if self.traces > most {
            let words = format!(
                "more than {most} traces to read for what is not service, operation or time: \
                 narrow the search, or ask the search engine"
            );
            return Err(StoreError::Unsupported(words));
        }
        let mut reads = Vec::with_capacity(unread.len());
        for trace_id in unread {
            reads.push(verify(self.store, self.query, trace_id));
        }
        let read = at_once(READS_AT_ONCE, reads).await?;
        for (trace_id, found, is_damaged) in read {
            self.is_damaged |= is_damaged;
            self.gather.put(trace_id, found);
        }
        Ok(())
    }
}

/// The next page of a bucket, its lines and its size.
async fn read_page(
    engine: &Engine,
    (tenant, service): (&str, &str),
    hour: &Hour,
    mut stream: Stream,
    (from, to): (i64, i64),
) -> Result<(Stream, Vec<IndexLine>, u64), StoreError> {
    let statement = &engine.statements.read_index;
    let values = (tenant, service, hour.hour, stream.bucket, from, to);
    let state = stream.state.take().unwrap_or_default();
    let (rows, next) = engine.page(statement, values, (state, stream.rows)).await?;
    let mut lines = Vec::with_capacity(rows.rows_num());
    stream.frontier = hour.from;
    let typed = rows.rows::<(i64, &[u8], &str, &[u8])>();
    for row in typed.map_err(|error| fault::of_types(&error))? {
        let row = row.map_err(|error| fault::of_row(&error))?;
        stream.frontier = UnixNanos(unsigned(row.0));
        lines.extend(line(row)?);
    }
    stream.state = next;
    let largest = i32::try_from(PAGE_ROWS.1).unwrap_or(i32::MAX);
    stream.rows = stream.rows.saturating_mul(2).min(largest);
    Ok((stream, lines, rows.rows_bytes_size() as u64))
}

/// Reads a trace and asks each of its spans; says whether one could not be read.
async fn verify(
    store: &CassandraStore,
    query: &SearchQuery,
    trace_id: TraceId,
) -> Result<(TraceId, Option<TraceMatch>, bool), StoreError> {
    let (mut found, mut is_damaged) = (None, false);
    let Some(mut pages) = store.pages(&query.tenant, trace_id).await? else {
        return Ok((trace_id, None, false));
    };
    while let Some(page) = pages.next_page().await? {
        is_damaged |= page.is_damaged;
        for one in matching_spans(query, trace_id, &page.spans) {
            match &mut found {
                None => found = Some(one),
                Some(found) => TraceMatch::join(found, one),
            }
        }
    }
    Ok((trace_id, found, is_damaged))
}

/// Each span that matches, as a match of its trace.
fn matching_spans(query: &SearchQuery, trace_id: TraceId, spans: &[StoredSpan]) -> Vec<TraceMatch> {
    let mut contexts: HashMap<*const ScopeContext, Option<ReadContext>> = HashMap::new();
    let mut matches = Vec::new();
    for stored in spans {
        let context = contexts
            .entry(Arc::as_ptr(&stored.context))
            .or_insert_with(|| read_context(&stored.context).ok());
        let Some(context) = context else { continue };
        let Ok(span) = read_span(&stored.span, context) else { continue };
        let placed = place(span.start, span.end, stored.envelope.receive_time).time;
        if query.range.contains(placed) && query.filter.matches(&span) {
            matches.push(TraceMatch {
                trace_id,
                newest_match: placed,
                matched_spans: 1,
                services: [Arc::clone(&span.resource.service)].into(),
                regions: [stored.envelope.region.clone()].into(),
            });
        }
    }
    matches
}

/// A row of the index; `None` for one whose names are not ours.
fn line(
    (newest, trace_id, region, entries): (i64, &[u8], &str, &[u8]),
) -> Result<Option<IndexLine>, StoreError> {
    let newest = UnixNanos(unsigned(newest));
    let (Ok(trace_id), Ok(region)) = (TraceId::try_from(trace_id), Region::new(region)) else {
        return Ok(None);
    };
    Ok(Some(IndexLine { trace_id, region, entries: decode(newest, entries)? }))
}
