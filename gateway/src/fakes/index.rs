//! An index that knows what it was told.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use trace_model::location::{Keep, RegionState, SummaryQuery};
use trace_model::{
    Contribution, Region, TenantId, TimeRange, TraceEntry, TraceId, UnixNanos, Watermark, WriterId,
};

use super::{INCARNATION, NOW, PUBLISHED, region};
use crate::port::{IndexError, IndexRegions, LookUp, MetadataIndex, SummaryPage};

pub(crate) fn contribution(region: &Region, trace_id: TraceId, version: u64) -> Contribution {
    Contribution {
        version,
        tenant: TenantId::default(),
        trace_id,
        writer: WriterId { region: region.clone(), incarnation: INCARNATION, partition: 0 },
        last_append: NOW,
        keep: Keep::Pending,
        is_erased: false,
        detail: None,
    }
}

/// What the replica shows of a region whose index is level and whole.
pub(crate) fn level(name: &str) -> RegionState {
    let region = region(name);
    let watermark = Watermark {
        region,
        incarnation: INCARNATION,
        as_of: NOW,
        next: BTreeMap::from([(0, PUBLISHED)]),
        holes: Vec::new(),
    };
    RegionState { watermark: Some(watermark), ..silent(name) }
}

/// What the replica shows of a region that it has no watermark of.
pub(crate) fn silent(name: &str) -> RegionState {
    RegionState {
        region: region(name),
        cursor: None,
        watermark: None,
        silent: Duration::ZERO,
        is_connected: true,
        lag_records: 0,
        lag: Duration::ZERO,
        retention: None,
        kept_for: Duration::MAX,
        forgotten: trace_model::Forgotten::default(),
        rows_without_detail: 0,
        is_refused: false,
    }
}

/// A region whose watermark is older than the traces of these tests.
pub(crate) fn behind(name: &str) -> RegionState {
    let mut state = level(name);
    if let Some(watermark) = &mut state.watermark {
        watermark.as_of = NOW.minus(1);
    }
    state
}

/// A region whose watermark has a hole.
pub(crate) fn holed(name: &str) -> RegionState {
    let mut state = level(name);
    if let Some(watermark) = &mut state.watermark {
        watermark.holes.push(TimeRange { start: UnixNanos(1), end: UnixNanos(2) });
    }
    state
}

/// An index.
#[derive(Debug, Default)]
pub(crate) struct FakeIndex {
    pub(crate) entries: Mutex<BTreeMap<TraceId, TraceEntry>>,
    pub(crate) states: Mutex<Vec<RegionState>>,
    pub(crate) is_down: Mutex<bool>,
    pub(crate) is_hanging: Mutex<bool>,
}

impl FakeIndex {
    pub(crate) fn with_states(states: Vec<RegionState>) -> Arc<Self> {
        Arc::new(Self { states: Mutex::new(states), ..Self::default() })
    }

    pub(crate) fn know(&self, contribution: Contribution) {
        let mut entries = self.entries.lock().unwrap();
        entries.entry(contribution.trace_id).or_default().join(contribution);
    }

    async fn check(&self) -> Result<(), IndexError> {
        let is_hanging = *self.is_hanging.lock().unwrap();
        if is_hanging {
            std::future::pending::<()>().await;
        }
        if *self.is_down.lock().unwrap() {
            return Err(IndexError::Unavailable("down".to_owned()));
        }
        Ok(())
    }
}

#[async_trait]
impl MetadataIndex for FakeIndex {
    async fn look_up(&self, _: &TenantId, ids: &[TraceId]) -> Result<LookUp, IndexError> {
        self.check().await?;
        let entries = self.entries.lock().unwrap();
        Ok(LookUp {
            entries: ids.iter().map(|id| entries.get(id).cloned().unwrap_or_default()).collect(),
            regions: self.states.lock().unwrap().clone(),
        })
    }

    async fn list_summaries(&self, query: &SummaryQuery) -> Result<SummaryPage, IndexError> {
        self.check().await?;
        let entries = self.entries.lock().unwrap();
        let named = entries.iter().filter(|(_, entry)| {
            let summary = entry.summary();
            query.service.as_ref().is_none_or(|name| summary.services.contains_key(name))
        });
        let traces = named.map(|(id, entry)| (*id, entry.clone()));
        Ok(SummaryPage {
            traces: traces.take(query.limit).collect(),
            regions: self.states.lock().unwrap().clone(),
            rows_scanned: 1,
        })
    }

    async fn regions(&self) -> Result<IndexRegions, IndexError> {
        self.check().await?;
        let regions = self.states.lock().unwrap().clone();
        Ok(IndexRegions { regions, traces_held: 1 })
    }
}
