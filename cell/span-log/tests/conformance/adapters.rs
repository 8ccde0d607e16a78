//! The adapters that need no engine, under every law.

use std::sync::Arc;

use service_kit::ManualClock;
use span_log::{EmbeddedConfig, EmbeddedLog, MemoryConfig, MemoryLog};

use crate::collectors::Collectors;
use crate::laws::{NOW, Subject};

async fn memory() -> Subject {
    let clock = Arc::new(ManualClock::at(NOW));
    let log = MemoryLog::new(MemoryConfig::default(), clock.clone());
    Subject { log: log.clone(), eraser: Some(log), clock: Some(clock), _keep: Box::new(()) }
}

fn embedded_with(change: impl FnOnce(&mut EmbeddedConfig)) -> Subject {
    let clock = Arc::new(ManualClock::at(NOW));
    let directory = tempfile::tempdir().unwrap();
    let mut config = EmbeddedConfig::at(directory.path().join("log"));
    config.disk_reserve_bytes = 0;
    change(&mut config);
    let log = EmbeddedLog::open(config, clock.clone()).unwrap();
    Subject { log: log.clone(), eraser: Some(log), clock: Some(clock), _keep: Box::new(directory) }
}

async fn embedded() -> Subject {
    embedded_with(|_| {})
}

/// Small segments and no cache: every read comes from files.
async fn embedded_uncached() -> Subject {
    embedded_with(|config| {
        config.segment_bytes = 64 << 10;
        config.cache_bytes_max = 0;
    })
}

mod memory_log {
    crate::laws::every_law!(super::memory);
    crate::laws::every_law_of_erasure!(super::memory);
    crate::laws::every_law_of_a_clock_that_is_set!(super::memory);
}

mod embedded_log {
    crate::laws::every_law!(super::embedded);
    crate::laws::every_law_of_erasure!(super::embedded);
    crate::laws::every_law_of_a_clock_that_is_set!(super::embedded);
}

mod embedded_log_from_files {
    crate::laws::every_law!(super::embedded_uncached);
    crate::laws::every_law_of_erasure!(super::embedded_uncached);
    crate::laws::every_law_of_a_clock_that_is_set!(super::embedded_uncached);
}

/// A collector that its front knows.
async fn collector() -> Subject {
    let mut cell = Collectors::new(1);
    let log = cell.start(0).await;
    let front = cell.open_front().await;
    cell.until_registered(&front, 0).await;
    let clock = Some(Arc::clone(&cell.clock));
    Subject { log, eraser: None, clock, _keep: Box::new((cell, front)) }
}

mod direct {
    crate::laws::every_law!(super::collector);
}
