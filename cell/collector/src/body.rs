//! Receiving a request's body: whole, within its limit, its time and the account of what is in
//! flight. What does not fit is refused before it is kept.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::HeaderMap;
use http::header::{CONTENT_LENGTH, HeaderName};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use tokio::time::timeout;
use trace_model::TenantId;

use crate::admission::Admitted;
use crate::error::ExportError;

/// The tenant of a request.
const TENANT: HeaderName = HeaderName::from_static("x-scope-orgid");

/// The tenant that the headers name, or the default one. An empty name is none: proxies send it so
/// where they have nothing to put there.
pub(crate) fn tenant(headers: &HeaderMap) -> Result<TenantId, ExportError> {
    let mut values = headers.get_all(TENANT).iter();
    let Some(value) = values.next() else { return Ok(TenantId::default()) };
    // Two values would let a proxy that checks one be passed by the other.
    if values.next().is_some() {
        return Err(ExportError::AmbiguousTenant);
    }
    let name = value.to_str().map_err(|_| ExportError::AmbiguousTenant)?;
    if name.is_empty() {
        return Ok(TenantId::default());
    }
    TenantId::new(name).map_err(ExportError::Tenant)
}

/// The length that the headers announce; 0 where they do not.
pub(crate) fn announced_length(headers: &HeaderMap) -> usize {
    let length = headers.get(CONTENT_LENGTH).and_then(|value| value.to_str().ok());
    length.and_then(|length| length.parse().ok()).unwrap_or(0)
}

/// How a body is received.
#[derive(Clone, Copy, Debug)]
pub(crate) struct BodyLimits {
    /// Largest body, as sent.
    pub bytes_max: usize,
    /// Longest time that it may take.
    pub time_max: Duration,
    /// Length announced outside of the body; 0 where it is not known.
    pub announced: usize,
}

/// Receives a body.
pub(crate) async fn receive(
    body: &mut Incoming,
    limits: BodyLimits,
    admitted: &mut Admitted,
) -> Result<Bytes, ExportError> {
    if limits.announced > limits.bytes_max {
        return Err(ExportError::TooLarge { bytes_max: limits.bytes_max });
    }
    timeout(limits.time_max, collect(body, limits, admitted))
        .await
        .map_err(|_| ExportError::SlowBody)?
}

/// No more than this is reserved on an announcement alone.
const RESERVE_BYTES_MAX: usize = 1 << 20;

async fn collect(
    body: &mut Incoming,
    limits: BodyLimits,
    admitted: &mut Admitted,
) -> Result<Bytes, ExportError> {
    // A body of one piece is passed on as it is; a second piece makes a copy of both.
    let mut first = Bytes::new();
    let mut all = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let Ok(piece) = frame.map_err(ExportError::BrokenOff)?.into_data() else { continue };
        let length = first.len().max(all.len()).saturating_add(piece.len());
        if length > limits.bytes_max {
            return Err(ExportError::TooLarge { bytes_max: limits.bytes_max });
        }
        admitted.take(piece.len())?;
        if first.is_empty() && all.is_empty() {
            first = piece;
            continue;
        }
        if all.is_empty() {
            all.reserve(limits.announced.min(RESERVE_BYTES_MAX).max(length));
            all.extend_from_slice(&first);
        }
        all.extend_from_slice(&piece);
    }
    Ok(if all.is_empty() { first } else { all.freeze() })
}

/// How much of the body of a refused request is read and thrown away, and for how long.
const DISCARD_BYTES_MAX: usize = 64 << 20;
const DISCARD_TIME_MAX: Duration = Duration::from_secs(5);

/// Reads what is left of a refused body and keeps nothing. A connection that is closed on unread
/// bytes is reset, and the reset overtakes the answer: the sender would repeat for ever what it was
/// told not to.
pub(crate) async fn discard(mut body: Incoming) {
    let read = async {
        let mut left = DISCARD_BYTES_MAX;
        while let Some(Ok(frame)) = body.frame().await {
            let length = frame.data_ref().map_or(0, Bytes::len);
            let Some(rest) = left.checked_sub(length) else { return };
            left = rest;
        }
    };
    // Whether it ended or was given up, the connection is done with this body.
    let _ended = timeout(DISCARD_TIME_MAX, read).await;
}
