//! The findings as gauges: `farspan_host_…` of every process, and `farspan_engine_…{engine}` of a
//! process of the cell that may publish. Of each figure the worst is shown, and one that is not known
//! is absent.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use service_kit::Stage;
use service_kit::config::CellConfig;
use service_kit::config::cell::GroupKind;

use super::finding::{Finding, Reading};
use super::limits::{ALL, Edge, Limit};
use super::{ask, machine, of_engines};
use crate::seam::CellRole;

/// How often the figures are read.
const EVERY: Duration = Duration::from_secs(60);

/// `engine`, and `group` where a figure is a group's: words of enumerations.
type Labels = Vec<(&'static str, &'static str)>;
type Shown = Family<Labels, Gauge<f64, AtomicU64>>;

/// The gauges.
#[derive(Clone, Debug)]
pub(super) struct Gauges {
    families: BTreeMap<&'static str, Shown>,
    last: Arc<Mutex<BTreeSet<(&'static str, Labels)>>>,
}

/// Whether a metric is one of these, or another part's that a limit is about.
fn is_ours(metric: &str) -> bool {
    metric.starts_with("farspan_engine_") || metric.starts_with("farspan_host_")
}

impl Gauges {
    /// Gauges of all limits, without values, shown by this registry.
    pub(super) fn register(registry: &mut Registry) -> Self {
        let mut families: BTreeMap<&'static str, Shown> = BTreeMap::new();
        for limit in ALL {
            let Some(metric) = limit.metric.filter(|metric| is_ours(metric)) else { continue };
            if families.contains_key(metric) {
                continue;
            }
            let family = Shown::default();
            registry.register(metric, limit.check, family.clone());
            families.insert(metric, family);
        }
        Self { families, last: Arc::default() }
    }

    /// Shows these findings and no others.
    pub(super) fn show(&self, findings: &[Finding]) {
        let worst = worst_of(findings);
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        for ((metric, labels), value) in &worst {
            if let Some(family) = self.families.get(metric) {
                family.get_or_create(labels).set(*value);
            }
        }
        for (metric, labels) in last.iter().filter(|key| !worst.contains_key(key)) {
            if let Some(family) = self.families.get(metric) {
                family.remove(labels);
            }
        }
        *last = worst.into_keys().collect();
    }
}

/// Of each metric and labels the value that is nearest to its limit, or farthest beyond.
fn worst_of(findings: &[Finding]) -> BTreeMap<(&'static str, Labels), f64> {
    let mut worst = BTreeMap::new();
    for finding in findings {
        let (Some(limit), Reading::Number(value)) = (finding.limit, &finding.reading) else {
            continue;
        };
        let Some(metric) = limit.metric.filter(|metric| is_ours(metric)) else { continue };
        let shown = worst.entry((metric, labels_of(limit, finding.group))).or_insert(*value);
        *shown = match limit.edge() {
            Some(Edge::Below(_)) => shown.min(*value),
            Some(Edge::Above(_)) | None => shown.max(*value),
        };
    }
    worst
}

fn labels_of(limit: &Limit, group: Option<&'static str>) -> Labels {
    let engine = super::engines::up(limit.part).map(|_| ("engine", limit.part.name()));
    engine.into_iter().chain(group.map(|group| ("group", group))).collect()
}

/// Reads and shows the figures from now on, once a minute, until the stage stops. The engines are asked
/// by a process that may publish: one, or two where one stands by.
pub(crate) fn watch(config: &CellConfig, role: CellRole, registry: &mut Registry, stage: &Stage) {
    let gauges = Gauges::register(registry);
    let config = config.clone();
    let asks_engines = role.consumes() && config.groups.contains(&GroupKind::MetadataPublisher);
    let stopping = stage.stopping.clone();
    stage.spawn(async move {
        let round = async || {
            let mut findings = machine::load(Path::new(super::ROOT), &config.data_dir).await;
            if asks_engines {
                findings.extend(ask(of_engines(&config)).await);
            }
            gauges.show(&findings);
            tokio::time::sleep(EVERY).await;
        };
        while stopping.run_until_cancelled(round()).await.is_some() {}
    });
}

#[cfg(test)]
mod tests;
