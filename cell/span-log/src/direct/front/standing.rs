//! How the collectors are, and giving one up that is gone for good.

use std::sync::Arc;

use proto::v1;
use trace_model::UnixNanos;

use super::FrontLog;
use super::seat::{CLOCK_ERROR_MAX_NANOS, Seat};
use super::seat_note::{Retiring, SeatNote};
use super::shared::Shared;
use crate::port::{ForgetLost, LogError};

/// How a collector is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It answers, and takes spans.
    Up,
    /// It answers, and is not known to the cell yet.
    New,
    /// It does not answer.
    Away(String),
    /// It is gone for good.
    Retired {
        /// Since when.
        at: UnixNanos,
        /// Whether it has come back and was told.
        is_told: bool,
    },
}

/// A collector, as the front knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CollectorStanding {
    /// Its number.
    pub number: u32,
    /// Where it is looked for.
    pub url: String,
    /// How it is.
    pub standing: Standing,
    /// Offset behind the last record that is known of it.
    pub next: u64,
    /// How far all stores have it.
    pub stored: u64,
    /// Append time up to which it has vouched for its end.
    pub heard_until: UnixNanos,
}

/// Why a collector is not retired.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RetireError {
    /// There is none of that number.
    #[error("there is no collector {0}")]
    Absent(u32),
    /// It is there.
    #[error("collector {0} answers: stop it for good first; what its log holds would be given up")]
    Answers(u32),
    /// It is silent, and may run on where the front does not reach it.
    #[error(
        "collector {number} may still run where this front does not reach it: it takes spans without \
         it for `direct.lease`, {seconds} s from now on; retire it then"
    )]
    MayRun {
        /// Its number.
        number: u32,
        /// From now on, in seconds, at the latest.
        seconds: u64,
    },
    /// This front is void.
    #[error("another front of this cell was started later: that one knows the collectors")]
    Fenced,
    /// It was not written down, and is not retired.
    #[error("it was not written down: {0}")]
    NotKept(String),
}

/// A collector is being retired. It goes with the change, so that one that is not retired in the end is
/// let take more again, also where its caller is dropped.
struct Begun {
    shared: Arc<Shared>,
    number: u32,
    retiring: Retiring,
}

impl Begun {
    fn retire(&self, note: &mut SeatNote) {
        note.retire(&self.retiring);
    }
}

impl Drop for Begun {
    fn drop(&mut self) {
        drop(self.shared.with(self.number, |seat| seat.is_retiring = seat.is_retired()));
    }
}

impl FrontLog {
    /// All collectors, by number.
    #[must_use]
    pub fn standings(&self) -> Vec<CollectorStanding> {
        let standing = |number: u32| {
            let seat = self.shared.seat(number)?;
            let url = self.shared.client(number)?.url.clone();
            let standing = match (&seat.note.retired, &seat.fault) {
                (Some(retired), _) => {
                    Standing::Retired { at: UnixNanos(retired.at), is_told: retired.is_told }
                }
                (None, Some(fault)) => Standing::Away(fault.clone()),
                (None, None) if seat.is_registered => Standing::Up,
                (None, None) => Standing::New,
            };
            let (next, stored) = (seat.note.next, seat.lost_from());
            let heard_until = UnixNanos(seat.note.append_time);
            Some(CollectorStanding { number, url, standing, next, stored, heard_until })
        };
        (0..self.shared.count()).filter_map(standing).collect()
    }

    /// Gives a collector up that is gone for good: durable when it returns. It holds the watermark no
    /// longer; what no store has of it is lost, and is told as such. Harmless to repeat. One that runs on
    /// unseen takes nothing any more by then, so that all it ever took is within what is told as lost.
    pub async fn retire(&self, number: u32) -> Result<(), RetireError> {
        let seat = self.shared.seat(number).ok_or(RetireError::Absent(number))?;
        if seat.is_retired() {
            return Ok(());
        }
        self.check_silent(number).await?;
        let (seat, begun) = self.begin_to_retire(number)?;
        let retired = self.shared.change_seat(number, move |note| begun.retire(note)).await;
        retired.map_err(|error| RetireError::NotKept(error.to_string()))?;
        tracing::warn!(
            collector = number,
            stored = seat.lost_from(),
            "a collector was retired: what it had beyond its stored records is lost"
        );
        Ok(())
    }

    /// Refuses where a process is there that knows the number, or another front.
    async fn check_silent(&self, number: u32) -> Result<(), RetireError> {
        let client = self.shared.client(number).ok_or(RetireError::Absent(number))?;
        let request = v1::WatchLogRequest {
            front: Some(self.shared.front(number)),
            ..v1::WatchLogRequest::default()
        };
        match client.watch(request).await {
            Ok(_) => return Err(RetireError::Answers(number)),
            Err(refusal) => self.shared.note_away(number, &refusal),
        }
        if self.shared.is_fenced() { Err(RetireError::Fenced) } else { Ok(()) }
    }

    /// From here on the collector is not let take more; refused while it may.
    fn begin_to_retire(&self, number: u32) -> Result<(Seat, Begun), RetireError> {
        let latest = self.shared.clock.now().minus(CLOCK_ERROR_MAX_NANOS);
        let begun = self.shared.with(number, |seat| {
            let left = self.shared.ended_by(seat).since(latest);
            if left > 0 {
                return Err(RetireError::MayRun { number, seconds: left.div_ceil(1_000_000_000) });
            }
            seat.is_retiring = true;
            Ok(seat.clone())
        });
        let seat = begun.map_err(|_| RetireError::Absent(number))??;
        let retiring = seat.retiring(self.shared.clock.now());
        Ok((seat, Begun { shared: Arc::clone(&self.shared), number, retiring }))
    }

    /// Forgets lost runs of one collector. Those of its own log it forgets by age itself.
    pub(super) async fn forget_of(
        &self,
        partition: u32,
        which: ForgetLost,
    ) -> Result<usize, LogError> {
        let own = self.shared.with(partition, |seat| seat.note.clone().forget(partition, which))?;
        if own > 0 {
            let forget = move |note: &mut SeatNote| {
                note.forget(partition, which);
            };
            let forgotten = self.shared.change_seat(partition, forget).await;
            forgotten.map_err(|error| LogError::Disk(error.to_string()))?;
            return Ok(own);
        }
        if self.shared.with(partition, |seat| seat.is_retired())? {
            return Ok(0);
        }
        let (of, first, missed_by) = match which {
            ForgetLost::Before(_) => return Ok(0),
            ForgetLost::Run { partition, first, .. } => (partition, first, ""),
            ForgetLost::Missed { partition, first, group, .. } => (partition, first, group.0),
        };
        let Some(client) = self.shared.client(partition).filter(|_| of == partition) else {
            return Ok(0);
        };
        let request = v1::ForgetLostRecordsRequest {
            front: Some(self.shared.front(partition)),
            first: Some(first),
            before_unix_nano: None,
            missed_by: missed_by.to_owned(),
        };
        let forgotten = client.forget(request).await;
        let forgotten = forgotten.map_err(|refusal| self.missed(partition, &refusal))?;
        Ok(usize::try_from(forgotten).unwrap_or(usize::MAX))
    }
}
