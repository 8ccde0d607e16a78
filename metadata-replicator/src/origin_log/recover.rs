//! An origin that lost its disk, or got an old copy of it back, takes its own rows from a peer that
//! holds its log.

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use proto::convert::index::{ServiceDictionary, contribution_from_wire, watermark_from_wire};
use proto::v1::origin_record::Record;
use rustc_hash::FxHashMap;
use tonic::transport::Channel;
use trace_model::location::{Cursor, Epoch};
use trace_model::{Contribution, Watermark};

use super::{ContributionLog, RowKey};
use crate::error::ReplicatorError;
use crate::feed::grpc::{Dialer, FrameCheck, Received, next_frame, subscribe};

/// What a peer had of this log.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Recovered {
    /// Whether the peer had records that this log did not: it was lost, or restored from an old
    /// copy. Then the log knows that something is missing, until the caller ends that
    /// ([`ContributionLog::note_mended`]) when a watermark says what still is.
    pub is_behind: bool,
    /// Rows that were taken back: the log did not have them, or had them in an earlier version.
    pub rows: usize,
    /// The newest watermark among the records that were missing. It vouches for rows before it:
    /// those are here now.
    pub watermark: Option<Watermark>,
    /// The end of what the peer had.
    pub end: Option<Cursor>,
}

/// Who holds a copy of this region's log.
///
/// **Idempotence.** Asked again it gives the same again, and nothing is put in twice. **Errors.**
/// After one, part of the rows may have been taken back; the log still knows that some are missing.
#[async_trait]
pub trait OriginPeer: Send + Sync + fmt::Debug {
    /// Puts into the log what the copy has and the log does not know, to the copy's end. Nothing is
    /// deleted, and no watermark is put in.
    async fn give_back(&self, log: &dyn ContributionLog) -> Result<Recovered, ReplicatorError>;
}

/// A replicator, or a cell, that serves a copy over gRPC.
#[derive(Clone, Debug)]
pub struct ReplicatorPeer {
    /// For example `http://127.0.0.1:17401`.
    pub url: String,
    /// How it is reached.
    pub dialer: Arc<dyn Dialer>,
}

#[async_trait]
impl OriginPeer for ReplicatorPeer {
    async fn give_back(&self, log: &dyn ContributionLog) -> Result<Recovered, ReplicatorError> {
        recover_from_peer(log, self.dialer.dial(&self.url).await?).await
    }
}

/// Reads this region's log at a peer from the beginning to the peer's end, and appends what is
/// missing here: see [`OriginPeer::give_back`]. A log that misses nothing reads one frame.
pub async fn recover_from_peer(
    log: &dyn ContributionLog,
    channel: Channel,
) -> Result<Recovered, ReplicatorError> {
    let origin = log.origin().clone();
    let mut frames = subscribe(channel, &origin, &origin, None).await?;
    let mut recovery = Recovery { log, dictionaries: FxHashMap::default() };
    let mut check = FrameCheck::default();
    let mut recovered = Recovered::default();
    while let Some(frame) = next_frame(&mut frames).await? {
        let received = check.take(frame)?;
        if let Some(end) = received.end {
            log.outrun(end).await?;
            recovered.end = recovered.end.max(Some(end));
        }
        // Whoever has come to an epoch of ours has shown before where it came from.
        if log.history().missing().is_none() {
            return Ok(recovered);
        }
        if received.chunk.records.is_empty() {
            // A heartbeat: there is no more.
            return Ok(recovered);
        }
        recovery.take(received, &mut recovered).await?;
    }
    Err(ReplicatorError::Peer("the stream ended before its end was reached".to_owned()))
}

struct Recovery<'a> {
    log: &'a dyn ContributionLog,
    dictionaries: FxHashMap<Epoch, ServiceDictionary>,
}

impl Recovery<'_> {
    async fn take(
        &mut self,
        received: Received,
        recovered: &mut Recovered,
    ) -> Result<(), ReplicatorError> {
        if self.log.history().knows(received.chunk.next) {
            // What this handle has written since it was opened.
            return Ok(());
        }
        recovered.is_behind = true;
        if let Some(terms) = received.terms {
            let held = self.log.published().map(|published| published.as_of);
            self.log.forget(terms.news_for(held)).await?;
        }
        let rows = self.rows(received, recovered)?;
        let keys: Vec<RowKey> = rows.iter().map(RowKey::of).collect();
        let held = self.log.own_rows(&keys).await?;
        let is_missing = |(row, held): (Contribution, Option<Contribution>)| {
            held.is_none_or(|held| row.replaces(&held)).then_some(row)
        };
        let missing: Vec<_> = rows.into_iter().zip(held).filter_map(is_missing).collect();
        self.log.append(&missing, None).await?;
        recovered.rows = recovered.rows.saturating_add(missing.len());
        Ok(())
    }

    /// The rows of a frame, the last version of each; its watermark is noted.
    fn rows(
        &mut self,
        received: Received,
        recovered: &mut Recovered,
    ) -> Result<Vec<Contribution>, ReplicatorError> {
        let origin = self.log.origin();
        let services = self.dictionaries.entry(received.chunk.first.epoch).or_default();
        let mut rows: FxHashMap<RowKey, Contribution> = FxHashMap::default();
        for record in received.chunk.records {
            match record.record {
                Some(Record::ServiceName(name)) => {
                    services.define(name.id, &name.name)?;
                }
                Some(Record::Contribution(row)) => {
                    let row = contribution_from_wire(row, origin, services)?;
                    let key = RowKey::of(&row);
                    if rows.get(&key).is_none_or(|held| row.replaces(held)) {
                        rows.insert(key, row);
                    }
                }
                Some(Record::Watermark(mark)) => {
                    recovered.watermark = Some(watermark_from_wire(&mark, origin)?);
                }
                None => {}
            }
        }
        Ok(rows.into_values().collect())
    }
}
