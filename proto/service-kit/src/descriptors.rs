//! File descriptors of a process: its limit, raised at the start, and how many are open.
//!
//! Usual shells and service managers give a soft limit of 1,024 and a hard one far above, for the
//! sake of programs that use `select(2)`; nothing here does.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// The soft limit before and after it was raised; `None` is no limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Raised {
    /// As the process was started.
    pub before: Option<u64>,
    /// As it is now.
    pub now: Option<u64>,
}

impl Raised {
    /// Whether fewer descriptors may be open than are needed.
    #[must_use]
    pub fn is_below(&self, needed: u64) -> bool {
        self.now.is_some_and(|now| now < needed)
    }
}

/// Raises the soft limit of open files to the hard one. A system that refuses leaves it as it is.
#[must_use]
pub fn raise() -> Raised {
    let limit = getrlimit(Resource::Nofile);
    let before = limit.current;
    let is_raised = limit.current != limit.maximum
        && setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit }).is_ok();
    Raised { before, now: if is_raised { limit.maximum } else { before } }
}

/// Raises the limit and says so; warns where the parts of this process can need more.
pub fn raise_and_tell(needed: u64) {
    let raised = raise();
    let text =
        |limit: Option<u64>| limit.map_or_else(|| "none".to_owned(), |limit| limit.to_string());
    let (before, now) = (text(raised.before), text(raised.now));
    tracing::info!(before, now, needed, "the limit of open files (RLIMIT_NOFILE)");
    if raised.is_below(needed) {
        tracing::warn!(
            now,
            needed,
            "the hard limit of open files is below what this process can need: raise it \
             (`ulimit -Hn`, `LimitNOFILE=`)"
        );
    }
}

/// The soft limit as it is; `None` is no limit.
#[must_use]
pub fn limit() -> Option<u64> {
    getrlimit(Resource::Nofile).current
}

/// How many are open. The one that looks is not counted.
///
/// # Errors
/// When there is no `/proc`, or no descriptor is left to look with.
pub fn open() -> std::io::Result<u64> {
    let entries = std::fs::read_dir("/proc/self/fd")?.count() as u64;
    Ok(entries.saturating_sub(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limit_is_the_hard_one_afterwards_and_a_second_time_changes_nothing() {
        let hard = getrlimit(Resource::Nofile).maximum;
        let first = raise();
        assert_eq!(first.now, hard);
        assert_eq!(limit(), hard);
        assert_eq!(raise(), Raised { before: hard, now: hard });
    }

    #[test]
    fn too_few_is_told_and_no_limit_is_enough() {
        let now = |now| Raised { before: Some(10), now };
        assert!(now(Some(1_023)).is_below(1_024));
        assert!(!now(Some(1_024)).is_below(1_024));
        assert!(!now(None).is_below(u64::MAX));
    }

    #[test]
    fn open_files_are_counted() {
        let before = open().unwrap();
        let held: Vec<_> = (0..200).map(|_| std::fs::File::open("/dev/null").unwrap()).collect();
        // Other tests of this process open and close a few meanwhile.
        assert!(open().unwrap() > before + 100);
        drop(held);
    }
}
