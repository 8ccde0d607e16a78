//! The conformance suite of the port `SpanLog`, run by every adapter, and the fault tests of the
//! embedded one.
#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a test that panics has failed"
)]

mod adapters;
mod batches;
mod bit_flips;
mod collectors;
mod erasure;
mod faults;
mod faulty_disk;
mod given_up;
mod golden;
mod laws;
mod lost_records;
#[path = "../../../../tests/system/ports.rs"]
mod ports;
mod power_cut;
