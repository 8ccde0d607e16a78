//! Who has which trace, everywhere: contribution logs, peer streams and the index.
//!
//! A region's publisher appends what the region knows about its traces to the region's own origin
//! log ([`origin_log`], inside the cell). A [`Replica`] subscribes to the origin log of every region
//! ([`feed`]), keeps the records in files ([`store`]) and joins them into the hot index ([`index`]),
//! which answers the gateway ([`lookup`]). The join is `trace_model::location::TraceEntry`'s:
//! delivery in any order, any number of times, converges.
//!
//! It must never hold spans, never send what an origin has not put into its log, and never say
//! "absent" beyond a watermark or within one of its holes.
//!
//! Places kept for what comes later: the frozen tier is `index/frozen` (sealed runs beside
//! [`index::hot`], filled by what [`index::hot::HotIndex::expire`] and eviction take out); snapshots
//! are a second way into [`Replica`] beside the replay of [`store`]; anti-entropy compares
//! [`index::hot::HotIndex::digest`] by bucket of arrival; a CQL store stands beside [`store`] as
//! `store/cql`, a Kafka topic beside [`feed::grpc`] as `feed/kafka`.
#![warn(missing_docs)]

mod disk;
mod epoch;
mod error;
pub mod feed;
pub mod index;
pub mod lookup;
pub mod metrics;
pub mod origin_log;
mod replica;
mod status;
mod store;

pub use disk::DiskThreads;
pub use epoch::Entropy;
pub use error::ReplicatorError;
pub use feed::{OriginFeed, Terms};
pub use metrics::ReplicatorMetrics;
pub use origin_log::{
    ContributionLog, LogHistory, MemoryOriginLog, MemoryRecords, OriginLog, OriginLogConfig,
    OriginPeer, Recovered, ReplicatorPeer, RowKey, recover_from_peer,
};
pub use replica::{OriginEndpoint, Replica, ReplicaConfig, ReplicaServices};
