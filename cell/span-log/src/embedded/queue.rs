//! The bounded queue between senders and the writer thread. A full queue refuses; it never grows.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use proto::SpanBatch;
use tokio::sync::oneshot;

use super::block::{SECTIONS_MAX, Section};
use crate::port::{Appended, LogError};

/// Encoded bytes of a group commit, about: bounds the latency that its last batch adds to its first.
const GROUP_BYTES_MAX: usize = 8 << 20;

/// A batch that waits for its group commit.
#[derive(Debug)]
pub(crate) struct Append {
    pub(crate) batch: Arc<SpanBatch>,
    /// The batch, packed by its sender where it is large enough to be a section of its own.
    pub(crate) section: Option<Section>,
    pub(crate) reply: oneshot::Sender<Result<Appended, LogError>>,
}

impl Append {
    fn bytes(&self) -> usize {
        self.batch.encoded().len()
    }
}

/// What the writer has to do next.
#[derive(Debug)]
pub(crate) enum Work {
    /// Commit these together.
    Commit(Vec<Append>),
    /// Seal the active segment; tell these the number of the next one.
    Roll(Vec<oneshot::Sender<u64>>),
}

#[derive(Debug, Default)]
struct Waiting {
    appends: VecDeque<Append>,
    /// Encoded bytes waiting or being written.
    bytes: usize,
    wants_roll: bool,
    /// Who waits until all that is durable now lies in sealed segments.
    rolls: Vec<oneshot::Sender<u64>>,
    is_closed: bool,
}

/// The queue.
#[derive(Debug)]
pub(crate) struct Queue {
    waiting: Mutex<Waiting>,
    arrived: Condvar,
    bytes_max: usize,
}

impl Queue {
    pub(crate) fn new(bytes_max: usize) -> Self {
        Self { waiting: Mutex::default(), arrived: Condvar::new(), bytes_max }
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether there is room for so many bytes. An empty queue takes any batch.
    pub(crate) fn admit(&self, bytes: usize) -> Result<(), LogError> {
        let waiting = self.lock();
        admit(&waiting, bytes, self.bytes_max)
    }

    /// Adds a batch; gives the bytes that wait now.
    pub(crate) fn push(&self, append: Append) -> Result<usize, LogError> {
        let mut waiting = self.lock();
        admit(&waiting, append.bytes(), self.bytes_max)?;
        waiting.bytes += append.bytes();
        waiting.appends.push_back(append);
        let bytes = waiting.bytes;
        drop(waiting);
        self.arrived.notify_one();
        Ok(bytes)
    }

    /// Asks the writer to seal the active segment.
    pub(crate) fn ask_roll(&self) {
        self.lock().wants_roll = true;
        self.arrived.notify_one();
    }

    /// The same, before anything that waits is written: tells the number that the next segment will
    /// have. An error of the receiver says that the writer is gone.
    pub(crate) fn roll(&self) -> oneshot::Receiver<u64> {
        let (sender, receiver) = oneshot::channel();
        let mut waiting = self.lock();
        if !waiting.is_closed {
            waiting.rolls.push(sender);
        }
        drop(waiting);
        self.arrived.notify_one();
        receiver
    }

    /// Waits for work and takes all that fits one group; `None` when closed and empty.
    pub(crate) fn take(&self) -> Option<Work> {
        let mut waiting = self.lock();
        loop {
            if !waiting.rolls.is_empty() {
                return Some(Work::Roll(std::mem::take(&mut waiting.rolls)));
            }
            if !waiting.appends.is_empty() {
                return Some(Work::Commit(take_group(&mut waiting.appends)));
            }
            if std::mem::take(&mut waiting.wants_roll) {
                return Some(Work::Roll(Vec::new()));
            }
            if waiting.is_closed {
                return None;
            }
            waiting = self.arrived.wait(waiting).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Gives back the room of a group that was answered; gives the bytes that wait still.
    pub(crate) fn release(&self, bytes: usize) -> usize {
        let mut waiting = self.lock();
        waiting.bytes = waiting.bytes.saturating_sub(bytes);
        waiting.bytes
    }

    /// Takes nothing more; what waits is still written.
    pub(crate) fn close(&self) {
        self.lock().is_closed = true;
        self.arrived.notify_one();
    }

    /// Refuses all that waits: the writer is gone.
    pub(crate) fn abort(&self) {
        let mut waiting = self.lock();
        waiting.is_closed = true;
        waiting.appends.clear();
        waiting.rolls.clear();
        waiting.bytes = 0;
    }
}

fn admit(waiting: &Waiting, bytes: usize, bytes_max: usize) -> Result<(), LogError> {
    if waiting.is_closed {
        return Err(LogError::Closed);
    }
    if waiting.bytes > 0 && waiting.bytes.saturating_add(bytes) > bytes_max {
        return Err(LogError::Overloaded);
    }
    Ok(())
}

/// From the front: at least one batch, then while bytes and sections allow.
fn take_group(appends: &mut VecDeque<Append>) -> Vec<Append> {
    let mut bytes = 0_usize;
    let mut count = 0_usize;
    for append in appends.iter() {
        bytes = bytes.saturating_add(append.bytes());
        if count > 0 && (bytes > GROUP_BYTES_MAX || count >= SECTIONS_MAX) {
            break;
        }
        count += 1;
    }
    appends.drain(..count).collect()
}
