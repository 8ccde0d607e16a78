//! The metrics of the stores. Names and labels live here and nowhere else.

#[cfg(feature = "cassandra")]
mod cassandra;

use std::sync::atomic::AtomicU64;

#[cfg(feature = "cassandra")]
pub use cassandra::CassandraMetrics;
use prometheus_client::metrics::counter::Counter;
#[cfg(feature = "elasticsearch")]
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::{Registry, Unit};

/// Counters and gauges of questions of one kind.
#[derive(Clone, Debug, Default)]
pub struct QuestionMetrics {
    /// At work on the blocking pool.
    pub at_work: Gauge,
    /// Waiting for a place.
    pub waiting: Gauge,
    /// Refused, since the queue was full.
    pub refused: Counter,
    /// Whose caller went away before the answer was in.
    pub abandoned: Counter,
    /// Seconds at work, of all together: how much of its places a kind uses.
    pub work: Counter<f64, AtomicU64>,
}

impl QuestionMetrics {
    fn register(&self, registry: &mut Registry, kind: &str) {
        let gauges = [
            ("at_work", "at work", &self.at_work),
            ("waiting", "that wait for a place", &self.waiting),
        ];
        for (name, help, gauge) in gauges {
            let name = format!("farspan_trace_store_{kind}_{name}");
            registry.register(name, format!("Questions {help}"), gauge.clone());
        }
        let counters = [
            ("refused", "refused, since the queue was full", &self.refused),
            ("abandoned", "whose caller went away", &self.abandoned),
        ];
        for (name, help, counter) in counters {
            let name = format!("farspan_trace_store_{kind}_{name}");
            registry.register(name, format!("Questions {help}"), counter.clone());
        }
        registry.register_with_unit(
            format!("farspan_trace_store_{kind}_work"),
            "Time that questions were at work, of all together",
            Unit::Seconds,
            self.work.clone(),
        );
    }
}

/// A gauge that is one higher for as long as this lives.
#[derive(Debug)]
pub(crate) struct Raised(Gauge);

impl Raised {
    pub(crate) fn new(gauge: &Gauge) -> Self {
        gauge.inc();
        Self(gauge.clone())
    }
}

impl Drop for Raised {
    fn drop(&mut self) {
        self.0.dec();
    }
}

/// Counters and gauges of a store's cold tier.
#[derive(Clone, Debug, Default)]
pub struct ColdMetrics {
    /// Segments that were moved to objects.
    pub moved_segments: Counter,
    /// Bytes that were moved to objects.
    pub moved_bytes: Counter,
    /// Moves that failed and will be tried again.
    pub failed_moves: Counter,
    /// Reads of objects: each for one block, or for some that lie side by side.
    pub reads: Counter,
    /// Reads of objects that failed.
    pub failed_reads: Counter,
    /// Bytes that reads of objects have brought.
    pub read_bytes: Counter,
    /// Blocks that were in memory when they were asked for.
    pub cache_hits: Counter,
    /// Objects that were deleted, since no segment needed them any more.
    pub deleted_objects: Counter,
    /// Deletions that failed and will be tried again.
    pub failed_deletions: Counter,
    /// Objects of ours that were deleted since no manifest named them.
    pub deleted_orphans: Counter,
    /// Objects that segments are read from.
    pub objects: Gauge,
    /// Bytes of those.
    pub object_bytes: Gauge,
}

impl ColdMetrics {
    /// Registers them all.
    pub fn register(&self, registry: &mut Registry) {
        let counters = [
            ("moved_segments", "Segments moved to objects", &self.moved_segments),
            ("moved_bytes", "Bytes moved to objects", &self.moved_bytes),
            ("failed_moves", "Moves that failed and will be tried again", &self.failed_moves),
            ("reads", "Reads of objects", &self.reads),
            ("failed_reads", "Reads of objects that failed", &self.failed_reads),
            ("read_bytes", "Bytes that reads of objects have brought", &self.read_bytes),
            ("cache_hits", "Blocks of objects that were in memory", &self.cache_hits),
            ("deleted_objects", "Objects deleted, needed no more", &self.deleted_objects),
            ("failed_deletions", "Deletions that will be tried again", &self.failed_deletions),
            ("deleted_orphans", "Objects deleted that no manifest named", &self.deleted_orphans),
        ];
        for (name, help, counter) in counters {
            registry.register(format!("farspan_cold_{name}"), help, counter.clone());
        }
        registry.register("farspan_cold_objects", "Objects in use", self.objects.clone());
        registry.register_with_unit(
            "farspan_cold_object",
            "Size of the objects in use",
            Unit::Bytes,
            self.object_bytes.clone(),
        );
    }
}

/// Counters and gauges of one store.
#[derive(Clone, Debug, Default)]
pub struct StoreMetrics {
    /// Spans that were sealed, duplicates left out.
    pub sealed_spans: Counter,
    /// Segments that were sealed.
    pub sealed_segments: Counter,
    /// Seals that failed and will be tried again.
    pub seal_failures: Counter,
    /// Spans refused or dropped since their trace is erased.
    pub erased_spans: Counter,
    /// Segments that merges have replaced.
    pub merged_segments: Counter,
    /// Segments that retention has removed.
    pub expired_segments: Counter,
    /// Reads that met damage.
    pub damaged_reads: Counter,
    /// Blocks that searches have opened.
    pub searched_blocks: Counter,
    /// Blocks in the time range of searches.
    pub search_range_blocks: Counter,
    /// Searches, and questions for services and operations.
    pub searches: QuestionMetrics,
    /// Reads by trace id.
    pub reads: QuestionMetrics,
    /// Spans that wait to be sealed.
    pub pending_spans: Gauge,
    /// Sealed segments.
    pub segments: Gauge,
    /// Bytes of all sealed files.
    pub disk: Gauge,
    /// Its cold tier; registered by the owner of a store that has one.
    pub cold: ColdMetrics,
}

impl StoreMetrics {
    /// Registers them all.
    pub fn register(&self, registry: &mut Registry) {
        self.searches.register(registry, "searches");
        self.reads.register(registry, "reads");
        let counters = [
            ("sealed_spans", "Spans sealed", &self.sealed_spans),
            ("sealed_segments", "Segments sealed", &self.sealed_segments),
            ("seal_failures", "Seals that failed and will be tried again", &self.seal_failures),
            ("erased_spans", "Spans refused since their trace is erased", &self.erased_spans),
            ("merged_segments", "Segments replaced by merges", &self.merged_segments),
            ("expired_segments", "Segments removed by retention", &self.expired_segments),
            ("damaged_reads", "Reads that met damage", &self.damaged_reads),
            ("searched_blocks", "Blocks opened by searches", &self.searched_blocks),
            ("search_range_blocks", "Blocks in the range of searches", &self.search_range_blocks),
        ];
        for (name, help, counter) in counters {
            registry.register(format!("farspan_trace_store_{name}"), help, counter.clone());
        }
        let gauges = [
            ("pending_spans", "Spans that wait to be sealed", &self.pending_spans),
            ("segments", "Sealed segments", &self.segments),
        ];
        for (name, help, gauge) in gauges {
            registry.register(format!("farspan_trace_store_{name}"), help, gauge.clone());
        }
        registry.register_with_unit(
            "farspan_trace_store_disk",
            "Size of all sealed files",
            Unit::Bytes,
            self.disk.clone(),
        );
    }
}

/// Counters of the writer of raw spans into ClickHouse.
#[cfg(feature = "clickhouse")]
#[derive(Clone, Debug, Default)]
pub struct ClickhouseSpansMetrics {
    /// Spans that were stored.
    pub stored_spans: Counter,
    /// Spans refused since their trace is erased.
    pub erased_spans: Counter,
    /// Spans left out since their sender had sent them before.
    pub repeated_spans: Counter,
    /// Tries to store that failed and will be repeated.
    pub failed_stores: Counter,
    /// Runs that were looked for before they were sent again.
    pub doubtful_runs: Counter,
}

#[cfg(feature = "clickhouse")]
impl ClickhouseSpansMetrics {
    /// Registers them all.
    pub fn register(&self, registry: &mut Registry) {
        let counters = [
            ("stored_spans", "Raw spans stored in ClickHouse", &self.stored_spans),
            ("erased_spans", "Spans refused since their trace is erased", &self.erased_spans),
            ("repeated_spans", "Raw spans not written a second time", &self.repeated_spans),
            (
                "failed_stores",
                "Tries to store that failed and will be repeated",
                &self.failed_stores,
            ),
            ("doubtful_runs", "Runs looked for before they were sent again", &self.doubtful_runs),
        ];
        for (name, help, counter) in counters {
            registry.register(format!("farspan_clickhouse_{name}"), help, counter.clone());
        }
    }
}

/// Counters of one store on a search engine.
#[cfg(feature = "elasticsearch")]
#[derive(Clone, Debug, Default)]
pub struct SearchEngineMetrics {
    /// Bulk requests sent.
    pub bulk_requests: Counter,
    /// Bulk requests sent again for items that the engine was too busy for.
    pub bulk_retries: Counter,
    /// Documents that are new to the engine.
    pub documents: Counter,
    /// Documents that it had already.
    pub known_documents: Counter,
    /// Documents that went to the companion of a day that is read-only.
    pub late_documents: Counter,
    /// Spans outside the retention or ahead of time.
    pub outlying_spans: Counter,
    /// Spans dropped since their trace is erased.
    pub erased_spans: Counter,
    /// Spans that are no OTLP: they cannot be searched.
    pub unreadable_spans: Counter,
    /// Calls in which a document was refused for good.
    pub refused_batches: Counter,
    /// Documents that searches have looked at.
    pub candidates: Counter,
    /// Documents of no day that were removed, since they had passed their retention.
    pub expired_documents: Counter,
    /// Rounds of upkeep that ended well.
    pub upkeep_rounds: Counter,
    /// Rounds of upkeep that failed; the next one does what is left.
    pub failed_upkeep_rounds: Counter,
    /// Steps of days on their way to a tier.
    pub tier_steps: Family<TierLabels, Counter>,
    /// Such steps that failed; the next run tries again.
    pub failed_tier_steps: Family<TierLabels, Counter>,
    /// Indices of days by the tier in which they are, as the last run saw them.
    pub tier_indices: Family<TierLabels, Gauge>,
}

/// The tier in which something is, or is on its way to.
#[cfg(feature = "elasticsearch")]
#[derive(Clone, Debug, PartialEq, Eq, Hash, prometheus_client::encoding::EncodeLabelSet)]
pub struct TierLabels {
    /// The tier.
    pub tier: crate::elasticsearch::Tier,
}

#[cfg(feature = "elasticsearch")]
impl SearchEngineMetrics {
    /// Registers them all.
    pub fn register(&self, registry: &mut Registry) {
        let counters = [
            ("bulk_requests", "Bulk requests sent", &self.bulk_requests),
            ("bulk_retries", "Bulk requests sent again", &self.bulk_retries),
            ("documents", "Documents new to the engine", &self.documents),
            ("known_documents", "Documents that were there already", &self.known_documents),
            ("late_documents", "Documents for a day that is read-only", &self.late_documents),
            ("outlying_spans", "Spans outside the retention or ahead", &self.outlying_spans),
            ("erased_spans", "Spans refused since their trace is erased", &self.erased_spans),
            ("unreadable_spans", "Spans that cannot be searched", &self.unreadable_spans),
            ("refused_batches", "Calls with a document refused for good", &self.refused_batches),
            ("candidates", "Documents looked at by searches", &self.candidates),
            ("expired_documents", "Outlying documents past retention", &self.expired_documents),
            ("upkeep_rounds", "Rounds of upkeep that ended well", &self.upkeep_rounds),
            ("failed_upkeep_rounds", "Rounds of upkeep that failed", &self.failed_upkeep_rounds),
        ];
        for (name, help, counter) in counters {
            registry.register(format!("farspan_search_engine_{name}"), help, counter.clone());
        }
        let families = [
            ("tier_steps", "Steps of days to a tier", &self.tier_steps),
            ("failed_tier_steps", "Steps of days that failed", &self.failed_tier_steps),
        ];
        for (name, help, family) in families {
            registry.register(format!("farspan_search_engine_{name}"), help, family.clone());
        }
        registry.register(
            "farspan_search_engine_tier_indices",
            "Indices of days, by their tier",
            self.tier_indices.clone(),
        );
    }
}
