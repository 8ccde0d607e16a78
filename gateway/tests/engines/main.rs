//! The conformance suites of the shared state's ports on a real Redis, which `tests/engines/` of the
//! project starts, and what only Redis has: it is killed, stopped, and asked through TLS.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    reason = "tests"
)]

#[path = "../conformance/laws.rs"]
mod laws;
#[cfg(feature = "redis")]
mod redis;
#[cfg(feature = "redis")]
#[expect(dead_code, reason = "no credentials go through the front of Redis")]
#[path = "../../../tests/engines/tls_front.rs"]
mod tls_front;
