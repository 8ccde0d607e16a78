//! How a store stands, for whoever operates it.

use trace_model::Coverage;

/// How much a part of a store holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PartSize {
    /// The table or the indices.
    pub name: String,
    /// Rows or documents; `None` where counting them costs too much.
    pub rows: Option<u64>,
    /// Bytes on disk, copies included where the engine counts them so.
    pub bytes: u64,
}

/// A store as it was found, with nothing changed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StoreStatus {
    /// The engine and its version.
    pub engine: String,
    /// The version of the schema; `None` where there is none.
    pub schema: Option<u32>,
    /// What differs from the configuration, in words.
    pub differences: Vec<String>,
    /// Sizes of its parts.
    pub sizes: Vec<PartSize>,
    /// How far the log is held, by what holds it.
    pub covered: Vec<(&'static str, Coverage)>,
}
