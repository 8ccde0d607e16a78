//! How a Farspan process starts, reports, drains and stops: clock, configuration, telemetry, admin
//! endpoints, listeners, drain, deadlines, back-off and the process's own memory.
//!
//! Every role uses this crate and no role is known to it: it must never depend on one, nor decide
//! what a role does.
#![warn(missing_docs)]

pub mod admin;
pub mod back_off;
pub mod clock;
pub mod config;
pub mod deadline;
pub mod descriptors;
pub mod drain;
pub mod listen;
pub mod process;
pub mod signals;
pub mod telemetry;
pub mod tls;

pub use admin::{Readiness, ReadyCheck};
pub use back_off::BackOff;
pub use clock::{ManualClock, SystemClock};
pub use deadline::Deadline;
pub use drain::{Drain, Stage};
