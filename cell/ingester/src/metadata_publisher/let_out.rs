//! The origin log as other processes read it: under the policy that holds now. What was appended
//! under a wider one stays in the cell.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use metadata_replicator::feed::{Chunk, Terms};
use metadata_replicator::{OriginFeed, ReplicatorError};
use proto::convert::index::{ServiceDictionary, contribution_from_wire};
use proto::v1;
use proto::v1::origin_record::Record;
use trace_model::locality::IndexMode;
use trace_model::location::{Cursor, Epoch};
use trace_model::{Region, TimeRange};

use super::policy::IndexPolicy;

/// An origin log whose readers get what the policy lets out.
#[derive(Debug)]
pub struct LetOut {
    log: Arc<dyn OriginFeed>,
    policy: Arc<dyn IndexPolicy>,
}

impl LetOut {
    /// The log under the policy. One that lets everything out needs none.
    #[must_use]
    pub fn under(policy: Arc<dyn IndexPolicy>, log: Arc<dyn OriginFeed>) -> Arc<dyn OriginFeed> {
        if policy.narrowest() == IndexMode::Full { log } else { Arc::new(Self { log, policy }) }
    }

    /// The records of a chunk that go out.
    fn sift(&self, mut chunk: Chunk) -> Result<Chunk, ReplicatorError> {
        let mut services = ServiceDictionary::default();
        for name in self.log.names(chunk.first.epoch) {
            services.define(name.id, &name.name)?;
        }
        let mut records = Vec::with_capacity(chunk.records.len());
        for v1::OriginRecord { record, sequence } in chunk.records {
            let record = match record {
                Some(Record::Contribution(row)) => self.row(row, &services)?,
                Some(Record::ServiceName(name)) => {
                    self.names_go_out().then_some(Record::ServiceName(name))
                }
                Some(Record::Watermark(mark)) => Some(self.watermark(mark)),
                None => None,
            };
            records
                .extend(record.map(|record| v1::OriginRecord { record: Some(record), sequence }));
        }
        chunk.records = records;
        Ok(chunk)
    }

    fn row(
        &self,
        row: v1::Contribution,
        services: &ServiceDictionary,
    ) -> Result<Option<Record>, ReplicatorError> {
        let read = contribution_from_wire(row.clone(), self.log.origin(), services)?;
        Ok(match self.policy.index_mode(&read) {
            IndexMode::Full => Some(Record::Contribution(row)),
            IndexMode::Routing => {
                Some(Record::Contribution(v1::Contribution { detail: None, ..row }))
            }
            IndexMode::None => None,
        })
    }

    fn names_go_out(&self) -> bool {
        self.policy.widest() == IndexMode::Full
    }

    /// One that was published before anything was withheld proves too much by now.
    fn watermark(&self, mut mark: v1::Watermark) -> Record {
        let TimeRange { start, end } = TimeRange::ALL;
        if self.policy.may_withhold() {
            mark.holes = vec![v1::Hole { start_unix_nano: start.0, end_unix_nano: end.0 }];
        }
        Record::Watermark(mark)
    }
}

#[async_trait]
impl OriginFeed for LetOut {
    fn origin(&self) -> &Region {
        self.log.origin()
    }

    fn end(&self) -> Option<Cursor> {
        self.log.end()
    }

    async fn read_from(
        &self,
        from: Option<Cursor>,
        bytes_max: usize,
    ) -> Result<Chunk, ReplicatorError> {
        let mut from = from;
        loop {
            let chunk = self.log.read_from(from, bytes_max).await?;
            if chunk.records.is_empty() {
                return Ok(chunk);
            }
            let sifted = self.sift(chunk)?;
            if !sifted.records.is_empty() {
                return Ok(sifted);
            }
            from = Some(sifted.next);
        }
    }

    async fn wait_beyond(&self, from: Option<Cursor>, at_most: Duration) {
        self.log.wait_beyond(from, at_most).await;
    }

    fn names(&self, epoch: Epoch) -> Vec<v1::ServiceName> {
        if self.names_go_out() { self.log.names(epoch) } else { Vec::new() }
    }

    fn terms(&self) -> Terms {
        self.log.terms()
    }

    async fn outrun(&self, seen: Cursor) -> Result<(), ReplicatorError> {
        self.log.outrun(seen).await
    }
}
