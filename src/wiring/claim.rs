//! A data directory is one process's: what lies there (dead letters, cursors, embedded files) has one
//! writer, also where the processes of a cell share everything else.

use std::fs::{File, TryLockError};
use std::path::Path;

use anyhow::Context as _;

/// A directory that no other process has while this lives. A process that dies lets go of it.
#[derive(Debug)]
pub(super) struct Claim {
    _lock: File,
}

impl Claim {
    /// Takes a directory, made where it is missing.
    pub(super) fn on(directory: &Path) -> anyhow::Result<Self> {
        let place = || format!("taking {} (`data_dir`)", directory.display());
        std::fs::create_dir_all(directory).with_context(place)?;
        let lock = File::create(directory.join("process.lock")).with_context(place)?;
        match lock.try_lock() {
            Ok(()) => Ok(Self { _lock: lock }),
            Err(TryLockError::WouldBlock) => anyhow::bail!(
                "{} is another process's: each process has a directory of its own; choose another \
                 with `data_dir` of its configuration, or `--data-dir` of the demo",
                directory.display()
            ),
            Err(TryLockError::Error(error)) => Err(error).with_context(place),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_is_one_process_s_until_it_lets_go() {
        let directory = tempfile::tempdir().unwrap();
        let place = directory.path().join("cell");
        let claim = Claim::on(&place).unwrap();
        let refused = Claim::on(&place).unwrap_err().to_string();
        assert!(refused.contains("of its own"), "{refused}");
        drop(claim);
        Claim::on(&place).unwrap();
    }
}
