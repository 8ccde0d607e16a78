//! The stores that are engines: one that is away does not keep the others from their work.

#[cfg(any(feature = "cassandra", feature = "clickhouse", feature = "elasticsearch"))]
use std::sync::Arc;
#[cfg(feature = "elasticsearch")]
use std::sync::OnceLock;
#[cfg(any(feature = "cassandra", feature = "clickhouse", feature = "elasticsearch"))]
use std::time::Duration;

use service_kit::config::engines as raw;

#[cfg(any(feature = "clickhouse", feature = "elasticsearch"))]
use super::to_come::{Awaiting, ToCome};
#[cfg(feature = "clickhouse")]
use super::to_come::{Counts, agree};
use super::{Counting, Opening, Searching, WriterAndReader, engines};
#[cfg(any(feature = "cassandra", feature = "elasticsearch"))]
use crate::wiring::house::{Chore, WhenStopped, chore};
#[cfg(any(feature = "clickhouse", feature = "elasticsearch"))]
use crate::wiring::opening::Refusal;
#[cfg(any(feature = "clickhouse", feature = "elasticsearch"))]
use futures_util::future::BoxFuture;
#[cfg(any(feature = "clickhouse", feature = "elasticsearch"))]
use prometheus_client::registry::Registry;

/// How often indices of no day lose what has passed its retention.
#[cfg(feature = "elasticsearch")]
const UPKEEP_EVERY: Duration = Duration::from_secs(3_600);

/// An engine that has not answered after so long is away.
#[cfg(any(feature = "clickhouse", feature = "elasticsearch"))]
const FIRST_TRY: Duration = Duration::from_secs(5);

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

/// Search, and what services and operations there are. An engine that is away comes later.
#[cfg(feature = "elasticsearch")]
pub(super) async fn elasticsearch(
    opening: &mut Opening<'_>,
    elasticsearch: &raw::ElasticsearchConfig,
) -> anyhow::Result<Searching> {
    let settings = engines::elasticsearch::settings(opening.config, elasticsearch);
    let (clock, metrics) = (Arc::clone(opening.clock), opening.metrics.clone());
    let place = SearchPlace::default();
    let opened = Arc::clone(&place);
    let open = move || -> BoxFuture<'static, Result<Searching, Refusal>> {
        let with = (settings.clone(), Arc::clone(&clock));
        Box::pin(connect_search(with, Arc::clone(&opened), metrics.clone()))
    };
    look_after_search(opening, &place);
    let reason = match first_try("Elasticsearch", opening, &open).await? {
        Ok(searching) => return Ok(searching),
        Err(reason) => reason,
    };
    let readiness = opening.readiness.clone();
    let to_come = ToCome::<Searching>::away("Elasticsearch", reason, &readiness);
    let coming = Arc::clone(&to_come);
    let awaiting = Awaiting::new(move |_| async move { coming.come(&readiness, open).await });
    opening.awaiting.push(awaiting);
    let (indexer, search) = (Arc::clone(&to_come) as _, Arc::clone(&to_come) as _);
    Ok(Searching { indexer, search, catalog: to_come })
}

#[cfg(feature = "elasticsearch")]
async fn connect_search(
    (settings, clock): (
        trace_store::elasticsearch::ElasticsearchConfig,
        Arc<dyn trace_model::Clock>,
    ),
    place: SearchPlace,
    metrics: service_kit::admin::MetricsPage,
) -> Result<Searching, Refusal> {
    use trace_store::elasticsearch::ElasticsearchStore;

    let store = ElasticsearchStore::connect(settings, clock).await?;
    let store = place.get_or_init(|| store);
    let mut registry = Registry::default();
    store.metrics().register(&mut registry);
    metrics.add(registry);
    let (indexer, search) = (Arc::clone(store) as _, Arc::clone(store) as _);
    Ok(Searching { indexer, search, catalog: Arc::clone(store) as _ })
}

/// Where the search index is, once it is there.
#[cfg(feature = "elasticsearch")]
type SearchPlace = Arc<OnceLock<Arc<trace_store::elasticsearch::ElasticsearchStore>>>;

/// The chores of a search index.
#[cfg(feature = "elasticsearch")]
fn look_after_search(opening: &mut Opening<'_>, place: &SearchPlace) {
    let kept = Arc::clone(place);
    let upkeep = chore("upkeep of the search index", UPKEEP_EVERY, move || {
        let store = kept.get().cloned();
        async move {
            let Some(store) = store else { return Ok(()) };
            let removed = store.maintain().await?;
            tracing::info!(removed, "spans of no day that had passed their retention are gone");
            Ok(())
        }
    });
    opening.chores.push(Chore { when_stopped: WhenStopped::Leave, ..upkeep });
    if opening.role.consumes() {
        let kept = Arc::clone(place);
        let moving = chore("moving days between tiers", UPKEEP_EVERY, move || {
            let store = kept.get().cloned();
            async move {
                let Some(store) = store else { return Ok(()) };
                engines::elasticsearch::move_tiers(&store).await
            }
        });
        opening.chores.push(Chore { when_stopped: WhenStopped::Leave, ..moving });
    }
}

/// Opens a store once: what is away is no reason to take no spans. Gives why it is.
///
/// # Errors
/// With what a person must mend first.
#[cfg(any(feature = "clickhouse", feature = "elasticsearch"))]
async fn first_try<T>(
    what: &'static str,
    opening: &Opening<'_>,
    open: impl Fn() -> BoxFuture<'static, Result<T, Refusal>>,
) -> anyhow::Result<Result<T, String>> {
    opening.ready.fail(&format!("opening {what}"));
    let reason = match tokio::time::timeout(FIRST_TRY, open()).await {
        Ok(Ok(opened)) => return Ok(Ok(opened)),
        Ok(Err(Refusal::Final(error))) => return Err(error.context(format!("opening {what}"))),
        Ok(Err(Refusal::Away(error))) => format!("{error:#}"),
        Err(_) => format!("the store is not available: no answer within {FIRST_TRY:?}"),
    };
    Ok(Err(reason))
}

#[cfg(not(feature = "elasticsearch"))]
#[expect(clippy::unused_async, reason = "the other build waits here")]
pub(super) async fn elasticsearch(
    _: &mut Opening<'_>,
    _: &raw::ElasticsearchConfig,
) -> anyhow::Result<Searching> {
    Err(engines::lacking("stores.search: elasticsearch", "elasticsearch"))
}

/// Counts, and raw spans where they are asked for. An engine that is away comes later.
#[cfg(feature = "clickhouse")]
pub(super) async fn clickhouse(
    opening: &mut Opening<'_>,
    clickhouse: &raw::ClickhouseConfig,
) -> anyhow::Result<Counting> {
    let settings = engines::clickhouse::settings(opening.config, clickhouse);
    let (clock, metrics) = (Arc::clone(opening.clock), opening.metrics.clone());
    let is_keeping_spans = clickhouse.is_keeping_spans;
    let open = move || -> BoxFuture<'static, Result<Counts, Refusal>> {
        let with = (settings.clone(), Arc::clone(&clock));
        Box::pin(connect_counts(with, is_keeping_spans, metrics.clone()))
    };
    let reason = match first_try("ClickHouse", opening, &open).await? {
        Ok(Counts { metrics, covered, spans }) => {
            return Ok(Counting { metrics, counted: covered, analytics: spans });
        }
        Err(reason) => reason,
    };
    let readiness = opening.readiness.clone();
    let to_come = ToCome::<Counts>::away("ClickHouse", reason, &readiness);
    let coming = Arc::clone(&to_come);
    opening.awaiting.push(Awaiting::new(move |log| async move {
        // The log was opened without knowing what is counted of it.
        let open_and_compare = || -> BoxFuture<'static, Result<Counts, Refusal>> {
            let (opening, log) = (open(), Arc::clone(&log));
            Box::pin(async move {
                let counts = opening.await?;
                agree(&counts.covered, &*log).await?;
                Ok(counts)
            })
        };
        coming.come(&readiness, open_and_compare).await;
    }));
    let analytics = is_keeping_spans.then(|| Arc::clone(&to_come) as _);
    let counted = trace_model::Coverage::none(0);
    Ok(Counting { metrics: to_come, counted, analytics })
}

#[cfg(feature = "clickhouse")]
async fn connect_counts(
    (settings, clock): (trace_store::clickhouse::ClickhouseConfig, Arc<dyn trace_model::Clock>),
    is_keeping_spans: bool,
    metrics: service_kit::admin::MetricsPage,
) -> Result<Counts, Refusal> {
    use trace_store::clickhouse::{ClickhouseMetricsStore, ClickhouseSpans};
    use trace_store::{MetricsStore as _, SpanWriter};

    let store = ClickhouseMetricsStore::connect(settings.clone(), Arc::clone(&clock)).await?;
    let mut covered = store.covered().await?;
    let mut spans = None;
    if is_keeping_spans {
        let opened = ClickhouseSpans::connect(settings, clock).await?;
        let mut registry = Registry::default();
        opened.metrics().await.register(&mut registry);
        metrics.add(registry);
        covered.join(&opened.durable());
        spans = Some(Arc::new(opened) as Arc<dyn SpanWriter>);
    }
    Ok(Counts { metrics: Arc::new(store), covered, spans })
}

#[cfg(not(feature = "clickhouse"))]
#[expect(clippy::unused_async, reason = "the other build waits here")]
pub(super) async fn clickhouse(
    _: &mut Opening<'_>,
    _: &raw::ClickhouseConfig,
) -> anyhow::Result<Counting> {
    Err(engines::lacking("stores.metrics: clickhouse", "clickhouse"))
}
