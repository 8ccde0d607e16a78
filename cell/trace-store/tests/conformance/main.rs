//! The conformance suite of the stores' ports: every adapter runs every fact. What only one adapter
//! has (files, faults, formats) is tested beside it.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    reason = "tests"
)]

mod again;
#[cfg(feature = "object-storage")]
mod cold;
#[cfg(feature = "object-storage")]
mod cold_faults;
#[cfg(feature = "object-storage")]
mod cold_store;
mod differential;
mod failing_disk;
mod files;
mod fixture;
mod golden;
#[cfg(feature = "object-storage")]
mod golden_cold;
mod harness;
mod kills;
mod metrics;
mod metrics_files;
mod questions;
mod rare_values;
#[cfg(feature = "elasticsearch")]
mod search_engine_faults;
mod sparse;
mod suite;
mod upkeep;
mod workload;

mod memory {
    use crate::harness::MEMORY;

    crate::suite::every_fact!(MEMORY);
}

mod embedded {
    use crate::harness::EMBEDDED;

    crate::suite::every_fact!(EMBEDDED);
}

#[cfg(feature = "object-storage")]
mod object_storage {
    use crate::cold::COLD;

    crate::suite::every_fact!(COLD);
}
