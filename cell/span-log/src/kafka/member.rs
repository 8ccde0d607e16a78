//! This process as a member of a consumer group: which partitions it is given, and how it gives them
//! back.
//!
//! The member fetches nothing (lanes do) and decides nothing: Kafka's cooperative-sticky assignor
//! moves as few partitions as it can, and the others are read on meanwhile. A partition that is taken
//! is asked back from its reader, its last commit is written under the generation that still holds,
//! and only then is it given up. It must never give a partition up while a commit of it is on its
//! way, and never let the brokers wait for a reader for longer than the drain time.

use std::sync::{Arc, Weak};
use std::time::Duration;

use rdkafka::client::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::{BaseConsumer, Consumer as _, ConsumerContext};
use rdkafka::error::KafkaError;
use rdkafka::types::RDKafkaRespErr;
use rdkafka::{Offset, TopicPartitionList};

use super::board::Board;
use super::client::{Voice, member};
use super::commits::Group;
use super::config::KafkaConfig;
use super::error::KafkaOpenError;
use super::group_offsets::Lineage;
use crate::metrics::LogMetrics;

/// A member of a group.
pub(crate) type Member = BaseConsumer<MemberContext>;

/// What the callbacks of a member work with. They run on the thread that polls it.
pub(crate) struct MemberContext {
    voice: Voice,
    group: Weak<Group>,
    board: Arc<Board>,
    lineages: Arc<Vec<Lineage>>,
    drain_timeout: Duration,
    metrics: LogMetrics,
}

impl ClientContext for MemberContext {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        self.voice.log(level, facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        self.voice.error(error, reason);
    }
}

impl ConsumerContext for MemberContext {
    fn rebalance(
        &self,
        consumer: &BaseConsumer<Self>,
        what: RDKafkaRespErr,
        list: &mut TopicPartitionList,
    ) {
        let is_given = what == RDKafkaRespErr::RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS;
        let partitions = partitions_of(list);
        let done = if is_given {
            self.take_in(consumer, list, &partitions)
        } else {
            self.give_up(consumer, list, &partitions)
        };
        let group = self.group.upgrade().map_or("", |group| group.id.0);
        match done {
            Ok(()) if partitions.is_empty() => {}
            Ok(()) => tracing::info!(group, is_given, ?partitions, "partitions were rebalanced"),
            Err(error) => tracing::error!(group, %error, "partitions were not rebalanced"),
        }
        if let Some(group) = self.group.upgrade() {
            self.metrics.observe_rebalance(group.id, self.board.held());
        }
    }
}

impl MemberContext {
    /// Partitions were given. They are told to the reader when their offsets are known, not here.
    fn take_in(
        &self,
        consumer: &Member,
        list: &TopicPartitionList,
        partitions: &[u32],
    ) -> Result<(), KafkaError> {
        let mut placed = list.clone();
        // Paused before anything is fetched: the member's own queue stays empty.
        placed.set_all_offsets(Offset::End)?;
        consumer.incremental_assign(&placed)?;
        consumer.pause(&placed)?;
        self.board.take_in(partitions);
        Ok(())
    }

    /// Partitions are taken, or were: in the second case others may read them already.
    fn give_up(
        &self,
        consumer: &Member,
        list: &TopicPartitionList,
        partitions: &[u32],
    ) -> Result<(), KafkaError> {
        let is_lost = consumer.assignment_lost();
        if !is_lost {
            self.board.ask_back(partitions, self.drain_timeout);
        }
        if let Some(group) = self.group.upgrade() {
            group.give_up(&self.board, partitions, is_lost, &self.lineages);
        }
        consumer.incremental_unassign(list)
    }
}

fn partitions_of(list: &TopicPartitionList) -> Vec<u32> {
    let numbers = list.elements().into_iter().map(|one| u32::try_from(one.partition()));
    numbers.filter_map(Result::ok).collect()
}

/// Makes the member of a group; it joins when it subscribes.
pub(crate) fn open(
    config: &KafkaConfig,
    group: &Arc<Group>,
    board: &Arc<Board>,
    lineages: &Arc<Vec<Lineage>>,
    (voice, metrics): (&Voice, &LogMetrics),
    (client_id, is_static): (&str, bool),
) -> Result<Member, KafkaOpenError> {
    let context = MemberContext {
        voice: voice.clone(),
        group: Arc::downgrade(group),
        board: Arc::clone(board),
        lineages: Arc::clone(lineages),
        drain_timeout: config.drain_timeout,
        metrics: metrics.clone(),
    };
    let client = member(config, &config.group_name(group.id), (client_id, is_static))?;
    client.create_with_context(context).map_err(|error| KafkaOpenError::Client(error.to_string()))
}
