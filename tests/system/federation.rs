//! A federation of regions, each as three processes: cell, replicator, gateway.

use std::fmt::Write as _;
use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;
use http::Method;
use opentelemetry_proto::tonic::trace::v1::{Span, TracesData};
use prost::Message;

use crate::fixture::{encode, hex, request};
use crate::http::{Answer, eventually, get, send};
use crate::process::{Process, free_ports};

/// How long a process may take to be ready, and an answer to become what it must be.
pub(crate) const PATIENCE: Duration = Duration::from_secs(150);

/// The ports of one region.
#[derive(Clone, Debug)]
pub(crate) struct Ports {
    pub(crate) otlp_grpc: u16,
    pub(crate) otlp_http: u16,
    pub(crate) zipkin: u16,
    pub(crate) internal: u16,
    pub(crate) cell_admin: u16,
    pub(crate) replicator: u16,
    pub(crate) replicator_admin: u16,
    pub(crate) gateway: u16,
    pub(crate) gateway_admin: u16,
}

/// One region's processes.
#[derive(Debug)]
pub(crate) struct RegionProcesses {
    pub(crate) name: String,
    pub(crate) ports: Ports,
    pub(crate) cell: Option<Process>,
    pub(crate) replicator: Option<Process>,
    pub(crate) gateway: Option<Process>,
}

/// A federation in a directory of its own.
#[derive(Debug)]
pub(crate) struct Federation {
    pub(crate) regions: Vec<RegionProcesses>,
    directory: tempfile::TempDir,
}

fn take_ports() -> Ports {
    let free = free_ports(9);
    Ports {
        otlp_grpc: free[0],
        otlp_http: free[1],
        zipkin: free[2],
        internal: free[3],
        cell_admin: free[4],
        replicator: free[5],
        replicator_admin: free[6],
        gateway: free[7],
        gateway_admin: free[8],
    }
}

impl Federation {
    /// Starts all processes of these regions and waits until they are ready. `cell_extra` is put
    /// at the end of the named region's cell file.
    pub(crate) async fn start(names: &[&str], cell_extra: &[(&str, &str)]) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let regions = names.iter().map(|name| RegionProcesses {
            name: (*name).to_owned(),
            ports: take_ports(),
            cell: None,
            replicator: None,
            gateway: None,
        });
        let mut federation = Self { regions: regions.collect(), directory };
        for index in 0..names.len() {
            federation.write_files(index, cell_extra);
            federation.start_cell(index);
            federation.start_replicator(index);
            federation.start_gateway(index);
        }
        for index in 0..names.len() {
            federation.wait_ready(index).await;
        }
        federation
    }

    /// Where the configuration of a process stands.
    pub(crate) fn file(&self, index: usize, kind: &str) -> PathBuf {
        self.directory.path().join(format!("{}-{kind}.yaml", self.regions[index].name))
    }

    /// Where a region's cell keeps its data.
    pub(crate) fn cell_data(&self, index: usize) -> PathBuf {
        self.directory.path().join(&self.regions[index].name).join("cell")
    }

    /// Stops a region's cell as an operator does.
    pub(crate) fn stop_cell(&mut self, index: usize) {
        let mut cell = self.regions[index].cell.take().unwrap();
        assert_eq!(cell.terminate(PATIENCE), Some(0), "{}", cell.last_words());
    }

    fn write_files(&self, index: usize, cell_extra: &[(&str, &str)]) {
        let RegionProcesses { name, ports, .. } = &self.regions[index];
        let data = self.directory.path().join(name);
        let data = data.display();
        let mut cell = format!(
            "kind: cell\nregion: {name}\ndata_dir: {data}/cell\nlisten:\n  otlp_grpc: 127.0.0.1:{}\n  \
             otlp_http: 127.0.0.1:{}\n  zipkin: 127.0.0.1:{}\n  internal: 127.0.0.1:{}\n  \
             admin: 127.0.0.1:{}\nreplicator: http://127.0.0.1:{}\n",
            ports.otlp_grpc,
            ports.otlp_http,
            ports.zipkin,
            ports.internal,
            ports.cell_admin,
            ports.replicator,
        );
        for (_, extra) in cell_extra.iter().filter(|(region, _)| *region == name) {
            cell.push_str(extra);
        }
        let mut replicator = format!(
            "kind: replicator\nregion: {name}\ndata_dir: {data}/replicator\nlisten:\n  \
             grpc: 127.0.0.1:{}\n  admin: 127.0.0.1:{}\ncell: http://127.0.0.1:{}\npeers:\n",
            ports.replicator, ports.replicator_admin, ports.internal
        );
        let mut gateway = format!(
            "kind: gateway\nregion: {name}\nlisten:\n  http: 127.0.0.1:{}\n  admin: 127.0.0.1:{}\n\
             replicator: http://127.0.0.1:{}\nrate_limit:\n  per_second: 100000\n  \
             burst: 100000\ncells:\n",
            ports.gateway, ports.gateway_admin, ports.replicator
        );
        for other in &self.regions {
            let entry = |port: u16| {
                format!("  - region: {}\n    address: http://127.0.0.1:{port}\n", other.name)
            };
            gateway.push_str(&entry(other.ports.internal));
            if other.name != *name {
                replicator.push_str(&entry(other.ports.replicator));
            }
        }
        if self.regions.len() == 1 {
            replicator = replicator.replace("peers:\n", "");
        }
        for (kind, text) in [("cell", cell), ("replicator", replicator), ("gateway", gateway)] {
            std::fs::write(self.file(index, kind), text).unwrap();
        }
    }

    fn launch(&self, index: usize, kind: &str) -> Process {
        let file = self.file(index, kind);
        let name = format!("{}-{kind}", self.regions[index].name);
        let file = file.display().to_string();
        Process::start(&name, self.directory.path(), &[kind, "--config", &file])
    }

    pub(crate) fn start_cell(&mut self, index: usize) {
        self.regions[index].cell = Some(self.launch(index, "cell"));
    }

    pub(crate) fn start_replicator(&mut self, index: usize) {
        self.regions[index].replicator = Some(self.launch(index, "replicator"));
    }

    pub(crate) fn start_gateway(&mut self, index: usize) {
        self.regions[index].gateway = Some(self.launch(index, "gateway"));
    }

    /// Starts a region's gateway again, with this at the end of its file.
    pub(crate) async fn restart_gateway_with(&mut self, index: usize, extra: &str) {
        if let Some(mut gateway) = self.regions[index].gateway.take() {
            gateway.kill();
        }
        let file = self.file(index, "gateway");
        let text = std::fs::read_to_string(&file).unwrap();
        std::fs::write(&file, format!("{text}{extra}")).unwrap();
        self.start_gateway(index);
        self.wait_ready(index).await;
    }

    /// SIGKILL of a region's cell.
    pub(crate) fn kill_cell(&mut self, index: usize) {
        if let Some(mut cell) = self.regions[index].cell.take() {
            cell.kill();
        }
    }

    /// SIGKILL of all processes of a region.
    pub(crate) fn kill_region(&mut self, index: usize) {
        let region = &mut self.regions[index];
        for process in [&mut region.cell, &mut region.replicator, &mut region.gateway] {
            if let Some(mut process) = process.take() {
                process.kill();
            }
        }
    }

    /// Waits until the running processes of a region say that they are ready.
    pub(crate) async fn wait_ready(&self, index: usize) {
        let region = &self.regions[index];
        for (process, port) in [
            (&region.cell, region.ports.cell_admin),
            (&region.replicator, region.ports.replicator_admin),
            (&region.gateway, region.ports.gateway_admin),
        ] {
            let Some(process) = process else { continue };
            let url = format!("http://127.0.0.1:{port}/readyz");
            eventually("a process becomes ready", PATIENCE, || async {
                match get(&url).await {
                    Ok(answer) if answer.status.is_success() => Ok(()),
                    Ok(answer) => Err(format!("{} {}", answer.status, process.last_words())),
                    Err(error) => Err(format!("{error} {}", process.last_words())),
                }
            })
            .await;
        }
    }

    /// Exports over OTLP HTTP; `Ok` is an acknowledgement.
    pub(crate) async fn export(&self, index: usize, body: Bytes) -> Result<(), String> {
        let url = format!("http://127.0.0.1:{}/v1/traces", self.regions[index].ports.otlp_http);
        let headers = [("content-type", "application/x-protobuf")];
        let answer = send(Method::POST, &url, &headers, body).await?;
        if answer.status.is_success() {
            return Ok(());
        }
        Err(format!("{} {}", answer.status, String::from_utf8_lossy(&answer.body)))
    }

    /// Exports spans of one service and expects the acknowledgement.
    pub(crate) async fn send_spans(&self, index: usize, service: &str, spans: Vec<Span>) {
        let body = encode(&request(service, spans));
        self.export(index, body).await.unwrap();
    }

    pub(crate) fn gateway_url(&self, index: usize) -> String {
        format!("http://127.0.0.1:{}", self.regions[index].ports.gateway)
    }

    /// The answer of our own API for a trace, as OTLP JSON with its certificate.
    pub(crate) async fn trace_json(&self, index: usize, trace_id: &[u8]) -> Result<Answer, String> {
        let url = format!("{}/api/farspan/v1/traces/{}", self.gateway_url(index), hex(trace_id));
        get(&url).await
    }

    /// The spans of a trace as OTLP protobuf; `Err` names status and text.
    pub(crate) async fn trace_spans(
        &self,
        index: usize,
        trace_id: &[u8],
    ) -> Result<TracesData, String> {
        let url = format!("{}/api/farspan/v1/traces/{}", self.gateway_url(index), hex(trace_id));
        let accept = [("accept", "application/x-protobuf")];
        let answer = send(Method::GET, &url, &accept, Bytes::new()).await?;
        if !answer.status.is_success() {
            return Err(format!("{} {}", answer.status, String::from_utf8_lossy(&answer.body)));
        }
        TracesData::decode(answer.body).map_err(|error| error.to_string())
    }

    /// The certificate's line of a trace, and its spans' ids.
    pub(crate) async fn certified(
        &self,
        index: usize,
        trace_id: &[u8],
    ) -> Result<(String, Vec<String>), String> {
        let answer = self.trace_json(index, trace_id).await?;
        let json = answer.json();
        let line = json.pointer("/completeness/text").and_then(|text| text.as_str());
        let line = line.ok_or_else(|| format!("{} {json}", answer.status))?;
        let mut ids = Vec::new();
        for resource in json["resourceSpans"].as_array().into_iter().flatten() {
            for scope in resource["scopeSpans"].as_array().into_iter().flatten() {
                for span in scope["spans"].as_array().into_iter().flatten() {
                    ids.push(span["spanId"].as_str().unwrap_or_default().to_owned());
                }
            }
        }
        ids.sort();
        Ok((line.to_owned(), ids))
    }

    /// The last words of every process, for the text of a failed test.
    pub(crate) fn last_words(&self) -> String {
        let mut words = String::new();
        for region in &self.regions {
            for process in [&region.cell, &region.replicator, &region.gateway].into_iter().flatten()
            {
                writeln!(words, "{}", process.last_words()).unwrap();
            }
        }
        words
    }
}
