//! What is lost of a collector's log: kept beside it, and told to the front.

use std::time::Duration;

use tokio::time::timeout;
use trace_model::{LogRange, UnixNanos};

use super::super::INCARNATION;
use super::own_note::Aside;
use super::{CollectorLog, OWN};
use crate::port::{
    ForgetLost, GroupId, LogError, Lost, LostCause, LostRun, MissedRun, STORAGE_WRITER,
    SpanLog as _,
};

/// Runs that a store has refused, remembered at most; beyond it the last one grows.
const ASIDE_MAX: usize = 128;
/// How long a note of what is lost waits for the front to hear of it.
const HEARD_WITHIN: Duration = Duration::from_secs(2);

impl CollectorLog {
    /// How many notes of what is lost there are.
    pub(in super::super) fn notes(&self) -> u64 {
        *self.notes.borrow()
    }

    /// The front knows of so many.
    pub(in super::super) fn note_heard(&self, notes: u64) {
        if notes <= self.notes() {
            self.heard.send_if_modified(|heard| {
                let is_news = *heard < notes;
                *heard = notes.max(*heard);
                is_news
            });
        }
    }

    /// Waits until the log's end lies beyond an offset or there are other notes, at most so long.
    pub(in super::super) async fn wait_for_news(
        &self,
        (beyond, notes): (u64, u64),
        at_most: Duration,
    ) -> Result<(), LogError> {
        let mut noted = self.notes.subscribe();
        tokio::select! {
            grown = self.log.wait_beyond(OWN, beyond, at_most) => grown.map(drop),
            _ = noted.wait_for(|known| *known != notes) => Ok(()),
        }
    }

    /// Something is lost: the front hears of it before whoever noted it goes on. One that is away names
    /// this collector as silent meanwhile.
    async fn tell_front(&self) {
        self.notes.send_modify(|notes| *notes = notes.saturating_add(1));
        let (notes, mut heard) = (self.notes(), self.heard.subscribe());
        drop(timeout(HEARD_WITHIN, heard.wait_for(|heard| *heard >= notes)).await);
    }

    /// A run of the embedded log, in the words of the cell.
    const fn lost_run(&self, run: &LostRun) -> LostRun {
        LostRun { incarnation: INCARNATION, range: self.range(run.range), ..*run }
    }

    /// What is to be forgotten, in the embedded log's own words; `None`: nothing of this collector.
    fn of_its_own(&self, which: ForgetLost) -> Option<ForgetLost> {
        let is_own = |of: (u64, u32)| of == (INCARNATION, self.number);
        let incarnation = self.log_id();
        match which {
            ForgetLost::Before(_) => Some(which),
            ForgetLost::Run { incarnation: of, partition, first } if is_own((of, partition)) => {
                Some(ForgetLost::Run { incarnation, partition: OWN, first })
            }
            ForgetLost::Missed { group, incarnation: of, partition, first }
                if is_own((of, partition)) =>
            {
                Some(ForgetLost::Missed { group, incarnation, partition: OWN, first })
            }
            ForgetLost::Run { .. } | ForgetLost::Missed { .. } => None,
        }
    }

    async fn forget_aside(&self, which: ForgetLost) -> Result<usize, LogError> {
        let stays = move |run: &Aside| match which {
            ForgetLost::Before(time) => run.last_time >= time.0,
            ForgetLost::Run { first, .. } => run.first != first,
            ForgetLost::Missed { .. } => true,
        };
        let forgotten = self.kept.note().set_aside.iter().filter(|run| !stays(run)).count();
        if forgotten > 0 {
            self.change(move |note| {
                note.set_aside.retain(stays);
                if let ForgetLost::Before(time) = which {
                    note.forgotten_until = note.forgotten_until.max(time.0);
                }
            })
            .await?;
        }
        Ok(forgotten)
    }

    /// What is lost of its log, in the words of the cell.
    pub(super) fn all_lost(&self) -> Lost {
        let lost = self.log.lost();
        let own = lost.runs.iter().map(|run| self.lost_run(run));
        let missed = lost.missed.into_iter();
        let missed = missed.map(|one| MissedRun { run: self.lost_run(&one.run), ..one }).collect();
        let note = self.kept.note();
        let aside = note.set_aside.iter().map(|run| LostRun {
            incarnation: INCARNATION,
            range: LogRange { partition: self.number, first: run.first, next: run.next },
            append_times: (UnixNanos(run.first_time), UnixNanos(run.last_time)),
            cause: LostCause::SetAside,
        });
        let forgotten = (note.forgotten_until > 0).then_some(UnixNanos(note.forgotten_until));
        let expired_until = lost.expired_until.max(forgotten);
        Lost { runs: own.chain(aside).collect(), missed, expired_until }
    }

    /// Keeps what a group has missed, and tells the front.
    pub(super) async fn keep_missed(&self, missed: MissedRun) -> Result<(), LogError> {
        self.check_partition(missed.run.range.partition)?;
        let range = LogRange { partition: OWN, ..missed.run.range };
        let run = LostRun { incarnation: self.log_id(), range, ..missed.run };
        let known = self.log.lost().missed;
        self.log.note_missed(MissedRun { run, ..missed }).await?;
        if self.log.lost().missed != known {
            self.tell_front().await;
        }
        Ok(())
    }

    pub(super) async fn forget(&self, which: ForgetLost) -> Result<usize, LogError> {
        let Some(own) = self.of_its_own(which) else { return Ok(0) };
        let forgotten = self.log.forget_lost(own).await?;
        let forgotten = forgotten.saturating_add(self.forget_aside(which).await?);
        if forgotten > 0 {
            self.notes.send_modify(|notes| *notes = notes.saturating_add(1));
        }
        Ok(forgotten)
    }

    /// Keeps what a store has refused, and tells the front.
    pub(super) async fn keep_set_aside(
        &self,
        group: GroupId,
        range: LogRange,
        (first, last): (UnixNanos, UnixNanos),
    ) -> Result<(), LogError> {
        if group != STORAGE_WRITER {
            let (append_times, cause) = ((first, last), LostCause::SetAside);
            let run = LostRun { incarnation: INCARNATION, range, append_times, cause };
            return self.keep_missed(MissedRun { group, run }).await;
        }
        let run =
            Aside { first: range.first, next: range.next, first_time: first.0, last_time: last.0 };
        if self.kept.note().set_aside.contains(&run) {
            return Ok(());
        }
        self.change(move |note| {
            let is_full = note.set_aside.len() >= ASIDE_MAX;
            match note.set_aside.last_mut().filter(|_| is_full) {
                Some(last) => last.grow(&run),
                None => note.set_aside.push(run),
            }
        })
        .await?;
        self.tell_front().await;
        Ok(())
    }
}
