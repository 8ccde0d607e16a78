//! What the files of a store say while it is opened.

use std::collections::BTreeMap;

use proto::convert::index::{ServiceDictionary, watermark_from_wire};
use proto::v1::origin_record::Record;
use trace_model::location::{Cursor, Epoch};
use trace_model::{Region, TimeRange, UnixNanos, Watermark, join_holes};

use super::framer::stamp_of;
use super::gaps::Gaps;
use super::records::{Loaded, record_of};
use super::segment::Location;
use super::segments::Met;
use crate::error::ReplicatorError;

/// Names by epoch, the newest watermark, and where damage was met.
#[derive(Debug, Default)]
pub(super) struct Words {
    pub(super) dictionaries: BTreeMap<Epoch, ServiceDictionary>,
    pub(super) watermark: Option<Watermark>,
    pub(super) holes: Vec<TimeRange>,
}

/// Collects what the files say while a store is opened.
pub(super) struct Loading<'a> {
    region: &'a Region,
    words: Words,
    gaps: Gaps,
    visit: &'a mut dyn FnMut(Loaded<'_>) -> Result<(), ReplicatorError>,
}

impl<'a> Loading<'a> {
    pub(super) fn of(
        region: &'a Region,
        latest: UnixNanos,
        visit: &'a mut dyn FnMut(Loaded<'_>) -> Result<(), ReplicatorError>,
    ) -> Self {
        let gaps = Gaps::behind(UnixNanos(0), latest);
        Self { region, words: Words::default(), gaps, visit }
    }

    /// Takes in what is met; gives the append time of a record.
    pub(super) fn meet(&mut self, met: Met<'_>) -> Result<u64, ReplicatorError> {
        match met {
            Met::Record { cursor, location, payload } => {
                self.meet_record(cursor, location, payload)
            }
            Met::Damaged { path, bytes } => {
                tracing::error!(path = %path.display(), bytes, "damaged records were set aside");
                self.gaps.open();
                Ok(0)
            }
            Met::Missing { path } => {
                tracing::error!(path = %path.display(), "a file of a log is gone");
                self.gaps.open();
                Ok(0)
            }
        }
    }

    /// A record that cannot be used is set aside as one that is damaged.
    fn meet_record(
        &mut self,
        cursor: Cursor,
        location: Location,
        payload: &[u8],
    ) -> Result<u64, ReplicatorError> {
        let Ok(record) = record_of(payload) else {
            tracing::error!(?cursor, "a record that cannot be read was set aside");
            self.gaps.open();
            return Ok(0);
        };
        let stamp = stamp_of(&record);
        let services = self.words.dictionaries.entry(cursor.epoch).or_default();
        let taken = if is_readable(&record, services) {
            self.take(cursor, location, record)
        } else {
            Err(ReplicatorError::Record)
        };
        match taken {
            Ok(()) => self.gaps.meet(stamp),
            Err(error @ (ReplicatorError::Record | ReplicatorError::Message(_))) => {
                tracing::error!(?cursor, %error, "a record that cannot be used, or stands behind a damaged name, was set aside");
                self.gaps.open();
                self.gaps.pass(stamp);
            }
            Err(error) => return Err(error),
        }
        Ok(stamp)
    }

    fn take(
        &mut self,
        cursor: Cursor,
        location: Location,
        record: Record,
    ) -> Result<(), ReplicatorError> {
        let services = self.words.dictionaries.entry(cursor.epoch).or_default();
        match &record {
            Record::ServiceName(name) => {
                services.define(name.id, &name.name)?;
            }
            Record::Watermark(wire) => {
                self.words.watermark = Some(watermark_from_wire(wire, self.region)?);
            }
            Record::Contribution(_) => {}
        }
        (self.visit)(Loaded { location, record, services })
    }

    /// What was collected, and the newest append time met.
    pub(super) fn finish(mut self) -> (Words, UnixNanos) {
        let (mut holes, newest) = self.gaps.finish();
        join_holes(&mut holes);
        self.words.holes = holes;
        (self.words, newest)
    }
}

/// Whether the names before a record are here: ids come in order, so one that is missing takes with
/// it the names behind it in its file, and the rows that use them.
fn is_readable(record: &Record, services: &ServiceDictionary) -> bool {
    match record {
        Record::ServiceName(name) => name.id as usize <= services.len(),
        Record::Contribution(row) => services.knows(row),
        Record::Watermark(_) => true,
    }
}
