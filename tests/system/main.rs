//! System tests: real `farspan` processes, real sockets, a client that keeps a ledger of what was
//! acknowledged. They need no engine, no root and nothing installed.
#![allow(
    clippy::disallowed_methods,
    clippy::print_stdout,
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a test of processes reads real clocks and says its seed; one that panics has failed"
)]

mod cold;
mod crash;
mod demo;
mod descriptors;
mod edges;
mod federation;
mod fixture;
mod http;
mod ledger;
mod losses;
mod one_trace;
mod process;
mod regions;
mod sdk;
mod whole;
