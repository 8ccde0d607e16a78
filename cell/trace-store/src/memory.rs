//! The memory adapter: plain maps and [`trace_model::Filter::matches`], no index and no shortcut. The
//! oracle that the conformance suite trusts; for tests and small demonstrations, never for keeping.

mod spans;

pub use spans::MemoryStore;
