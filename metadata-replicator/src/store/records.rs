//! The records of one origin: segments, the service names of each epoch, the newest watermark, and
//! what had to be set aside.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use prost::Message as _;
use proto::convert::index::{ServiceDictionary, contribution_from_wire, watermark_to_wire};
use proto::v1;
use proto::v1::origin_record::Record;
use trace_model::location::{Cursor, Epoch};
use trace_model::{Contribution, Forgotten, Region, UnixNanos, Watermark};

use super::batch::Batch;
use super::chunk::Damage;
use super::disk::Disk;
use super::files::{plausible, take};
use super::framer::Framer;
use super::gaps::Gaps;
use super::loading::{Loading, Words};
use super::roll::Roll;
use super::row_sieve::RowSieve;
use super::segment::Location;
use super::segments::{Met, Segments};
use super::terms::Sheet;
use crate::error::ReplicatorError;
use crate::feed::{Chunk, Terms};
use crate::index::hot::LetGo;
use crate::origin_log::Lineage;

/// Where a store is and what it holds.
#[derive(Clone, Debug)]
pub(crate) struct StoreConfig {
    pub(crate) directory: PathBuf,
    /// The region whose log it is.
    pub(crate) region: Region,
    /// A file is closed when it reaches this size.
    pub(crate) segment_bytes_max: u64,
    /// Behind the last good record none is missing that was appended later than this. A copy is
    /// given again what it lacks there.
    pub(crate) latest: UnixNanos,
    /// Where the files lie.
    pub(crate) disk: Arc<dyn Disk>,
}

/// A record met while a store is opened.
#[derive(Debug)]
pub(crate) struct Loaded<'a> {
    pub(crate) location: Location,
    pub(crate) record: Record,
    pub(crate) services: &'a ServiceDictionary,
}

/// What becomes of a stored row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Judged {
    /// It is still needed.
    Stays,
    /// A later version stands for it.
    Superseded,
    /// It has passed its time, and nothing stands for it.
    Gone,
}

/// Who knows which rows of a store are still needed.
pub(crate) trait JudgeRows {
    /// What becomes of the row at the location. One that has expired does not stay.
    fn judge(&mut self, location: Location, row: &v1::Contribution, is_expired: bool) -> Judged;

    /// Records of a file were damaged and are not in it any more: told before those that were judged
    /// to stay are moved.
    fn lost(&mut self, segment: u32);

    /// A record went to another place.
    fn moved(&mut self, from: Location, to: Location);
}

/// The records of one origin. One caller appends or maintains at a time; reads go beside.
#[derive(Debug)]
pub(crate) struct RecordStore {
    pub(super) config: StoreConfig,
    pub(super) segments: Segments,
    words: Mutex<Words>,
    sheet: Mutex<Sheet>,
}

impl RecordStore {
    /// Opens a store and shows every record that it holds.
    pub(crate) fn open(
        config: StoreConfig,
        visit: &mut dyn FnMut(Loaded<'_>) -> Result<(), ReplicatorError>,
    ) -> Result<Self, ReplicatorError> {
        // First of all: a process that is ending writes the list and the terms while it has the directory.
        let lock = take(&config.directory)?;
        let (roll, sheet) = (Roll::load(&config.directory)?, Sheet::load(&config.directory)?);
        let (roll, sheet) = believed(roll, sheet, Sheet::is_there(&config.directory));
        let latest = plausible(config.latest, &config.directory);
        let mut loading = Loading::of(&config.region, latest, visit);
        let place = (&*config.directory, lock, config.segment_bytes_max);
        let mut meet = |met: Met<'_>| loading.meet(met);
        let segments = Segments::open(place, Arc::clone(&config.disk), &roll, &mut meet)?;
        let (words, newest) = loading.finish();
        // Where what was noted is damaged, any row that was ever here may have been let go.
        let everything = || Sheet {
            terms: Terms { forgotten: LetGo::Evicted.mark(newest), ..Terms::default() },
            ..Sheet::default()
        };
        let last = words.holes.iter().map(|hole| hole.end).max();
        let sheet = Mutex::new(sheet.unwrap_or_else(everything));
        let store = Self { segments, words: Mutex::new(words), sheet, config };
        if let Some(end) = last {
            store.forget(LetGo::Evicted.mark(end.minus(1)))?;
        }
        store.segments.save_roll()?;
        store.amend_sheet(|sheet| sheet.has_roll = true)?;
        Ok(store)
    }

    fn sheet(&self) -> MutexGuard<'_, Sheet> {
        self.sheet.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// On what terms the records are kept.
    pub(crate) fn terms(&self) -> Terms {
        self.sheet().terms
    }

    /// What the log remembers of where it comes from.
    pub(crate) fn lineage(&self) -> Option<Lineage> {
        self.sheet().lineage.clone()
    }

    /// The end of each epoch that has records, ascending.
    pub(crate) fn epoch_ends(&self) -> Vec<Cursor> {
        self.segments.epoch_ends()
    }

    /// Changes what is noted, durably where it is another thing than before.
    pub(crate) fn amend_sheet(
        &self,
        change: impl FnOnce(&mut Sheet),
    ) -> Result<(), ReplicatorError> {
        let mut held = self.sheet();
        let mut sheet = held.clone();
        change(&mut sheet);
        if sheet != *held {
            sheet.save(&self.config.directory)?;
            *held = sheet;
        }
        Ok(())
    }

    /// Notes that rows may be missing.
    pub(crate) fn forget(&self, forgotten: Forgotten) -> Result<(), ReplicatorError> {
        self.amend_sheet(|sheet| {
            sheet.terms.forgotten = sheet.terms.forgotten.join(forgotten);
        })
    }

    pub(super) fn words(&self) -> MutexGuard<'_, Words> {
        self.words.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) const fn region(&self) -> &Region {
        &self.config.region
    }

    /// The cursor after the last record.
    pub(crate) fn end(&self) -> Option<Cursor> {
        self.segments.end()
    }

    /// Bytes on disk.
    pub(crate) fn bytes(&self) -> u64 {
        self.segments.bytes()
    }

    /// The service names of an epoch from an id on.
    pub(crate) fn names_from(&self, epoch: Epoch, id: u32) -> Vec<v1::ServiceName> {
        let words = self.words();
        words.dictionaries.get(&epoch).into_iter().flat_map(|held| held.names_from(id)).collect()
    }

    /// Changes the service names of an epoch.
    pub(crate) fn with_services<T>(
        &self,
        epoch: Epoch,
        change: impl FnOnce(&mut ServiceDictionary) -> T,
    ) -> T {
        change(self.words().dictionaries.entry(epoch).or_default())
    }

    /// Notes a watermark that was appended.
    pub(crate) fn note_watermark(&self, watermark: Watermark) {
        self.words().watermark = Some(watermark);
    }

    /// Starts a new file for an epoch.
    pub(crate) fn begin(&self, epoch: Epoch) -> Result<(), ReplicatorError> {
        self.segments.begin(Cursor { epoch, sequence: 0 }, &[])
    }

    /// Appends framed records. A new file begins with the names of its epoch, so that damage to a
    /// name costs rows of its own file alone.
    pub(crate) fn append(
        &self,
        first: Cursor,
        batch: &Batch,
        is_synced: bool,
    ) -> Result<Location, ReplicatorError> {
        let names = |at: Cursor| {
            let mut framer = Framer::default();
            for name in self.names_from(at.epoch, 0) {
                framer.put(at.sequence, Record::ServiceName(name))?;
            }
            Ok(framer.batch)
        };
        self.segments.append(first, batch, &names, is_synced)
    }

    /// Waits until what was appended is on disk.
    pub(crate) fn sync(&self) -> Result<(), ReplicatorError> {
        self.segments.sync()
    }

    /// Records from a cursor on.
    pub(crate) fn read(
        &self,
        from: Option<Cursor>,
        bytes_max: usize,
    ) -> Result<Chunk, ReplicatorError> {
        let raw = self.segments.read(from, bytes_max);
        self.note_lost()?;
        let raw = raw?;
        let mut holes: Vec<_> = raw.damage.iter().map(|damage| self.hole_of(damage)).collect();
        let mut records = Vec::with_capacity(raw.records.len());
        let words = self.words();
        let services = words.dictionaries.get(&raw.first.epoch);
        for (place, (sequence, payload)) in raw.records.iter().enumerate() {
            // Set aside like one that is damaged: nobody behind it waits for it.
            let Ok(record) = record_of(payload) else {
                holes.push(self.hole_of(&raw.damage_at(place)));
                continue;
            };
            // Names that are damaged take their rows with them, as was met when they were opened.
            if let Record::Contribution(row) = &record
                && !services.map_or(row.detail.is_none(), |services| services.knows(row))
            {
                continue;
            }
            records.push(v1::OriginRecord { record: Some(record), sequence: *sequence });
        }
        drop(words);
        self.note_damage(&holes)?;
        Ok(Chunk { first: raw.first, next: raw.next, records })
    }

    /// The contribution at a location; `None` where it is gone.
    pub(crate) fn contribution_at(
        &self,
        location: Location,
    ) -> Result<Option<Contribution>, ReplicatorError> {
        let found = self.segments.payload(location);
        self.note_lost()?;
        if matches!(found, Err(ReplicatorError::Record)) {
            let damage = Damage { neighbours: (None, None), segment: location.segment };
            self.note_damage(&[self.hole_of(&damage)])?;
        }
        let Some((epoch, payload)) = found? else { return Ok(None) };
        let Record::Contribution(wire) = record_of(&payload)? else {
            return Err(ReplicatorError::Record);
        };
        let words = self.words();
        let services = words.dictionaries.get(&epoch).ok_or(ReplicatorError::Record)?;
        Ok(Some(contribution_from_wire(wire, self.region(), services)?))
    }

    /// Takes superseded rows, and those whose append lies before the horizon, out of the files before
    /// the newest one, each file once when it is closed and again when all in it has expired.
    /// `judge` says which rows stay; then it is told where they went. Service names stay while their
    /// epoch has anything else.
    pub(crate) fn maintain(
        &self,
        (horizon, why): (UnixNanos, LetGo),
        judge: &mut dyn JudgeRows,
    ) -> Result<(), ReplicatorError> {
        let newest_watermark = self.words().watermark.as_ref().map(watermark_to_wire);
        let horizon = horizon.0;
        let mut sieve = RowSieve {
            store: self,
            judge,
            newest_watermark,
            horizon,
            why,
            gone: None,
            gaps: Gaps::default(),
            is_damaged: false,
        };
        let mut earlier = UnixNanos(0);
        for segment in self.segments.older() {
            let last = UnixNanos(segment.stamp);
            (sieve.gaps, sieve.is_damaged) = (Gaps::behind(earlier, last), false);
            earlier = earlier.max(last);
            let is_expired = segment.stamp > 0 && segment.stamp < horizon;
            if segment.is_compacted && !is_expired {
                continue;
            }
            let moves = self.segments.compact(segment.first, &mut sieve);
            self.note_lost()?;
            let moves = moves?;
            if sieve.is_damaged {
                sieve.judge.lost(segment.number);
            }
            for (from, to) in moves {
                sieve.judge.moved(from, to);
            }
        }
        self.let_holes_go(UnixNanos(horizon), why)?;
        self.remove_empty_epochs()
    }

    fn remove_empty_epochs(&self) -> Result<(), ReplicatorError> {
        let current = self.end().map(|end| end.epoch);
        let older = self.segments.older();
        let holds_rows = |epoch: Epoch| {
            let mut older = older.iter().filter(|segment| segment.first.epoch == epoch);
            older.any(|segment| segment.stamp > 0 || segment.is_doubted)
        };
        let mut gone = Vec::new();
        for segment in &older {
            let epoch = segment.first.epoch;
            let is_over = Some(epoch) != current && !holds_rows(epoch);
            let has_names_alone = segment.is_compacted && segment.stamp == 0;
            if is_over || (has_names_alone && segment.is_repeated) {
                gone.push(segment.first);
            }
            if is_over {
                self.words().dictionaries.remove(&epoch);
            }
        }
        self.segments.remove(&gone)
    }
}

/// What is believed of the files that there should be, and of the terms (`None`: they are damaged).
/// The two are witnesses of each other: a list that an earlier release did not keep up is not
/// believed, and terms without the list that they name are not whole.
fn believed(
    roll: Roll,
    sheet: Option<Sheet>,
    has_terms: bool,
) -> (BTreeSet<Cursor>, Option<Sheet>) {
    let has_roll = sheet.as_ref().is_none_or(|sheet| sheet.has_roll);
    match roll {
        Roll::Files(files) if has_roll => (files, sheet),
        // The list of a first opening that was broken off names nothing.
        Roll::Files(files) if !has_terms && !files.is_empty() => (files, None),
        Roll::Files(_) => (BTreeSet::new(), sheet),
        Roll::Absent | Roll::Damaged => (BTreeSet::new(), sheet.filter(|sheet| !sheet.has_roll)),
    }
}

pub(super) fn record_of(payload: &[u8]) -> Result<Record, ReplicatorError> {
    let wire = v1::OriginRecord::decode(payload).map_err(|_| ReplicatorError::Record)?;
    wire.record.ok_or(ReplicatorError::Record)
}
