//! A cell that writes without Kafka through several collectors: what this process is in it.

use super::engines::StoresConfig;
use super::groups::GroupKind;
use super::section::Section;

/// Most collectors, retired ones included.
const COLLECTORS_MAX: u32 = 256;

/// What a process is in such a cell.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DirectConfig {
    /// It receives, and writes from its own log to the stores.
    Collector {
        /// Its number: no other collector of the cell has it, or ever had.
        number: u32,
    },
    /// It answers, counts and publishes, over the logs of all collectors.
    Front {
        /// Where each serves its log (`listen.internal`), by number. It only grows, at its end.
        collectors: Vec<String>,
    },
}

impl DirectConfig {
    /// The consumer groups that it runs.
    #[must_use]
    pub fn groups(&self) -> Vec<GroupKind> {
        match self {
            Self::Collector { .. } => vec![GroupKind::StorageWriter, GroupKind::SearchIndexer],
            Self::Front { .. } => vec![
                GroupKind::MetricsAggregator,
                GroupKind::MetadataPublisher,
                GroupKind::AnalyticsWriter,
            ],
        }
    }
}

/// Reads `direct` where it is written.
pub(super) fn read_direct(
    root: &mut Section<'_>,
    stores: Option<&StoresConfig>,
) -> Option<DirectConfig> {
    if !root.has("direct") {
        // Known all the same, so that a word like it is suggested.
        drop(root.section("direct"));
        return None;
    }
    check_stores(root, stores);
    if root.has("ingester") {
        root.refuse(
            "ingester",
            "is not used with `direct`: each part of such a cell has its groups",
        );
    }
    let mut section = root.section("direct");
    let collectors = match section.has("collectors") {
        true => super::engines::hosts(&mut section, "collectors"),
        false => None,
    };
    let number = section.optional::<u32>("collector");
    if let Some(list) = &collectors {
        check_list(&section, list);
    }
    if number.is_some_and(|number| number >= COLLECTORS_MAX) {
        section.refuse("collector", "is 0 to 255: its place in the front's `direct.collectors`");
    }
    let direct = match (number, collectors) {
        (Some(number), None) => Some(DirectConfig::Collector { number }),
        (None, Some(collectors)) => Some(DirectConfig::Front { collectors }),
        (Some(_), Some(_)) => {
            section.refuse(
                "collector",
                "stands beside `collectors`: a process is a collector or the front of them",
            );
            None
        }
        (None, None) => {
            root.refuse(
                "direct",
                "needs `collector` (the number of this one) or `collectors` (the front's list)",
            );
            None
        }
    };
    section.finish();
    direct
}

fn check_list(section: &Section<'_>, list: &[String]) {
    if list.len() > COLLECTORS_MAX as usize {
        section.refuse("collectors", "has more than 256 collectors");
    }
    let mut sorted = list.to_vec();
    sorted.sort_unstable();
    if let Some([twice, _]) = sorted.windows(2).find(|pair| pair.first() == pair.last()) {
        section.refuse("collectors", &format!("has `{twice}` twice"));
    }
}

fn check_stores(root: &Section<'_>, stores: Option<&StoresConfig>) {
    let Some(stores) = stores else { return };
    if stores.kafka.is_some() {
        root.refuse("direct", "is for cells without Kafka: leave it out, or `stores.log: kafka`");
    }
    if stores.cassandra.is_none() || stores.elasticsearch.is_none() {
        root.refuse(
            "direct",
            "needs stores that collectors share: `stores.traces: cassandra` and `stores.search: \
             elasticsearch`",
        );
    }
}
