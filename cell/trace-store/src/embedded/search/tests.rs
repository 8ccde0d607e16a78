//! A search that nobody waits for stops before its next block.

use std::cell::Cell;
use std::sync::Arc;

use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue, any_value::Value};
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::tonic::trace::v1 as otlp;
use prost::Message;
use proto::{BatchSource, LoggedBatch, SpanBatchBuilder};
use service_kit::ManualClock;
use trace_model::query::{Field, Filter, Pattern};
use trace_model::sampling_threshold::Threshold;
use trace_model::{LogRange, Region, SearchQuery, TenantId, TimeRange, TraceId, UnixNanos};

use super::super::commit::seal;
use super::super::config::EmbeddedStoreConfig;
use super::super::open::open;
use super::super::state::State;
use super::search;
use crate::StoreError;
use crate::disk::LocalDisk;

const NOW: UnixNanos = UnixNanos(1_790_000_400_000_000_000);

/// A request of so many traces of one span.
fn batch(first: u64, traces: u64) -> LoggedBatch {
    let service = KeyValue {
        key: "service.name".to_owned(),
        value: Some(AnyValue { value: Some(Value::StringValue("web".to_owned())) }),
        ..KeyValue::default()
    };
    let resource = Resource { attributes: vec![service], ..Resource::default() };
    let mut builder = SpanBatchBuilder::new();
    let resource = builder.add_resource(
        otlp::ResourceSpans { resource: Some(resource), ..Default::default() }.encode_to_vec(),
    );
    let scope = builder.add_scope(resource, otlp::ScopeSpans::default().encode_to_vec());
    let trace_id = |trace: u64| TraceId::from_bytes((u128::from(trace) + 1).to_be_bytes()).unwrap();
    let span = |trace: u64| {
        let span = otlp::Span {
            trace_id: trace_id(trace).as_bytes().to_vec(),
            span_id: vec![1; 8],
            name: format!("op-{trace}"),
            start_time_unix_nano: NOW.0 + trace,
            end_time_unix_nano: NOW.0 + trace + 1,
            ..otlp::Span::default()
        };
        span.encode_to_vec()
    };
    let spans: Vec<(TraceId, Vec<u8>)> =
        (first..first + traces).map(|trace| (trace_id(trace), span(trace))).collect();
    for (trace_id, span) in &spans {
        builder.add_span(*trace_id, Threshold::KEEP_ALL, scope, span);
    }
    let source = BatchSource {
        tenant: TenantId::default(),
        region: Region::new("eu").unwrap(),
        collector: "c".into(),
        receive_time: NOW,
        digest: first,
    };
    LoggedBatch {
        incarnation: 1,
        range: LogRange { partition: 0, first, next: first + traces },
        append_time: NOW,
        batch: Arc::new(builder.finish(source).unwrap()),
    }
}

/// Segments of ten blocks each; the last batch is not sealed.
fn filled(directory: &std::path::Path, segments: u64) -> State {
    let config = EmbeddedStoreConfig { block_spans: 4, ..EmbeddedStoreConfig::at(directory) };
    let clock = Arc::new(ManualClock::at(NOW));
    let state = open(config, clock, Arc::new(LocalDisk), None).unwrap();
    let write = |batch: &LoggedBatch| {
        let mut view = state.view();
        let view = &mut *view;
        view.pending.admit(batch, &mut view.accepted, std::time::Duration::ZERO);
    };
    for segment in 0..segments {
        write(&batch(segment * 40, 40));
        seal(&state).unwrap();
    }
    write(&batch(segments * 40, 40));
    state
}

/// A search that finds one trace and has to look at every span for it.
fn laborious() -> SearchQuery {
    SearchQuery {
        tenant: TenantId::default(),
        filter: Filter::Matches {
            field: Field::Operation,
            pattern: Pattern::new("^op-0$").unwrap(),
        },
        range: TimeRange::ALL,
        limit: 10,
        before: None,
    }
}

#[test]
fn an_abandoned_search_opens_no_further_block() {
    let directory = tempfile::tempdir().unwrap();
    let state = filled(directory.path(), 6);
    let query = laborious();
    let whole = search(&state, &query, &|| Ok(())).unwrap();
    assert_eq!((whole.matches.len(), whole.stats.blocks_opened), (1, 60));
    let opened = || state.metrics.searched_blocks.get();
    for blocks in [0, 1, 2, 30, 59] {
        let before = opened();
        let opened_when_abandoned = Cell::new(None);
        let go_on = || {
            if opened() - before < blocks {
                return Ok(());
            }
            opened_when_abandoned.set(Some(opened()));
            Err(StoreError::Busy)
        };
        assert!(search(&state, &query, &go_on).is_err());
        assert_eq!(opened_when_abandoned.get(), Some(opened()), "{blocks}");
        assert_eq!(opened() - before, blocks);
    }
}

#[test]
fn an_abandoned_search_looks_at_no_further_waiting_trace() {
    let directory = tempfile::tempdir().unwrap();
    let state = filled(directory.path(), 1);
    let asked = Cell::new(0);
    let go_on = || {
        asked.set(asked.get() + 1);
        if asked.get() < 7 { Ok(()) } else { Err(StoreError::Busy) }
    };
    assert!(search(&state, &laborious(), &go_on).is_err());
    assert_eq!((asked.get(), state.metrics.searched_blocks.get()), (7, 0));
}

#[test]
fn a_later_page_that_is_abandoned_stops_looking_its_traces_up() {
    let directory = tempfile::tempdir().unwrap();
    let state = filled(directory.path(), 6);
    let mut query = SearchQuery { filter: Filter::All, ..laborious() };
    let first = search(&state, &query, &|| Ok(())).unwrap();
    let last = first.matches.last().unwrap();
    query.before = Some((last.newest_match, last.trace_id));
    let asked = Cell::new(0);
    let count = || {
        asked.set(asked.get() + 1);
        Ok(())
    };
    let page = search(&state, &query, &count).unwrap();
    assert_eq!(page.matches.len(), 10);
    let all = asked.get();
    for most in 0..all {
        asked.set(0);
        let go_on = || {
            asked.set(asked.get() + 1);
            if asked.get() <= most { Ok(()) } else { Err(StoreError::Busy) }
        };
        assert!(search(&state, &query, &go_on).is_err(), "{most} of {all}");
        assert_eq!(asked.get(), most + 1);
    }
}
