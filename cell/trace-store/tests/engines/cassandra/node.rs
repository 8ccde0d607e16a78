//! A node of a test's own, which it may kill, started by the project's script.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use tokio::task::spawn_blocking;

use crate::killed::kill_dead;

#[path = "../../../../../tests/system/ports.rs"]
mod ports;

use ports::free_run;

/// A node; wiped when the test ends.
pub(crate) struct Node {
    settings: Vec<(String, String)>,
    port: u16,
}

fn script() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/engines/cassandra.sh")
}

impl Node {
    pub(crate) async fn start(name: &str, more: &[(&str, &str)]) -> Self {
        let ports = [1, 1, 1].map(free_run);
        let setting = |key: &str, value: String| (key.to_owned(), value);
        let mut settings = vec![
            setting("CASS_NAME", format!("test-{name}-{}", std::process::id())),
            setting("CASS_PORT", ports[0].to_string()),
            setting("CASS_STORAGE_PORT", ports[1].to_string()),
            setting("CASS_JMX", ports[2].to_string()),
            setting("CASS_HEAP", "512m".to_owned()),
            setting("CASS_MEMTABLE", "96MiB".to_owned()),
            setting("CASS_JVM_EXTRA", "-XX:TieredStopAtLevel=1".to_owned()),
        ];
        settings.extend(more.iter().map(|(key, value)| setting(key, (*value).to_owned())));
        let node = Self { settings, port: ports[0] };
        node.run(&["start"]).await;
        node.ready().await;
        node
    }

    pub(crate) fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// Kill -9.
    pub(crate) fn kill(&self) {
        kill_dead(&self.pid());
    }

    pub(crate) async fn start_again(&self) {
        self.run(&["start"]).await;
        self.ready().await;
    }

    /// What `nodetool` says of it.
    pub(crate) async fn nodetool(&self, arguments: &[&str]) -> String {
        self.asked(&[&["nodetool", "1"], arguments].concat()).await
    }

    /// Loads the files of a table, whose directory is its name within its keyspace's.
    pub(crate) async fn load(&self, table: &Path) {
        self.asked(&["sstableloader", "1", table.to_str().unwrap()]).await;
    }

    async fn asked(&self, arguments: &[&str]) -> String {
        let settings = self.settings.clone();
        let all: Vec<String> = arguments.iter().map(|argument| (*argument).to_owned()).collect();
        let asked = move || command(&settings, &[]).args(all).output().unwrap();
        let output = spawn_blocking(asked);
        let output = output.await.unwrap();
        assert!(output.status.success(), "{arguments:?}: {output:?}");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    async fn run(&self, arguments: &'static [&'static str]) {
        let settings = self.settings.clone();
        let status = spawn_blocking(move || call(&settings, arguments)).await.unwrap();
        assert!(status, "{arguments:?}");
    }

    /// Where the script's own wait cannot look through TLS, a connection is enough.
    async fn ready(&self) {
        let is_plain = !self.settings.iter().any(|(_, value)| value.contains("encryption"));
        if is_plain {
            return self.run(&["wait", "300"]).await;
        }
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(300);
        while tokio::net::TcpStream::connect(self.address()).await.is_err() {
            assert!(std::time::Instant::now() < deadline, "the node does not listen");
            tokio::time::sleep(std::time::Duration::from_millis(200)).await;
        }
    }

    fn pid(&self) -> String {
        let output = output(&self.settings, &["status"]);
        let mut words = output.split_whitespace();
        words.find(|word| *word == "pid").unwrap();
        words.next().unwrap().to_owned()
    }
}

fn command(settings: &[(String, String)], arguments: &[&str]) -> Command {
    let mut command = Command::new(script());
    command.args(arguments).envs(settings.iter().cloned()).stdin(Stdio::null());
    command
}

fn call(settings: &[(String, String)], arguments: &[&str]) -> bool {
    command(settings, arguments).stdout(Stdio::null()).status().unwrap().success()
}

fn output(settings: &[(String, String)], arguments: &[&str]) -> String {
    let output = command(settings, arguments).output().unwrap();
    String::from_utf8_lossy(&output.stdout).into_owned()
}

impl Drop for Node {
    fn drop(&mut self) {
        call(&self.settings, &["wipe"]);
    }
}
