//! A Redis of a test's own, which it may stop and kill, started by the project's script.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use gateway::shared_state::redis::RedisConfig;

#[path = "../../../../tests/system/ports.rs"]
mod ports;

pub(crate) use ports::free_run;

/// A server; wiped when the test ends.
pub(crate) struct Server {
    settings: Vec<(&'static str, String)>,
    pub(crate) port: u16,
}

fn script() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/engines/redis.sh")
}

impl Server {
    pub(crate) fn start(name: &str, more: &[(&'static str, String)]) -> Self {
        let port = free_run(1);
        let mut settings = vec![
            ("REDIS_NAME", format!("test-{name}-{}", std::process::id())),
            ("REDIS_PORT", port.to_string()),
        ];
        settings.extend_from_slice(more);
        let server = Self { settings, port };
        server.start_again();
        server
    }

    pub(crate) fn start_again(&self) {
        self.run(&["start"]);
        self.run(&["wait", "60"]);
    }

    /// For a gateway that asks it; with timeouts so short that a test can wait for them, and so
    /// long that a busy machine does not.
    pub(crate) fn config(&self) -> RedisConfig {
        RedisConfig {
            timeout: Duration::from_secs(2),
            connect_timeout: Duration::from_secs(5),
            heartbeat: Duration::from_millis(300),
            ..RedisConfig::at("127.0.0.1", self.port)
        }
    }

    /// `KILL`: gone without a word when this returns. `STOP`: there, and silent. `CONT`: goes on.
    pub(crate) fn signal(&self, signal: &str) {
        let done = Command::new("kill").args([&format!("-{signal}"), &self.pid()]).status();
        assert!(done.unwrap().success());
        let is_gone = || self.output(&["status"]) == "down";
        // Each look starts a shell.
        assert!(signal != "KILL" || (0..1_000).any(|_| is_gone()), "it does not die");
    }

    fn pid(&self) -> String {
        let output = self.output(&["status"]);
        let mut words = output.split_whitespace();
        words.find(|word| *word == "pid").unwrap();
        words.next().unwrap().to_owned()
    }

    /// A stock client's words.
    pub(crate) fn cli(&self, arguments: &[&str]) -> String {
        let mut words = vec!["cli"];
        words.extend(arguments);
        self.output(&words)
    }

    fn run(&self, arguments: &[&str]) {
        let done = self.command(arguments).stdout(Stdio::null()).status();
        assert!(done.unwrap().success(), "{arguments:?}");
    }

    fn output(&self, arguments: &[&str]) -> String {
        let output = self.command(arguments).output().unwrap();
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(script());
        let settings = self.settings.iter().map(|(key, value)| (*key, value.as_str()));
        command.args(arguments).envs(settings).stdin(Stdio::null());
        command
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // One that is stopped does not hear that it should end.
        let pid = self.output(&["status"]);
        if pid.starts_with("pid") {
            self.signal("CONT");
        }
        self.run(&["wipe"]);
    }
}
