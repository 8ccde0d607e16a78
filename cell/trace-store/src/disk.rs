//! The one operation on files that a test has to be able to fail: making a directory durable.
//!
//! It comes behind a rename, and after its failure nobody knows which of two states a restart will
//! find. All else that fails leaves the old state, and needs no seam to be tried.

use std::fmt;
use std::fs::File;
use std::io;
use std::path::Path;

/// Makes directories durable.
pub trait Disk: Send + Sync + fmt::Debug {
    /// Makes creations, renames and removals in a directory durable. After `Err` each of them may
    /// or may not survive a loss of power; what is in memory of the kernel stays to be seen.
    fn sync_directory(&self, directory: &Path) -> io::Result<()>;
}

/// The machine's disk.
#[derive(Clone, Copy, Debug, Default)]
pub struct LocalDisk;

impl Disk for LocalDisk {
    fn sync_directory(&self, directory: &Path) -> io::Result<()> {
        File::open(directory)?.sync_all()
    }
}
