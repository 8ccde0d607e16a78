//! What a Zipkin span may have many of: tags and annotations. Both are counted while they are read,
//! and what is over the limit is skipped unread.

use std::collections::BTreeMap;
use std::fmt;

use opentelemetry_proto::tonic::trace::v1::span::Event;
use prost::Message;
use proto::wire::{put_bytes_field, tags as wire};
use serde::Deserialize;
use serde::de::{Deserializer as _, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

use crate::receipt::RejectReason;

/// Tags by their keys, at most so many.
pub(super) fn read_tags(
    json: Option<&RawValue>,
    tags_max: usize,
) -> Result<BTreeMap<String, String>, RejectReason> {
    let Some(json) = json else { return Ok(BTreeMap::new()) };
    let mut deserializer = serde_json::Deserializer::from_str(json.get());
    let read = deserializer.deserialize_map(TagsVisitor { tags_max });
    read.map_err(|_| RejectReason::Unreadable)?.ok_or(RejectReason::TooManyAttributes)
}

/// Annotations as events of a span, in protobuf, at most so many.
pub(super) fn read_events(
    json: Option<&RawValue>,
    events_max: usize,
) -> Result<Vec<u8>, RejectReason> {
    let Some(json) = json else { return Ok(Vec::new()) };
    let mut deserializer = serde_json::Deserializer::from_str(json.get());
    let read = deserializer.deserialize_seq(EventsVisitor { events_max });
    read.map_err(|_| RejectReason::Unreadable)?.ok_or(RejectReason::TooManyParts)
}

/// Gives `None` where there are too many.
struct TagsVisitor {
    tags_max: usize,
}

impl<'de> Visitor<'de> for TagsVisitor {
    type Value = Option<BTreeMap<String, String>>;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("tags")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut tags = BTreeMap::new();
        while let Some((key, value)) = map.next_entry()? {
            tags.insert(key, value);
            if tags.len() > self.tags_max {
                while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
                return Ok(None);
            }
        }
        Ok(Some(tags))
    }
}

#[derive(Debug, Deserialize)]
struct Annotation {
    /// Microseconds since the epoch.
    timestamp: u64,
    value: String,
}

/// Gives `None` where there are too many.
struct EventsVisitor {
    events_max: usize,
}

impl<'de> Visitor<'de> for EventsVisitor {
    type Value = Option<Vec<u8>>;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("annotations")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self::Value, A::Error> {
        let mut events = Vec::new();
        let mut count = 0_usize;
        while let Some(annotation) = list.next_element::<Annotation>()? {
            count += 1;
            if count > self.events_max {
                while list.next_element::<IgnoredAny>()?.is_some() {}
                return Ok(None);
            }
            let time_unix_nano = annotation.timestamp.saturating_mul(1_000);
            let event = Event { time_unix_nano, name: annotation.value, ..Event::default() };
            put_bytes_field(&mut events, wire::SPAN_EVENTS, &event.encode_to_vec());
        }
        Ok(Some(events))
    }
}
