//! Calls between services of the records since the last flush.

use std::collections::VecDeque;

use proto::DurationSketch;
use rustc_hash::FxHashMap;
use trace_model::{TraceId, UnixNanos};
use trace_store::{EdgeKey, EdgeRow};

use super::services::{Names, ServiceId};

const BUCKET_NANOS: u64 = 600 * 1_000_000_000;

/// 10-minute buckets since the epoch.
pub(super) fn bucket_of(time: UnixNanos) -> u32 {
    u32::try_from(time.0 / BUCKET_NANOS).unwrap_or(u32::MAX)
}

/// The called side of a call: what of a span is needed to count it when its parent comes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Callee {
    pub(super) service: ServiceId,
    pub(super) is_error: bool,
    pub(super) bucket: u32,
    pub(super) duration_nanos: u64,
    /// How many calls it stands for.
    pub(super) weight: f64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Edge {
    caller: ServiceId,
    callee: ServiceId,
    is_error: bool,
    bucket: u32,
}

#[derive(Debug, Default)]
struct Calls {
    seen: u64,
    estimated: f64,
    durations: DurationSketch,
    /// Distinct, newest last.
    traces: VecDeque<TraceId>,
}

/// Edges since the last flush.
#[derive(Debug)]
pub(super) struct EdgeTable {
    edges: FxHashMap<Edge, Calls>,
    traces_max: usize,
}

impl EdgeTable {
    pub(super) fn new(traces_max: usize) -> Self {
        Self { edges: FxHashMap::default(), traces_max: traces_max.max(1) }
    }

    /// Counts a call. The caller of this function has made sure that the services differ, also where
    /// both are counted under one name.
    pub(super) fn add(&mut self, caller: ServiceId, callee: &Callee, trace_id: TraceId) {
        let Callee { service, is_error, bucket, duration_nanos, weight } = *callee;
        let edge = Edge { caller, callee: service, is_error, bucket };
        let calls = self.edges.entry(edge).or_default();
        calls.seen = calls.seen.saturating_add(1);
        calls.estimated += weight;
        calls.durations.add(duration_nanos);
        if calls.traces.back() == Some(&trace_id) {
            return;
        }
        // By last sight, so that cutting the newest of two flushes gives the newest of both.
        if let Some(place) = calls.traces.iter().position(|held| *held == trace_id) {
            calls.traces.remove(place);
        } else if calls.traces.len() >= self.traces_max {
            calls.traces.pop_front();
        }
        calls.traces.push_back(trace_id);
    }

    pub(super) fn len(&self) -> usize {
        self.edges.len()
    }

    /// Takes all edges out.
    pub(super) fn drain(&mut self, names: Names<'_>) -> Vec<(EdgeKey, EdgeRow)> {
        let edges = self.edges.drain();
        edges.filter_map(|(edge, calls)| Some((full_key(&edge, names)?, row(calls)))).collect()
    }
}

fn full_key(edge: &Edge, names: Names<'_>) -> Option<EdgeKey> {
    let ((_, caller), (tenant, callee)) = (names.of(edge.caller)?, names.of(edge.callee)?);
    Some(EdgeKey {
        tenant: tenant.clone(),
        bucket: UnixNanos(u64::from(edge.bucket).saturating_mul(BUCKET_NANOS)),
        caller,
        callee,
        is_error: edge.is_error,
    })
}

/// The row, its traces newest first.
fn row(calls: Calls) -> EdgeRow {
    EdgeRow {
        seen: calls.seen,
        estimated: calls.estimated,
        durations: calls.durations,
        traces: calls.traces.into_iter().rev().collect(),
    }
}
