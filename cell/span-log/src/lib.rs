//! The span log: what a cell has acknowledged, in order, until every required group has it.
//!
//! Port [`SpanLog`]; adapters [`embedded`] (durable, one machine), [`direct`] (several embedded logs
//! as one), `kafka` (brokers; a cargo feature) and [`memory`] (tests). The log
//! never looks into a span; it keeps batches, gives them offsets and append times, and remembers
//! how far each consumer group has come. All records of one trace lie in one partition
//! (`docs/DECISIONS/006-log-keyed-by-trace.md`).
#![warn(missing_docs)]

pub mod assignment;
pub mod direct;
pub mod embedded;
mod eraser;
pub mod foreign;
#[cfg(feature = "kafka")]
pub mod kafka;
mod losses;
pub mod memory;
pub mod metrics;
pub mod port;
pub mod stepped_over;

pub use assignment::{Assignment, Hold, Share, Sharing};
pub use embedded::{EmbeddedConfig, EmbeddedLog, OpenError, WhenFull};
pub use foreign::{ForeignFigures, ForeignPlace, ForeignRecord, ForeignRecords};
#[cfg(feature = "kafka")]
pub use kafka::{
    KafkaConfig, KafkaLog, KafkaOpenError, KafkaTailConfig, KafkaTailDisk, KafkaTopic,
};
pub use memory::{MemoryConfig, MemoryLog};
pub use metrics::LogMetrics;
pub use port::{
    Appended, Capabilities, CommitError, DamagedRange, ErasedRecords, ForgetLost, GroupId, LogEnd,
    LogEraser, LogError, LogIdentity, Lost, LostCause, LostRun, MissedRun, Seen, SpanLog,
    TailAnswer,
};
pub use stepped_over::{SteppedOver, SteppedRun, Stranger};
