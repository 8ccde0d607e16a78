//! The stores that are engines: each is waited for where it is away.

#[cfg(any(feature = "cassandra", feature = "clickhouse", feature = "elasticsearch"))]
use std::sync::Arc;
#[cfg(any(feature = "cassandra", feature = "elasticsearch"))]
use std::time::Duration;

use service_kit::config::engines as raw;

use super::{Counting, Opening, Searching, WriterAndReader, engines};
#[cfg(any(feature = "cassandra", feature = "elasticsearch"))]
use crate::wiring::house::{Chore, WhenStopped, chore};
#[cfg(any(feature = "clickhouse", feature = "elasticsearch"))]
use crate::wiring::opening::until_open;

/// How often indices of no day lose what has passed its retention.
#[cfg(feature = "elasticsearch")]
const UPKEEP_EVERY: Duration = Duration::from_secs(3_600);

/// How often a cluster that was away at the start is looked for.
#[cfg(feature = "cassandra")]
const RECONNECT_EVERY: Duration = Duration::from_secs(1);

/// Spans by id. A cluster that is away is connected when it is back: until then the group
/// storage-writer waits, and the live tail alone answers.
#[cfg(feature = "cassandra")]
pub(super) async fn cassandra(
    opening: &mut Opening<'_>,
    cassandra: &raw::CassandraConfig,
) -> anyhow::Result<WriterAndReader> {
    use anyhow::Context as _;
    use trace_store::cassandra::CassandraStore;

    let settings = engines::cassandra::settings(opening.config, cassandra)?;
    opening.ready.fail("opening Cassandra");
    let store = CassandraStore::connect(settings, Arc::clone(opening.clock)).await;
    let store = store.context("opening Cassandra")?;
    store.metrics().register(opening.registry);
    let watched = Arc::clone(&store);
    opening.readiness.probe("cassandra", move || watched.connection());
    let kept = Arc::clone(&store);
    let connecting = chore("connecting to Cassandra", RECONNECT_EVERY, move || {
        let store = Arc::clone(&kept);
        // The readiness of the process says why where it fails.
        async move {
            drop(store.reconnect().await);
            Ok(())
        }
    });
    opening.chores.push(Chore { when_stopped: WhenStopped::Leave, ..connecting });
    Ok((Arc::clone(&store) as _, store))
}

#[cfg(not(feature = "cassandra"))]
#[expect(clippy::unused_async, reason = "the other build waits here")]
pub(super) async fn cassandra(
    _: &mut Opening<'_>,
    _: &raw::CassandraConfig,
) -> anyhow::Result<WriterAndReader> {
    Err(engines::lacking("stores.traces: cassandra", "cassandra"))
}

/// Search, and what services and operations there are.
#[cfg(feature = "elasticsearch")]
pub(super) async fn elasticsearch(
    opening: &mut Opening<'_>,
    elasticsearch: &raw::ElasticsearchConfig,
) -> anyhow::Result<Searching> {
    use trace_store::elasticsearch::ElasticsearchStore;

    let settings = engines::elasticsearch::settings(opening.config, elasticsearch);
    let store = until_open("Elasticsearch", opening.ready, async || {
        let clock = Arc::clone(opening.clock);
        Ok(ElasticsearchStore::connect(settings.clone(), clock).await?)
    });
    let store = store.await?;
    store.metrics().register(opening.registry);
    let kept = Arc::clone(&store);
    let upkeep = chore("upkeep of the search index", UPKEEP_EVERY, move || {
        let store = Arc::clone(&kept);
        async move {
            let removed = store.maintain().await?;
            tracing::info!(removed, "spans of no day that had passed their retention are gone");
            Ok(())
        }
    });
    opening.chores.push(Chore { when_stopped: WhenStopped::Leave, ..upkeep });
    if opening.role.consumes() {
        let kept = Arc::clone(&store);
        let moving = chore("moving days between tiers", UPKEEP_EVERY, move || {
            let store = Arc::clone(&kept);
            async move { engines::elasticsearch::move_tiers(&store).await }
        });
        opening.chores.push(Chore { when_stopped: WhenStopped::Leave, ..moving });
    }
    Ok(Searching {
        indexer: Arc::clone(&store) as _,
        search: Arc::clone(&store) as _,
        catalog: store,
    })
}

#[cfg(not(feature = "elasticsearch"))]
#[expect(clippy::unused_async, reason = "the other build waits here")]
pub(super) async fn elasticsearch(
    _: &mut Opening<'_>,
    _: &raw::ElasticsearchConfig,
) -> anyhow::Result<Searching> {
    Err(engines::lacking("stores.search: elasticsearch", "elasticsearch"))
}

/// Counts, and raw spans where they are asked for.
#[cfg(feature = "clickhouse")]
pub(super) async fn clickhouse(
    opening: &mut Opening<'_>,
    clickhouse: &raw::ClickhouseConfig,
) -> anyhow::Result<Counting> {
    use trace_store::clickhouse::{ClickhouseMetricsStore, ClickhouseSpans};
    use trace_store::{MetricsStore as _, SpanWriter};

    let settings = engines::clickhouse::settings(opening.config, clickhouse);
    let opened = until_open("ClickHouse", opening.ready, async || {
        let (settings, clock) = (settings.clone(), Arc::clone(opening.clock));
        let store = ClickhouseMetricsStore::connect(settings.clone(), Arc::clone(&clock)).await?;
        let counted = store.covered().await?;
        let spans = match clickhouse.is_keeping_spans {
            true => Some(ClickhouseSpans::connect(settings, clock).await?),
            false => None,
        };
        Ok((store, counted, spans))
    });
    let (store, counted, spans) = opened.await?;
    let mut analytics = None;
    if let Some(spans) = spans {
        spans.metrics().await.register(opening.registry);
        analytics = Some(Arc::new(spans) as Arc<dyn SpanWriter>);
    }
    Ok(Counting { metrics: Arc::new(store), counted, analytics })
}

#[cfg(not(feature = "clickhouse"))]
#[expect(clippy::unused_async, reason = "the other build waits here")]
pub(super) async fn clickhouse(
    _: &mut Opening<'_>,
    _: &raw::ClickhouseConfig,
) -> anyhow::Result<Counting> {
    Err(engines::lacking("stores.metrics: clickhouse", "clickhouse"))
}
