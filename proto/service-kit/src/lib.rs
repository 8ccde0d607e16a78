//! How a Farspan process starts, reports, drains and stops: clock, configuration, telemetry, admin
//! endpoints, drain, deadlines.
#![warn(missing_docs)]

pub mod clock;

pub use clock::{ManualClock, SystemClock};
