//! The stores that are files of this process.

use std::sync::Arc;
use std::time::Duration;

use trace_store::MetricsStore;
use trace_store::disk::LocalDisk;
use trace_store::embedded::{EmbeddedStore, EmbeddedStoreConfig};
use trace_store::embedded_metrics::{EmbeddedMetricsConfig, EmbeddedMetricsStore};

use super::{Opening, blocking, cold};
use crate::wiring::house::chore;

/// How often segments are merged and what has passed its retention goes.
const MERGE_EVERY: Duration = Duration::from_secs(1);
/// Retention of the counts: a cell that gets spans does it by itself.
const RETAIN_EVERY: Duration = Duration::from_secs(3_600);

/// Spans by id and their search index.
pub(super) async fn spans(opening: &mut Opening<'_>) -> anyhow::Result<Arc<EmbeddedStore>> {
    let config = opening.config;
    let settings = EmbeddedStoreConfig {
        retention: config.retention,
        bytes_max: config.retention_bytes,
        cache_bytes: config.querier.cache_bytes,
        ..EmbeddedStoreConfig::at(config.data_dir.join("store"))
    };
    let clock = Arc::clone(opening.clock);
    let tier = config.cold.as_ref().map(|cold| cold::tier(config, cold, &clock)).transpose()?;
    let open = move || Ok(EmbeddedStore::open_with(Arc::new(LocalDisk), settings, tier, clock)?);
    let store = blocking(open).await?;
    store.metrics().register(opening.registry);
    if let Some(cold) = &config.cold {
        cold::keep(opening, cold, &store).await?;
    }
    let kept = Arc::clone(&store);
    opening.chores.push(chore("merging or retention of the store", MERGE_EVERY, move || {
        let store = Arc::clone(&kept);
        async move { Ok(store.maintain().await?) }
    }));
    Ok(store)
}

/// Counts.
pub(super) async fn counts(opening: &mut Opening<'_>) -> anyhow::Result<Arc<dyn MetricsStore>> {
    let config = opening.config;
    let settings = EmbeddedMetricsConfig {
        retention: config.retention,
        ..EmbeddedMetricsConfig::new(config.data_dir.join("metrics"))
    };
    let clock = Arc::clone(opening.clock);
    let store = Arc::new(blocking(move || Ok(EmbeddedMetricsStore::open(settings, clock)?)).await?);
    let kept = Arc::clone(&store);
    opening.chores.push(chore("retention of the counts", RETAIN_EVERY, move || {
        let store = Arc::clone(&kept);
        async move { Ok(store.retain().await?) }
    }));
    Ok(store)
}
