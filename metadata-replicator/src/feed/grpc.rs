//! The gRPC feed: `farspan.v1.MetadataReplication`.

mod client;
mod frames;
mod server;

pub use client::{Dialer, TcpDialer, endpoint};
pub(crate) use client::{FeedSink, Subscriber, follow, next_frame, subscribe};
pub(crate) use frames::{FrameCheck, Received};
pub use server::{ReplicationServer, ServerLimits};
