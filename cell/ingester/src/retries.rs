//! Dead letters that a person wants tried again: handed to the runner of their group, which alone may
//! touch its handler.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use span_log::GroupId;
use tokio::sync::oneshot;

use crate::dead_letter::{DeadLetterError, DeadLetters};

/// Letters that wait for their group.
const WAITING_MAX: usize = 64;
/// How long a try may take, the wait for the group's turn included.
const PATIENCE: Duration = Duration::from_secs(30);

/// Why a letter was not taken. It is still there.
#[derive(Debug, thiserror::Error)]
pub enum RetryError {
    /// There is no letter of this number.
    #[error("there is no dead letter {0}")]
    Absent(u64),
    /// The group refused it again.
    #[error("the group {group} refused it again: {reason}")]
    Refused {
        /// The group.
        group: String,
        /// Why.
        reason: String,
    },
    /// The group could not take it now.
    #[error("the group {group} cannot take it now: {reason}")]
    NotNow {
        /// The group.
        group: String,
        /// Why.
        reason: String,
    },
    /// The letter could not be read or removed.
    #[error("the letter could not be taken")]
    Letter(#[from] DeadLetterError),
}

impl RetryError {
    /// Whether the same call may succeed later.
    #[must_use]
    pub const fn is_retryable(&self) -> bool {
        match self {
            Self::NotNow { .. } => true,
            Self::Absent(_) | Self::Refused { .. } => false,
            Self::Letter(error) => error.is_retryable(),
        }
    }
}

/// A letter that waits for its group.
#[derive(Debug)]
pub(crate) struct Waiting {
    pub(crate) group: String,
    pub(crate) sequence: u64,
    pub(crate) reply: oneshot::Sender<Result<(), RetryError>>,
}

/// The letters that wait; shared by all runners.
#[derive(Clone, Debug, Default)]
pub struct Retries {
    waiting: Arc<Mutex<VecDeque<Waiting>>>,
}

impl Retries {
    /// Hands a letter to its group again. `Ok` says that the group's store holds its spans durably,
    /// and that the letter is gone.
    pub async fn retry(&self, letters: &Arc<DeadLetters>, sequence: u64) -> Result<(), RetryError> {
        let asked = Arc::clone(letters);
        let reading = tokio::task::spawn_blocking(move || asked.take_for_retry(sequence));
        let letter = reading.await.map_err(|error| DeadLetterError::Disk(error.into()))??;
        let group = letter.ok_or(RetryError::Absent(sequence))?.group;
        let not_now =
            |reason: &str| RetryError::NotNow { group: group.clone(), reason: reason.to_owned() };
        let (reply, answer) = oneshot::channel();
        {
            let mut waiting = self.lock();
            if waiting.len() >= WAITING_MAX {
                return Err(not_now("too many letters wait for their turn"));
            }
            waiting.push_back(Waiting { group: group.clone(), sequence, reply });
        }
        match tokio::time::timeout(PATIENCE, answer).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(_)) => Err(not_now("it ended before it had tried")),
            Err(_) => {
                self.lock().retain(|waiting| !waiting.reply.is_closed());
                Err(not_now("it does not run, or had no time"))
            }
        }
    }

    /// The next letter of the group.
    pub(crate) fn take(&self, group: GroupId) -> Option<Waiting> {
        let mut waiting = self.lock();
        let place = waiting.iter().position(|waiting| waiting.group == group.0)?;
        waiting.remove(place)
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<Waiting>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
