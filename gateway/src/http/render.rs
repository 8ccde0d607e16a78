//! Rendering an answer: with room taken for what it costs, and beside the runtime where it is large.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::Response;
use axum::middleware::Next;
use hyper::body::Bytes;

use super::reply::ApiError;
use crate::assembled::TraceAnswer;
use crate::room::{AnswerRoom, Share};

/// Spans above which an answer is rendered beside the runtime: it takes milliseconds.
const RENDER_BESIDE_SPANS: usize = 1_000;
/// What an answer is rendered to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    Protobuf,
    OtlpJson,
    JaegerJson,
}

impl Form {
    /// Protobuf where it is asked for.
    pub(super) const fn of(wants_protobuf: bool, otherwise: Self) -> Self {
        if wants_protobuf { Self::Protobuf } else { otherwise }
    }

    /// How much memory rendering takes at its peak, for each byte that the spans take: the copy of
    /// their bytes, what they are decoded to, and the text (measured: `tests/memory.rs`).
    const fn factor(self) -> u64 {
        match self {
            Self::Protobuf => 2,
            Self::OtlpJson => 4,
            Self::JaegerJson => 7,
        }
    }
}

/// Renders an answer; a large one on a thread of its own, so that it holds nobody else up.
pub(super) async fn render<T: Spans + Send + Sync + 'static>(
    room: &AnswerRoom,
    answer: Arc<T>,
    form: Form,
    work: impl FnOnce(&T) -> Result<Response<Body>, ApiError> + Send + 'static,
) -> Result<Response<Body>, ApiError> {
    let is_small = answer.span_count() <= RENDER_BESIDE_SPANS;
    let rendering = room.take(answer.bytes().saturating_mul(form.factor()))?;
    let work = move || {
        let rendered = work(&answer);
        drop(rendering);
        rendered
    };
    if is_small {
        return work();
    }
    let rendered = tokio::task::spawn_blocking(work).await;
    rendered.unwrap_or_else(|_| Err(ApiError::internal("the answer could not be rendered")))
}

/// How much there is to render.
pub(super) trait Spans {
    fn span_count(&self) -> usize;

    /// About how many bytes of memory they take.
    fn bytes(&self) -> u64;
}

impl Spans for TraceAnswer {
    fn span_count(&self) -> usize {
        self.spans.len()
    }

    fn bytes(&self) -> u64 {
        Self::bytes(self)
    }
}

impl Spans for Vec<Arc<TraceAnswer>> {
    fn span_count(&self) -> usize {
        self.iter().map(|answer| answer.spans.len()).sum()
    }

    fn bytes(&self) -> u64 {
        self.iter().fold(0, |sum, answer| sum.saturating_add(answer.bytes()))
    }
}

/// A body with the room that it takes: given back when the last of its bytes has left the process,
/// however slowly its reader reads.
struct HeldBody {
    bytes: Bytes,
    _share: Share,
}

impl AsRef<[u8]> for HeldBody {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

/// Takes room for the body of each answer until it is sent. Answers are made whole before they are
/// sent, so that nothing is copied here.
pub(super) async fn hold_body(
    State(room): State<AnswerRoom>,
    request: Request,
    next: Next,
) -> Response<Body> {
    let (parts, body) = next.run(request).await.into_parts();
    let Ok(bytes) = axum::body::to_bytes(body, usize::MAX).await else {
        return ApiError::internal("the answer could not be made").into_our_shape();
    };
    match room.take(bytes.len() as u64) {
        Ok(share) => {
            let held = HeldBody { bytes, _share: share };
            Response::from_parts(parts, Body::from(Bytes::from_owner(held)))
        }
        Err(error) => ApiError::from(error).into_our_shape(),
    }
}
