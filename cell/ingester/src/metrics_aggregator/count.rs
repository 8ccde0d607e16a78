//! Counting the records of one trace: RED for each new span, edges for each parent that is known.
//!
//! An edge is counted when the services of parent and child differ, whatever their kinds (as
//! Jaeger's dependency job does), once for the child, with the child's status and duration. A parent
//! that is not known yet is waited for while the trace is open; it is never guessed.

use proto::{SpanBatch, SpanSlice, TraceSlice};
use trace_model::time::place;
use trace_model::{SpanKind, StatusCode, TenantId, UnixNanos};

use super::edges::{Callee, EdgeTable, bucket_of};
use super::open_trace::{OpenTrace, Waiting};
use super::operations::{OperationLimits, arrival_hour};
use super::red::{RedTable, Sample, SeriesKey, minute_of};
use super::services::{OTHER, Others, ServiceId};
use crate::metrics::AggregatorMetrics;

/// What is counted since the last flush, and what bounds it.
#[derive(Debug)]
pub(super) struct Counts {
    pub(super) red: RedTable,
    pub(super) edges: EdgeTable,
    pub(super) operations: OperationLimits,
    pub(super) others: Others,
    pub(super) metrics: AggregatorMetrics,
    pub(super) spans_per_trace_max: usize,
    /// Spans of the record that were not seen before, as called sides.
    fresh: Vec<(u64, Waiting)>,
    released: Vec<Waiting>,
}

/// One record: a trace's spans within a batch.
#[derive(Debug)]
pub(super) struct Record<'a> {
    pub(super) batch: &'a SpanBatch,
    pub(super) trace: &'a TraceSlice,
    /// The service of each of the batch's contexts.
    pub(super) services: &'a [ServiceId],
    /// The log's time.
    pub(super) now: UnixNanos,
    /// Whether it was counted before the last restart: it is remembered and not counted again.
    pub(super) is_counted: bool,
}

impl Record<'_> {
    fn tenant(&self) -> &TenantId {
        &self.batch.source().tenant
    }
}

impl Counts {
    pub(super) fn new(
        edges: EdgeTable,
        operations: OperationLimits,
        spans_per_trace_max: usize,
        metrics: AggregatorMetrics,
    ) -> Self {
        Self {
            red: RedTable::default(),
            edges,
            operations,
            others: Others::default(),
            metrics,
            spans_per_trace_max,
            fresh: Vec::new(),
            released: Vec::new(),
        }
    }

    /// Series and edges held.
    pub(super) fn rows(&self) -> usize {
        self.red.len().saturating_add(self.edges.len())
    }

    /// Takes a record: remember and count each new span → join. In two passes, so that the order of
    /// spans within a record does not matter.
    pub(super) fn take(&mut self, record: &Record<'_>, open: &mut OpenTrace) {
        self.fresh.clear();
        let (mut duplicates, mut forgotten) = (0_u64, 0_u64);
        for span in record.batch.spans_of(record.trace) {
            let Some(service) = record.services.get(span.scope as usize) else { continue };
            let span_id = u64::from_be_bytes(*span.span_id.as_bytes());
            let content = record.batch.key_of(span).content;
            if open.has(span_id, content) {
                duplicates = duplicates.saturating_add(1);
                continue;
            }
            if open.spans().len() < self.spans_per_trace_max {
                open.remember(span_id, content, *service, span.kind);
            } else {
                forgotten = forgotten.saturating_add(1);
            }
            self.count_span(record, span, *service);
            self.fresh.push((span_id, as_callee(record, span, *service)));
        }
        self.metrics.duplicate_spans.inc_by(duplicates);
        self.metrics.forgotten_spans.inc_by(forgotten);
        self.join(record, open);
    }

    fn count_span(&mut self, record: &Record<'_>, span: &SpanSlice, service: ServiceId) {
        let received = record.batch.source().receive_time;
        let placed = place(span.start, span.end, received).time;
        let minute = minute_of(placed);
        let hour = arrival_hour(record.now);
        let key = SeriesKey { service, minute, kind: span.kind, status: span.status, hour };
        let operation = record.batch.name_of(span);
        let sample = Sample {
            trace_id: record.trace.trace_id,
            duration_nanos: span.end.since(span.start),
            weight: record.trace.threshold.adjusted_count(),
        };
        if service.has_no_place() {
            if !record.is_counted {
                self.count_other(record, key, sample);
            }
            return;
        }
        if !record.is_counted && self.red.add(key, operation, sample) {
            return;
        }
        let is_admitted = self.operations.admit(hour, service, minute, operation);
        if record.is_counted {
            return;
        }
        if is_admitted {
            self.red.start(key, operation, sample);
            return;
        }
        self.metrics.overflow_operation_spans.inc();
        self.red.add_or_start(key, OTHER, sample);
    }

    /// Operations of services without a place are not told apart: what has to be remembered of them
    /// would grow with the names of tenants and services.
    fn count_other(&mut self, record: &Record<'_>, key: SeriesKey, sample: Sample) {
        let service = self.others.counted_as(key.service, record.tenant());
        self.red.add_or_start(SeriesKey { service, ..key }, OTHER, sample);
    }

    fn join(&mut self, record: &Record<'_>, open: &mut OpenTrace) {
        for (span_id, _) in &self.fresh {
            open.take_waiting(*span_id, &mut self.released);
        }
        let waiting_max = self.spans_per_trace_max;
        let mut unjoined = 0_u64;
        let fresh = self.fresh.drain(..).map(|(_, waiting)| waiting);
        for waiting in self.released.drain(..).chain(fresh) {
            if waiting.parent == 0 {
                continue;
            }
            match open.caller(&waiting) {
                Some(caller) if caller == waiting.callee.service || record.is_counted => {}
                Some(caller) => {
                    let [caller, service] = [caller, waiting.callee.service]
                        .map(|service| self.others.counted_as(service, record.tenant()));
                    let callee = Callee { service, ..waiting.callee };
                    self.edges.add(caller, &callee, record.trace.trace_id);
                }
                None if open.waiting_count() < waiting_max => open.wait(waiting),
                None => unjoined = unjoined.saturating_add(1),
            }
        }
        self.metrics.unjoined_spans.inc_by(unjoined);
    }
}

/// A span as the called side of a call. A parent of 0 says that there is none.
fn as_callee(record: &Record<'_>, span: &SpanSlice, service: ServiceId) -> Waiting {
    let own = u64::from_be_bytes(*span.span_id.as_bytes());
    let named = span.parent_span_id.map(|parent| u64::from_be_bytes(*parent.as_bytes()));
    let is_server = span.kind == SpanKind::Server as u8;
    let is_half = named.is_none() && is_server;
    let received = record.batch.source().receive_time;
    Waiting {
        parent: named.unwrap_or(if is_half { own } else { 0 }),
        is_half,
        callee: Callee {
            service,
            is_error: span.status == StatusCode::Error as u8,
            bucket: bucket_of(place(span.start, span.end, received).time),
            duration_nanos: span.end.since(span.start),
            weight: record.trace.threshold.adjusted_count(),
        },
    }
}
