//! A message of the topic as an item that readers are given.

use std::sync::Arc;

use proto::{KnownContexts, LoggedBatch};
use rdkafka::message::{BorrowedMessage, Headers, Message, Timestamp};
use trace_model::{LogRange, UnixNanos};

use super::blocks::{Item, Loss};
use super::client::guarded;
use super::envelope::{HEADER, trace_of};
use super::record::{RecordFault, decode};
use crate::port::DamagedRange;
use crate::stepped_over::Stranger;

/// The append time that a broker gave; 0 where it gave none.
pub(crate) fn time_of(timestamp: Timestamp) -> UnixNanos {
    match timestamp {
        Timestamp::LogAppendTime(millis) => {
            UnixNanos::from_millis(u64::try_from(millis).unwrap_or(0))
        }
        Timestamp::CreateTime(_) | Timestamp::NotAvailable => UnixNanos(0),
    }
}

/// A message as an item; the version of one that a newer release wrote.
pub(crate) fn item_of(
    message: &BorrowedMessage<'_>,
    known: &mut KnownContexts,
    incarnation: u64,
    range: LogRange,
    append_time: UnixNanos,
) -> Result<Item, u8> {
    let trace = message.key().and_then(trace_of);
    // The headers of what is not ours are not looked at.
    let header = trace.as_ref().and_then(|_| envelope_of(message));
    match decode(known, message.key(), header, message.payload().unwrap_or(&[])) {
        Ok(batch) => {
            let batch = Arc::new(batch);
            Ok(Item::Batch(LoggedBatch { incarnation, range, append_time, batch }))
        }
        Err(RecordFault::Newer(version)) => Err(version),
        Err(
            fault @ (RecordFault::Key
            | RecordFault::NoEnvelope
            | RecordFault::Envelope
            | RecordFault::Payload),
        ) => {
            let (reason, append_times) = (fault.to_string(), (append_time, append_time));
            let loss = trace.map_or(Loss::Foreign, |(tenant, id)| Loss::OfTrace(tenant, id));
            let stranger = matches!(loss, Loss::Foreign)
                .then(|| Stranger::of(message.key(), message.payload_len()));
            let damaged = DamagedRange { range, append_times, reason, stranger };
            Ok(Item::Damaged(Box::new(damaged), loss))
        }
    }
}

/// Offsets at which there is no record.
pub(crate) fn no_record(range: LogRange, append_times: (UnixNanos, UnixNanos)) -> Item {
    let reason = "no record there: a transaction's mark, or taken out by the broker".to_owned();
    let damaged = DamagedRange { range, append_times, reason, stranger: None };
    Item::Damaged(Box::new(damaged), Loss::Unknown)
}

/// Adds an item; neighbouring foreign records grow together.
pub(crate) fn push(items: &mut Vec<Item>, item: Item) {
    if let (Some(Item::Damaged(last, Loss::Foreign)), Item::Damaged(next, Loss::Foreign)) =
        (items.last_mut(), &item)
        && last.range.next == next.range.first
        && last.reason == next.reason
    {
        last.range.next = next.range.next;
        last.append_times.1 = last.append_times.1.max(next.append_times.1);
        if let (Some(last), Some(next)) = (&mut last.stranger, &next.stranger) {
            last.bytes = last.bytes.saturating_add(next.bytes);
        }
        return;
    }
    items.push(item);
}

/// Our header of a message.
fn envelope_of<'a>(message: &'a BorrowedMessage<'_>) -> Option<&'a [u8]> {
    guarded(|| {
        let headers = message.headers()?;
        (0..headers.count())
            .filter_map(|place| headers.try_get(place))
            .find(|header| header.key == HEADER)
            .and_then(|header| header.value)
    })
}
