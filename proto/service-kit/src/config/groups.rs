//! The consumer groups that a process of a cell takes part in.

use super::section::Section;

/// A consumer group of a cell.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum GroupKind {
    /// Spans by trace id.
    StorageWriter,
    /// Search.
    SearchIndexer,
    /// Counts.
    MetricsAggregator,
    /// The metadata index.
    MetadataPublisher,
    /// Raw spans for dashboards, where ClickHouse keeps them.
    AnalyticsWriter,
}

impl GroupKind {
    /// All of them.
    pub const ALL: [Self; 5] = [
        Self::StorageWriter,
        Self::SearchIndexer,
        Self::MetricsAggregator,
        Self::MetadataPublisher,
        Self::AnalyticsWriter,
    ];
}

/// Which groups a process takes part in: all of them, unless other processes share the log.
pub(super) fn read_groups(
    root: &mut Section<'_>,
    is_shared: bool,
    has_replicator: bool,
) -> Vec<GroupKind> {
    let mut section = root.section("ingester");
    let groups = section.value("groups", GroupKind::ALL.to_vec());
    let has = |kind: GroupKind| groups.contains(&kind);
    if groups.is_empty() {
        section.refuse("groups", "names no group; a process that is to run none has another role");
    }
    let mut needed = GroupKind::ALL.into_iter().filter(|kind| *kind != GroupKind::AnalyticsWriter);
    if !is_shared && !needed.all(has) {
        section.refuse(
            "groups",
            "leaves a group out, and no other process can read the embedded log: `stores.log: \
             kafka` is needed for that",
        );
    }
    if has_replicator && has(GroupKind::MetricsAggregator) != has(GroupKind::MetadataPublisher) {
        section.refuse(
            "groups",
            "has one of metrics-aggregator and metadata-publisher: with `replicator`, calls across \
             regions are found by the rows of the one and counted by the other, in one process",
        );
    }
    section.finish();
    groups
}
