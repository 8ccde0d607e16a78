//! `farspan.v1` messages from and to the words of `trace-model`, one file for each service.

pub mod index;
pub mod query;
