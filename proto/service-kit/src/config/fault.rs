//! Faults of a configuration file: each with its line, all at once.

use std::fmt;

/// One fault.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// Line, from 1; 0 where the fault has no place (an empty file).
    pub line: u64,
    /// Column, from 1.
    pub column: u64,
    /// The key, with dots; empty for the file as a whole.
    pub key: String,
    /// What is wrong and what would be right.
    pub message: String,
}

/// All faults of a file, in the order of its lines.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Faults {
    file: String,
    list: Vec<Fault>,
}

impl Faults {
    pub(super) fn new(file: &str, mut list: Vec<Fault>) -> Self {
        list.sort_by_key(|fault| (fault.line, fault.column));
        Self { file: file.to_owned(), list }
    }

    /// The faults.
    #[must_use]
    pub fn list(&self) -> &[Fault] {
        &self.list
    }

    /// The name of the file.
    #[must_use]
    pub fn file(&self) -> &str {
        &self.file
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}:{}: ", self.line, self.column)?;
        if !self.key.is_empty() {
            write!(formatter, "{}: ", self.key)?;
        }
        formatter.write_str(&self.message)
    }
}

impl fmt::Display for Faults {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let count = self.list.len();
        let word = if count == 1 { "fault" } else { "faults" };
        write!(formatter, "{} has {count} {word}", self.file)?;
        for fault in &self.list {
            write!(formatter, "\n  {}:{fault}", self.file)?;
        }
        Ok(())
    }
}

impl std::error::Error for Faults {}
