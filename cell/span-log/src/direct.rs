//! A cell that writes without Kafka: the logs of its collectors as the partitions of one log.
//!
//! [`CollectorLog`] is the log of one collector, under its number; [`service`] gives it to the cell's
//! front; [`FrontLog`] is there the span log over all collectors. It must never give a number to two
//! logs, never vouch for a collector that it does not hear, and never leave out in silence what one
//! that does not answer may hold. The decision is `docs/DECISIONS/029-direct-write.md`.
//!
//! Here, and here alone, one trace may have records in several partitions.

mod collector;
mod front;
mod note;
mod service;
mod wire;

use std::fmt;

use trace_model::{Coverage, Region};

pub use self::collector::{CollectorConfig, CollectorLog};
pub use self::front::{CollectorStanding, FrontConfig, FrontLog, RetireError, Standing};
pub use self::service::server;
use crate::embedded::OpenError;
use crate::port::{GroupId, METADATA_PUBLISHER, METRICS_AGGREGATOR, Seen};

/// The incarnation of every log of this kind: a collector's number is never given again, so that
/// offsets below it need no other. Below that of any other log, so that a cell that goes over to one
/// goes on above it.
pub const INCARNATION: u64 = 1;

/// Most collectors of a cell, retired ones included.
pub const COLLECTORS_MAX: usize = 256;

/// The groups that the front reads for: their commits are its own.
const FRONT_GROUPS: [GroupId; 3] =
    [METRICS_AGGREGATOR, METADATA_PUBLISHER, GroupId("analytics-writer")];

/// Which cell a collector or a front is of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CellName {
    /// Its region.
    pub region: Region,
    /// The keyspace of its stores.
    pub keyspace: String,
}

impl fmt::Display for CellName {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "region {} with keyspace {}", self.region, self.keyspace)
    }
}

/// Why a collector's or a front's log is not opened.
#[derive(Debug, thiserror::Error)]
pub enum DirectError {
    /// The write-ahead log itself.
    #[error("the collector's own log was not opened")]
    Log(#[from] OpenError),
    /// A file in the data directory.
    #[error("{file}: {reason}")]
    File {
        /// Its name.
        file: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The stores hold spans of a log of another kind.
    #[error(
        "the stores hold spans of another span log (incarnation {incarnation}): a cell that writes \
         through collectors needs stores of its own (another keyspace, prefix and database)"
    )]
    OtherStores {
        /// That log's incarnation.
        incarnation: u64,
    },
    /// The stores know the number, and this directory does not.
    #[error(
        "`direct.collector: {number}` was another log: the stores hold its records up to {next}. If that \
         is gone, retire it and give this collector a number that no other has had"
    )]
    NumberTaken {
        /// The number.
        number: u32,
        /// How far the stores hold that log.
        next: u64,
    },
    /// The directory belongs to another number.
    #[error("the data directory is that of collector {known}, not of `direct.collector: {number}`")]
    OtherNumber {
        /// The number of the configuration.
        number: u32,
        /// The directory's.
        known: u32,
    },
    /// The log is not the one that the number was given to.
    #[error(
        "the write-ahead log of collector {number} is another one than its number was given to: if that \
         is gone, retire collector {number} and give this one a number that no other has had, and a data \
         directory of its own"
    )]
    OtherLog {
        /// The number.
        number: u32,
    },
    /// The log had records before it became a collector's.
    #[error("the data directory holds a span log that was no collector's: choose an empty one")]
    NotNew,
}

/// Refuses stores that hold spans of a log of another kind.
fn check_stores(seen: &Seen) -> Result<(), DirectError> {
    let newest = |cover: &Coverage| cover.incarnation;
    let incarnation = newest(&seen.covered).max(newest(&seen.stored));
    if incarnation > INCARNATION {
        return Err(DirectError::OtherStores { incarnation });
    }
    Ok(())
}
