//! Ports for processes of a test's own: the engine tests of every crate take theirs here.

use std::net::TcpListener;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

/// Where the system takes no port from for a connection: one that is free now is not taken by a
/// client of another test before its process has bound it.
const PORTS: std::ops::Range<u16> = 10_000..30_000;

/// The first of so many ports in a row that were free a moment ago; no two calls of this process give
/// the same one. A process that is started again finds its ports free.
pub(crate) fn free_run(count: u16) -> u16 {
    static NEXT: OnceLock<AtomicU32> = OnceLock::new();
    // Test processes that run at once begin at different places.
    let next = NEXT.get_or_init(|| AtomicU32::new(std::process::id().wrapping_mul(7_919)));
    let span = u32::from(PORTS.end - PORTS.start - count);
    let candidates = std::iter::repeat_with(|| next.fetch_add(count.into(), Ordering::Relaxed));
    let mut firsts = candidates.map(|place| PORTS.start + u16::try_from(place % span).unwrap());
    let is_free = |port: u16| TcpListener::bind(("127.0.0.1", port)).is_ok();
    firsts.find(|first| (*first..*first + count).all(is_free)).unwrap()
}
