//! What the brokers keep for a group: an offset and a line of text for each partition of a topic.
//!
//! The text names the log's incarnation, so that what was committed to a log that is gone is not
//! believed. No text: a person has set the offset, and is obeyed.

use std::time::Duration;

use rdkafka::TopicPartitionList;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer as _, ConsumerContext};
use rdkafka::error::KafkaError;

use super::client::{Consumer, Voice, asker, guarded, list_of, number_of, offset_at, offset_from};
use super::config::KafkaConfig;
use super::error::KafkaOpenError;

/// An offset as the brokers keep it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Kept {
    pub(crate) offset: u64,
    pub(crate) text: String,
}

/// The text of an incarnation's offsets.
pub(crate) fn text_of(incarnation: u64) -> String {
    format!("farspan 1 {incarnation}")
}

/// Which log a partition belongs to, and which came before it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Lineage {
    pub(crate) incarnation: u64,
    /// The log before; 0 where none is known. Below the cut its offsets are the same.
    pub(crate) last: u64,
    pub(crate) cut: u64,
}

impl Kept {
    /// The offset, as far as it is one of this log.
    pub(crate) fn of_log(&self, lineage: Lineage) -> Option<u64> {
        if self.text.is_empty() || self.text == text_of(lineage.incarnation) {
            return Some(self.offset);
        }
        let is_last = lineage.last > 0 && self.text == text_of(lineage.last);
        is_last.then(|| self.offset.min(lineage.cut))
    }
}

/// The offsets of one group in one topic. Its calls block.
pub(crate) struct GroupOffsets {
    pub(crate) consumer: Consumer,
    topic: String,
    timeout: Duration,
}

impl GroupOffsets {
    pub(crate) fn open(
        config: &KafkaConfig,
        group: &str,
        voice: &Voice,
    ) -> Result<Self, KafkaOpenError> {
        let consumer = asker(config, Some(group), voice)?;
        let (topic, timeout) = (config.topic_name(), config.request_timeout);
        Ok(Self { consumer, topic, timeout })
    }

    /// What is kept for these partitions, in their order.
    pub(crate) fn read(&self, partitions: &[u32]) -> Result<Vec<Option<Kept>>, KafkaError> {
        let list = list_of(&self.topic, partitions.iter().copied(), rdkafka::Offset::Invalid)?;
        let found = self.consumer.committed_offsets(list, self.timeout)?;
        let mut kept = Vec::with_capacity(partitions.len());
        for partition in partitions {
            let Some(element) = found.find_partition(&self.topic, number_of(*partition)) else {
                kept.push(None);
                continue;
            };
            element.error()?;
            let offset = offset_from(element.offset());
            let text = guarded(|| Some(element.metadata().to_owned()));
            let text = text.unwrap_or_else(|| "not text".to_owned());
            kept.push(offset.map(|offset| Kept { offset, text }));
        }
        Ok(kept)
    }

    /// Keeps these: durable when it returns. The brokers refuse it while the group has members.
    pub(crate) fn write(&self, offsets: &[(u32, Kept)]) -> Result<(), KafkaError> {
        self.write_as(&self.consumer, offsets)
    }

    /// The same, as a consumer of the group: refused where it is no member of the group as it is now.
    pub(crate) fn write_as<C: ConsumerContext>(
        &self,
        consumer: &BaseConsumer<C>,
        offsets: &[(u32, Kept)],
    ) -> Result<(), KafkaError> {
        let mut list = TopicPartitionList::new();
        for (partition, kept) in offsets {
            let mut element = list.add_partition(&self.topic, number_of(*partition));
            element.set_offset(offset_at(kept.offset))?;
            element.set_metadata(&kept.text);
        }
        if offsets.is_empty() {
            return Ok(());
        }
        consumer.commit(&list, CommitMode::Sync)
    }

    /// Lets the client say what it has to say.
    pub(crate) fn serve(&self) {
        drop(self.consumer.poll(Duration::ZERO));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn offsets_of_a_log_that_is_gone_are_not_believed_and_a_persons_are() {
        let kept = |text: &str| Kept { offset: 7, text: text.to_owned() };
        let lineage = Lineage { incarnation: 6, last: 0, cut: 3 };
        assert_eq!(kept(&text_of(6)).of_log(lineage), Some(7));
        assert_eq!(kept(&text_of(5)).of_log(lineage), None);
        assert_eq!(kept("").of_log(lineage), Some(7));
        assert_eq!(kept("of another program").of_log(lineage), None);
    }

    #[test]
    fn offsets_of_the_log_before_are_believed_up_to_where_it_was_cut() {
        let kept = |text: &str| Kept { offset: 7, text: text.to_owned() };
        let lineage = |cut| Lineage { incarnation: 6, last: 5, cut };
        assert_eq!(kept(&text_of(5)).of_log(lineage(3)), Some(3));
        assert_eq!(kept(&text_of(5)).of_log(lineage(9)), Some(7));
        assert_eq!(kept(&text_of(4)).of_log(lineage(9)), None);
    }
}
