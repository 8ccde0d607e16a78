//! Which rows of closed files are still needed.

use std::sync::{Mutex, PoisonError};

use proto::v1;
use rustc_hash::FxHashMap;

use super::inner::{Rows, fingerprint};
use crate::origin_log::row_map::Fingerprint;
use crate::store::{JudgeRows, Judged, Location};

/// Keeps the latest version of each row, and those whose successor no watermark covers yet.
pub(super) struct Judge<'a> {
    rows: &'a Mutex<Rows>,
    /// Latest versions that stay, until it is known where they went.
    kept: FxHashMap<Location, Fingerprint>,
}

impl JudgeRows for Judge<'_> {
    fn judge(&mut self, location: Location, row: &v1::Contribution, is_expired: bool) -> Judged {
        let fingerprint = fingerprint(row);
        let mut rows = self.rows.lock().unwrap_or_else(PoisonError::into_inner);
        let latest = rows.map.get(fingerprint);
        if is_expired {
            if latest != Some(location) {
                return Judged::Superseded;
            }
            rows.map.remove(fingerprint);
            return Judged::Gone;
        }
        if latest == Some(location) {
            self.kept.insert(location, fingerprint);
        }
        let is_needed =
            latest.is_none_or(|latest| latest == location || Some(latest) > rows.watermark);
        if is_needed { Judged::Stays } else { Judged::Superseded }
    }

    fn lost(&mut self, segment: u32) {
        let mut rows = self.rows.lock().unwrap_or_else(PoisonError::into_inner);
        rows.map
            .lose_all(|location| location.segment == segment && !self.kept.contains_key(&location));
    }

    fn moved(&mut self, from: Location, to: Location) {
        let mut rows = self.rows.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(fingerprint) = self.kept.remove(&from) {
            rows.map.insert(fingerprint, to);
        }
        if rows.watermark == Some(from) {
            rows.watermark = Some(to);
        }
    }
}

impl<'a> Judge<'a> {
    pub(super) fn of(rows: &'a Mutex<Rows>) -> Self {
        Self { rows, kept: FxHashMap::default() }
    }
}
