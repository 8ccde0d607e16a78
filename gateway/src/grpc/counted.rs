//! A channel that counts what comes in: bytes take room from the moment they arrive until the
//! message that they make is handed over, so that not even an answer of one large message is held
//! uncounted.

use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use axum::body::Bytes;
use axum::http::{Request, Response};
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use hyper::body::{Body as HttpBody, Frame, SizeHint};
use tonic::Status;
use tonic::body::Body;
use tonic::transport::{Channel, Error};
use tower::Service;

use crate::room::{AnswerRoom, NoRoom, Share};

/// A channel whose answers take room as they arrive.
#[derive(Clone, Debug)]
pub(super) struct CountedChannel {
    channel: Channel,
    room: AnswerRoom,
}

/// Room that an answer's bytes have taken and no message of it has been handed over for. In the
/// extensions of each answer.
#[derive(Clone, Debug)]
pub(super) struct Arriving(Arc<Mutex<Share>>);

impl CountedChannel {
    pub(super) const fn new(channel: Channel, room: AnswerRoom) -> Self {
        Self { channel, room }
    }
}

impl Arriving {
    fn add(&self, bytes: usize) -> Result<(), NoRoom> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).grow(bytes as u64)
    }

    /// A message of so many bytes has been handed over: who has it counts it.
    pub(super) fn handed_over(&self, bytes: usize) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).shrink(bytes as u64);
    }
}

impl Service<Request<Body>> for CountedChannel {
    type Response = Response<Body>;
    type Error = Error;
    type Future = BoxFuture<'static, Result<Response<Body>, Error>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Error>> {
        self.channel.poll_ready(context)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let asked = self.channel.call(request);
        let arriving = Arriving(Arc::new(Mutex::new(self.room.share())));
        async move {
            let mut response = asked.await?;
            response.extensions_mut().insert(arriving.clone());
            Ok(response.map(|body| Body::new(CountedBody { body, arriving })))
        }
        .boxed()
    }
}

struct CountedBody {
    body: Body,
    arriving: Arriving,
}

impl HttpBody for CountedBody {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let polled = Pin::new(&mut self.body).poll_frame(context);
        if let Poll::Ready(Some(Ok(frame))) = &polled
            && let Some(data) = frame.data_ref()
            && let Err(error) = self.arriving.add(data.len())
        {
            let mut status = Status::resource_exhausted(error.to_string());
            status.set_source(Arc::new(error));
            return Poll::Ready(Some(Err(status)));
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// Whether an answer ended because this gateway had no room for it.
pub(super) fn had_no_room(status: &Status) -> bool {
    let source = std::error::Error::source(status);
    source.is_some_and(|source| source.downcast_ref::<NoRoom>().is_some())
}
