//! Records of one origin's log in files of this machine: what the origin's cell and every replica
//! keep alike. A CQL store would stand beside this one as `store/cql`.
//!
//! A store is a run of segment files, each of one epoch, in the order of their cursors. It never
//! gives back bytes whose checksum does not hold, never steps over a damaged run in silence, and
//! never lets go of a row before it is noted that rows of that time may be missing.

mod batch;
mod chunk;
mod compact;
mod damage;
mod disk;
mod files;
mod framer;
mod gaps;
mod loading;
mod packed;
mod part;
mod records;
mod roll;
mod row_sieve;
mod segment;
mod segments;
mod sieve;
mod state;
mod terms;
#[cfg(test)]
mod tests;

#[cfg(test)]
pub(crate) use disk::faulty::FaultyDisk;
pub(crate) use disk::{Disk, LocalDisk};
pub(crate) use framer::Framer;
#[cfg(test)]
pub(crate) use part::DOUBTS_MAX;
pub(crate) use records::{JudgeRows, Judged, Loaded, RecordStore, StoreConfig};
pub(crate) use segment::Location;
