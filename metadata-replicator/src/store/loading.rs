//! What the files of a store say while it is opened.

use std::collections::BTreeMap;

use proto::convert::index::{ServiceDictionary, watermark_from_wire};
use proto::v1::origin_record::Record;
use trace_model::location::Epoch;
use trace_model::{Region, TimeRange, UnixNanos, Watermark};

use super::framer::stamp_of;
use super::gaps::Gaps;
use super::records::{Loaded, record_of};
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
        visit: &'a mut dyn FnMut(Loaded<'_>) -> Result<(), ReplicatorError>,
    ) -> Self {
        Self { region, words: Words::default(), gaps: Gaps::default(), visit }
    }

    pub(super) fn meet(&mut self, met: Met<'_>) -> Result<u64, ReplicatorError> {
        let (cursor, location, payload) = match met {
            Met::Record { cursor, location, payload } => (cursor, location, payload),
            Met::Damaged { path, bytes } => {
                tracing::error!(path = %path.display(), bytes, "damaged records were set aside");
                self.gaps.open();
                return Ok(0);
            }
        };
        let record = record_of(payload)?;
        let stamp = stamp_of(&record);
        let services = self.words.dictionaries.entry(cursor.epoch).or_default();
        if !is_readable(&record, services) {
            tracing::error!(?cursor, "a record stands behind a damaged name, and was set aside");
            self.gaps.open();
            self.gaps.pass(stamp);
            return Ok(stamp);
        }
        self.gaps.meet(stamp);
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
        (self.visit)(Loaded { location, record, services })?;
        Ok(stamp)
    }

    /// What was collected, and the newest append time met.
    pub(super) fn finish(mut self) -> (Words, UnixNanos) {
        let (holes, newest) = self.gaps.finish();
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
