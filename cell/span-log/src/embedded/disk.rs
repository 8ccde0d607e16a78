//! The few file operations that the log needs, behind a seam so that a test can own the disk: run
//! out of room, fail an fsync, write short, lose what was not synced at a power cut.
//!
//! Nothing here interprets bytes. Files are read and written by position, never mapped.

use std::fmt;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{FallocateFlags, FlockOperation};

use super::error::OpenError;

/// An open file.
///
/// **Durability.** What was written or truncated is durable when a later [`Self::sync`] has
/// returned `Ok`. After a failed sync nothing is known about what was written since the last good
/// one, and a repeated sync proves nothing.
pub trait DiskFile: Send + Sync + fmt::Debug {
    /// Reads into the buffer from this position; gives how many bytes there were.
    fn read_at(&self, buffer: &mut [u8], position: u64) -> io::Result<usize>;

    /// Writes at this position; gives how many bytes were taken, which may be fewer than given.
    fn write_at(&self, bytes: &[u8], position: u64) -> io::Result<usize>;

    /// Makes content and length durable (`fdatasync`).
    fn sync(&self) -> io::Result<()>;

    /// Takes room for so many bytes from the start; what was not written reads as zeros.
    fn allocate(&self, bytes: u64) -> io::Result<()>;

    /// Cuts the file to this length.
    fn truncate(&self, bytes: u64) -> io::Result<()>;

    /// Length in bytes.
    fn length(&self) -> io::Result<u64>;
}

/// One directory of files, named without a path.
///
/// **Durability.** A creation, a rename or a removal is durable when a later
/// [`Self::sync_directory`] has returned `Ok`.
pub trait Disk: Send + Sync + fmt::Debug {
    /// Makes a new empty file; an old one of this name is replaced.
    fn create(&self, name: &str) -> io::Result<Arc<dyn DiskFile>>;

    /// Opens a file to read and write; `NotFound` where there is none.
    fn open(&self, name: &str) -> io::Result<Arc<dyn DiskFile>>;

    /// Names of all files, in any order.
    fn list(&self) -> io::Result<Vec<String>>;

    /// Removes a file; open handles keep reading it.
    fn remove(&self, name: &str) -> io::Result<()>;

    /// Renames a file over another.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;

    /// Makes creations, renames and removals durable.
    fn sync_directory(&self) -> io::Result<()>;

    /// Bytes that may still be written to this file system.
    fn free_bytes(&self) -> io::Result<u64>;
}

/// Reads until the buffer is full or the file ends; gives how many bytes there were.
pub(crate) fn read_up_to(
    file: &dyn DiskFile,
    buffer: &mut [u8],
    position: u64,
) -> io::Result<usize> {
    let mut read = 0;
    while let Some(rest) = buffer.get_mut(read..).filter(|rest| !rest.is_empty()) {
        match file.read_at(rest, position.saturating_add(read as u64)) {
            Ok(0) => break,
            Ok(count) => read += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(read)
}

/// Writes all bytes, however short the single writes are.
pub(crate) fn write_all_at(
    file: &dyn DiskFile,
    mut bytes: &[u8],
    mut position: u64,
) -> io::Result<()> {
    while !bytes.is_empty() {
        match file.write_at(bytes, position) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(count) => {
                bytes = bytes.get(count..).unwrap_or(&[]);
                position = position.saturating_add(count as u64);
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Whether the error means that there is no room, which passes when something is deleted.
pub(crate) fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

/// Whether the process, or the machine, may open no more files: passes when some are closed.
pub(crate) fn lacks_descriptors(error: &io::Error) -> bool {
    let many = [rustix::io::Errno::MFILE, rustix::io::Errno::NFILE];
    many.iter().any(|errno| error.raw_os_error() == Some(errno.raw_os_error()))
}

/// A directory of the machine, locked against a second opener for as long as this lives.
#[derive(Debug)]
pub struct LocalDisk {
    directory: PathBuf,
    _lock: File,
}

const LOCK_FILE: &str = "lock";

impl LocalDisk {
    /// Opens a directory, making it where there is none, and locks it.
    pub fn open(directory: &Path) -> Result<Self, OpenError> {
        let failed = |error: io::Error| OpenError::disk(directory, &error);
        std::fs::create_dir_all(directory).map_err(failed)?;
        if let Some(parent) = directory.parent().filter(|parent| !parent.as_os_str().is_empty()) {
            File::open(parent).and_then(|parent| parent.sync_all()).map_err(failed)?;
        }
        let lock = read_write().create(true).truncate(false).open(directory.join(LOCK_FILE));
        let lock = lock.map_err(failed)?;
        match rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Self { directory: directory.to_owned(), _lock: lock }),
            Err(rustix::io::Errno::WOULDBLOCK) => {
                Err(OpenError::Locked { directory: directory.to_owned() })
            }
            Err(errno) => Err(failed(errno.into())),
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }
}

fn read_write() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.read(true).write(true);
    options
}

impl Disk for LocalDisk {
    fn create(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        let file = read_write().create(true).truncate(true).open(self.path(name))?;
        Ok(Arc::new(LocalFile(file)))
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        Ok(Arc::new(LocalFile(read_write().open(self.path(name))?)))
    }

    fn list(&self) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in std::fs::read_dir(&self.directory)? {
            if let Ok(name) = entry?.file_name().into_string() {
                names.push(name);
            }
        }
        Ok(names)
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        std::fs::remove_file(self.path(name))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        std::fs::rename(self.path(from), self.path(to))
    }

    fn sync_directory(&self) -> io::Result<()> {
        File::open(&self.directory)?.sync_all()
    }

    fn free_bytes(&self) -> io::Result<u64> {
        let stat = rustix::fs::statvfs(&self.directory)?;
        Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
    }
}

#[derive(Debug)]
struct LocalFile(File);

impl DiskFile for LocalFile {
    fn read_at(&self, buffer: &mut [u8], position: u64) -> io::Result<usize> {
        FileExt::read_at(&self.0, buffer, position)
    }

    fn write_at(&self, bytes: &[u8], position: u64) -> io::Result<usize> {
        FileExt::write_at(&self.0, bytes, position)
    }

    fn sync(&self) -> io::Result<()> {
        self.0.sync_data()
    }

    fn allocate(&self, bytes: u64) -> io::Result<()> {
        match rustix::fs::fallocate(&self.0, FallocateFlags::empty(), 0, bytes) {
            // A file system without preallocation: a sparse file, whose writes may yet find no room.
            Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::NOSYS) => self.0.set_len(bytes),
            result => Ok(result?),
        }
    }

    fn truncate(&self, bytes: u64) -> io::Result<()> {
        self.0.set_len(bytes)
    }

    fn length(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.len())
    }
}
