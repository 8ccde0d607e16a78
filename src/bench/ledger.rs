//! What `bench write` was given an acknowledgement for, to be read back: one line a trace,
//! `TRACE-ID SPANS SESSION`.

use std::io::{BufRead, BufReader, BufWriter, Write};
use std::path::Path;

use trace_model::TraceId;

use super::template::WrittenTrace;
use crate::cli::failure::Failure;

/// Most entries of a ledger.
const ENTRIES_MAX: usize = 4 << 20;

/// A trace that was acknowledged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    /// Its id.
    pub(super) id: TraceId,
    /// Its spans.
    pub(super) spans: usize,
    /// The value that no other trace has.
    pub(super) session: String,
}

impl From<&WrittenTrace> for Entry {
    fn from(trace: &WrittenTrace) -> Self {
        let session = String::from_utf8_lossy(&trace.session).into_owned();
        Self { id: trace.id, spans: trace.spans, session }
    }
}

/// Adds entries to a file.
pub(super) fn append(path: &Path, entries: &[Entry]) -> std::io::Result<()> {
    let file = std::fs::OpenOptions::new().create(true).append(true).open(path)?;
    let mut file = BufWriter::new(file);
    for entry in entries {
        writeln!(file, "{} {} {}", entry.id, entry.spans, entry.session)?;
    }
    file.into_inner()?.sync_all()
}

/// Reads a file.
pub(super) fn read(path: &Path) -> Result<Vec<Entry>, Failure> {
    let usage = |text: String| Failure::Usage(format!("--ledger {}: {text}", path.display()));
    let file = std::fs::File::open(path).map_err(|error| usage(error.to_string()))?;
    let mut entries = Vec::new();
    for (index, line) in BufReader::new(file).lines().take(ENTRIES_MAX).enumerate() {
        let line = line?;
        let entry = parse(&line).ok_or_else(|| usage(format!("line {} is no entry", index + 1)))?;
        entries.push(entry);
    }
    if entries.is_empty() {
        return Err(usage("no entries; `bench write --ledger` writes them".to_owned()));
    }
    Ok(entries)
}

fn parse(line: &str) -> Option<Entry> {
    let mut words = line.split(' ');
    let id = words.next()?.parse().ok()?;
    let spans = words.next()?.parse().ok()?;
    Some(Entry { id, spans, session: words.next()?.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_appended_is_read_back_and_what_is_damaged_is_named() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("ledger");
        assert!(read(&path).is_err());
        let entry = |byte| Entry {
            id: TraceId::from_bytes([byte; 16]).unwrap(),
            spans: 8,
            session: "00ff".to_owned(),
        };
        append(&path, &[entry(1)]).unwrap();
        append(&path, &[entry(2)]).unwrap();
        assert_eq!(read(&path).unwrap(), [entry(1), entry(2)]);
        std::fs::write(&path, "nonsense\n").unwrap();
        assert!(read(&path).unwrap_err().to_string().contains("line 1"));
    }
}
