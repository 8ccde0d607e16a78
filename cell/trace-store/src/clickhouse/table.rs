//! What a table is, and the statements that make it: on one engine, or replicated and distributed
//! over a cluster.

use std::fmt::Write as _;

use super::config::ClickhouseConfig;

/// A column.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Column {
    pub(super) name: &'static str,
    /// Its type, written as the engine writes it.
    pub(super) kind: &'static str,
    /// Its codecs; "" for the default.
    pub(super) codec: &'static str,
}

/// A column of this name, type and codec.
pub(super) const fn column(name: &'static str, kind: &'static str, codec: &'static str) -> Column {
    Column { name, kind, codec }
}

/// How rows of one key are merged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Merging {
    /// Not at all.
    Not,
    /// By the functions of their columns.
    Aggregating,
    /// The one with the largest value of this column stays.
    Replacing(&'static str),
}

/// How rows are found, and found again after an insert in doubt: the names of the columns that every
/// table with blocks has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Placing {
    /// The time by which rows are asked for.
    pub(super) time: &'static str,
    /// When they arrived.
    pub(super) arrived: &'static str,
    /// Whether the time is too far from the arrival to make a partition.
    pub(super) is_outlying: &'static str,
    /// The block with which they came.
    pub(super) block: &'static str,
}

/// A table.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Table {
    pub(super) name: &'static str,
    /// The columns that are written.
    pub(super) columns: &'static [Column],
    /// The columns that its view adds: then rows enter through a table `…_inbox` that stores
    /// nothing.
    pub(super) viewed: &'static [(Column, &'static str)],
    /// Skip indexes.
    pub(super) indexes: &'static [&'static str],
    pub(super) merging: Merging,
    pub(super) placing: Option<Placing>,
    /// Where `placing` does not say it.
    pub(super) partition: &'static str,
    pub(super) order: &'static str,
    /// Rows of a granule.
    pub(super) granularity: u32,
    /// By which columns rows are spread over the shards of a cluster; `None`: every node has all.
    pub(super) shard_by: Option<&'static str>,
}

/// Settings of every table: parts are synced, so that what was acknowledged survives loss of power,
/// and replaced parts go soon, so that an erased trace does.
const SETTINGS: &str = "ttl_only_drop_parts = 1, fsync_after_insert = 1, \
     fsync_part_directory = 1, min_rows_to_fsync_after_merge = 1, old_parts_lifetime = 5";

impl Table {
    /// The table that inserts name.
    pub(super) fn entrance(&self) -> String {
        if self.viewed.is_empty() { self.name.to_owned() } else { format!("{}_inbox", self.name) }
    }

    /// The table that keeps the rows on a node, for definitions and mutations.
    pub(super) fn local(&self, config: &ClickhouseConfig) -> String {
        local(self.name, config, self.shard_by.is_some())
    }

    /// The statements that make it where it is missing, in order.
    pub(super) fn statements(&self, config: &ClickhouseConfig) -> Vec<String> {
        let mut statements = vec![self.create(config)];
        statements.extend(self.distribute(self.name, config));
        if !self.viewed.is_empty() {
            let inbox = self.entrance();
            let database = &config.database;
            let on_cluster = on_cluster(config);
            let inbox_local = local(&inbox, config, self.shard_by.is_some());
            let columns = definitions(&self.columns.iter().collect::<Vec<_>>(), &[]);
            statements.push(format!(
                "CREATE TABLE IF NOT EXISTS {database}.{inbox_local}{on_cluster} \
                 ({columns}) ENGINE = Null"
            ));
            statements.extend(self.distribute(&inbox, config));
            statements.push(self.view(&inbox_local, config));
        }
        statements
    }

    fn create(&self, config: &ClickhouseConfig) -> String {
        let database = &config.database;
        let added = self.viewed.iter().map(|(column, _)| column);
        let columns: Vec<&Column> = self.columns.iter().chain(added).collect();
        let columns = definitions(&columns, self.indexes);
        let mut statement = format!(
            "CREATE TABLE IF NOT EXISTS {database}.{}{} ({columns}) ENGINE = {} \
             PARTITION BY {} ORDER BY {}",
            self.local(config),
            on_cluster(config),
            self.engine(config),
            self.partition_by(),
            self.order,
        );
        if let Some(expiry) = self.expiry(config) {
            let _infallible = write!(statement, " TTL {expiry}");
        }
        let window = if config.cluster.is_some() { "replicated" } else { "non_replicated" };
        let _infallible = write!(
            statement,
            " SETTINGS index_granularity = {}, {window}_deduplication_window = 1000, {SETTINGS}",
            self.granularity
        );
        if let (Some(tiers), Some(_)) = (&config.storage, self.placing) {
            let _infallible = write!(statement, ", storage_policy = '{}'", tiers.policy);
        }
        statement
    }

    fn engine(&self, config: &ClickhouseConfig) -> String {
        let (family, version) = match self.merging {
            Merging::Not => ("MergeTree", None),
            Merging::Aggregating => ("AggregatingMergeTree", None),
            Merging::Replacing(version) => ("ReplacingMergeTree", Some(version)),
        };
        if config.cluster.is_none() {
            return format!("{family}({})", version.unwrap_or_default());
        }
        let version = version.map(|version| format!(", {version}")).unwrap_or_default();
        let (path, replica) = if self.shard_by.is_some() {
            ("{shard}", "{replica}")
        } else {
            ("all", "{shard}-{replica}")
        };
        let (database, name) = (&config.database, self.name);
        format!(
            "Replicated{family}('/clickhouse/tables/{path}/{database}/{name}', '{replica}'{version})"
        )
    }

    fn partition_by(&self) -> String {
        let Some(Placing { time, arrived, is_outlying, .. }) = self.placing else {
            return self.partition.to_owned();
        };
        format!(
            "({is_outlying}, if({is_outlying}, toDate({arrived}, 'UTC'), toDate({time}, 'UTC')))"
        )
    }

    /// When rows move and go, as the engine writes it.
    pub(super) fn expiry(&self, config: &ClickhouseConfig) -> Option<String> {
        let arrived = self.placing?.arrived;
        let after = |seconds: u64| format!("{arrived} + toIntervalSecond({seconds})");
        let mut expiry = after(config.retention.as_secs());
        if let Some(tiers) = &config.storage {
            let move_after = after(tiers.after.as_secs());
            let _infallible = write!(expiry, ", {move_after} TO VOLUME '{}'", tiers.volume);
        }
        Some(expiry)
    }

    /// Changes when rows move and go.
    pub(super) fn expire(&self, config: &ClickhouseConfig, expiry: &str) -> String {
        let (database, local) = (&config.database, self.local(config));
        format!("ALTER TABLE {database}.{local}{} MODIFY TTL {expiry}", on_cluster(config))
    }

    fn distribute(&self, name: &str, config: &ClickhouseConfig) -> Option<String> {
        let (cluster, key) = (config.cluster.as_ref()?, self.shard_by?);
        let database = &config.database;
        Some(format!(
            "CREATE TABLE IF NOT EXISTS {database}.{name} ON CLUSTER {cluster} \
             AS {database}.{name}_local \
             ENGINE = Distributed({cluster}, {database}, {name}_local, cityHash64({key}))"
        ))
    }

    fn view(&self, inbox: &str, config: &ClickhouseConfig) -> String {
        let (database, name) = (&config.database, self.name);
        let mut selected: Vec<String> =
            self.columns.iter().map(|column| column.name.to_owned()).collect();
        for (column, expression) in self.viewed {
            selected.push(format!("{expression} AS {}", column.name));
        }
        format!(
            "CREATE MATERIALIZED VIEW IF NOT EXISTS {database}.{name}_view{} \
             TO {database}.{} AS SELECT {} FROM {database}.{inbox}",
            on_cluster(config),
            self.local(config),
            selected.join(", "),
        )
    }
}

/// The name of what keeps a table's rows on a node.
pub(super) fn local(name: &str, config: &ClickhouseConfig, is_sharded: bool) -> String {
    if config.cluster.is_some() && is_sharded {
        return format!("{name}_local");
    }
    name.to_owned()
}

/// ` ON CLUSTER …` where there is one.
pub(super) fn on_cluster(config: &ClickhouseConfig) -> String {
    config.cluster.as_ref().map(|cluster| format!(" ON CLUSTER {cluster}")).unwrap_or_default()
}

fn definitions(columns: &[&Column], indexes: &[&str]) -> String {
    let mut definitions: Vec<String> = columns
        .iter()
        .map(|Column { name, kind, codec }| match *codec {
            "" => format!("`{name}` {kind}"),
            codec => format!("`{name}` {kind} CODEC({codec})"),
        })
        .collect();
    definitions.extend(indexes.iter().map(|index| format!("INDEX {index}")));
    definitions.join(", ")
}
