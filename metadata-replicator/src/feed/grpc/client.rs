//! Follows one origin's log at a peer: connect, subscribe from the durable cursor, hand each frame
//! on, come back with a jittered, growing pause.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use proto::v1;
use proto::v1::metadata_replication_client::MetadataReplicationClient;
use tokio_util::sync::CancellationToken;
use tonic::transport::{Channel, Endpoint};
use trace_model::Region;
use trace_model::location::Cursor;

use super::frames::{FrameCheck, Received};
use crate::epoch::Entropy;
use crate::error::ReplicatorError;

/// Largest frame that is decoded.
const FRAME_BYTES_MAX: usize = 4 << 20;
/// HTTP/2 windows: one round trip of 200 ms at 40 MB/s fits in.
const WINDOW_BYTES: u32 = 8 << 20;
/// A sender is heard twice a second; after this long a stream is dead.
const SILENCE_MAX: Duration = Duration::from_secs(10);
/// Longest wait for a connection and for the answer to `Subscribe`.
pub(super) const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// The first pause before another attempt.
const PAUSE_MIN: Duration = Duration::from_millis(100);
/// The longest.
const PAUSE_MAX: Duration = Duration::from_secs(10);

/// How peers are reached.
#[async_trait]
pub trait Dialer: Send + Sync + fmt::Debug {
    /// A connection to this URL.
    async fn dial(&self, url: &str) -> Result<Channel, ReplicatorError>;
}

/// Reaches peers over TCP.
#[derive(Clone, Copy, Debug, Default)]
pub struct TcpDialer;

#[async_trait]
impl Dialer for TcpDialer {
    async fn dial(&self, url: &str) -> Result<Channel, ReplicatorError> {
        let channel = endpoint(url)?.connect().await;
        channel.map_err(|error| ReplicatorError::Peer(error.to_string()))
    }
}

/// An endpoint with the settings of a peer stream.
pub fn endpoint(url: &str) -> Result<Endpoint, ReplicatorError> {
    let endpoint = Endpoint::from_shared(url.to_owned());
    let endpoint = endpoint.map_err(|error| ReplicatorError::Peer(error.to_string()))?;
    Ok(endpoint
        .connect_timeout(CONNECT_TIMEOUT)
        .tcp_nodelay(true)
        .initial_stream_window_size(WINDOW_BYTES)
        .initial_connection_window_size(2 * WINDOW_BYTES)
        .http2_keep_alive_interval(Duration::from_secs(5))
        .keep_alive_timeout(SILENCE_MAX)
        .keep_alive_while_idle(true))
}

/// Who takes the frames of one origin.
#[async_trait]
pub(crate) trait FeedSink: Send + Sync {
    /// From where the stream is wanted.
    fn cursor(&self) -> Option<Cursor>;

    /// Takes a good frame. After an error the stream is given up and begun again from the cursor.
    async fn take(&self, received: Received) -> Result<(), ReplicatorError>;

    /// The stream came up or went down.
    fn note_connected(&self, is_connected: bool);

    /// The peer broke the contract.
    fn note_refused(&self);
}

/// Whose log is followed, for whom, and where.
#[derive(Debug)]
pub(crate) struct Subscriber {
    pub(crate) origin: Region,
    pub(crate) subscriber: Region,
    /// Tried in turn.
    pub(crate) urls: Vec<String>,
    pub(crate) dialer: Arc<dyn Dialer>,
    pub(crate) entropy: Arc<Entropy>,
}

/// Follows until the token is cancelled.
pub(crate) async fn follow(
    subscriber: Subscriber,
    sink: Arc<dyn FeedSink>,
    token: CancellationToken,
) {
    let origin = &subscriber.origin;
    let mut failures = 0_u32;
    let mut is_refused = false;
    for url in subscriber.urls.iter().cycle() {
        let mut is_heard = false;
        let stream = stream_once(&subscriber, url, sink.as_ref(), &mut is_heard);
        let ended = tokio::select! {
            biased;
            () = token.cancelled() => break,
            ended = stream => ended,
        };
        sink.note_connected(false);
        if is_heard {
            failures = 0;
        }
        if let Err(error) = ended {
            let breaks_contract = !error.is_retryable();
            if breaks_contract {
                sink.note_refused();
                failures = failures.max(4);
            }
            log_end(origin, url, &error, breaks_contract && !is_refused);
            is_refused |= breaks_contract;
        }
        let pause = pause(failures, &subscriber.entropy);
        failures = failures.saturating_add(1);
        tokio::select! {
            biased;
            () = token.cancelled() => break,
            () = tokio::time::sleep(pause) => {}
        }
    }
    sink.note_connected(false);
}

/// A peer that breaks the contract is told of once; a lost connection is daily life.
fn log_end(origin: &Region, url: &str, error: &ReplicatorError, is_first_refusal: bool) {
    let cause = std::error::Error::source(error).map(ToString::to_string).unwrap_or_default();
    if is_first_refusal {
        tracing::error!(%origin, url, %error, cause, "a peer's stream is refused");
        return;
    }
    tracing::debug!(%origin, url, %error, cause, "a peer's stream ended");
}

/// Doubles from [`PAUSE_MIN`] to [`PAUSE_MAX`]; half of it by chance, so that peers do not come
/// back all at once.
fn pause(failures: u32, entropy: &Entropy) -> Duration {
    let whole = PAUSE_MIN.saturating_mul(1 << failures.min(10)).min(PAUSE_MAX);
    let half = whole / 2;
    let span = u64::try_from(half.as_micros()).unwrap_or(u64::MAX).max(1);
    half.saturating_add(Duration::from_micros(entropy.next() % span))
}

/// One stream, to its end. `is_heard` says whether a good frame came.
async fn stream_once(
    subscriber: &Subscriber,
    url: &str,
    sink: &dyn FeedSink,
    is_heard: &mut bool,
) -> Result<(), ReplicatorError> {
    let at = sink.cursor();
    let channel = within(CONNECT_TIMEOUT, subscriber.dialer.dial(url)).await??;
    let mut frames = subscribe(channel, &subscriber.origin, &subscriber.subscriber, at).await?;
    let mut check = FrameCheck { at };
    sink.note_connected(true);
    while let Some(frame) = next_frame(&mut frames).await? {
        sink.take(check.take(frame)?).await?;
        *is_heard = true;
    }
    Err(ReplicatorError::Peer("the stream ended".to_owned()))
}

/// Takes what a peer has of an origin's records beyond the cursor, and ends when that is all.
pub(crate) async fn catch_up(
    subscriber: &Subscriber,
    url: &str,
    sink: &dyn FeedSink,
) -> Result<(), ReplicatorError> {
    let at = sink.cursor();
    let channel = within(CONNECT_TIMEOUT, subscriber.dialer.dial(url)).await??;
    let mut frames = subscribe(channel, &subscriber.origin, &subscriber.subscriber, at).await?;
    let mut check = FrameCheck { at };
    while let Some(frame) = next_frame(&mut frames).await? {
        let received = check.take(frame)?;
        let is_level = received.chunk.records.is_empty();
        sink.take(received).await?;
        if is_level {
            return Ok(());
        }
    }
    Err(ReplicatorError::Peer("the stream ended before its end was reached".to_owned()))
}

/// Opens a stream of an origin's records.
pub(crate) async fn subscribe(
    channel: Channel,
    origin: &Region,
    subscriber: &Region,
    from: Option<Cursor>,
) -> Result<tonic::Streaming<v1::OriginFrame>, ReplicatorError> {
    let mut client =
        MetadataReplicationClient::new(channel).max_decoding_message_size(FRAME_BYTES_MAX);
    let request = v1::SubscribeRequest {
        origin: origin.as_str().to_owned(),
        subscriber: subscriber.as_str().to_owned(),
        from: from.map(v1::Cursor::from),
    };
    let answer = within(CONNECT_TIMEOUT, client.subscribe(request)).await?;
    Ok(answer.map_err(|status| peer_error(&status))?.into_inner())
}

/// The next frame; an error where the sender has been silent for too long.
pub(crate) async fn next_frame(
    frames: &mut tonic::Streaming<v1::OriginFrame>,
) -> Result<Option<v1::OriginFrame>, ReplicatorError> {
    within(SILENCE_MAX, frames.message()).await?.map_err(|status| peer_error(&status))
}

pub(super) async fn within<T>(
    limit: Duration,
    work: impl Future<Output = T>,
) -> Result<T, ReplicatorError> {
    let late = |_| ReplicatorError::Peer("no answer in time".to_owned());
    tokio::time::timeout(limit, work).await.map_err(late)
}

/// A frame that cannot be decoded or is too large breaks the contract; all else may pass.
pub(super) fn peer_error(status: &tonic::Status) -> ReplicatorError {
    let code = status.code();
    if code == tonic::Code::OutOfRange {
        return ReplicatorError::Protocol("a frame that is too large");
    }
    if code == tonic::Code::NotFound {
        return ReplicatorError::UnknownOrigin;
    }
    if code == tonic::Code::Internal && status.message().contains("decode") {
        return ReplicatorError::Protocol("a frame that cannot be decoded");
    }
    ReplicatorError::Peer(format!("{code:?}: {}", status.message()))
}
