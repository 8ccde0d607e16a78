//! A reader of a group as a runner is one, and what all readers of a test have handled.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use span_log::port::SEARCH_INDEXER;
use span_log::{CommitError, Hold, LogError, Sharing, SpanLog};

/// Who has handled what: how many times each record, over all readers.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    handled: Mutex<BTreeMap<(u32, u64), u32>>,
}

impl Ledger {
    pub(crate) fn note(&self, partition: u32, first: u64, next: u64) {
        let mut handled = self.handled.lock().unwrap();
        for offset in first..next {
            *handled.entry((partition, offset)).or_default() += 1;
        }
    }

    /// Whether every record below these ends was handled.
    pub(crate) fn has_all(&self, ends: &BTreeMap<u32, u64>) -> bool {
        ends.iter().all(|(partition, end)| self.prefix(*partition) >= *end)
    }

    /// Up to where every record of a partition was handled.
    pub(crate) fn prefix(&self, partition: u32) -> u64 {
        let handled = self.handled.lock().unwrap();
        (0..).find(|offset| !handled.contains_key(&(partition, *offset))).unwrap()
    }

    /// How many times a record was handled again.
    pub(crate) fn repeats(&self) -> u32 {
        self.handled.lock().unwrap().values().map(|times| times - 1).sum()
    }

    /// No group has committed what nobody has handled.
    pub(crate) fn check_commits(&self, log: &dyn SpanLog) {
        for partition in 0..log.identity().partitions {
            let committed = log.committed(SEARCH_INDEXER, partition).unwrap();
            let handled = self.prefix(partition);
            assert!(committed <= handled, "{partition}: {committed} committed, {handled} handled");
        }
    }
}

/// Reads what is assigned, for ever: notes, then commits; releases what is wanted elsewhere.
pub(crate) async fn follow(log: Arc<dyn SpanLog>, ledger: Arc<Ledger>) {
    let note = move |hold: Hold, first, next| ledger.note(hold.partition, first, next);
    follow_with(log, note, |_, _, _| {}).await;
}

/// The same with words of its own for what was handled, and for what became of a commit.
pub(crate) async fn follow_with(
    log: Arc<dyn SpanLog>,
    handle: impl Fn(Hold, u64, u64),
    committed: impl Fn(Hold, u64, bool),
) {
    let told = log.join(SEARCH_INDEXER, Sharing::Partitions);
    let mut places: BTreeMap<u32, (Hold, u64)> = BTreeMap::new();
    loop {
        let assignment = told.borrow().clone();
        places.retain(|_, (hold, _)| assignment.has(*hold));
        for (hold, share) in assignment.holds() {
            if share.is_leaving {
                log.release(SEARCH_INDEXER, hold);
                continue;
            }
            let from = match places.get(&hold.partition) {
                Some((_, at)) => *at,
                None => log.committed(SEARCH_INDEXER, hold.partition).unwrap(),
            };
            let read = match log.read(hold.partition, from, 4_000).await {
                Ok(read) => read,
                // Passes: the brokers are away, or others read here too.
                Err(LogError::Unavailable(_) | LogError::Overloaded) => continue,
                Err(error) => panic!("{error}"),
            };
            let mut at = from;
            for logged in read {
                handle(hold, logged.range.first.max(at), logged.range.next);
                at = at.max(logged.range.next);
            }
            places.insert(hold.partition, (hold, at));
            match log.commit_held(SEARCH_INDEXER, hold, at).await {
                Ok(()) => committed(hold, at, true),
                Err(CommitError::Fenced(_)) => committed(hold, at, false),
                Err(CommitError::Backwards { committed, .. }) => {
                    panic!("{committed} was committed beyond {at} while it was held")
                }
                Err(CommitError::Log(error)) => panic!("{error}"),
            }
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
