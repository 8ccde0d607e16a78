//! An ingester beside a cell of one process: it joins the cell's groups, which then share their partitions,
//! and leaves.

use std::path::PathBuf;

use tempfile::TempDir;

use crate::federation::PATIENCE;
use crate::http::{eventually, get};
use crate::process::{Process, free_ports};
use crate::whole_cell::REGION;

/// The process. It has no name of its own in the groups: it leaves at once when it ends in order.
pub(crate) struct Beside {
    directory: TempDir,
    admin: u16,
    process: Option<Process>,
}

impl Beside {
    /// Writes the file of one with these stores. It does not publish: the replicator follows the cell.
    pub(crate) fn of(stores: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let ports = free_ports(5);
        let text = format!(
            "kind: cell\nregion: {REGION}\ndata_dir: {}/data\nlisten: {{otlp_grpc: '127.0.0.1:{}', \
             otlp_http: '127.0.0.1:{}', zipkin: '127.0.0.1:{}', internal: '127.0.0.1:{}', admin: \
             '127.0.0.1:{}'}}\ningester: {{groups: [storage-writer, search-indexer, metrics-aggregator, \
             analytics-writer]}}\n{stores}",
            directory.path().display(),
            ports[0],
            ports[1],
            ports[2],
            ports[3],
            ports[4],
        );
        let beside = Self { directory, admin: ports[4], process: None };
        std::fs::write(beside.file(), text).unwrap();
        beside
    }

    fn file(&self) -> PathBuf {
        self.directory.path().join("beside.yaml")
    }

    pub(crate) fn start(&mut self) {
        let file = self.file().display().to_string();
        let arguments = ["cell", "--role", "ingester", "--config", &file];
        self.process = Some(Process::start("beside", self.directory.path(), &arguments));
    }

    pub(crate) async fn wait_ready(&self) {
        let url = format!("http://127.0.0.1:{}/readyz", self.admin);
        eventually("the ingester beside is ready", PATIENCE, || async {
            let answer = get(&url).await?;
            if answer.status == 200 {
                Ok(())
            } else {
                Err(format!("{answer:?}\n{}", self.last_words()))
            }
        })
        .await;
    }

    /// SIGKILL, where it runs.
    pub(crate) fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.kill();
        }
    }

    /// Ends it in order, while others go on.
    pub(crate) fn leave(&mut self) -> impl Future<Output = ()> + use<> {
        let mut process = self.process.take().unwrap();
        async move {
            let ending = move || (process.terminate(PATIENCE), process.last_words());
            let (code, words) = tokio::task::spawn_blocking(ending).await.unwrap();
            assert_eq!(code, Some(0), "{words}");
        }
    }

    pub(crate) const fn is_running(&self) -> bool {
        self.process.is_some()
    }

    /// How many partitions of a group it reads.
    pub(crate) async fn assigned(&self, group: &str) -> Result<u64, String> {
        assigned(self.admin, group).await
    }

    pub(crate) fn last_words(&self) -> String {
        self.process.as_ref().map_or_else(String::new, Process::last_words)
    }
}

/// How many partitions of a group a process reads that has its metrics here.
pub(crate) async fn assigned(admin: u16, group: &str) -> Result<u64, String> {
    let name = format!("farspan_span_log_assigned_partitions{{group=\"{group}\"}} ");
    Ok(figure(admin, &name).await?.unwrap_or(0))
}

/// The value of a metric, by all that stands before it.
pub(crate) async fn figure(admin: u16, name: &str) -> Result<Option<u64>, String> {
    let answer = get(&format!("http://127.0.0.1:{admin}/metrics")).await?;
    let text = String::from_utf8_lossy(&answer.body).into_owned();
    let found = text.lines().find_map(|line| line.strip_prefix(name));
    Ok(found.and_then(|value| value.parse().ok()))
}
