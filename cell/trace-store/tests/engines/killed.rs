//! Ends an engine's process as a power cut would.

use std::process::Command;
use std::time::{Duration, Instant};

/// Kill -9: no farewell, nothing flushed. It is gone when this returns: whoever starts it again at once
/// must not find it alive.
pub(crate) fn kill_dead(pid: &str) {
    assert!(Command::new("kill").args(["-9", pid]).status().unwrap().success());
    // Gone, or waiting for its parent alone.
    let is_there = || {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with('Z'))
    };
    let deadline = Instant::now() + Duration::from_secs(30);
    while is_there() {
        assert!(Instant::now() < deadline, "{pid} does not die");
        std::thread::park_timeout(Duration::from_millis(10));
    }
}
