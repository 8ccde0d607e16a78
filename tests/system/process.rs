//! A `farspan` process that is killed when the test ends.

use std::fs::File;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// A running process; killed with SIGKILL when dropped.
#[derive(Debug)]
pub(crate) struct Process {
    name: String,
    child: Child,
    log: PathBuf,
}

/// Where the system takes no port from for a connection: one that is free now is not taken by a
/// client of another test before its process has bound it.
const PORTS: std::ops::Range<u16> = 10_000..30_000;

/// Ports that were free a moment ago; no two calls of this process give the same one.
pub(crate) fn free_ports(count: usize) -> Vec<u16> {
    static NEXT: OnceLock<AtomicU32> = OnceLock::new();
    // Test processes that run at once begin at different places.
    let next = NEXT.get_or_init(|| AtomicU32::new(std::process::id().wrapping_mul(7_919)));
    let span = u32::from(PORTS.end - PORTS.start);
    let candidates = std::iter::repeat_with(|| next.fetch_add(1, Ordering::Relaxed) % span);
    let ports = candidates.map(|place| PORTS.start + u16::try_from(place).unwrap());
    let is_free = |port: &u16| TcpListener::bind(("127.0.0.1", *port)).is_ok();
    ports.take(usize::from(PORTS.end)).filter(is_free).take(count).collect()
}

impl Process {
    /// Starts `farspan ARGUMENTS`; its output goes to a file in `directory`.
    pub(crate) fn start(name: &str, directory: &Path, arguments: &[&str]) -> Self {
        let log = directory.join(format!("{name}.log"));
        let output = File::options().create(true).append(true).open(&log).unwrap();
        let child = Command::new(env!("CARGO_BIN_EXE_farspan"))
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(output.try_clone().unwrap())
            .stderr(output)
            .spawn()
            .unwrap();
        Self { name: name.to_owned(), child, log }
    }

    /// SIGKILL, as a crash.
    pub(crate) fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// SIGTERM; gives the exit code within the deadline.
    pub(crate) fn terminate(&mut self, at_most: Duration) -> Option<i32> {
        let id = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(id, rustix::process::Signal::TERM).unwrap();
        self.ended(at_most)
    }

    /// The exit code, once it has ended by itself within the deadline.
    pub(crate) fn ended(&mut self, at_most: Duration) -> Option<i32> {
        let deadline = Instant::now() + at_most;
        while Instant::now() < deadline {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status.code();
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        None
    }

    /// What it wrote so far.
    pub(crate) fn output(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// The last lines of its output, for the text of a failed test.
    pub(crate) fn last_words(&self) -> String {
        let output = self.output();
        let lines: Vec<_> = output.lines().rev().take(15).collect();
        let lines: Vec<_> = lines.into_iter().rev().collect();
        format!("--- {}\n{}", self.name, lines.join("\n"))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}
