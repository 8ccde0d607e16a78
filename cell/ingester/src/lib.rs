//! The consumer groups of a cell: each reads the span log at its own pace, commits its own offsets,
//! and sets aside what no retry will make good. A group never steps over an error that may pass.
//!
//! Several processes may share the groups of a cell: the log gives each its partitions, and the groups
//! whose state is over all partitions to one process at a time.
//!
//! [`IngesterService`] starts one [`ConsumerRunner`] for each [`GroupMaker`], and again where one has
//! panicked. The runner owns reading, retrying, dead letters and commits; a [`GroupHandler`] owns what
//! is done with the records.
#![warn(missing_docs)]

pub mod analytics_writer;
pub mod backoff;
pub mod border;
pub mod dead_letter;
pub mod handler;
pub mod lag;
pub mod metadata_publisher;
pub mod metrics;
pub mod metrics_aggregator;
pub mod progress;
pub mod replay;
pub mod retries;
pub mod runner;
pub mod search_indexer;
pub mod service;
pub mod spread;
pub mod storage_writer;

pub use analytics_writer::{ANALYTICS_WRITER, AnalyticsWriterMaker};
pub use border::{
    BorderConfig, BorderJoiner, BorderParts, LookupError, OwnRows, OwnTraces, ParentLookup,
    ParentSpan, ReplicatorAddress, SkewSample, SkewSamples,
};
pub use dead_letter::{
    DeadLetter, DeadLetterConfig, DeadLetterError, DeadLetterSummary, DeadLetters,
};
pub use handler::{GroupHandler, GroupMaker, HandleError, MakeError};
pub use lag::{GroupLag, LagBoard};
pub use metrics::{AggregatorMetrics, BorderMetrics, IngesterMetrics};
pub use metrics_aggregator::{
    AggregatorConfig, AggregatorMaker, AggregatorParts, MetricsAggregator,
};
pub use replay::{AgainHandler, LeftOut, Replay, ReplayParts, ReplayProgress, ReplayReport};
pub use retries::{Retries, RetryError};
pub use runner::{ConsumerRunner, Ended, RunnerConfig, RunnerError, RunnerParts};
pub use search_indexer::{SearchIndexerHandler, SearchIndexerMaker};
pub use service::{IngesterParts, IngesterService};
pub use spread::{EndsOf, LogEnds, PartitionEnd};
pub use storage_writer::{StorageWriterHandler, StorageWriterMaker};
