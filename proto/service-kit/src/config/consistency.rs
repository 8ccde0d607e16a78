//! How many copies of a row in Cassandra or Scylla must answer.

/// Which copies a write and a read wait for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Consistency {
    /// A majority in the cell's data center, which alone is asked: copies in others may lag.
    #[default]
    LocalQuorum,
    /// A majority of all copies in all data centers.
    Quorum,
    /// A write waits for a majority in each data center, so that a read needs but one of them.
    EachQuorum,
}
