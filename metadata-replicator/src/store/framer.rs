//! Records on their way into a segment.

use prost::Message as _;
use proto::v1;
use proto::v1::origin_record::Record;

use super::batch::Batch;
use super::segment::PAYLOAD_BYTES_MAX;
use crate::error::ReplicatorError;

/// The append time that a record vouches for; 0 for a name.
pub(super) fn stamp_of(record: &Record) -> u64 {
    match record {
        Record::Contribution(row) => row.last_append_unix_nano.max(1),
        Record::Watermark(mark) => mark.as_of_unix_nano.max(1),
        Record::ServiceName(_) => 0,
    }
}

/// Frames records for one append.
#[derive(Debug, Default)]
pub(crate) struct Framer {
    pub(crate) batch: Batch,
    payload: Vec<u8>,
}

impl Framer {
    /// Adds a record; gives its offset within the batch.
    pub(crate) fn put(&mut self, sequence: u64, record: Record) -> Result<usize, ReplicatorError> {
        self.batch.stamp = self.batch.stamp.max(stamp_of(&record));
        let wire = v1::OriginRecord { record: Some(record), sequence: 0 };
        self.payload.clear();
        let bytes = wire.encoded_len();
        if bytes > PAYLOAD_BYTES_MAX {
            return Err(ReplicatorError::TooLarge { bytes, bytes_max: PAYLOAD_BYTES_MAX });
        }
        wire.encode(&mut self.payload).map_err(|_| ReplicatorError::Record)?;
        Ok(self.batch.put(sequence, &self.payload))
    }
}
