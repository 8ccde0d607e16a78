//! What a subscriber demands of the frames that it is sent.

use proto::convert::index::terms_from_wire;
use proto::v1;
use proto::v1::origin_record::Record;
use trace_model::location::Cursor;

use crate::error::ReplicatorError;
use crate::feed::{Chunk, Terms};

/// Most records in a frame.
pub(crate) const FRAME_RECORDS_MAX: usize = 1 << 16;

/// A frame that holds what it should.
#[derive(Debug)]
pub(crate) struct Received {
    /// Its records; empty for a heartbeat.
    pub(crate) chunk: Chunk,
    /// The origin's end, as the sender knows it.
    pub(crate) end: Option<Cursor>,
    /// The sender's clock.
    pub(crate) sent_unix_nano: u64,
    /// On what terms the sender keeps the records; `None` where it does not say.
    pub(crate) terms: Option<Terms>,
}

/// The place up to which frames of one stream were taken.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct FrameCheck {
    /// Where the next record may lie at the earliest.
    pub(crate) at: Option<Cursor>,
}

impl FrameCheck {
    /// Judges a frame and moves on. Records of one epoch, in order, never back. Names alone may
    /// come ahead of what follows: such a frame ends where it begins.
    pub(crate) fn take(&mut self, frame: v1::OriginFrame) -> Result<Received, ReplicatorError> {
        let end = frame.end.map(Cursor::from);
        let sent_unix_nano = frame.sent_unix_nano;
        let terms = frame.terms.as_ref().map(|terms| {
            let (retention, forgotten) = terms_from_wire(terms);
            Terms { retention, forgotten }
        });
        if frame.records.is_empty() {
            return Ok(Received { chunk: Chunk::default(), end, sent_unix_nano, terms });
        }
        let (Some(first), Some(next)) = (frame.first, frame.next) else {
            return Err(ReplicatorError::Protocol("a frame of records without its cursors"));
        };
        let chunk = Chunk { first: first.into(), next: next.into(), records: frame.records };
        if chunk.records.len() > FRAME_RECORDS_MAX {
            return Err(ReplicatorError::Protocol("a frame of too many records"));
        }
        let is_ahead = chunk.next == chunk.first && chunk.records.iter().all(is_name);
        if chunk.next.epoch != chunk.first.epoch || (chunk.next <= chunk.first && !is_ahead) {
            return Err(ReplicatorError::Protocol("a frame that ends before it begins"));
        }
        if self.at.is_some_and(|at| chunk.first < at) {
            return Err(ReplicatorError::Protocol("a frame that goes back"));
        }
        check_records(&chunk)?;
        self.at = Some(chunk.next);
        Ok(Received { chunk, end, sent_unix_nano, terms })
    }
}

fn is_name(record: &v1::OriginRecord) -> bool {
    matches!(record.record, Some(Record::ServiceName(_)))
}

fn check_records(chunk: &Chunk) -> Result<(), ReplicatorError> {
    let mut last = chunk.first.sequence;
    for record in &chunk.records {
        let end = chunk.next.sequence.max(chunk.first.sequence.saturating_add(1));
        if record.sequence < last || record.sequence >= end {
            return Err(ReplicatorError::Protocol("a record outside its frame"));
        }
        last = record.sequence;
        match &record.record {
            Some(Record::Contribution(_) | Record::Watermark(_) | Record::ServiceName(_)) => {}
            None => return Err(ReplicatorError::Protocol("a record of an unknown kind")),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use trace_model::location::Epoch;

    use super::*;

    fn cursor(millis: u64, sequence: u64) -> Cursor {
        Cursor { epoch: Epoch { millis, random: 1 }, sequence }
    }

    fn frame(first: Cursor, next: Cursor, sequences: &[u64]) -> v1::OriginFrame {
        let record = Some(Record::ServiceName(v1::ServiceName { id: 0, name: "web".to_owned() }));
        let record =
            |sequence: &u64| v1::OriginRecord { record: record.clone(), sequence: *sequence };
        v1::OriginFrame {
            first: Some(first.into()),
            next: Some(next.into()),
            records: sequences.iter().map(record).collect(),
            ..v1::OriginFrame::default()
        }
    }

    fn watermarks(mut frame: v1::OriginFrame) -> v1::OriginFrame {
        for record in &mut frame.records {
            record.record = Some(Record::Watermark(v1::Watermark::default()));
        }
        frame
    }

    #[test]
    fn frames_go_on_and_may_leave_gaps() {
        let mut check = FrameCheck::default();
        assert!(check.take(frame(cursor(1, 0), cursor(1, 5), &[0, 0, 3])).is_ok());
        assert!(check.take(frame(cursor(1, 7), cursor(1, 9), &[7, 8])).is_ok());
        assert!(check.take(frame(cursor(2, 0), cursor(2, 1), &[0])).is_ok());
        assert_eq!(check.at, Some(cursor(2, 1)));
        assert!(check.take(frame(cursor(2, 4), cursor(2, 4), &[4, 4])).is_ok(), "names ahead");
        assert!(check.take(frame(cursor(2, 4), cursor(2, 5), &[4])).is_ok());
    }

    #[test]
    fn frames_that_break_the_contract_are_refused_and_move_nothing() {
        let at = Some(cursor(2, 5));
        for (bad, why) in [
            (frame(cursor(2, 4), cursor(2, 6), &[4]), "back in sequence"),
            (frame(cursor(1, 9), cursor(1, 10), &[9]), "back in epoch"),
            (watermarks(frame(cursor(2, 5), cursor(2, 5), &[5])), "nothing between"),
            (frame(cursor(2, 5), cursor(3, 6), &[5]), "two epochs"),
            (frame(cursor(2, 5), cursor(2, 7), &[6, 5]), "records fall"),
            (frame(cursor(2, 5), cursor(2, 7), &[9]), "beyond the frame"),
            (
                v1::OriginFrame { first: None, ..frame(cursor(2, 5), cursor(2, 7), &[5]) },
                "no first",
            ),
        ] {
            let mut check = FrameCheck { at };
            assert!(check.take(bad).is_err(), "{why}");
            assert_eq!(check.at, at, "{why}");
        }
    }
}
