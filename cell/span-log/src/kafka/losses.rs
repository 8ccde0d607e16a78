//! What is lost of a log, and the way of it to the brokers: the commits of storage-writer wait for it.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rdkafka::error::KafkaError;

use super::ends::Ends;
use super::identity::IdentityKeeper;
use super::lost::LostBoard;

/// The lost runs of a log, and who keeps them.
pub(crate) struct Losses {
    keeper: Arc<IdentityKeeper>,
    ends: Arc<Ends>,
    incarnation: u64,
    board: Mutex<LostBoard>,
}

impl Losses {
    pub(crate) const fn new(
        keeper: Arc<IdentityKeeper>,
        ends: Arc<Ends>,
        incarnation: u64,
        board: LostBoard,
    ) -> Self {
        Self { keeper, ends, incarnation, board: Mutex::new(board) }
    }

    pub(crate) fn board(&self) -> MutexGuard<'_, LostBoard> {
        self.board.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells what waits to be told, and confirms that the topic is still the same log; the brokers
    /// have what is lost when it returns. Blocks.
    pub(crate) fn tell(&self, is_due: bool) -> Result<(), KafkaError> {
        let pending = self.board().pending().to_vec();
        match self.keeper.keep(self.incarnation, &pending, is_due)? {
            Some((texts, is_written)) => self.board().learn(&texts, is_written),
            None => self.ends.note_another_log("its identity is another"),
        }
        Ok(())
    }

    /// Tells what waits to be told, if anything does. Blocks.
    pub(crate) fn tell_pending(&self) -> Result<(), KafkaError> {
        let is_told = self.board().pending().is_empty();
        if is_told { Ok(()) } else { self.tell(false) }
    }
}
