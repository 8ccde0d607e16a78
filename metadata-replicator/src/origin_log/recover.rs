//! An origin that lost its disk takes its own rows back from a peer that holds its log.

use proto::convert::index::{ServiceDictionary, contribution_from_wire, watermark_from_wire};
use proto::v1::origin_record::Record;
use rustc_hash::FxHashMap;
use tonic::transport::Channel;
use trace_model::location::Epoch;
use trace_model::{Contribution, Watermark};

use super::{ContributionLog, RowKey};
use crate::error::ReplicatorError;
use crate::feed::grpc::{FrameCheck, Received, next_frame, subscribe};

/// What was taken back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Recovered {
    /// Rows that the log did not have, or had in an earlier version.
    pub rows: usize,
    /// Whether the peer's watermark was taken: the log had none, or an earlier one of the same
    /// incarnation.
    pub has_watermark: bool,
}

/// Reads this region's log at a peer from the beginning to its end, and appends what is missing
/// here. Nothing is deleted. Before its publisher starts, an origin does this with each peer.
pub async fn recover_from_peer(
    log: &dyn ContributionLog,
    channel: Channel,
) -> Result<Recovered, ReplicatorError> {
    let origin = log.origin().clone();
    let mut frames = subscribe(channel, &origin, &origin, None).await?;
    let mut recovery = Recovery { log, dictionaries: FxHashMap::default(), watermark: None };
    let mut check = FrameCheck::default();
    let mut recovered = Recovered::default();
    while let Some(frame) = next_frame(&mut frames).await? {
        let received = check.take(frame)?;
        if let Some(end) = received.end {
            log.outrun(end).await?;
        }
        if received.chunk.records.is_empty() {
            // A heartbeat: there is no more.
            recovered.has_watermark = recovery.take_watermark().await?;
            return Ok(recovered);
        }
        recovered.rows = recovered.rows.saturating_add(recovery.take(received).await?);
    }
    Err(ReplicatorError::Peer("the stream ended before its end was reached".to_owned()))
}

struct Recovery<'a> {
    log: &'a dyn ContributionLog,
    dictionaries: FxHashMap<Epoch, ServiceDictionary>,
    watermark: Option<Watermark>,
}

impl Recovery<'_> {
    async fn take(&mut self, received: Received) -> Result<usize, ReplicatorError> {
        let origin = self.log.origin().clone();
        let services = self.dictionaries.entry(received.chunk.first.epoch).or_default();
        let mut rows: Vec<Contribution> = Vec::new();
        for record in received.chunk.records {
            match record.record {
                Some(Record::ServiceName(name)) => {
                    services.define(name.id, &name.name)?;
                }
                Some(Record::Contribution(row)) => {
                    rows.push(contribution_from_wire(row, &origin, services)?);
                }
                Some(Record::Watermark(mark)) => {
                    self.watermark = Some(watermark_from_wire(&mark, &origin)?);
                }
                None => {}
            }
        }
        let keys: Vec<RowKey> = rows.iter().map(RowKey::of).collect();
        let held = self.log.own_rows(&keys).await?;
        let is_missing = |(row, held): (Contribution, Option<Contribution>)| {
            held.is_none_or(|held| row.replaces(&held)).then_some(row)
        };
        let missing: Vec<_> = rows.into_iter().zip(held).filter_map(is_missing).collect();
        self.log.append(&missing, None).await?;
        Ok(missing.len())
    }

    /// A watermark vouches for rows before it: those are here now.
    async fn take_watermark(&mut self) -> Result<bool, ReplicatorError> {
        let Some(theirs) = self.watermark.take() else { return Ok(false) };
        let is_newer = self
            .log
            .published()
            .is_none_or(|ours| ours.incarnation == theirs.incarnation && ours.as_of < theirs.as_of);
        if is_newer {
            self.log.append(&[], Some(&theirs)).await?;
        }
        Ok(is_newer)
    }
}
