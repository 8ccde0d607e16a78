//! The records of one origin as a replica keeps them: what comes in is judged, written, joined, in
//! this order.

use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use proto::convert::index::{contribution_from_wire, watermark_from_wire};
use proto::v1;
use proto::v1::origin_record::Record;
use rustc_hash::FxHashMap;
use trace_model::location::Epoch;
use trace_model::{Contribution, Forgotten, Region, TraceId, UnixNanos, Watermark, WriterId};

use crate::error::ReplicatorError;
use crate::feed::{Chunk, EndSignal, Terms};
use crate::index::hot::{HotIndex, LetGo};
use crate::store::{Framer, JudgeRows, Judged, Loaded, Location, RecordStore};

/// No origin keeps its rows for a shorter time: one that says so is not believed.
const RETENTION_MIN: Duration = Duration::from_secs(3_600);
/// Rows joined under one hold of the index's lock: readers wait no longer than this takes.
const JOIN_ROWS: usize = 256;

/// Records of an origin on disk, and the index that they are joined into.
#[derive(Debug)]
pub(super) struct Copy {
    pub(super) store: RecordStore,
    pub(super) index: Arc<RwLock<HotIndex>>,
    pub(super) end: EndSignal,
    /// This replica keeps no row for longer, whatever the origin says.
    pub(super) kept_at_most: Duration,
}

/// What the writer of a copy remembers.
#[derive(Debug, Default)]
pub(super) struct Writer {
    /// Service names of each epoch that are in the files.
    pub(super) names_saved: FxHashMap<Epoch, u32>,
    pub(super) is_dirty: bool,
}

/// A frame's records, checked.
#[derive(Debug, Default)]
pub(super) struct Checked {
    pub(super) contributions: Vec<Contribution>,
    watermark: Option<Watermark>,
    pub(super) newest: UnixNanos,
}

/// Joins a stored record while the copy is opened. What has expired goes when all are joined: of a
/// row the last version decides.
pub(super) fn load(
    loaded: Loaded<'_>,
    region: &Region,
    index: &RwLock<HotIndex>,
) -> Result<(), ReplicatorError> {
    let Record::Contribution(row) = loaded.record else { return Ok(()) };
    let row = contribution_from_wire(row, region, loaded.services)?;
    index.write().unwrap_or_else(PoisonError::into_inner).join(&row);
    Ok(())
}

impl Copy {
    /// How long rows are kept after their last append, and what lets them go then: the origin's own
    /// retention where it is known and not longer than this replica keeps anything.
    pub(super) fn keeping(&self) -> (Duration, LetGo) {
        match self.store.terms().retention {
            Some(retention) if retention <= self.kept_at_most => {
                (retention.max(RETENTION_MIN), LetGo::Expired)
            }
            Some(_) | None => (self.kept_at_most, LetGo::Evicted),
        }
    }

    /// Which rows are missing, here or from what was given.
    pub(super) fn forgotten(&self) -> Forgotten {
        let index = self.index.read().unwrap_or_else(PoisonError::into_inner);
        index.forgotten(self.store.region()).join(self.store.terms().forgotten)
    }

    /// Rows of the origin that give the route alone.
    pub(super) fn rows_without_detail(&self) -> u64 {
        let index = self.index.read().unwrap_or_else(PoisonError::into_inner);
        index.rows_without_detail(self.store.region())
    }

    /// Whether a sender's terms say what is not noted yet.
    pub(super) fn has_news(&self, terms: &Terms) -> bool {
        let noted = self.store.terms();
        let news = terms.news_for(self.held_until());
        let is_other_retention = terms.retention.is_some() && terms.retention != noted.retention;
        is_other_retention || noted.forgotten.join(news) != noted.forgotten
    }

    /// Up to when the copy is whole, but for what it has noted.
    fn held_until(&self) -> Option<UnixNanos> {
        self.store.watermark().map(|watermark| watermark.as_of)
    }

    /// Notes a sender's terms, durably before what it gives is taken in.
    pub(super) fn take_terms(&self, terms: &Terms) -> Result<(), ReplicatorError> {
        let news = terms.news_for(self.held_until());
        self.store.amend_sheet(|sheet| {
            sheet.terms.retention = terms.retention.or(sheet.terms.retention);
            sheet.terms.forgotten = sheet.terms.forgotten.join(news);
        })?;
        let mut index = self.index.write().unwrap_or_else(PoisonError::into_inner);
        index.forget(self.store.region(), news);
        Ok(())
    }

    /// Checks every record of a frame before any is kept.
    fn check(&self, chunk: &Chunk) -> Result<Checked, ReplicatorError> {
        let region = self.store.region();
        let mut checked = Checked::default();
        self.store.with_services(chunk.first.epoch, |services| {
            for record in &chunk.records {
                match &record.record {
                    Some(Record::ServiceName(name)) => {
                        services.define(name.id, &name.name)?;
                    }
                    Some(Record::Contribution(row)) => {
                        let row = contribution_from_wire(row.clone(), region, services)?;
                        checked.newest = checked.newest.max(row.last_append);
                        checked.contributions.push(row);
                    }
                    Some(Record::Watermark(mark)) => {
                        let mark = watermark_from_wire(mark, region)?;
                        checked.newest = checked.newest.max(mark.as_of);
                        checked.watermark = Some(mark);
                    }
                    None => {}
                }
            }
            Ok(checked)
        })
    }

    /// Writes a frame's records: the epoch's unsaved names first, at the place of the frame.
    fn write(&self, writer: &mut Writer, chunk: Chunk) -> Result<(), ReplicatorError> {
        let epoch = chunk.first.epoch;
        let saved = writer.names_saved.get(&epoch).copied().unwrap_or(0);
        let mut framer = Framer::default();
        let names = self.store.names_from(epoch, saved);
        let names_count = saved.saturating_add(u32::try_from(names.len()).unwrap_or(u32::MAX));
        for name in names {
            framer.put(chunk.first.sequence, Record::ServiceName(name))?;
        }
        for v1::OriginRecord { record, sequence } in chunk.records {
            match record {
                Some(record @ (Record::Contribution(_) | Record::Watermark(_))) => {
                    framer.put(sequence, record)?;
                }
                Some(Record::ServiceName(_)) | None => {}
            }
        }
        if framer.batch.is_empty() {
            return Ok(());
        }
        self.store.append(chunk.first, &framer.batch, false)?;
        writer.is_dirty = true;
        writer.names_saved.retain(|held, _| *held >= epoch);
        writer.names_saved.insert(epoch, names_count);
        Ok(())
    }

    fn join(&self, contributions: &[Contribution]) {
        for rows in contributions.chunks(JOIN_ROWS) {
            let mut index = self.index.write().unwrap_or_else(PoisonError::into_inner);
            for row in rows {
                index.join(row);
            }
        }
    }

    /// Takes a frame's records in.
    pub(super) fn take(
        &self,
        writer: &mut Writer,
        chunk: Chunk,
    ) -> Result<Checked, ReplicatorError> {
        let mut checked = self.check(&chunk)?;
        if chunk.next == chunk.first {
            // Names ahead of their rows: they are written with those.
            return Ok(checked);
        }
        if let Some(watermark) = &checked.watermark {
            self.store.note_expired_holes(watermark)?;
        }
        self.write(writer, chunk)?;
        self.join(&checked.contributions);
        if let Some(watermark) = checked.watermark.take() {
            self.store.note_watermark(watermark);
        }
        self.end.set(self.store.end());
        Ok(checked)
    }
}

/// A row goes when the index has a later version that the newest watermark covers: then every
/// reader meets the later one before that watermark.
pub(super) struct Judge<'a> {
    pub(super) copy: &'a Copy,
    pub(super) watermark: Option<Watermark>,
}

impl JudgeRows for Judge<'_> {
    fn judge(&mut self, _location: Location, row: &v1::Contribution, is_expired: bool) -> Judged {
        let Ok(trace_id) = TraceId::try_from(&*row.trace_id) else { return Judged::Stays };
        let writer = WriterId {
            region: self.copy.store.region().clone(),
            incarnation: row.incarnation,
            partition: row.partition,
        };
        let index = self.copy.index.read().unwrap_or_else(PoisonError::into_inner);
        let latest = index.version_of(&row.tenant, trace_id, &writer);
        if is_expired {
            let is_superseded = latest.is_some_and(|latest| latest > row.version);
            return if is_superseded { Judged::Superseded } else { Judged::Gone };
        }
        let Some(latest) = latest else { return Judged::Stays };
        let covered = self.watermark.as_ref().map_or(0, |mark| {
            let next = mark.next.get(&row.partition).copied().unwrap_or(0);
            if mark.incarnation > row.incarnation { u64::MAX } else { next }
        });
        let is_needed = latest <= row.version || latest > covered;
        if is_needed { Judged::Stays } else { Judged::Superseded }
    }

    fn lost(&mut self, _segment: u32) {}

    fn moved(&mut self, _from: Location, _to: Location) {}
}
