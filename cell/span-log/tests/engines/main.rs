//! The conformance suite of the port `SpanLog` on the real engines, which `tests/engines/` of the
//! project starts. Each engine's address comes from the environment; a missing one fails the test.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    dead_code,
    unused_macros,
    unused_imports,
    reason = "tests; the suite's own helpers are not all used on every engine"
)]

#[path = "../conformance/batches.rs"]
mod batches;
#[cfg(feature = "kafka")]
mod kafka;
#[path = "../conformance/laws.rs"]
mod laws;
