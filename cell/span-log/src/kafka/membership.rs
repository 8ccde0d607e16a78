//! The thread of a membership: joins, polls, tells what is given, leaves.
//!
//! A group that one process reads alone has one member: whoever finds the group empty joins, and is
//! at work when it holds all partitions. Two that join at the same moment share them, so that neither
//! is at work; one of them goes away again, by chance the one or the other. A member that lost its
//! session joins again under a new id while the brokers still wait for the old one: that is nobody
//! else, and going away for it would only make the group wait longer.

use std::hash::{BuildHasher as _, RandomState};
use std::sync::Arc;
use std::sync::mpsc::Receiver;
use std::time::Duration;

use rdkafka::consumer::Consumer as _;
use rdkafka::error::KafkaError;
use rdkafka::groups::GroupMemberInfo;
use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::board::Board;
use super::commits::Group;
use super::core::Core;
use super::member::{self, Member};
use super::upkeep::is_stopped;
use crate::assignment::Sharing;
use crate::port::GroupId;

/// Callbacks and stops are looked for this often.
const POLL: Duration = Duration::from_millis(100);
/// What failed is tried again after this.
const RETRY_AFTER: Duration = Duration::from_secs(1);
/// One that stands by looks whether the group is empty this often.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// One that does not get all partitions of a group that it is to read alone goes away after this,
/// and up to as long again by chance.
const CONTENDED_AFTER: Duration = Duration::from_secs(8);
/// Leaving takes at most this long.
const LEAVE_WITHIN: Duration = Duration::from_secs(5);

/// One group's membership.
pub(crate) struct Membership {
    core: Arc<Core>,
    id: GroupId,
    sharing: Sharing,
    board: Arc<Board>,
    /// What the brokers call this process in the group, whatever id they give it: no other has it.
    client_id: String,
}

/// Where a membership stands.
#[derive(Clone, Copy)]
enum Turn {
    /// Outside; it looks again then.
    StandsBy(Duration),
    /// Inside; one that reads alone may lack partitions until then.
    Joined { give_up_at: Duration },
}

impl Membership {
    pub(crate) fn new(core: Arc<Core>, id: GroupId, sharing: Sharing, board: Arc<Board>) -> Self {
        let chance = RandomState::new().hash_one(id.0);
        let client_id = format!("{}-{chance:016x}", core.config.client_id);
        Self { core, id, sharing, board, client_id }
    }

    /// Runs until it is told to stop.
    pub(crate) fn run(&self, stop: &Receiver<()>) {
        let Some((group, consumer)) = self.open(stop) else { return };
        let mut turn = Turn::StandsBy(Duration::ZERO);
        let mut is_failing = false;
        while !is_stopped(stop, Duration::ZERO) {
            if let Some(Err(error)) = consumer.poll(POLL) {
                self.note_failure(&error, &mut is_failing);
            }
            turn = match (self.board.is_absent(), self.sharing) {
                (true, _) => self.stay_out(&consumer, turn),
                (false, Sharing::Alone) => self.take_turns(&consumer, turn),
                (false, Sharing::Partitions) => self.take_part(&consumer, turn),
            };
            self.place_new(&group);
        }
        self.leave(&group, &consumer);
    }

    /// The group and its member, as soon as both can be had; `None` where it is to stop.
    fn open(&self, stop: &Receiver<()>) -> Option<(Arc<Group>, Arc<Member>)> {
        let mut is_said = false;
        loop {
            match self.try_open() {
                Ok(opened) => return Some(opened),
                Err(reason) if !is_said => {
                    tracing::error!(group = %self.id, reason, "a group cannot be joined");
                    is_said = true;
                }
                Err(_) => {}
            }
            if is_stopped(stop, RETRY_AFTER) {
                return None;
            }
        }
    }

    fn try_open(&self) -> Result<(Arc<Group>, Arc<Member>), String> {
        let commits = &self.core.commits;
        let group = commits.group(self.id).map_err(|error| error.to_string())?;
        let said = (commits.voice(), &self.core.metrics);
        // One that reads alone waits for an empty group, which one with a name of its own is not
        // for a while after its end.
        let is_static = self.is_named();
        let opened = member::open(
            &self.core.config,
            &group,
            &self.board,
            commits.lineages(),
            said,
            (&self.client_id, is_static),
        );
        let consumer = Arc::new(opened.map_err(|error| error.to_string())?);
        group.joins_as(Arc::clone(&consumer));
        Ok((group, consumer))
    }

    fn join(&self, consumer: &Member) -> Turn {
        match consumer.subscribe(&[&self.core.config.topic_name()]) {
            Ok(()) => Turn::Joined { give_up_at: self.now() + self.patience() },
            Err(error) => {
                tracing::error!(group = %self.id, %error, "a group cannot be joined");
                Turn::StandsBy(self.now() + RETRY_AFTER)
            }
        }
    }

    /// The reader cannot read for now: others are to have the partitions.
    fn stay_out(&self, consumer: &Member, turn: Turn) -> Turn {
        if let Turn::Joined { .. } = turn {
            tracing::debug!(group = %self.id, "this process leaves a group to others");
            consumer.unsubscribe();
        }
        Turn::StandsBy(self.now())
    }

    /// A group that is shared is joined and stayed in.
    fn take_part(&self, consumer: &Member, turn: Turn) -> Turn {
        match turn {
            Turn::StandsBy(look_at) if self.now() >= look_at => self.join(consumer),
            Turn::StandsBy(_) | Turn::Joined { .. } => turn,
        }
    }

    fn now(&self) -> Duration {
        self.core.clock.monotonic()
    }

    fn note_failure(&self, error: &KafkaError, is_failing: &mut bool) {
        if let KafkaError::MessageConsumptionFatal(_) = error {
            if !*is_failing {
                tracing::error!(group = %self.id, %error, "the membership has ended for good");
                self.core.note_fatal(format!("its membership of {}: {error}", self.id));
            }
            *is_failing = true;
            self.board.remove(&self.board.all());
        } else {
            tracing::debug!(group = %self.id, %error, "a membership has trouble");
        }
    }

    /// Asks how far the group has come in partitions that were just given, and tells them then.
    fn place_new(&self, group: &Group) {
        let unplaced = self.board.unplaced();
        if unplaced.is_empty() {
            return;
        }
        match group.learn(&unplaced, self.core.commits.lineages()) {
            Ok(()) => {
                self.board.give(&unplaced);
                self.core.metrics.observe_assigned(self.id, self.board.held());
            }
            Err(error) => {
                tracing::debug!(group = %self.id, %error, "committed offsets are asked for again");
            }
        }
    }

    /// Joins an empty group; leaves one that another has joined at the same time.
    fn take_turns(&self, consumer: &Member, turn: Turn) -> Turn {
        let now = self.now();
        match turn {
            Turn::StandsBy(look_at) if now < look_at => turn,
            Turn::StandsBy(_) if !self.has_nobody_else(consumer) => {
                Turn::StandsBy(now + LOOK_EVERY)
            }
            Turn::StandsBy(_) => self.join(consumer),
            Turn::Joined { .. } if self.board.is_whole(self.core.ends.count()) => {
                Turn::Joined { give_up_at: now + self.patience() }
            }
            Turn::Joined { give_up_at } if now < give_up_at => turn,
            // The missing partitions will come; of what cannot be asked, later.
            Turn::Joined { .. } if self.others(consumer).is_none_or(|others| others == 0) => {
                Turn::Joined { give_up_at: now + LOOK_EVERY }
            }
            Turn::Joined { .. } => {
                tracing::info!(group = %self.id, "two processes were to read a group alone: this one stands by");
                consumer.unsubscribe();
                Turn::StandsBy(now + CONTENDED_AFTER)
            }
        }
    }

    /// How long partitions may be missing: by chance different in two processes.
    fn patience(&self) -> Duration {
        let seed = self.core.clock.now().0 ^ u64::from(std::process::id());
        let chance = xxh3_64_with_seed(self.id.0.as_bytes(), seed) % 1_000;
        let more = CONTENDED_AFTER.mul_f64(f64::from(u32::try_from(chance).unwrap_or(0)) / 1_000.0);
        CONTENDED_AFTER.saturating_add(more)
    }

    /// How many other processes the brokers count among the members; `None` where they do not say.
    fn others(&self, consumer: &Member) -> Option<usize> {
        let config = &self.core.config;
        let name = config.group_name(self.id);
        let found = consumer.fetch_group_list(Some(&name), config.request_timeout).ok()?;
        let group = found.groups().iter().find(|group| group.name() == name);
        let is_other = |member: &&GroupMemberInfo| member.client_id() != self.client_id;
        Some(group.map_or(0, |group| group.members().iter().filter(is_other).count()))
    }

    /// Whether no other process has joined the group; of one of which nothing is known it may have.
    fn has_nobody_else(&self, consumer: &Member) -> bool {
        self.others(consumer) == Some(0)
    }

    /// Whether the brokers know this member by a name of its own.
    fn is_named(&self) -> bool {
        self.sharing == Sharing::Partitions && self.core.config.member.is_some()
    }

    /// Writes what was committed, and leaves: others need not wait for the session to end. One with a
    /// name keeps its place for that long, so that it finds it again: it closes without a word, where
    /// to unsubscribe would give the place up (KIP-345).
    fn leave(&self, group: &Group, consumer: &Member) {
        self.board.end();
        if let Err(error) = group.flush(self.core.commits.lineages()) {
            tracing::warn!(group = %self.id, %error, "the last commits were not written: records are read again");
        }
        let is_closing = self.is_named() && consumer.close_queue().is_ok();
        if !is_closing {
            consumer.unsubscribe();
        }
        let until = self.now() + LEAVE_WITHIN;
        let is_inside = || !self.board.all().is_empty() || (is_closing && !consumer.closed());
        while is_inside() && self.now() < until {
            drop(consumer.poll(POLL));
        }
        self.board.remove(&self.board.all());
    }
}
