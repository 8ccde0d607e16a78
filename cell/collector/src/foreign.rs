//! Spans that others have written into topics of their own: each record goes the way of a request,
//! and is settled once the span log has acknowledged its spans.
//!
//! At least once: a record whose spans were appended and that was not committed is appended again.
//! Its digest is that of its bytes, so that it is counted once. What no retry will make good is
//! noted, counted and stepped over; what may pass is tried again without an end, and holds reading
//! up meanwhile. It must never settle a record whose spans the log has not acknowledged.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use prometheus_client::registry::Registry;
use span_log::foreign::FOREIGN_SPANS;
use span_log::{ForeignPlace, ForeignRecord, ForeignRecords, SteppedOver, SteppedRun, Stranger};
use tokio::task::{Id, JoinError, JoinSet};
use tokio::time::{interval, timeout};
use tokio_util::sync::CancellationToken;
use trace_model::{Clock, TenantId, UnixNanos};
use tracing::{error, warn};
use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

use crate::collector::Collector;
use crate::error::ExportError;
use crate::metrics::foreign::ForeignMetrics;
use crate::otlp_json;
use crate::pipeline::ExportRequest;
use crate::receipt::{Receipt, Rejections};
use crate::status::refusal;

/// First and longest wait before a refused record is tried again.
const WAIT_MIN: Duration = Duration::from_millis(100);
const WAIT_MAX: Duration = Duration::from_secs(5);
/// Doublings after which the wait no longer grows.
const DOUBLINGS_MAX: u32 = 6;
/// The figures of the source are shown so often.
const SHOW_EVERY: Duration = Duration::from_secs(1);
/// A record's time that lies further back is a clock's fault: the spans are received now.
const OLD_NANOS_MAX: u64 = 7 * 24 * 3_600 * 1_000_000_000;

/// How a record's payload is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ForeignEncoding {
    /// OTLP's `TracesData` in protobuf, which is also an export request.
    #[default]
    OtlpProto,
    /// The same as OTLP JSON.
    OtlpJson,
}

/// Whose spans the records are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ForeignTenant {
    /// One tenant's.
    One(TenantId),
    /// The tenant's that the record's header names; the other's, if there is one, where the record
    /// has no such header.
    InHeader {
        /// Of records without the header; `None`: those are stepped over.
        without: Option<TenantId>,
    },
}

impl ForeignTenant {
    /// The tenant of a record with these values of the header.
    fn of(&self, header: &[Bytes]) -> Result<TenantId, DeadReason> {
        let without = match self {
            Self::One(tenant) => return Ok(tenant.clone()),
            Self::InHeader { without } => without,
        };
        match header {
            [] => without.clone().ok_or(DeadReason::NoTenant),
            [name] => {
                let name = std::str::from_utf8(name).map_err(|_| DeadReason::BadTenant)?;
                TenantId::new(name).map_err(|_| DeadReason::BadTenant)
            }
            _ => Err(DeadReason::SeveralTenants),
        }
    }
}

/// Why a record was stepped over.
#[derive(Debug, thiserror::Error)]
enum DeadReason {
    #[error("it has no header that names its tenant")]
    NoTenant,
    #[error("its header names no tenant")]
    BadTenant,
    #[error("its header names more than one tenant")]
    SeveralTenants,
    #[error("it is empty")]
    Empty,
    #[error("{}", with_cause(.0))]
    Refused(ExportError),
    #[error("the collector failed on it: a fault of ours")]
    Failed,
}

/// The error in the words that senders get, and what is behind it.
fn with_cause(error: &ExportError) -> String {
    let cause = std::error::Error::source(error).map(|cause| format!(": {cause}"));
    format!("{error}{}", cause.unwrap_or_default())
}

impl DeadReason {
    const fn label(&self) -> &'static str {
        match self {
            Self::NoTenant | Self::BadTenant | Self::SeveralTenants => "tenant",
            Self::Empty => "malformed",
            Self::Refused(error) => refusal(error).reason.label(),
            Self::Failed => "internal",
        }
    }
}

/// What foreign records are and where what is stepped over is noted.
#[derive(Debug)]
pub struct ForeignParts {
    /// Whose they are.
    pub tenant: ForeignTenant,
    /// How they are written.
    pub encoding: ForeignEncoding,
    /// Largest payload, in bytes.
    pub payload_bytes_max: usize,
    /// The list of what is stepped over.
    pub stepped_over: Arc<SteppedOver>,
    /// Time.
    pub clock: Arc<dyn Clock>,
}

/// Takes foreign records to the span log.
#[derive(Debug)]
pub struct ForeignTaker {
    collector: Arc<Collector>,
    source: Arc<dyn ForeignRecords>,
    parts: ForeignParts,
    metrics: ForeignMetrics,
}

/// What became of a record.
enum Outcome {
    Taken(Receipt),
    Dead(DeadReason),
    /// The process stops: whoever reads it next does the rest.
    Left,
}

impl ForeignTaker {
    /// One that takes the records of this source through the stages of this collector.
    #[must_use]
    pub fn new(
        collector: Arc<Collector>,
        source: Arc<dyn ForeignRecords>,
        parts: ForeignParts,
        registry: &mut Registry,
    ) -> Arc<Self> {
        let metrics = ForeignMetrics::register(registry);
        Arc::new(Self { collector, source, parts, metrics })
    }

    /// What is counted.
    #[must_use]
    pub const fn metrics(&self) -> &ForeignMetrics {
        &self.metrics
    }

    /// Takes records until the token is cancelled and those in hand have ended, at most the
    /// collector's drain time later; then commits and leaves.
    pub async fn run(self: Arc<Self>, stop: CancellationToken) {
        let mut taking = JoinSet::new();
        let mut places: HashMap<Id, ForeignPlace> = HashMap::new();
        let mut show = interval(SHOW_EVERY);
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => break,
                Some(done) = taking.join_next_with_id(), if !taking.is_empty() => {
                    self.note_end(done, &mut places).await;
                }
                // The source gives no more than may be in hand.
                record = self.source.next() => {
                    let Some(record) = record else { break };
                    let (this, place) = (Arc::clone(&self), record.place.clone());
                    let task = taking.spawn(this.take(record, stop.clone()));
                    places.insert(task.id(), place);
                }
                _ = show.tick() => self.show(),
            }
        }
        let ending = async {
            while let Some(done) = taking.join_next_with_id().await {
                self.note_end(done, &mut places).await;
            }
        };
        if timeout(self.collector.config().drain_timeout, ending).await.is_err() {
            warn!("foreign records in hand are left to whoever reads them next");
        }
        self.source.close().await;
        self.show();
    }

    /// A record's task has ended; one that panicked is stepped over, or it would do so for ever.
    async fn note_end(
        &self,
        done: Result<(Id, ()), JoinError>,
        places: &mut HashMap<Id, ForeignPlace>,
    ) {
        let (id, is_whole) = match done {
            Ok((id, ())) => (id, true),
            Err(error) => (error.id(), false),
        };
        let place = places.remove(&id);
        if let Some(place) = place.filter(|_| !is_whole) {
            self.bury(&place, &Stranger::default(), &DeadReason::Failed).await;
            self.source.settle(&place);
        }
    }

    async fn take(self: Arc<Self>, record: ForeignRecord, stop: CancellationToken) {
        let stranger = Stranger::of(record.key.as_deref(), record.payload.len());
        match self.export_at_last(&record, &stop).await {
            Outcome::Left => return,
            Outcome::Taken(receipt) => {
                self.metrics.count_taken(&receipt);
                if let Some(message) = receipt.rejection_message() {
                    self.note(&record.place, &stranger, message).await;
                }
            }
            Outcome::Dead(reason) => self.bury(&record.place, &stranger, &reason).await,
        }
        self.source.settle(&record.place);
    }

    /// Tries until the log has the record's spans, or it is clear that it never will.
    async fn export_at_last(&self, record: &ForeignRecord, stop: &CancellationToken) -> Outcome {
        let tenant = match self.parts.tenant.of(&record.header) {
            Ok(_) if record.payload.is_empty() => return Outcome::Dead(DeadReason::Empty),
            Ok(tenant) => tenant,
            Err(reason) => return Outcome::Dead(reason),
        };
        let mut tries = 0;
        loop {
            match self.export(record, tenant.clone()).await {
                Ok(receipt) => {
                    self.collector.note_success();
                    return Outcome::Taken(receipt);
                }
                Err(error) if error.is_retryable() => {
                    self.collector.note_refusal(&error);
                    self.metrics.retries.inc();
                }
                Err(error) => return Outcome::Dead(DeadReason::Refused(error)),
            }
            let wait = wait_of(tries, &record.place);
            tries = tries.saturating_add(1);
            if stop.run_until_cancelled(tokio::time::sleep(wait)).await.is_none() {
                return Outcome::Left;
            }
        }
    }

    async fn export(
        &self,
        record: &ForeignRecord,
        tenant: TenantId,
    ) -> Result<Receipt, ExportError> {
        let bytes_max = self.parts.payload_bytes_max;
        let sent = record.payload.clone();
        if sent.len() > bytes_max {
            return Err(ExportError::TooLarge { bytes_max });
        }
        let pipeline = self.collector.pipeline();
        let mut admitted = pipeline.admit(sent.len())?;
        admitted.take(sent.len())?;
        let digest = xxh3_64(&sent);
        let (body, misfit) = match self.parts.encoding {
            ForeignEncoding::OtlpProto => (sent, None),
            ForeignEncoding::OtlpJson => {
                admitted.take(sent.len())?;
                otlp_json::transcode(&sent, self.collector.config().limits.depth_max)?
            }
        };
        let received = self.received(record.time);
        let rejected = Rejections::from(misfit);
        pipeline.export(ExportRequest { tenant, body, rejected, digest, received, admitted }).await
    }

    /// When the record was written: what is read again gets the same envelope. A time that cannot be
    /// right is none.
    fn received(&self, time: Option<UnixNanos>) -> Option<UnixNanos> {
        let now = self.parts.clock.now();
        time.filter(|time| *time <= now && now.since(*time) <= OLD_NANOS_MAX)
    }

    /// Steps over a record for good.
    async fn bury(&self, place: &ForeignPlace, stranger: &Stranger, reason: &DeadReason) {
        self.metrics.count_dead(reason.label());
        error!(%place, bytes = stranger.bytes, %reason, "a foreign record is stepped over");
        self.note(place, stranger, reason.to_string()).await;
    }

    async fn note(&self, place: &ForeignPlace, stranger: &Stranger, reason: String) {
        let (topic, partition) = (place.topic.as_ref(), place.partition);
        let run = SteppedRun::new(
            FOREIGN_SPANS.0,
            (topic, partition),
            (place.offset, place.offset.saturating_add(1)),
            &reason,
            stranger,
            self.parts.clock.now(),
        );
        let list = Arc::clone(&self.parts.stepped_over);
        // A note that is not made stops nothing.
        drop(tokio::task::spawn_blocking(move || list.note(run)).await);
    }

    fn show(&self) {
        self.metrics.show(&self.source.figures());
    }
}

/// Doubling, with half of it by chance: records that were refused together do not come back together.
fn wait_of(tries: u32, place: &ForeignPlace) -> Duration {
    let ceiling = WAIT_MIN.saturating_mul(1 << tries.min(DOUBLINGS_MAX)).min(WAIT_MAX);
    let chance = xxh3_64_with_seed(&place.offset.to_le_bytes(), u64::from(tries)) % 1_000;
    let share = f64::from(u32::try_from(chance).unwrap_or(0)) / 2_000.0 + 0.5;
    ceiling.mul_f64(share)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(values: &[&'static str]) -> Vec<Bytes> {
        values.iter().map(|value| Bytes::from_static(value.as_bytes())).collect()
    }

    #[test]
    fn a_record_is_one_tenants_or_nobodys() {
        let acme = || TenantId::new("acme").unwrap();
        let one = ForeignTenant::One(acme());
        assert_eq!(one.of(&header(&["other"])).unwrap(), acme());
        let strict = ForeignTenant::InHeader { without: None };
        assert_eq!(strict.of(&header(&["acme"])).unwrap(), acme());
        for (values, words) in [
            (&[][..], "no header"),
            (&["a b/c\n"], "no tenant"),
            (&["acme", "acme"], "more than one"),
        ] {
            let reason = strict.of(&header(values)).unwrap_err();
            assert!(reason.to_string().contains(words), "{reason}");
            assert_eq!(reason.label(), "tenant");
        }
        let lenient = ForeignTenant::InHeader { without: Some(acme()) };
        assert_eq!(lenient.of(&[]).unwrap(), acme());
        assert!(lenient.of(&header(&["a b/c\n"])).is_err());
    }

    #[test]
    fn waits_grow_to_the_longest_and_are_never_nothing() {
        let place = ForeignPlace { topic: "t".into(), partition: 0, offset: 9, since: 1 };
        for tries in 0..100 {
            let wait = wait_of(tries, &place);
            assert!((WAIT_MIN / 2..=WAIT_MAX).contains(&wait), "{tries}: {wait:?}");
        }
        assert!(wait_of(50, &place) >= WAIT_MAX / 2);
    }
}
