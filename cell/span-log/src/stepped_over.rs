//! What was stepped over because it is no record of ours: where it lies, why, and what is needed to
//! find who wrote it. Never what it holds: it is somebody else's, under nobody's policy.
//!
//! A list for people, bounded to the newest, kept over restarts as lines of JSON. It is no account:
//! metrics count what is stepped over; a loss of power may take the last lines.

use std::collections::VecDeque;
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead as _, BufReader, Write as _};
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};
use trace_model::UnixNanos;

/// Records listed at most; the file has up to twice as many lines.
pub const LISTED_MAX: usize = 1_000;
/// Bytes of a key that are shown: enough for a trace id.
pub const KEY_BYTES_MAX: usize = 16;
/// Longest reason kept, in bytes.
const REASON_BYTES_MAX: usize = 512;
/// Longest line that is read back.
const LINE_BYTES_MAX: usize = 8 << 10;

/// What is known of a record that is not ours, beside its place. A run of them is told by its first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stranger {
    /// The first bytes of its key, at most [`KEY_BYTES_MAX`]; empty where it has none.
    pub key: Vec<u8>,
    /// Bytes of keys and payloads.
    pub bytes: u64,
}

impl Stranger {
    /// What may be told of a record with this key and payload.
    #[must_use]
    pub fn of(key: Option<&[u8]>, payload_bytes: usize) -> Self {
        let key = key.unwrap_or(&[]);
        let bytes = u64::try_from(key.len().saturating_add(payload_bytes)).unwrap_or(u64::MAX);
        Self { key: key.get(..KEY_BYTES_MAX.min(key.len())).unwrap_or(key).to_vec(), bytes }
    }
}

/// A run of records that was stepped over.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SteppedRun {
    /// The group that met it.
    pub group: String,
    /// The topic; empty where it is the span log itself.
    #[serde(default)]
    pub topic: String,
    /// The partition.
    pub partition: u32,
    /// Offset of the first record.
    pub first: u64,
    /// Offset behind the last one.
    pub next: u64,
    /// Why.
    pub reason: String,
    /// The first record's key, its first bytes in hex.
    #[serde(default)]
    pub key: String,
    /// Bytes of keys and payloads.
    #[serde(default)]
    pub bytes: u64,
    /// When it was stepped over, in nanoseconds since the epoch.
    pub at: u64,
}

impl SteppedRun {
    /// A run as it is noted now.
    #[must_use]
    pub fn new(
        group: &str,
        (topic, partition): (&str, u32),
        (first, next): (u64, u64),
        reason: &str,
        stranger: &Stranger,
        at: UnixNanos,
    ) -> Self {
        let hex = |byte: &u8| format!("{byte:02x}");
        Self {
            group: group.to_owned(),
            topic: topic.to_owned(),
            partition,
            first,
            next,
            reason: shortened(reason).to_owned(),
            key: stranger.key.iter().map(hex).collect(),
            bytes: stranger.bytes,
            at: at.0,
        }
    }

    fn is_same_place(&self, other: &Self) -> bool {
        self.group == other.group
            && self.topic == other.topic
            && self.partition == other.partition
            && self.first == other.first
    }
}

fn shortened(reason: &str) -> &str {
    let end = (0..=REASON_BYTES_MAX.min(reason.len())).rev();
    let end = end.into_iter().find(|end| reason.is_char_boundary(*end));
    end.and_then(|end| reason.get(..end)).unwrap_or("")
}

#[derive(Debug)]
struct State {
    runs: VecDeque<SteppedRun>,
    /// Lines of the file.
    lines: usize,
    file: File,
}

/// The list of a process. Shared by all that step over something.
#[derive(Debug)]
pub struct SteppedOver {
    path: PathBuf,
    state: Mutex<State>,
}

impl SteppedOver {
    /// Opens the list, empty where there is none. Lines that cannot be read are left out.
    pub fn open(path: PathBuf) -> io::Result<Self> {
        let mut runs = VecDeque::new();
        let mut lines = 0;
        match File::open(&path) {
            Ok(file) => {
                for line in BufReader::new(file).split(b'\n') {
                    let line = line?;
                    lines += 1;
                    let is_line = line.len() <= LINE_BYTES_MAX;
                    let run = is_line.then(|| serde_json::from_slice(&line).ok()).flatten();
                    runs.extend(run);
                    if runs.len() > LISTED_MAX {
                        runs.pop_front();
                    }
                }
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        let file = OpenOptions::new().create(true).append(true).open(&path)?;
        let list = Self { path, state: Mutex::new(State { runs, lines, file }) };
        // A line that a crash has cut short ends here, and takes no other with it.
        list.rewrite(&mut list.lock())?;
        Ok(list)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes a run; one of the same group at the same place is known. Blocks for a write to a file.
    pub fn note(&self, run: SteppedRun) {
        let mut state = self.lock();
        if state.runs.iter().any(|known| known.is_same_place(&run)) {
            return;
        }
        let line = serde_json::to_string(&run);
        state.runs.push_back(run);
        if state.runs.len() > LISTED_MAX {
            state.runs.pop_front();
        }
        let written = line.map_err(io::Error::from).and_then(|line| {
            if state.lines >= 2 * LISTED_MAX {
                return self.rewrite(&mut state);
            }
            state.lines += 1;
            state.file.write_all(format!("{line}\n").as_bytes())
        });
        if let Err(error) = written {
            tracing::warn!(%error, "the list of what was stepped over was not written");
        }
    }

    /// What was stepped over, oldest first.
    #[must_use]
    pub fn list(&self) -> Vec<SteppedRun> {
        self.lock().runs.iter().cloned().collect()
    }

    fn rewrite(&self, state: &mut State) -> io::Result<()> {
        let partial = self.path.with_extension("partial");
        let mut text = Vec::new();
        for run in &state.runs {
            serde_json::to_writer(&mut text, run)?;
            text.push(b'\n');
        }
        fs::write(&partial, &text)?;
        fs::rename(&partial, &self.path)?;
        state.lines = state.runs.len();
        state.file = OpenOptions::new().append(true).open(&self.path)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(group: &str, first: u64) -> SteppedRun {
        let stranger = Stranger::of(Some(b"0123456789abcdefgh"), 100);
        let place = ("otlp_spans", 3);
        SteppedRun::new(group, place, (first, first + 1), "no", &stranger, UnixNanos(7))
    }

    #[test]
    fn a_key_is_told_by_its_first_bytes_and_nothing_of_the_content_is_kept() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("list");
        SteppedOver::open(path.clone()).unwrap().note(run("a", 5));
        let text = fs::read_to_string(&path).unwrap();
        assert!(text.contains("30313233343536373839616263646566\""), "{text}");
        assert_eq!(run("a", 5).bytes, 118);
        assert_eq!(Stranger::of(None, 3), Stranger { key: Vec::new(), bytes: 3 });
    }

    #[test]
    fn the_list_is_there_after_a_restart_also_behind_a_line_that_was_cut() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("list");
        let list = SteppedOver::open(path.clone()).unwrap();
        list.note(run("a", 5));
        list.note(run("b", 5));
        list.note(run("a", 5));
        drop(list);
        let text = fs::read(&path).unwrap();
        fs::write(&path, [&text[..], b"{\"group\":\"cut"].concat()).unwrap();
        let list = SteppedOver::open(path.clone()).unwrap();
        assert_eq!(list.list(), [run("a", 5), run("b", 5)]);
        list.note(run("c", 9));
        assert_eq!(SteppedOver::open(path).unwrap().list().len(), 3);
    }

    #[test]
    fn the_newest_are_kept_and_the_file_is_bounded() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("list");
        let list = SteppedOver::open(path.clone()).unwrap();
        for first in 0..5 * LISTED_MAX as u64 {
            list.note(run("a", first));
            if first % 100 == 0 {
                let lines = fs::read_to_string(&path).unwrap().lines().count();
                assert!(lines <= 2 * LISTED_MAX, "{lines}");
            }
        }
        let listed = list.list();
        assert_eq!((listed.len(), listed[0].first), (LISTED_MAX, 4 * LISTED_MAX as u64));
        assert_eq!(SteppedOver::open(path).unwrap().list(), listed);
    }
}
