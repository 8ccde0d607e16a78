//! What every kind of process has: addresses to listen on, and telemetry.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use super::section::Section;

/// How a process logs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// Logging of a process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TelemetryConfig {
    /// `info`, or directives as `info,collector=debug`.
    pub level: String,
    /// For people or machines.
    pub format: LogFormat,
}

impl Default for TelemetryConfig {
    fn default() -> Self {
        Self { level: "info".to_owned(), format: LogFormat::Text }
    }
}

/// Connection limits of a listener.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConnectionLimits {
    /// Open connections at most.
    pub connections_max: u32,
    /// Until a request's head must be there.
    pub header_timeout: Duration,
    /// A connection without a request is closed after this.
    pub idle_timeout: Duration,
}

pub(super) fn read_telemetry(root: &mut Section<'_>) -> TelemetryConfig {
    let mut section = root.section("telemetry");
    let default = TelemetryConfig::default();
    let level = section.value("level", default.level);
    if let Err(message) = crate::telemetry::check_level(&level) {
        section.refuse("level", &message);
    }
    let format = section.value("format", default.format);
    section.finish();
    TelemetryConfig { level, format }
}

pub(super) fn read_limits(section: &mut Section<'_>) -> ConnectionLimits {
    let seconds = Duration::from_secs;
    let long = seconds(3_600);
    ConnectionLimits {
        connections_max: section.within("connections_max", 4_096, 1..=1_000_000),
        header_timeout: section.within("header_timeout", seconds(10), seconds(1)..=seconds(120)),
        idle_timeout: section.within("idle_timeout", seconds(300), seconds(1)..=long),
    }
}

/// The addresses of a process, checked together.
#[derive(Debug)]
pub(super) struct Listeners {
    is_insecure: bool,
    taken: BTreeMap<SocketAddr, &'static str>,
}

impl Listeners {
    /// With `insecure: true` any address may be bound: nothing asks for credentials yet.
    pub(super) const fn new(is_insecure: bool) -> Self {
        Self { is_insecure, taken: BTreeMap::new() }
    }

    /// Reads an address; loopback with this port by default.
    pub(super) fn read(
        &mut self,
        section: &mut Section<'_>,
        key: &'static str,
        port: u16,
    ) -> SocketAddr {
        let default = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port);
        let address = section.value(key, default);
        if !address.ip().is_loopback() && !self.is_insecure {
            let message = format!(
                "{address} can be reached from other machines and asks for no credentials; use \
                 127.0.0.1:{}, or write `insecure: true`",
                address.port()
            );
            section.refuse(key, &message);
        }
        if address.port() == 0 {
            return address;
        }
        if let Some(other) = self.taken.insert(address, key) {
            section.refuse(key, &format!("{address} is already taken by `{other}`"));
        }
        address
    }
}
