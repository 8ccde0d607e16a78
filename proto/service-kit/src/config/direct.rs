//! A cell that writes without Kafka through several collectors: what this process is in it.

use std::time::Duration;

use super::engines::StoresConfig;
use super::groups::GroupKind;
use super::section::Section;

/// Most collectors, retired ones included.
const COLLECTORS_MAX: u32 = 256;
const HOUR: Duration = Duration::from_secs(3_600);
/// Sections of a cell that a collector does not read, and those that a front does not.
const OF_THE_FRONT: &[&str] = &["replicator", "querier", "locality"];
const OF_COLLECTORS: &[&str] = &["receiver", "log"];

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
        /// How long a collector takes spans that does not hear the front, and how long one has to be
        /// silent until it can be retired.
        lease: Duration,
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

/// Reads `direct` where it is written. `is_receiving`: an address for senders is written.
pub(super) fn read_direct(
    root: &mut Section<'_>,
    stores: Option<&StoresConfig>,
    is_receiving: bool,
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
    let is_leasing = section.has("lease");
    let lease = section.within("lease", HOUR, Duration::from_secs(10)..=HOUR * 24 * 30);
    if is_leasing && collectors.is_none() {
        section.refuse("lease", "is the front's: it tells its collectors");
    }
    if let Some(list) = &collectors {
        check_list(&section, list);
    }
    if number.is_some_and(|number| number >= COLLECTORS_MAX) {
        section.refuse("collector", "is 0 to 255: its place in the front's `direct.collectors`");
    }
    let direct = match (number, collectors) {
        (Some(number), None) => Some(DirectConfig::Collector { number }),
        (None, Some(collectors)) => Some(DirectConfig::Front { collectors, lease }),
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
    if let Some(direct) = &direct {
        refuse_unread(root, direct, stores, is_receiving);
    }
    direct
}

/// What stands in the file and would say nothing there.
fn refuse_unread(
    root: &Section<'_>,
    direct: &DirectConfig,
    stores: Option<&StoresConfig>,
    is_receiving: bool,
) {
    let (unread, reason) = match direct {
        DirectConfig::Collector { .. } => {
            (OF_THE_FRONT, "is the front's: a collector neither answers nor publishes")
        }
        DirectConfig::Front { .. } => {
            (OF_COLLECTORS, "is the collectors': the front takes no spans")
        }
    };
    for key in unread.iter().copied().filter(|key| root.has(key)) {
        root.refuse(key, reason);
    }
    let is_front = matches!(direct, DirectConfig::Front { .. });
    if !is_front && stores.is_some_and(|stores| stores.clickhouse.is_some()) {
        root.refuse("clickhouse", "is the front's: a collector does not count");
    }
    if is_front && is_receiving {
        let reason =
            "names addresses for senders, and the front takes no spans: `internal` and `admin`";
        root.refuse("listen", reason);
    }
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
