//! The origin log in memory, for tests of those who use the port.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use proto::convert::index::{ServiceDictionary, contribution_to_wire, watermark_to_wire};
use proto::v1;
use proto::v1::origin_record::Record;
use trace_model::location::{Cursor, Epoch};
use trace_model::{Clock, Contribution, Forgotten, Region, Watermark};

use super::{ContributionLog, Lineage, LogHistory, RowKey};
use crate::epoch::{Entropy, epoch_after, may_outrun};
use crate::error::ReplicatorError;
use crate::feed::{Chunk, EndSignal, OriginFeed, Terms};

/// What outlives a [`MemoryOriginLog`]: opened again it is a restart.
#[derive(Debug)]
pub struct MemoryRecords {
    region: Region,
    state: Mutex<State>,
    end: EndSignal,
}

#[derive(Debug, Default)]
struct State {
    epoch: Option<Epoch>,
    sequence: u64,
    records: BTreeMap<Cursor, Record>,
    dictionaries: BTreeMap<Epoch, ServiceDictionary>,
    rows: HashMap<RowKey, Contribution>,
    watermark: Option<Watermark>,
    terms: Terms,
    lineage: Lineage,
    /// Epochs that the last handle began.
    epochs: Vec<Epoch>,
}

impl MemoryRecords {
    /// Nothing yet.
    #[must_use]
    pub fn new(region: Region) -> Self {
        Self { region, state: Mutex::default(), end: EndSignal::at(None) }
    }

    fn end(&self) -> Option<Cursor> {
        self.state().end()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The origin log in memory: see [`ContributionLog`]. Not durable; keeps all.
#[derive(Debug)]
pub struct MemoryOriginLog {
    records: Arc<MemoryRecords>,
    epoch: Mutex<Epoch>,
    clock: Arc<dyn Clock>,
    entropy: Entropy,
}

impl MemoryOriginLog {
    /// Opens a log as a new epoch, fencing former opens of the same records.
    #[must_use]
    pub fn open(records: Arc<MemoryRecords>, clock: Arc<dyn Clock>, entropy: Entropy) -> Self {
        let last = records.end();
        let epoch = epoch_after(last.map(|end| end.epoch), clock.now(), &entropy);
        records.state().open(epoch);
        records.end.set(Some(Cursor { epoch, sequence: 0 }));
        Self { records, epoch: Mutex::new(epoch), clock, entropy }
    }

    fn own_epoch(&self) -> MutexGuard<'_, Epoch> {
        self.epoch.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn open(&mut self, epoch: Epoch) {
        self.epochs.clear();
        self.begin(epoch);
    }

    fn begin(&mut self, epoch: Epoch) {
        if let Some(end) = self.end() {
            self.lineage.close(end);
        }
        self.epochs.push(epoch);
        self.epoch = Some(epoch);
        self.sequence = 0;
    }

    fn put(&mut self, epoch: Epoch, record: Record) {
        self.records.insert(Cursor { epoch, sequence: self.sequence }, record);
        self.sequence = self.sequence.saturating_add(1);
    }

    fn put_row(&mut self, epoch: Epoch, row: &Contribution) {
        let services = self.dictionaries.entry(epoch).or_default();
        let known = u32::try_from(services.len()).unwrap_or(u32::MAX);
        let wire = contribution_to_wire(row, &mut |name| services.intern(name).0);
        let names: Vec<_> = services.names_from(known).collect();
        for name in names {
            self.put(epoch, Record::ServiceName(name));
        }
        self.put(epoch, Record::Contribution(wire));
        self.rows.insert(RowKey::of(row), row.clone());
    }

    fn put_watermark(&mut self, epoch: Epoch, watermark: &Watermark) {
        self.put(epoch, Record::Watermark(watermark_to_wire(watermark)));
        self.watermark = Some(watermark.clone());
    }

    const fn end(&self) -> Option<Cursor> {
        match self.epoch {
            Some(epoch) => Some(Cursor { epoch, sequence: self.sequence }),
            None => None,
        }
    }
}

#[async_trait]
impl OriginFeed for MemoryOriginLog {
    fn origin(&self) -> &Region {
        &self.records.region
    }

    fn end(&self) -> Option<Cursor> {
        self.records.state().end()
    }

    async fn read_from(
        &self,
        from: Option<Cursor>,
        bytes_max: usize,
    ) -> Result<Chunk, ReplicatorError> {
        let state = self.records.state();
        let from = from.unwrap_or_default();
        let mut chunk = Chunk { first: from, next: from, records: Vec::new() };
        for (cursor, record) in state.records.range(from..).take(bytes_max.div_ceil(64).max(1)) {
            if chunk.records.is_empty() {
                chunk.first = *cursor;
            }
            if cursor.epoch != chunk.first.epoch {
                break;
            }
            let record = Some(record.clone());
            chunk.records.push(v1::OriginRecord { record, sequence: cursor.sequence });
            chunk.next = Cursor { sequence: cursor.sequence.saturating_add(1), ..*cursor };
        }
        if chunk.records.is_empty() {
            chunk.next = state.end().map_or(from, |end| end.max(from));
            chunk.first = chunk.next;
        }
        Ok(chunk)
    }

    async fn wait_beyond(&self, from: Option<Cursor>, at_most: Duration) {
        self.records.end.wait_beyond(from, at_most).await;
    }

    fn names(&self, epoch: Epoch) -> Vec<v1::ServiceName> {
        let state = self.records.state();
        state.dictionaries.get(&epoch).into_iter().flat_map(|held| held.names_from(0)).collect()
    }

    fn terms(&self) -> Terms {
        self.records.state().terms
    }

    async fn outrun(&self, seen: Cursor) -> Result<(), ReplicatorError> {
        if self.history().is_news(seen) {
            self.note_missing(seen).await?;
        }
        let mut own = self.own_epoch();
        let mut state = self.records.state();
        if *own >= seen.epoch {
            return Ok(());
        }
        let now = self.clock.now();
        if !may_outrun(seen.epoch, now) {
            return Err(ReplicatorError::FarCursor(seen.epoch));
        }
        let epoch = epoch_after(Some(seen.epoch), now, &self.entropy);
        state.begin(epoch);
        *own = epoch;
        let rows: Vec<_> = state.rows.values().cloned().collect();
        for row in &rows {
            state.put_row(epoch, row);
        }
        if let Some(watermark) = state.watermark.clone() {
            state.put_watermark(epoch, &watermark);
        }
        self.records.end.set(state.end());
        Ok(())
    }
}

#[async_trait]
impl ContributionLog for MemoryOriginLog {
    fn epoch(&self) -> Epoch {
        *self.own_epoch()
    }

    async fn append(
        &self,
        contributions: &[Contribution],
        watermark: Option<&Watermark>,
    ) -> Result<Option<Cursor>, ReplicatorError> {
        let own = self.own_epoch();
        let mut state = self.records.state();
        if state.epoch != Some(*own) {
            return Err(ReplicatorError::Fenced);
        }
        for row in contributions {
            state.put_row(*own, row);
        }
        if let Some(watermark) = watermark {
            state.put_watermark(*own, watermark);
        }
        self.records.end.set(state.end());
        Ok(state.end())
    }

    async fn own_rows(
        &self,
        keys: &[RowKey],
    ) -> Result<Vec<Option<Contribution>>, ReplicatorError> {
        let state = self.records.state();
        Ok(keys.iter().map(|key| state.rows.get(key).cloned()).collect())
    }

    fn published(&self) -> Option<Watermark> {
        self.records.state().watermark.clone()
    }

    fn history(&self) -> LogHistory {
        let state = self.records.state();
        LogHistory { lineage: state.lineage.clone(), epochs: state.epochs.clone() }
    }

    async fn note_missing(&self, cursor: Cursor) -> Result<(), ReplicatorError> {
        let lineage = &mut self.records.state().lineage;
        lineage.missing = lineage.missing.max(Some(cursor));
        Ok(())
    }

    async fn note_mended(&self, until: Option<Cursor>) -> Result<(), ReplicatorError> {
        self.records.state().lineage.note_mended(until);
        Ok(())
    }

    async fn forget(&self, forgotten: Forgotten) -> Result<(), ReplicatorError> {
        let mut state = self.records.state();
        state.terms.forgotten = state.terms.forgotten.join(forgotten);
        Ok(())
    }
}
