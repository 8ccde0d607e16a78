//! The span log of a cell of several collectors without Kafka: a collector's own, or the front's over all
//! of them.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use service_kit::config::{CellConfig, DirectConfig};
use span_log::direct::{CellName, CollectorConfig, CollectorLog, FrontConfig, FrontLog, Standing};
use span_log::embedded::EmbeddedConfig;
use span_log::{Seen, SpanLog};

use super::{Opening, blocking, log_config};

/// The log of such a cell by what it can do beside the port.
#[derive(Clone, Debug, Default)]
pub(in crate::wiring) struct Direct {
    /// Of a collector: what the front reads.
    pub(in crate::wiring) collector: Option<Arc<CollectorLog>>,
    /// Of the front: what knows the collectors.
    pub(in crate::wiring) front: Option<Arc<FrontLog>>,
}

/// Opens the log as the configuration says.
pub(super) async fn open(
    opening: &mut Opening<'_>,
    direct: &DirectConfig,
    seen: Seen,
) -> anyhow::Result<Arc<dyn SpanLog>> {
    match direct {
        DirectConfig::Collector { number } => open_collector(opening, *number, seen).await,
        DirectConfig::Front { collectors, lease } => {
            open_front(opening, (collectors, *lease), seen).await
        }
    }
}

/// Front and collectors are of one cell where they have one region and write to one keyspace.
fn cell_name(config: &CellConfig) -> CellName {
    let keyspace = config.stores.cassandra.as_ref().map(|cassandra| cassandra.keyspace.clone());
    CellName { region: config.region.clone(), keyspace: keyspace.unwrap_or_default() }
}

async fn open_collector(
    opening: &mut Opening<'_>,
    number: u32,
    seen: Seen,
) -> anyhow::Result<Arc<dyn SpanLog>> {
    let config = opening.config;
    let settings = CollectorConfig {
        cell: cell_name(config),
        number,
        file: config.data_dir.join("collector.json"),
        log: EmbeddedConfig { seen, ..log_config(config) },
    };
    let clock = Arc::clone(opening.clock);
    let log = blocking(move || Ok(CollectorLog::open(settings, clock)?)).await?;
    log.metrics().register(opening.registry);
    opening.direct.collector = Some(Arc::clone(&log));
    Ok(log)
}

async fn open_front(
    opening: &mut Opening<'_>,
    (collectors, lease): (&[String], Duration),
    seen: Seen,
) -> anyhow::Result<Arc<dyn SpanLog>> {
    let file = opening.config.data_dir.join("front.json");
    let collectors = collectors.iter().map(|address| format!("http://{address}")).collect();
    let cell = cell_name(opening.config);
    let settings = FrontConfig { cell, collectors, file, seen, lease };
    opening.ready.fail("asking the collectors");
    let log = FrontLog::open(settings, Arc::clone(opening.clock)).await;
    let log = log.context("opening the collectors' logs")?;
    // A collector that is away stops neither answers nor the others.
    let watched = Arc::clone(&log);
    opening.readiness.warn("collectors", move || {
        let away = watched.standings().into_iter().filter_map(|one| match one.standing {
            Standing::Away(reason) => Some(format!("collector {}: {reason}", one.number)),
            Standing::Up | Standing::New | Standing::Retired { .. } => None,
        });
        let away: Vec<String> = away.collect();
        (!away.is_empty()).then(|| away.join("; "))
    });
    opening.direct.front = Some(Arc::clone(&log));
    Ok(log)
}
