//! How a command ends: exit codes, and errors as people need them (what, why, what to do).

use std::io::Write;
use std::process::ExitCode;

/// A command that did what it was asked, more or less.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// All of it.
    Done,
    /// There is no such thing, provably.
    NotFound,
    /// A part of it; the answer said what is missing.
    Partial,
    /// A file is faulty; the output said where.
    BadInput,
    /// A check failed; the output said what.
    CheckFailed,
    /// A second interrupt ended the process before it was drained.
    Interrupted,
}

impl Outcome {
    /// The code that the shell sees.
    pub(crate) fn exit_code(self) -> ExitCode {
        match self {
            Self::Done => ExitCode::SUCCESS,
            Self::NotFound => ExitCode::from(1),
            Self::BadInput => ExitCode::from(2),
            Self::Partial => ExitCode::from(3),
            Self::CheckFailed => ExitCode::from(4),
            Self::Interrupted => ExitCode::from(130),
        }
    }
}

/// Why a command did nothing of what it was asked.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    /// The arguments or a configuration file are wrong.
    #[error("{0}")]
    Usage(String),
    /// No gateway answers there.
    #[error("no gateway answers at {url}\n  why: {why}\n  try: farspan demo, or --gateway URL")]
    Unreachable {
        /// Where.
        url: String,
        /// What happened.
        why: String,
    },
    /// No cell runs on the data directory.
    #[error(
        "no cell answers at {}\n  why: {why}\n  try: start the cell, or --data-dir DIR of one that runs",
        socket.display()
    )]
    NoCell {
        /// Where it would listen.
        socket: std::path::PathBuf,
        /// What happened.
        why: String,
    },
    /// The cell refused or failed.
    #[error("the cell answered {status}: {message}")]
    RefusedByCell {
        /// HTTP status.
        status: u16,
        /// Its words.
        message: String,
    },
    /// The gateway refused or failed.
    #[error("the gateway answered {status}: {message}")]
    Refused {
        /// HTTP status.
        status: u16,
        /// Its words.
        message: String,
    },
    /// No region that may hold what was asked for could answer, so that nothing is proven.
    #[error("no answer: {0}\n  try: again, or farspan regions")]
    Unproven(String),
    /// The gateway talks another language than this binary.
    #[error("the gateway's answer cannot be read: {0}\n  try: the same version on both sides")]
    Unreadable(String),
    /// Writing the answer failed.
    #[error("the answer could not be written")]
    Output(#[from] std::io::Error),
    /// A part of the system did not start or failed.
    #[error("{0:#}")]
    Other(#[from] anyhow::Error),
}

impl Failure {
    fn code(&self) -> u8 {
        match self {
            Self::Usage(_) => 2,
            Self::Unproven(_) => 3,
            Self::Unreachable { .. }
            | Self::NoCell { .. }
            | Self::RefusedByCell { .. }
            | Self::Refused { .. }
            | Self::Unreadable(_)
            | Self::Output(_)
            | Self::Other(_) => 4,
        }
    }
}

/// Tells the person on standard error.
pub(crate) fn report(failure: &Failure) -> ExitCode {
    // Where standard error is closed there is nobody to tell.
    drop(writeln!(std::io::stderr().lock(), "farspan: {failure}"));
    ExitCode::from(failure.code())
}
