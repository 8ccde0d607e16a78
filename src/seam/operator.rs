//! What an operator's command and a running cell say to each other: JSON over HTTP on a socket in the
//! cell's data directory, which only its owner may open.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// Where a cell listens for its operator.
pub(crate) fn socket_of(data_dir: &Path) -> PathBuf {
    data_dir.join("operator.sock")
}

/// Most letters of one answer.
pub(crate) const LETTERS_MAX: usize = 1_000;

/// What was set aside or lost.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct SetAside {
    pub(crate) letters: Vec<Letter>,
    /// Letters that cannot be read.
    pub(crate) unreadable: Vec<Unreadable>,
    /// Whether there are more letters behind these.
    pub(crate) has_more: bool,
    pub(crate) lost: Vec<LostRun>,
    /// Records that are not ours, or that cannot be taken; the newest, oldest first.
    #[serde(default)]
    pub(crate) stepped_over: Vec<Stepped>,
}

/// A dead letter.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Letter {
    pub(crate) number: u64,
    pub(crate) group: String,
    pub(crate) reason: String,
    pub(crate) tenant: String,
    pub(crate) partition: u32,
    pub(crate) first: u64,
    pub(crate) next: u64,
    /// Nanoseconds since the epoch, as text: JSON readers round numbers.
    pub(crate) appended_unix_nano: String,
    pub(crate) traces: usize,
    pub(crate) spans: usize,
    pub(crate) bytes: u64,
    /// Ids of its traces; only where one letter was asked for.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) trace_ids: Vec<String>,
}

/// A letter that cannot be read.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Unreadable {
    pub(crate) error: String,
}

/// Records that are gone.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct LostRun {
    /// What names it to `drop`.
    pub(crate) id: String,
    pub(crate) cause: String,
    /// The group that has missed them; `None`: no store has them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) missed_by: Option<String>,
    pub(crate) first: u64,
    /// `None` where nobody knows how many there were.
    pub(crate) next: Option<u64>,
    pub(crate) appended_from_unix_nano: String,
    pub(crate) appended_until_unix_nano: String,
}

/// Records that were stepped over. Nothing of what they hold is kept.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Stepped {
    pub(crate) group: String,
    /// Empty where it is the span log.
    pub(crate) topic: String,
    pub(crate) partition: u32,
    pub(crate) first: u64,
    pub(crate) next: u64,
    pub(crate) reason: String,
    /// The first bytes of the first record's key, in hex.
    pub(crate) key: String,
    /// Of keys and payloads.
    pub(crate) bytes: u64,
    pub(crate) noted_unix_nano: String,
}

/// A collector, as its cell's front knows it.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Collector {
    pub(crate) number: u32,
    pub(crate) address: String,
    /// `up`, `new`, `away` or `retired`.
    pub(crate) standing: String,
    /// Why it is away.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub(crate) reason: String,
    /// Records that it has taken, as far as is known.
    pub(crate) records: u64,
    /// Of these, what is not in the stores, as far as is known.
    pub(crate) not_stored: u64,
    /// When it was last heard, by its own clock; of a retired one, when it was retired.
    pub(crate) at_unix_nano: String,
}

/// Why something was not done.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Refusal {
    pub(crate) error: String,
}
