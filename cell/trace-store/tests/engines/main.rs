//! The conformance suites of the stores' ports on the real engines, which `tests/engines/` of the
//! project starts. Each engine's address comes from the environment; a missing one fails the test.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::string_slice,
    clippy::cast_possible_truncation,
    clippy::cast_possible_wrap,
    clippy::cast_precision_loss,
    clippy::cast_sign_loss,
    clippy::disallowed_methods,
    clippy::excessive_nesting,
    clippy::needless_pass_by_value,
    clippy::print_stdout,
    clippy::too_many_lines,
    dead_code,
    reason = "a test of engines reads real clocks, holds tasks by their handles and says what it does; \
              the suite's own helpers are not all used on every engine"
)]

mod assembled;
mod cassandra;
mod clickhouse;
#[cfg(feature = "object-storage")]
#[path = "../conformance/cold_store.rs"]
mod cold_store;
#[path = "../conformance/differential.rs"]
mod differential;
#[cfg(feature = "elasticsearch")]
mod elasticsearch;
#[path = "../conformance/fixture.rs"]
mod fixture;
#[path = "../conformance/harness.rs"]
mod harness;
mod hostile_texts;
mod http_proxy;
mod killed;
#[path = "../conformance/metrics.rs"]
mod metrics;
#[cfg(feature = "object-storage")]
mod objects;
#[cfg(feature = "elasticsearch")]
mod pair;
#[path = "../conformance/suite.rs"]
mod suite;
#[path = "../../../../tests/engines/tls_front.rs"]
mod tls_front;
#[path = "../conformance/workload.rs"]
mod workload;
