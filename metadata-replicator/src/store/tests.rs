//! What a store makes of watermarks that say more than it shows.

use std::collections::BTreeMap;
use std::sync::Arc;

use proto::convert::index::watermark_to_wire;
use proto::v1;
use proto::v1::origin_record::Record;
use trace_model::location::{Cursor, Epoch};
use trace_model::{HOLES_MAX, Region, TimeRange, UnixNanos, Watermark};

use super::*;
use crate::index::hot::LetGo;

const EPOCH: Epoch = Epoch { millis: 5, random: 1 };

fn open(directory: &std::path::Path) -> RecordStore {
    let config = StoreConfig {
        directory: directory.to_path_buf(),
        region: Region::new("eu-west-1").unwrap(),
        segment_bytes_max: 1 << 20,
        latest: UnixNanos(1_000_000),
        disk: Arc::new(LocalDisk),
    };
    RecordStore::open(config, &mut |_| Ok(())).unwrap()
}

fn hole(start: u64, end: u64) -> TimeRange {
    TimeRange { start: UnixNanos(start), end: UnixNanos(end) }
}

fn watermark(as_of: u64, holes: Vec<TimeRange>) -> Watermark {
    Watermark {
        region: Region::new("eu-west-1").unwrap(),
        incarnation: 1,
        as_of: UnixNanos(as_of),
        next: BTreeMap::from([(0, 7)]),
        holes,
    }
}

fn append(store: &RecordStore, sequence: u64, watermark: &Watermark) {
    let mut framer = Framer::default();
    framer.put(sequence, Record::Watermark(watermark_to_wire(watermark))).unwrap();
    store.append(Cursor { epoch: EPOCH, sequence }, &framer.batch, true).unwrap();
    store.note_watermark(watermark.clone());
}

struct KeepsAll;

impl JudgeRows for KeepsAll {
    fn judge(&mut self, _: Location, _: &v1::Contribution, _: bool) -> Judged {
        Judged::Stays
    }

    fn lost(&mut self, _: u32) {}

    fn moved(&mut self, _: Location, _: Location) {}
}

#[test]
fn a_watermark_of_very_many_holes_opens_and_is_shown_with_few() {
    let directory = tempfile::tempdir().unwrap();
    let many = (0..9_000).map(|place| hole(place * 10, place * 10 + 2)).collect();
    let many = watermark(100_000, many);
    append(&open(directory.path()), 0, &many);
    for _ in 0..2 {
        let store = open(directory.path());
        let shown = store.watermark().unwrap();
        assert_eq!((shown.as_of, shown.holes.len()), (many.as_of, HOLES_MAX));
        assert!(many.holes.iter().all(|hole| {
            shown.holes.iter().any(|held| held.start <= hole.start && hole.end <= held.end)
        }));
        // It is the newest one, and stays when its file is written anew.
        store
            .begin(EPOCH.millis.checked_add(1).map(|millis| Epoch { millis, ..EPOCH }).unwrap())
            .unwrap();
        store.maintain((UnixNanos(0), LetGo::Expired), &mut KeepsAll).unwrap();
    }
}

#[test]
fn a_copy_notes_that_what_a_hole_hid_has_expired_before_a_watermark_without_it_is_written() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path());
    append(&store, 0, &watermark(100, vec![TimeRange::ALL, hole(10, 20), hole(30, 40)]));
    let expired = || store.terms().forgotten.expired_until;
    store.note_expired_holes(&watermark(110, vec![hole(5, 50)])).unwrap();
    assert_eq!(expired(), None, "both lie in another one");
    store.note_expired_holes(&watermark(120, vec![hole(30, 40)])).unwrap();
    assert_eq!(expired(), Some(UnixNanos(19)));
    assert_eq!(store.watermark().unwrap().holes, [TimeRange::ALL, hole(30, 40)]);
}
