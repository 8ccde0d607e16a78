//! The room that answers may take in this process: one budget of bytes, from which every question
//! takes as bytes arrive, and to which it gives back when the last of them has been sent.
//!
//! Nobody waits for room: what finds none is refused at once, retryably, so that an overload costs
//! answers and never the process. Counted is what holds memory: bytes on their way in from cells,
//! spans that are merged, answers being rendered, and bodies until their reader has taken them.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;

/// There is no room for more: ask again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the gateway's memory for answers is used up")]
pub struct NoRoom;

/// A budget of bytes, shared by all questions of a process. Clones are the same budget.
#[derive(Clone, Debug)]
pub struct AnswerRoom(Arc<Budget>);

#[derive(Debug)]
struct Budget {
    bytes_max: u64,
    used: AtomicU64,
    shown: Gauge,
    refused: Counter,
}

impl AnswerRoom {
    /// Room for so many bytes.
    #[must_use]
    pub fn new(bytes_max: u64) -> Self {
        let (shown, refused) = (Gauge::default(), Counter::default());
        Self(Arc::new(Budget { bytes_max, used: AtomicU64::new(0), shown, refused }))
    }

    /// A share of nothing, to grow.
    #[must_use]
    pub fn share(&self) -> Share {
        Share { room: self.clone(), bytes: 0 }
    }

    /// A share of so many bytes.
    pub fn take(&self, bytes: u64) -> Result<Share, NoRoom> {
        let mut share = self.share();
        share.grow(bytes)?;
        Ok(share)
    }

    /// Bytes in all.
    #[must_use]
    pub fn bytes_max(&self) -> u64 {
        self.0.bytes_max
    }

    /// Bytes taken now.
    #[must_use]
    pub fn used(&self) -> u64 {
        self.0.used.load(Ordering::Relaxed)
    }

    /// The gauge of bytes taken and the counter of refusals, to be registered.
    pub(crate) fn figures(&self) -> (Gauge, Counter) {
        (self.0.shown.clone(), self.0.refused.clone())
    }

    fn try_take(&self, bytes: u64) -> Result<(), NoRoom> {
        let fitting = |used: u64| used.checked_add(bytes).filter(|sum| *sum <= self.0.bytes_max);
        match self.0.used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, fitting) {
            Ok(used) => {
                self.show(used.saturating_add(bytes));
                Ok(())
            }
            Err(_) => {
                self.0.refused.inc();
                Err(NoRoom)
            }
        }
    }

    fn give_back(&self, bytes: u64) {
        let used = self.0.used.fetch_sub(bytes, Ordering::Relaxed);
        self.show(used.saturating_sub(bytes));
    }

    fn show(&self, used: u64) {
        self.0.shown.set(i64::try_from(used).unwrap_or(i64::MAX));
    }
}

/// What one question has taken. Given back when it is dropped.
#[derive(Debug)]
pub struct Share {
    room: AnswerRoom,
    bytes: u64,
}

impl Share {
    /// Takes more; where there is no room, what was taken stays as it is.
    pub fn grow(&mut self, bytes: u64) -> Result<(), NoRoom> {
        self.room.try_take(bytes)?;
        self.bytes = self.bytes.saturating_add(bytes);
        Ok(())
    }

    /// Takes over what another share of the same room has.
    pub(crate) fn absorb(&mut self, mut other: Self) {
        self.bytes = self.bytes.saturating_add(std::mem::take(&mut other.bytes));
    }

    /// Gives back, at most all.
    pub fn shrink(&mut self, bytes: u64) {
        let bytes = bytes.min(self.bytes);
        self.bytes = self.bytes.saturating_sub(bytes);
        self.room.give_back(bytes);
    }

    /// How much it has.
    #[must_use]
    pub const fn bytes(&self) -> u64 {
        self.bytes
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.room.give_back(self.bytes);
    }
}

/// Shares that live as long as the last answer made of them.
#[derive(Clone, Debug, Default)]
pub struct Held(Vec<Arc<Share>>);

impl Held {
    /// These shares too.
    pub(crate) fn hold(&mut self, share: Arc<Share>) {
        self.0.push(share);
    }
}

impl From<Share> for Held {
    fn from(share: Share) -> Self {
        Self(vec![Arc::new(share)])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_take_and_give_back_and_never_exceed_the_room() {
        let room = AnswerRoom::new(100);
        let mut first = room.take(60).unwrap();
        let mut second = room.share();
        assert_eq!(second.grow(41), Err(NoRoom));
        assert_eq!((second.bytes(), room.used()), (0, 60));
        second.grow(40).unwrap();
        assert_eq!(first.grow(1), Err(NoRoom));
        first.shrink(10);
        second.grow(10).unwrap();
        first.shrink(1_000);
        assert_eq!((first.bytes(), room.used()), (0, 50));
        assert_eq!(first.grow(u64::MAX), Err(NoRoom));
        drop(second);
        assert_eq!(room.used(), 0);
        let (shown, refused) = room.figures();
        assert_eq!((shown.get(), refused.get()), (0, 3));
    }

    #[test]
    fn what_is_held_twice_is_given_back_with_the_last_holder() {
        let room = AnswerRoom::new(100);
        let held = Held::from(room.take(30).unwrap());
        let other = held.clone();
        drop(held);
        assert_eq!(room.used(), 30);
        drop(other);
        assert_eq!(room.used(), 0);
    }

    #[test]
    fn what_is_absorbed_is_given_back_once() {
        let room = AnswerRoom::new(100);
        let mut share = room.take(30).unwrap();
        share.absorb(room.take(20).unwrap());
        assert_eq!((share.bytes(), room.used()), (50, 50));
        drop(share);
        assert_eq!(room.used(), 0);
    }

    #[test]
    fn many_at_once_never_exceed_the_room() {
        let room = AnswerRoom::new(1_000);
        let take_and_drop = || {
            for bytes in 1..2_000 {
                let share = room.take(bytes % 400);
                assert!(room.used() <= 1_000);
                drop(share);
            }
        };
        std::thread::scope(|scope| {
            (0..8).for_each(|_| drop(scope.spawn(take_and_drop)));
        });
        assert_eq!(room.used(), 0);
    }
}
