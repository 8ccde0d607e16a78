//! Configuration: a YAML file becomes a tree that knows its lines, then a typed configuration or
//! *all* of its faults at once.
//!
//! This is the one place that reads the environment ([`home`]). It must never start anything, and
//! never accept a key that nothing reads.

pub mod cell;
pub mod cold;
mod consistency;
mod credentials;
pub mod direct;
pub mod effective;
pub mod engines;
pub mod fault;
mod foreign;
pub mod gateway;
mod groups;
pub mod home;
pub mod kafka;
mod kafka_properties;
pub mod listen;
mod profile_notes;
pub mod redis;
pub mod replicator;
pub mod search_engine;
mod section;
mod setting;
mod tree;

use std::path::{Path, PathBuf};

pub use cell::CellConfig;
pub use direct::DirectConfig;
pub use effective::Effective;
pub use fault::{Fault, Faults};
pub use gateway::GatewayConfig;
pub use listen::TelemetryConfig;
pub use replicator::ReplicatorConfig;
use section::{FaultList, Section};
pub use setting::{EngineUrl, Properties, ServiceUrl};
use trace_model::Region;

/// Largest configuration file, in bytes.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// A configuration of one of the roles that run as processes of their own.
#[derive(Clone, Debug, PartialEq)]
pub enum Config {
    /// `kind: cell`.
    Cell(Box<CellConfig>),
    /// `kind: replicator`.
    Replicator(Box<ReplicatorConfig>),
    /// `kind: gateway`.
    Gateway(Box<GatewayConfig>),
}

/// A configuration and where each of its values comes from.
#[derive(Clone, Debug, PartialEq)]
pub struct Loaded {
    /// What is in force.
    pub config: Config,
    /// Every value with its origin, for `farspan config print`.
    pub effective: Effective,
}

/// A region and the address of one of its services: a peer, or a cell.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RegionAddress {
    /// The region.
    pub region: Region,
    /// Where its service listens.
    pub address: ServiceUrl,
}

/// Why there is no configuration.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read {}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// The system's word.
        #[source]
        source: std::io::Error,
    },
    /// The file is too large to be a configuration.
    #[error("{} has {bytes} bytes; a configuration has at most {FILE_BYTES_MAX}", path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// Its size.
        bytes: u64,
    },
    /// The file has faults.
    #[error(transparent)]
    Faults(#[from] Faults),
}

impl ConfigError {
    /// Whether the same call may succeed later: not before somebody mends the file.
    #[must_use]
    pub const fn is_retryable(&self) -> bool {
        match self {
            Self::Unreadable { .. } | Self::TooLarge { .. } | Self::Faults(_) => false,
        }
    }
}

/// Reads a file.
///
/// # Errors
/// When it cannot be read, or with all of its faults.
pub fn load(path: &Path) -> Result<Loaded, ConfigError> {
    let unreadable = |source| ConfigError::Unreadable { path: path.to_owned(), source };
    let bytes = std::fs::metadata(path).map_err(unreadable)?.len();
    if bytes > FILE_BYTES_MAX {
        return Err(ConfigError::TooLarge { path: path.to_owned(), bytes });
    }
    let text = std::fs::read_to_string(path).map_err(unreadable)?;
    Ok(parse(&path.display().to_string(), &text)?)
}

/// Reads a text; `file` is the name that faults show.
///
/// # Errors
/// With all faults of the text. A text that is not YAML has one: where reading had to stop.
pub fn parse(file: &str, text: &str) -> Result<Loaded, Faults> {
    let root = tree::parse(text).map_err(|fault| Faults::new(file, vec![fault]))?;
    let faults = FaultList::default();
    let mut section = Section::root(root, &faults);
    let config = read_kind(&mut section);
    section.finish();
    let (list, effective) = faults.into_parts();
    match config {
        Some(config) if list.is_empty() => Ok(Loaded { config, effective }),
        _ => Err(Faults::new(file, list)),
    }
}

/// The kind of process that a file is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Cell,
    Replicator,
    Gateway,
}

fn read_kind(section: &mut Section<'_>) -> Option<Config> {
    match section.required::<Kind>("kind") {
        Some(Kind::Cell) => cell::read(section).map(|config| Config::Cell(Box::new(config))),
        Some(Kind::Replicator) => {
            replicator::read(section).map(|config| Config::Replicator(Box::new(config)))
        }
        Some(Kind::Gateway) => {
            gateway::read(section).map(|config| Config::Gateway(Box::new(config)))
        }
        None => {
            section.forget_unknown();
            None
        }
    }
}

/// Reads `key`, a list of `{region, address}`, each region once.
fn read_region_addresses(section: &mut Section<'_>, key: &'static str) -> Vec<RegionAddress> {
    let mut found: Vec<RegionAddress> = Vec::new();
    for mut entry in section.sections(key) {
        let region = entry.required::<Region>("region");
        let address = entry.required::<ServiceUrl>("address");
        let (Some(region), Some(address)) = (region, address) else {
            entry.finish();
            continue;
        };
        if found.iter().any(|held| held.region == region) {
            entry.refuse("region", &format!("{region} is listed twice"));
        }
        entry.finish();
        found.push(RegionAddress { region, address });
    }
    found
}

#[cfg(test)]
mod tests;
