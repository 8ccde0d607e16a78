//! Records of the live tail for which memory has no room, in files without names: what a process leaves behind, the
//! kernel removes. A file is full at [`FILE_BYTES`] and goes with the last record in it.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use proto::{LoggedBatch, SpanBatch};
use trace_model::{LogRange, UnixNanos};
use xxhash_rust::xxh3::xxh3_64;

use super::config::KafkaTailDisk;

/// A file takes no more records when it has so many bytes.
const FILE_BYTES: u64 = 64 << 20;

/// The files of all partitions' tails.
#[derive(Debug)]
pub(crate) struct TailDisk {
    directory: PathBuf,
    bytes_max: u64,
    /// Bytes of all files that are there.
    bytes: Arc<AtomicU64>,
    open: Mutex<Option<OpenFile>>,
    /// The last try to write has failed.
    is_failing: AtomicBool,
}

#[derive(Debug)]
struct OpenFile {
    file: Arc<TailFile>,
    length: u64,
}

#[derive(Debug)]
struct TailFile {
    file: File,
    /// What it has added to all files' bytes.
    counted: AtomicU64,
    bytes: Arc<AtomicU64>,
}

impl Drop for TailFile {
    fn drop(&mut self) {
        self.bytes.fetch_sub(self.counted.load(Ordering::Relaxed), Ordering::Relaxed);
    }
}

/// A record on disk. A copy shares its file.
#[derive(Clone, Debug)]
pub(crate) struct OnDisk {
    file: Arc<TailFile>,
    at: u64,
    length: usize,
    hash: u64,
    incarnation: u64,
    pub(crate) range: LogRange,
    append_time: UnixNanos,
}

impl TailDisk {
    pub(crate) fn new(config: &KafkaTailDisk) -> Self {
        Self {
            directory: config.directory.clone(),
            bytes_max: config.bytes_max,
            bytes: Arc::default(),
            open: Mutex::new(None),
            is_failing: AtomicBool::new(false),
        }
    }

    /// Bytes in use, those that were let go in files that are still needed among them.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    pub(crate) fn has_room(&self) -> bool {
        self.bytes() < self.bytes_max
    }

    /// Writes a record; the first of several failures is said aloud. Blocks.
    pub(crate) fn write(&self, logged: &LoggedBatch) -> io::Result<OnDisk> {
        let written = self.try_write(logged);
        let was_failing = self.is_failing.swap(written.is_err(), Ordering::Relaxed);
        if let Err(error) = written.as_ref().map_err(ToString::to_string)
            && !was_failing
        {
            let directory = self.directory.display();
            tracing::warn!(%directory, error, "the live tail waits: memory is full, its disk fails");
        }
        written
    }

    fn try_write(&self, logged: &LoggedBatch) -> io::Result<OnDisk> {
        let encoded = logged.batch.encoded();
        let length = encoded.len() as u64;
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let mut current = match open.take() {
            Some(current) if current.length < FILE_BYTES => current,
            Some(_) | None => self.new_file()?,
        };
        current.file.file.write_all_at(encoded, current.length)?;
        let (file, at) = (Arc::clone(&current.file), current.length);
        current.length = current.length.saturating_add(length);
        file.counted.fetch_add(length, Ordering::Relaxed);
        self.bytes.fetch_add(length, Ordering::Relaxed);
        *open = Some(current);
        let LoggedBatch { incarnation, range, append_time, .. } = *logged;
        let (length, hash) = (encoded.len(), xxh3_64(encoded));
        Ok(OnDisk { file, at, length, hash, incarnation, range, append_time })
    }

    fn new_file(&self) -> io::Result<OpenFile> {
        std::fs::create_dir_all(&self.directory)?;
        let file = tempfile::tempfile_in(&self.directory)?;
        let (counted, bytes) = (AtomicU64::new(0), Arc::clone(&self.bytes));
        Ok(OpenFile { file: Arc::new(TailFile { file, counted, bytes }), length: 0 })
    }
}

impl OnDisk {
    /// The record as it was read from the log. Blocks.
    ///
    /// # Errors
    /// What the disk says, or that it gives other bytes than were written.
    pub(crate) fn read(&self) -> io::Result<LoggedBatch> {
        let mut bytes = vec![0; self.length];
        self.file.file.read_exact_at(&mut bytes, self.at)?;
        let spoilt =
            || io::Error::new(io::ErrorKind::InvalidData, "a record is not as it was written");
        if xxh3_64(&bytes) != self.hash {
            return Err(spoilt());
        }
        let batch = SpanBatch::decode(Bytes::from(bytes)).map_err(|_| spoilt())?;
        let Self { incarnation, range, append_time, .. } = *self;
        Ok(LoggedBatch { incarnation, range, append_time, batch: Arc::new(batch) })
    }
}

#[cfg(test)]
mod tests {
    use proto::{BatchSource, SpanBatchBuilder};
    use trace_model::{Region, TenantId};

    use super::*;

    fn logged(first: u64, bytes: usize) -> LoggedBatch {
        let mut builder = SpanBatchBuilder::new();
        builder.add_resource(vec![7; bytes]);
        let source = BatchSource {
            tenant: TenantId::default(),
            region: Region::new("eu-west-1").unwrap(),
            collector: "c".into(),
            receive_time: UnixNanos(1),
            digest: first,
        };
        let range = LogRange { partition: 3, first, next: first + 1 };
        let batch = Arc::new(builder.finish(source).unwrap());
        LoggedBatch { incarnation: 7, range, append_time: UnixNanos(first), batch }
    }

    fn disk(bytes_max: u64) -> (tempfile::TempDir, TailDisk) {
        let place = tempfile::tempdir().unwrap();
        let directory = place.path().join("tail");
        (place, TailDisk::new(&KafkaTailDisk { directory, bytes_max }))
    }

    #[test]
    fn what_is_written_is_read_and_no_name_is_left() {
        let (place, disk) = disk(1 << 30);
        let kept: Vec<OnDisk> = (0..20).map(|at| disk.write(&logged(at, 1_000)).unwrap()).collect();
        for (first, one) in (0..).zip(&kept) {
            let read = one.read().unwrap();
            let wanted = logged(first, 1_000);
            assert_eq!(read.batch.encoded(), wanted.batch.encoded());
            assert_eq!((read.range, read.append_time), (wanted.range, wanted.append_time));
            assert_eq!(read.incarnation, 7);
        }
        assert_eq!(std::fs::read_dir(place.path().join("tail")).unwrap().count(), 0);
    }

    #[test]
    fn files_go_with_their_last_record_and_all_together_are_bounded() {
        let (_place, disk) = disk(100 << 20);
        let mut kept = Vec::new();
        while disk.has_room() {
            kept.push(disk.write(&logged(0, 8 << 20)).unwrap());
        }
        assert!((100 << 20..110 << 20).contains(&disk.bytes()), "{}", disk.bytes());
        kept.truncate(8);
        assert!((64 << 20..110 << 20).contains(&disk.bytes()), "one file is needed, one is open");
        kept.clear();
        assert!(disk.bytes() < 64 << 20, "{}: the open file alone", disk.bytes());
        assert!(disk.has_room());
    }

    #[test]
    fn bytes_that_are_not_as_they_were_written_are_told() {
        let (_place, disk) = disk(1 << 20);
        let one = disk.write(&logged(0, 1_000)).unwrap();
        one.file.file.write_all_at(b"x", 500).unwrap();
        assert_eq!(one.read().unwrap_err().kind(), io::ErrorKind::InvalidData);
        one.file.file.set_len(100).unwrap();
        assert_eq!(one.read().unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    }
}
