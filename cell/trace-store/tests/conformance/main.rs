//! One suite, every adapter.

mod metrics;
