//! Sampling decisions: which traces are kept, and what each kept one stands for.
//!
//! Decisions are pure functions of what they are given: no clock, no randomness of their own, no
//! I/O. The same trace gets the same answer in every collector of every region, so that a trace is
//! kept whole or not at all. This crate must never count, log or remember.
#![warn(missing_docs)]

pub mod head;

pub use head::{DropCause, HeadDecision, HeadRules, HeadSampler, HeadTrace, RateSampler};
