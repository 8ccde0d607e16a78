//! What is in force, and where each value comes from.

use std::fmt;

/// Where a value comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// It is written in this line.
    Line(u64),
    /// It is not written.
    Default,
    /// It is not written, and this profile has a default of its own.
    Profile(&'static str),
}

/// Every value of a configuration, in the order read.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Effective {
    values: Vec<(String, String, Origin)>,
    notes: Vec<String>,
}

impl Effective {
    pub(super) fn add(&mut self, key: String, value: String, origin: Origin) {
        self.values.push((key, value, origin));
    }

    pub(super) fn note(&mut self, note: String) {
        self.notes.push(note);
    }

    /// What the profile stands for and this build does not serve yet, in words.
    #[must_use]
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    /// Key with dots, value as it would be written, origin.
    pub fn values(&self) -> impl Iterator<Item = (&str, &str, Origin)> {
        self.values.iter().map(|(key, value, origin)| (key.as_str(), value.as_str(), *origin))
    }
}

/// One `key: value` a line, with the origin behind.
impl fmt::Display for Effective {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (key, value, origin) in self.values() {
            let pair = format!("{key}: {value}");
            match origin {
                Origin::Line(line) => writeln!(formatter, "{pair:<52} # line {line}")?,
                Origin::Default => writeln!(formatter, "{pair:<52} # default")?,
                Origin::Profile(name) => writeln!(formatter, "{pair:<52} # profile {name}")?,
            }
        }
        Ok(())
    }
}
