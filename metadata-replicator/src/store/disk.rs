//! The disk under a store, and how a range of a file is read from one that is rotten.
//!
//! Port [`Disk`]; adapter [`LocalDisk`]. A sector that cannot be read is damage like any other: it
//! costs what lay in it and stops nobody. What passes (no descriptors, no room) is an error, and is
//! tried again.

use std::fmt;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

/// What is lost with a place that cannot be read: no disk of today answers for less.
const SECTOR_BYTES: usize = 4 << 10;
/// What a rotten disk or a broken file system answers on Linux: EIO, ENODATA, EBADMSG, EUCLEAN.
const ROTTEN: [i32; 4] = [5, 61, 74, 117];

/// What a file is opened for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Access {
    /// To be read.
    Read,
    /// To be read, cut and synced.
    Change,
    /// To be written anew.
    Create,
}

/// Where a store's segments lie.
pub(crate) trait Disk: fmt::Debug + Send + Sync {
    /// Opens a file.
    fn open(&self, path: &Path, access: Access) -> io::Result<Arc<dyn DiskFile>>;
}

/// An open file.
pub(crate) trait DiskFile: fmt::Debug + Send + Sync {
    /// Its length in bytes.
    fn length(&self) -> io::Result<u64>;
    /// Reads some bytes at an offset; none at the end.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize>;
    /// Writes all bytes at an offset.
    fn write_all_at(&self, bytes: &[u8], offset: u64) -> io::Result<()>;
    /// Cuts or extends it.
    fn set_length(&self, length: u64) -> io::Result<()>;
    /// Waits until content and length are on disk.
    fn sync(&self) -> io::Result<()>;
}

/// The disk of this machine.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LocalDisk;

impl Disk for LocalDisk {
    fn open(&self, path: &Path, access: Access) -> io::Result<Arc<dyn DiskFile>> {
        let is_new = access == Access::Create;
        let mut options = OpenOptions::new();
        options.read(true).write(access != Access::Read).create(is_new).truncate(is_new);
        Ok(Arc::new(options.open(path)?))
    }
}

impl DiskFile for File {
    fn length(&self) -> io::Result<u64> {
        Ok(self.metadata()?.len())
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        FileExt::read_at(self, buffer, offset)
    }

    fn write_all_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        FileExt::write_all_at(self, bytes, offset)
    }

    fn set_length(&self, length: u64) -> io::Result<()> {
        self.set_len(length)
    }

    fn sync(&self) -> io::Result<()> {
        self.sync_data()
    }
}

/// Whether an error says that bytes are lost, and not that they may be asked for again.
pub(super) fn is_rotten(error: &io::Error) -> bool {
    error.raw_os_error().is_some_and(|code| ROTTEN.contains(&code))
}

/// Bytes of a file.
#[derive(Debug)]
pub(super) struct Range {
    pub(super) bytes: Vec<u8>,
    /// Zeros stand for some that could not be read: no record begins with one.
    pub(super) is_rotten: bool,
}

/// Reads a range of a file; a file that ends before it gives what there is. Around a place that
/// cannot be read the range is halved until a sector is left of it.
pub(super) fn read_range(file: &dyn DiskFile, offset: u64, length: usize) -> io::Result<Range> {
    let mut range = Range { bytes: vec![0; length], is_rotten: false };
    let (mut filled, mut reach) = (0, length);
    while filled < length {
        let at = offset.saturating_add(filled as u64);
        let end = filled.saturating_add(reach).min(length);
        let piece = range.bytes.get_mut(filled..end).unwrap_or_default();
        match file.read_at(piece, at) {
            Ok(0) => {
                range.bytes.truncate(filled);
                break;
            }
            Ok(count) => {
                filled = filled.saturating_add(count);
                reach = reach.saturating_mul(2);
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if is_rotten(&error) => {
                let in_sector = left_in_sector(at);
                if piece.len() > in_sector {
                    reach = (piece.len() / 2).max(in_sector);
                    continue;
                }
                tracing::warn!(?file, offset = at, bytes = piece.len(), %error, "bytes of a file cannot be read");
                filled = end;
                range.is_rotten = true;
            }
            Err(error) => return Err(error),
        }
    }
    Ok(range)
}

fn left_in_sector(at: u64) -> usize {
    let within = usize::try_from(at % SECTOR_BYTES as u64).unwrap_or(0);
    SECTOR_BYTES.saturating_sub(within)
}

#[cfg(test)]
pub(crate) mod faulty {
    //! A disk with sectors that cannot be read, which remembers what was synced.

    use std::collections::{BTreeMap, BTreeSet};
    use std::path::PathBuf;
    use std::sync::Mutex;

    use super::*;

    #[derive(Debug, Default)]
    struct Faults {
        /// Offsets in sectors that cannot be read.
        rotten: BTreeMap<PathBuf, BTreeSet<u64>>,
        /// Files of which nothing can be opened.
        closed: BTreeSet<PathBuf>,
        /// Lengths of files when they were synced last.
        synced: BTreeMap<PathBuf, u64>,
        /// So many syncs of each file fail.
        failing: BTreeMap<PathBuf, u32>,
    }

    /// The disk of this machine with faults.
    #[derive(Clone, Debug, Default)]
    pub(crate) struct FaultyDisk(Arc<Mutex<Faults>>);

    #[derive(Debug)]
    struct FaultyFile {
        disk: FaultyDisk,
        path: PathBuf,
        file: Arc<dyn DiskFile>,
    }

    fn rotten() -> io::Error {
        io::Error::from_raw_os_error(5)
    }

    impl FaultyDisk {
        /// The sector of an offset cannot be read any more.
        pub(crate) fn rot(&self, path: &Path, offset: u64) {
            let mut faults = self.0.lock().unwrap();
            faults.rotten.entry(path.to_path_buf()).or_default().insert(offset);
        }

        /// All of the file can be read again.
        pub(crate) fn heal(&self, path: &Path) {
            self.0.lock().unwrap().rotten.remove(path);
        }

        /// The file cannot be opened any more.
        pub(crate) fn close(&self, path: &Path) {
            self.0.lock().unwrap().closed.insert(path.to_path_buf());
        }

        /// The next sync of the file fails.
        pub(crate) fn fail_sync(&self, path: &Path) {
            self.0.lock().unwrap().failing.insert(path.to_path_buf(), 1);
        }

        /// How much of a file is on disk for certain.
        pub(crate) fn synced(&self, path: &Path) -> Option<u64> {
            self.0.lock().unwrap().synced.get(path).copied()
        }

        /// Nothing is on disk for certain but what is synced from now on.
        pub(crate) fn forget_syncs(&self) {
            self.0.lock().unwrap().synced.clear();
        }
    }

    impl Disk for FaultyDisk {
        fn open(&self, path: &Path, access: Access) -> io::Result<Arc<dyn DiskFile>> {
            if access == Access::Create {
                let mut faults = self.0.lock().unwrap();
                faults.rotten.remove(path);
                faults.synced.remove(path);
            }
            if self.0.lock().unwrap().closed.contains(path) {
                return Err(rotten());
            }
            let file = LocalDisk.open(path, access)?;
            Ok(Arc::new(FaultyFile { disk: self.clone(), path: path.to_path_buf(), file }))
        }
    }

    impl DiskFile for FaultyFile {
        fn length(&self) -> io::Result<u64> {
            self.file.length()
        }

        fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
            let sector = SECTOR_BYTES as u64;
            let end = (offset + buffer.len() as u64).next_multiple_of(sector);
            let faults = self.disk.0.lock().unwrap();
            let places = faults.rotten.get(&self.path);
            let touched = offset / sector * sector..end;
            if places.is_some_and(|places| places.range(touched).next().is_some()) {
                return Err(rotten());
            }
            self.file.read_at(buffer, offset)
        }

        fn write_all_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
            self.file.write_all_at(bytes, offset)
        }

        fn set_length(&self, length: u64) -> io::Result<()> {
            self.file.set_length(length)
        }

        fn sync(&self) -> io::Result<()> {
            let mut faults = self.disk.0.lock().unwrap();
            if faults.failing.remove(&self.path).is_some() {
                return Err(rotten());
            }
            self.file.sync()?;
            faults.synced.insert(self.path.clone(), self.file.length()?);
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::faulty::FaultyDisk;
    use super::*;

    #[test]
    fn what_cannot_be_read_costs_its_sectors_and_nothing_else() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("file");
        let content: Vec<u8> = (0..100_000_u32).map(|place| (place % 251) as u8 + 1).collect();
        std::fs::write(&path, &content).unwrap();
        let disk = FaultyDisk::default();
        let rotten = [0_usize, 5_000, 8_191, 40_960, 99_999];
        for place in rotten {
            disk.rot(&path, place as u64);
        }
        let file = disk.open(&path, Access::Read).unwrap();
        let is_rotten = |place: usize| {
            rotten.iter().any(|rotten| rotten / SECTOR_BYTES == place / SECTOR_BYTES)
        };
        for (offset, length) in [(0, 100_000), (10, 70_000), (8_192, 30_000), (4_097, 1), (0, 1)] {
            let range = read_range(file.as_ref(), offset as u64, length).unwrap();
            assert_eq!(range.bytes.len(), length);
            let mut has_zeros = false;
            for (place, byte) in (offset..).zip(&range.bytes) {
                has_zeros |= *byte == 0;
                assert!(*byte == content[place] || (*byte == 0 && is_rotten(place)), "{place}");
            }
            assert_eq!(range.is_rotten, has_zeros, "{offset} {length}");
        }
        assert!(
            read_range(file.as_ref(), 8_192, 30_000).unwrap().bytes.iter().all(|byte| *byte > 0)
        );
    }

    #[test]
    fn a_range_beyond_the_end_gives_what_there_is() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("file");
        std::fs::write(&path, [7; 10]).unwrap();
        let file = LocalDisk.open(&path, Access::Read).unwrap();
        assert_eq!(read_range(file.as_ref(), 4, 100).unwrap().bytes, [7; 6]);
        assert!(read_range(file.as_ref(), 10, 100).unwrap().bytes.is_empty());
    }

    #[test]
    fn what_passes_is_an_error_and_no_damage() {
        for code in [23, 24, 28] {
            assert!(!is_rotten(&io::Error::from_raw_os_error(code)), "{code}");
        }
        assert!(!is_rotten(&io::Error::from(io::ErrorKind::NotFound)));
    }
}
