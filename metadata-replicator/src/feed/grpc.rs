//! The gRPC feed: `farspan.v1.MetadataReplication`.

mod client;
mod contributions;
mod frames;
mod server;

pub use client::{Dialer, TcpDialer, endpoint};
pub(crate) use client::{FeedSink, Subscriber, catch_up, follow, next_frame, subscribe};
pub use contributions::{ContributionSink, Follower, follow_contributions, list_origins};
pub(crate) use frames::{FrameCheck, Received};
pub use server::{ReplicationServer, ServerLimits};
