//! Serves origin logs to subscribers: frames of records from their cursor on, a heartbeat when they
//! are level. Nothing is buffered: the next frame is read when the connection takes it.

use std::collections::{BTreeMap, VecDeque};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::Stream;
use prost::Message as _;
use proto::convert::index::terms_to_wire;
use proto::v1;
use proto::v1::metadata_replication_server::{MetadataReplication, MetadataReplicationServer};
use proto::v1::origin_record::Record;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};
use trace_model::location::{Cursor, Epoch};
use trace_model::{Clock, Region};

use super::frames::FRAME_RECORDS_MAX;
use crate::error::ReplicatorError;
use crate::feed::{Chunk, OriginFeed};
use crate::status;

/// Limits of a served stream.
#[derive(Clone, Copy, Debug)]
pub struct ServerLimits {
    /// About how many bytes of records a frame holds.
    pub frame_bytes: usize,
    /// A level subscriber hears from us this often.
    pub heartbeat_every: Duration,
}

impl Default for ServerLimits {
    /// 256 KiB; twice a second.
    fn default() -> Self {
        Self { frame_bytes: 256 << 10, heartbeat_every: Duration::from_millis(500) }
    }
}

/// The `MetadataReplication` service over the logs that this process holds.
#[derive(Clone, Debug)]
pub struct ReplicationServer {
    feeds: Arc<BTreeMap<Region, Arc<dyn OriginFeed>>>,
    clock: Arc<dyn Clock>,
    limits: ServerLimits,
    token: CancellationToken,
}

impl ReplicationServer {
    /// Serves these logs until the token is cancelled: then streams end.
    #[must_use]
    pub fn new(
        feeds: impl IntoIterator<Item = Arc<dyn OriginFeed>>,
        clock: Arc<dyn Clock>,
        limits: ServerLimits,
        token: CancellationToken,
    ) -> Self {
        let feeds = feeds.into_iter().map(|feed| (feed.origin().clone(), feed)).collect();
        Self { feeds: Arc::new(feeds), clock, limits, token }
    }

    /// As a tonic service.
    #[must_use]
    pub fn into_service(self) -> MetadataReplicationServer<Self> {
        MetadataReplicationServer::new(self)
    }
}

type FrameStream = Pin<Box<dyn Stream<Item = Result<v1::OriginFrame, Status>> + Send>>;

#[tonic::async_trait]
impl MetadataReplication for ReplicationServer {
    type SubscribeStream = FrameStream;

    async fn subscribe(
        &self,
        request: Request<v1::SubscribeRequest>,
    ) -> Result<Response<FrameStream>, Status> {
        let request = request.into_inner();
        let invalid = |_| Status::invalid_argument("`origin` or `subscriber` is not a region");
        let origin = Region::new(&request.origin).map_err(invalid)?;
        let subscriber = Region::new(&request.subscriber).map_err(invalid)?;
        let feed = self.feeds.get(&origin).cloned();
        let feed = feed.ok_or_else(|| status::of(&ReplicatorError::UnknownOrigin))?;
        let from = request.from.map(Cursor::from);
        if let Some(seen) = from {
            feed.outrun(seen).await.map_err(|error| status::of(&error))?;
        }
        tracing::debug!(%origin, %subscriber, ?from, "subscribed");
        let served = Served {
            feed,
            at: from,
            named: None,
            behind: VecDeque::new(),
            is_greeted: false,
            clock: Arc::clone(&self.clock),
            limits: self.limits,
            token: self.token.clone(),
        };
        let frames = futures_util::stream::unfold(Some(served), |served| async {
            let mut served = served?;
            match served.next_frame().await {
                Ok(Some(frame)) => Some((Ok(frame), Some(served))),
                Ok(None) => None,
                Err(error) => Some((Err(status::of(&error)), None)),
            }
        });
        Ok(Response::new(Box::pin(frames)))
    }
}

/// One subscriber's place.
#[derive(Debug)]
struct Served {
    feed: Arc<dyn OriginFeed>,
    at: Option<Cursor>,
    /// The epoch whose names this stream has been given.
    named: Option<Epoch>,
    /// Frames that were made and not sent yet.
    behind: VecDeque<v1::OriginFrame>,
    is_greeted: bool,
    clock: Arc<dyn Clock>,
    limits: ServerLimits,
    token: CancellationToken,
}

impl Served {
    /// The next frame; `None` when the process stops. The first comes at once.
    async fn next_frame(&mut self) -> Result<Option<v1::OriginFrame>, ReplicatorError> {
        if let Some(frame) = self.behind.pop_front() {
            return Ok((!self.token.is_cancelled()).then_some(frame));
        }
        let mut chunk = self.feed.read_from(self.at, self.limits.frame_bytes).await?;
        if chunk.records.is_empty() && self.is_greeted {
            let wait = self.feed.wait_beyond(Some(chunk.next), self.limits.heartbeat_every);
            tokio::select! {
                biased;
                () = self.token.cancelled() => return Ok(None),
                () = wait => {}
            }
            chunk = self.feed.read_from(self.at, self.limits.frame_bytes).await?;
        }
        if self.token.is_cancelled() {
            return Ok(None);
        }
        self.is_greeted = true;
        Ok(Some(self.frame(chunk)))
    }

    fn frame(&mut self, chunk: Chunk) -> v1::OriginFrame {
        // Read after the records: what is missing from them is said.
        let terms = self.feed.terms();
        let mut frame = v1::OriginFrame {
            sent_unix_nano: self.clock.now().0,
            terms: Some(terms_to_wire(terms.retention, terms.forgotten)),
            end: self.feed.end().map(v1::Cursor::from),
            ..v1::OriginFrame::default()
        };
        self.at = Some(chunk.next);
        if chunk.records.is_empty() {
            return frame;
        }
        let at = chunk.first;
        let (names, rows): (Vec<_>, Vec<_>) = chunk.records.into_iter().partition(is_name);
        let names = self.names_before(at).into_iter().chain(names);
        let names = names.map(|name| v1::OriginRecord { sequence: at.sequence, ..name });
        for names in in_frames(names, self.limits.frame_bytes) {
            let (first, next) = (Some(at.into()), Some(at.into()));
            self.behind.push_back(v1::OriginFrame { first, next, records: names, ..frame.clone() });
        }
        let ahead = (self.behind.len() == 1).then(|| self.behind.pop_front()).flatten();
        frame.records = ahead.map_or_else(Vec::new, |ahead| ahead.records);
        frame.records.extend(rows);
        frame.first = Some(at.into());
        frame.next = Some(chunk.next.into());
        self.behind.push_back(frame);
        self.behind.pop_front().unwrap_or_default()
    }

    /// The names that a reader who enters the epoch midway may lack.
    fn names_before(&mut self, at: Cursor) -> Vec<v1::OriginRecord> {
        let Cursor { epoch, sequence } = at;
        let is_known = self.named.replace(epoch) == Some(epoch) || sequence == 0;
        let names = if is_known { Vec::new() } else { self.feed.names(epoch) };
        let records = names
            .into_iter()
            .map(|name| v1::OriginRecord { record: Some(Record::ServiceName(name)), sequence });
        records.collect()
    }
}

const fn is_name(record: &v1::OriginRecord) -> bool {
    matches!(record.record, Some(Record::ServiceName(_)))
}

/// Names in runs that each fit in a frame.
fn in_frames(
    names: impl Iterator<Item = v1::OriginRecord>,
    frame_bytes: usize,
) -> Vec<Vec<v1::OriginRecord>> {
    let (mut frames, mut frame, mut bytes) = (Vec::new(), Vec::new(), 0_usize);
    for name in names {
        if bytes >= frame_bytes || frame.len() >= FRAME_RECORDS_MAX / 2 {
            frames.push(std::mem::take(&mut frame));
            bytes = 0;
        }
        bytes = bytes.saturating_add(name.encoded_len());
        frame.push(name);
    }
    if !frame.is_empty() {
        frames.push(frame);
    }
    frames
}
