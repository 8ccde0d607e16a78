//! The log itself: its files, where the last version of each row lies in them, and how an append is
//! framed. One caller appends at a time.

use std::sync::{Mutex, MutexGuard, PoisonError};

use proto::convert::index::{contribution_to_wire, watermark_to_wire};
use proto::v1;
use proto::v1::origin_record::Record;
use trace_model::location::{Cursor, Epoch};
use trace_model::{Contribution, Watermark};

use crate::error::ReplicatorError;
use crate::feed::EndSignal;
use crate::origin_log::row_map::{Fingerprint, RowMap};
use crate::origin_log::{Lineage, RowKey};
use crate::store::{Framer, Loaded, Location, RecordStore};

/// Epochs of a handle that are remembered: more come only when peers outrun it again and again.
const EPOCHS_MAX: usize = 64;

#[derive(Debug)]
pub(super) struct Inner {
    pub(super) store: RecordStore,
    pub(super) rows: Mutex<Rows>,
    pub(super) end: EndSignal,
    /// Epochs that this handle began: the newest of them.
    pub(super) epochs: Mutex<Vec<Epoch>>,
}

#[derive(Debug, Default)]
pub(super) struct Rows {
    pub(super) map: RowMap,
    /// Where the newest watermark lies: rows that were superseded behind it are still needed by
    /// readers that have it before them.
    pub(super) watermark: Option<Location>,
}

#[derive(Debug)]
pub(super) struct Writer {
    pub(super) epoch: Epoch,
    pub(super) sequence: u64,
    /// Service names of the epoch that are in the files.
    pub(super) names_saved: u32,
}

impl Rows {
    pub(super) fn load(&mut self, loaded: &Loaded<'_>) {
        match &loaded.record {
            Record::Contribution(row) => {
                self.map.insert(fingerprint(row), loaded.location);
            }
            Record::Watermark(_) => self.watermark = Some(loaded.location),
            Record::ServiceName(_) => {}
        }
    }
}

pub(super) fn fingerprint(row: &v1::Contribution) -> Fingerprint {
    Fingerprint::of_parts(&row.tenant, &row.trace_id, row.incarnation, row.partition)
}

impl Inner {
    pub(super) fn epochs(&self) -> Vec<Epoch> {
        self.epochs.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Notes an epoch. A reader of one that is not remembered is believed by its end.
    pub(super) fn note_epoch(&self, epoch: Epoch) {
        let mut epochs = self.epochs.lock().unwrap_or_else(PoisonError::into_inner);
        if epochs.len() >= EPOCHS_MAX {
            epochs.remove(0);
        }
        epochs.push(epoch);
    }

    /// Changes durably what the log remembers of itself.
    pub(super) fn amend_lineage(
        &self,
        change: impl FnOnce(&mut Lineage),
    ) -> Result<(), ReplicatorError> {
        self.store.amend_sheet(|sheet| change(sheet.lineage.get_or_insert_default()))
    }

    pub(super) fn rows(&self) -> MutexGuard<'_, Rows> {
        self.rows.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn locations(&self, keys: &[RowKey]) -> Vec<Option<Location>> {
        let rows = self.rows();
        keys.iter().map(|key| rows.map.get(Fingerprint::of(key))).collect()
    }

    /// The row that lies at a place. Where that cannot be read, or its file is gone, it is what is
    /// left of it, and the place is not read again: in a file that is written anew another record
    /// may lie there.
    pub(super) fn row_at(
        &self,
        key: &RowKey,
        location: Location,
    ) -> Result<Option<Contribution>, ReplicatorError> {
        match self.store.contribution_at(location) {
            Ok(Some(row)) => Ok(Some(row).filter(|row| RowKey::of(row) == *key)),
            // Also a whole record that no peer would take: it would be met at every try again.
            Ok(None) | Err(ReplicatorError::Record | ReplicatorError::Message(_)) => {
                self.rows().map.lose(Fingerprint::of(key));
                Ok(Some(key.without_detail(self.store.region())))
            }
            Err(error) => Err(error),
        }
    }

    /// Frames and writes; on success every reader sees it. The sequence advances in any case.
    pub(super) fn append(
        &self,
        writer: &mut Writer,
        contributions: &[Contribution],
        watermark: Option<&Watermark>,
    ) -> Result<Option<Cursor>, ReplicatorError> {
        let epoch = writer.epoch;
        let first = Cursor { epoch, sequence: writer.sequence };
        let wire = self.to_wire(writer, contributions);
        let mut framer = Framer::default();
        let mut put = |record: Record| {
            let sequence = writer.sequence;
            writer.sequence = sequence.saturating_add(1);
            framer.put(sequence, record)
        };
        for name in self.store.names_from(epoch, writer.names_saved) {
            put(Record::ServiceName(name))?;
        }
        let mut places = Vec::with_capacity(wire.len());
        for row in wire {
            let fingerprint = fingerprint(&row);
            places.push((fingerprint, put(Record::Contribution(row))?));
        }
        // What became unreadable since the publisher asked is not vouched for.
        let watermark = watermark.map(|mark| self.store.with_damage(mark.clone()));
        let mark = watermark.as_ref().map(|mark| put(Record::Watermark(watermark_to_wire(mark))));
        let mark = mark.transpose()?;
        if framer.batch.is_empty() {
            return Ok(self.store.end());
        }
        let base = self.store.append(first, &framer.batch, true)?;
        self.note(base, &places, mark);
        if let Some(watermark) = watermark {
            self.store.note_watermark(watermark);
        }
        let names = self.store.with_services(epoch, |services| services.len());
        writer.names_saved = u32::try_from(names).unwrap_or(u32::MAX);
        let end = self.store.end();
        self.end.set(end);
        Ok(end)
    }

    fn to_wire(&self, writer: &Writer, contributions: &[Contribution]) -> Vec<v1::Contribution> {
        self.store.with_services(writer.epoch, |services| {
            let rows = contributions.iter();
            let rows =
                rows.map(|row| contribution_to_wire(row, &mut |name| services.intern(name).0));
            rows.collect()
        })
    }

    fn note(&self, base: Location, places: &[(Fingerprint, usize)], mark: Option<usize>) {
        let at = |offset: usize| Location {
            segment: base.segment,
            offset: base.offset.saturating_add(u32::try_from(offset).unwrap_or(u32::MAX)),
        };
        let mut rows = self.rows();
        for (fingerprint, offset) in places {
            rows.map.insert(*fingerprint, at(*offset));
        }
        if let Some(offset) = mark {
            rows.watermark = Some(at(offset));
        }
    }
}
