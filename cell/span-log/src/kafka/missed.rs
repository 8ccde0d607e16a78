//! What single groups have missed: kept by the brokers, and known to every process of the log.
//!
//! For each group that is told, a reserved group keeps a text with each partition, of the same form as
//! the identity's. It must not be the identity's own: a release that does not know what is added there
//! would take the topic for another log. Older releases never ask for these groups.

use std::sync::{Mutex, PoisonError};

use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use trace_model::{LogRange, UnixNanos};

use super::client::Voice;
use super::config::KafkaConfig;
use super::ends::Ends;
use super::error::KafkaOpenError;
use super::group_offsets::{GroupOffsets, Kept};
use super::identity_text::IdentityText;
use crate::port::{ForgetLost, GroupId, Lost, LostCause, LostRun, MissedRun, TOLD_GROUPS};

/// Another process may write at the same time: a note is written until it is found.
const TRIES: u32 = 5;

/// Keeps what groups have missed.
pub(crate) struct MissedKeeper {
    groups: Vec<(GroupId, GroupOffsets)>,
    partitions: Vec<u32>,
    known: Mutex<Lost>,
    /// One change at a time.
    turn: Mutex<()>,
}

impl MissedKeeper {
    pub(crate) fn open(
        config: &KafkaConfig,
        voice: &Voice,
        partitions: u32,
    ) -> Result<Self, KafkaOpenError> {
        let mut groups = Vec::with_capacity(TOLD_GROUPS.len());
        for group in TOLD_GROUPS {
            let name = format!("{}farspan-log-missed-{group}", config.prefix);
            groups.push((group, GroupOffsets::open(config, &name, voice)?));
        }
        let (known, turn) = (Mutex::default(), Mutex::default());
        Ok(Self { groups, partitions: (0..partitions).collect(), known, turn })
    }

    /// What is known here: runs that were missed, and up to when others were forgotten.
    pub(crate) fn known(&self) -> Lost {
        self.known.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Learns what the brokers have. Blocks.
    pub(crate) fn learn(&self) -> Result<(), KafkaError> {
        let mut learnt = Lost::default();
        for (group, offsets) in &self.groups {
            let kept = offsets.read(&self.partitions)?;
            for (partition, kept) in self.partitions.iter().zip(kept) {
                let Some(kept) = kept else { continue };
                let text = IdentityText::parse(&kept.text);
                let text = text.unwrap_or_else(|| unreadable(*partition));
                let run_of = |run| MissedRun { group: *group, run };
                learnt.missed.extend(text.lost.into_iter().map(run_of));
                learnt.expired_until = learnt.expired_until.max(text.forgotten_until);
            }
            offsets.serve();
        }
        *self.known.lock().unwrap_or_else(PoisonError::into_inner) = learnt;
        Ok(())
    }

    /// Notes a run; the brokers have it when it returns. Says whether it was news. Blocks.
    pub(crate) fn note(&self, missed: &MissedRun, ends: &Ends) -> Result<bool, KafkaError> {
        let _turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        let partition = missed.run.range.partition;
        let Some(offsets) = self.offsets(missed.group) else { return Ok(false) };
        for attempt in 0..TRIES {
            let kept = offsets.read(&[partition])?.into_iter().next().flatten();
            let mut text = match kept.map(|kept| IdentityText::parse(&kept.text)) {
                Some(Some(text)) => text,
                None => IdentityText::default(),
                // A later release's: all may be missed, which says more than this run.
                Some(None) => return Ok(false),
            };
            if !text.lose(&missed.run) {
                self.learn()?;
                return Ok(attempt > 0);
            }
            text.incarnation = text.incarnation.max(missed.run.incarnation);
            offsets.write(&[kept_at(partition, ends, &text)])?;
        }
        Err(KafkaError::ConsumerCommit(RDKafkaErrorCode::Conflict))
    }

    /// Forgets runs; gives how many. Blocks.
    pub(crate) fn forget(&self, which: ForgetLost, ends: &Ends) -> Result<usize, KafkaError> {
        let (only, which) = match which {
            ForgetLost::Before(_) => (None, which),
            ForgetLost::Run { .. } => return Ok(0),
            ForgetLost::Missed { group, incarnation, partition, first } => {
                (Some(group), ForgetLost::Run { incarnation, partition, first })
            }
        };
        let _turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        let mut forgotten = 0_usize;
        for (group, offsets) in &self.groups {
            if only.is_some_and(|only| only != *group) {
                continue;
            }
            let mut changed = Vec::new();
            for (partition, kept) in self.partitions.iter().zip(offsets.read(&self.partitions)?) {
                let text = kept.and_then(|kept| IdentityText::parse(&kept.text));
                let Some(mut text) = text else { continue };
                let gone = text.forget(which);
                forgotten = forgotten.saturating_add(gone);
                if gone > 0 {
                    changed.push(kept_at(*partition, ends, &text));
                }
            }
            offsets.write(&changed)?;
        }
        self.learn()?;
        Ok(forgotten)
    }

    /// Writes what is kept again, so that the brokers do not let it expire. Blocks.
    pub(crate) fn renew(&self) -> Result<(), KafkaError> {
        let _turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        for (_, offsets) in &self.groups {
            let kept = self.partitions.iter().zip(offsets.read(&self.partitions)?);
            let kept = kept.filter_map(|(partition, kept)| Some((*partition, kept?)));
            offsets.write(&kept.collect::<Vec<_>>())?;
        }
        Ok(())
    }

    fn offsets(&self, group: GroupId) -> Option<&GroupOffsets> {
        self.groups.iter().find(|(known, _)| *known == group).map(|(_, offsets)| offsets)
    }
}

/// The offset says nothing; brokers want one that the partition may have.
fn kept_at(partition: u32, ends: &Ends, text: &IdentityText) -> (u32, Kept) {
    let offset = ends.get(partition).map_or(0, |end| end.next);
    (partition, Kept { offset, text: text.encode() })
}

/// What is taken from a text that a later release wrote, or nobody of ours: anything may be missed.
fn unreadable(partition: u32) -> IdentityText {
    let range = LogRange { partition, first: 0, next: u64::MAX };
    let append_times = (UnixNanos(0), UnixNanos::MAX);
    let run = LostRun { incarnation: 0, range, append_times, cause: LostCause::Damaged };
    IdentityText { lost: vec![run], ..IdentityText::default() }
}
