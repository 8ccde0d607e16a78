//! The tables, as data: what creates them and what they are compared with is derived from it.

use std::time::Duration;

use super::config::CassandraConfig;
use crate::migration::Schema;
use crate::port::StoreError;

/// The schema that this release writes and reads, and the steps from older ones.
pub static SCHEMA: Schema = Schema { version: SCHEMA_VERSION, steps: &[] };

const SCHEMA_VERSION: u32 = 1;

/// How rows of a table come and go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Upkeep {
    /// Much data that expires together: time windows.
    Windows,
    /// Little data that is written again and again, and expires.
    Catalogue,
    /// Little data that stays.
    State,
}

/// A table.
#[derive(Clone, Copy, Debug)]
pub(super) struct Table {
    pub(super) name: &'static str,
    pub(super) columns: &'static [(&'static str, &'static str)],
    partition: &'static [&'static str],
    clustering: &'static [(&'static str, &'static str)],
    pub(super) upkeep: Upkeep,
}

/// Which server's options are meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Dialect {
    Cassandra,
    Scylla,
}

/// All tables.
pub(super) const TABLES: [Table; 10] = [
    Table {
        name: "schema_version",
        columns: &[("component", "text"), ("version", "int")],
        partition: &["component"],
        clustering: &[],
        upkeep: Upkeep::State,
    },
    Table {
        name: "spans",
        columns: &[
            ("tenant", "text"),
            ("trace_id", "blob"),
            ("shard", "int"),
            ("part", "tinyint"),
            ("span_id", "blob"),
            ("kind", "tinyint"),
            ("content", "bigint"),
            ("span", "blob"),
            ("context", "bigint"),
            ("resource", "blob"),
            ("scope", "blob"),
            ("envelopes", "set<frozen<tuple<bigint, text, text>>>"),
            ("bytes", "bigint"),
        ],
        partition: &["tenant", "trace_id", "shard"],
        clustering: &[("part", "ASC"), ("span_id", "ASC"), ("kind", "ASC"), ("content", "ASC")],
        upkeep: Upkeep::Windows,
    },
    Table {
        name: "service_index",
        columns: &[
            ("tenant", "text"),
            ("service", "text"),
            ("hour", "int"),
            ("hash_bucket", "int"),
            ("newest", "bigint"),
            ("trace_id", "blob"),
            ("record", "bigint"),
            ("region", "text"),
            ("spans", "blob"),
        ],
        partition: &["tenant", "service", "hour", "hash_bucket"],
        clustering: &[("newest", "DESC"), ("trace_id", "ASC"), ("record", "ASC")],
        upkeep: Upkeep::Windows,
    },
    Table {
        name: "index_fill",
        columns: &[
            ("tenant", "text"),
            ("service", "text"),
            ("hour", "int"),
            ("level", "tinyint"),
            ("writer", "blob"),
            ("bytes", "bigint"),
        ],
        partition: &["tenant", "service", "hour"],
        clustering: &[("level", "ASC"), ("writer", "ASC")],
        upkeep: Upkeep::Catalogue,
    },
    Table {
        name: "days",
        columns: &[("tenant", "text"), ("day", "int")],
        partition: &["tenant"],
        clustering: &[("day", "DESC")],
        upkeep: Upkeep::Catalogue,
    },
    Table {
        name: "services",
        columns: &[
            ("tenant", "text"),
            ("day", "int"),
            ("bucket", "smallint"),
            ("service", "text"),
            ("name", "text"),
            ("slots", "set<smallint>"),
            ("doubts", "set<smallint>"),
            ("levels", "set<smallint>"),
        ],
        partition: &["tenant", "day", "bucket"],
        clustering: &[("service", "ASC")],
        upkeep: Upkeep::Catalogue,
    },
    Table {
        name: "operations",
        columns: &[
            ("tenant", "text"),
            ("service", "text"),
            ("day", "int"),
            ("operation", "text"),
            ("kind", "tinyint"),
            ("name", "text"),
            ("slots", "set<smallint>"),
            ("doubts", "set<smallint>"),
        ],
        partition: &["tenant", "service", "day"],
        clustering: &[("operation", "ASC"), ("kind", "ASC")],
        upkeep: Upkeep::Catalogue,
    },
    Table {
        name: "erased",
        columns: &[
            ("epoch", "int"),
            ("erased_at", "bigint"),
            ("tenant", "text"),
            ("trace_id", "blob"),
        ],
        partition: &["epoch"],
        clustering: &[("erased_at", "ASC"), ("tenant", "ASC"), ("trace_id", "ASC")],
        upkeep: Upkeep::State,
    },
    Table {
        name: "progress",
        columns: &[
            ("log", "text"),
            ("incarnation", "bigint"),
            ("log_partition", "int"),
            ("next", "bigint"),
        ],
        partition: &["log"],
        clustering: &[("incarnation", "ASC"), ("log_partition", "ASC")],
        upkeep: Upkeep::State,
    },
    Table {
        name: "held",
        columns: &[
            ("log", "text"),
            ("day", "int"),
            ("incarnation", "bigint"),
            ("log_partition", "int"),
            ("next", "bigint"),
            ("spans", "bigint"),
            ("bytes", "bigint"),
        ],
        partition: &["log"],
        clustering: &[("day", "ASC"), ("incarnation", "ASC"), ("log_partition", "ASC")],
        upkeep: Upkeep::State,
    },
];

/// Seconds after which a deletion may be dropped: a replica that was away for longer is repaired
/// before it comes back.
pub(super) const GC_GRACE_SECONDS: i32 = 24 * 3_600;

/// Retention in whole seconds, at least one.
pub(super) fn retention_seconds(retention: Duration) -> i32 {
    i32::try_from(retention.as_secs()).unwrap_or(i32::MAX).clamp(1, 20 * 365 * 24 * 3_600)
}

/// Hours of a compaction window: about thirty windows within the retention.
pub(super) fn window_hours(retention: Duration) -> u64 {
    (retention.as_secs() / 3_600).div_ceil(30).max(1)
}

impl Table {
    /// The compaction class and its options.
    pub(super) fn compaction(&self, retention: Duration) -> Vec<(&'static str, String)> {
        let class = |name: &str| ("class", name.to_owned());
        match self.upkeep {
            Upkeep::Windows => vec![
                class("TimeWindowCompactionStrategy"),
                ("compaction_window_unit", "HOURS".to_owned()),
                ("compaction_window_size", window_hours(retention).to_string()),
            ],
            Upkeep::Catalogue | Upkeep::State => vec![class("LeveledCompactionStrategy")],
        }
    }

    /// What rows live that are written without a TTL; 0: for ever.
    pub(super) fn default_ttl(&self, retention: Duration) -> i32 {
        match self.upkeep {
            Upkeep::Windows => retention_seconds(retention),
            Upkeep::Catalogue => retention_seconds(retention.saturating_mul(2)),
            Upkeep::State => 0,
        }
    }

    /// The statement that creates it. Nothing in it comes from outside but the keyspace, which was
    /// checked, and numbers.
    pub(super) fn create(&self, keyspace: &str, retention: Duration, dialect: Dialect) -> String {
        let mut text = format!("CREATE TABLE IF NOT EXISTS {keyspace}.{} (", self.name);
        for (name, kind) in self.columns {
            text.extend([name, " ", kind, ", "]);
        }
        text.extend(["PRIMARY KEY ((", &self.partition.join(", "), ")"]);
        for (name, _) in self.clustering {
            text.extend([", ", name]);
        }
        text.push_str(")) WITH ");
        if !self.clustering.is_empty() {
            let order: Vec<String> =
                self.clustering.iter().map(|(name, order)| format!("{name} {order}")).collect();
            text.extend(["CLUSTERING ORDER BY (", &order.join(", "), ") AND "]);
        }
        let compaction: Vec<String> = self
            .compaction(retention)
            .into_iter()
            .map(|(key, value)| format!("'{key}': '{value}'"))
            .collect();
        // Scylla does not know the newer name of this key.
        let class = match dialect {
            Dialect::Cassandra => "class",
            Dialect::Scylla => "sstable_compression",
        };
        text.push_str(&format!(
            "compaction = {{{}}} AND compression = {{'{class}': 'ZstdCompressor', \
             'chunk_length_in_kb': '16'}} AND gc_grace_seconds = {GC_GRACE_SECONDS} \
             AND default_time_to_live = {}",
            compaction.join(", "),
            self.default_ttl(retention),
        ));
        text
    }
}

/// The statement that creates the keyspace.
pub(super) fn create_keyspace(config: &CassandraConfig) -> Result<String, StoreError> {
    let mut replication = "'class': 'NetworkTopologyStrategy'".to_owned();
    for (datacenter, replicas) in &config.replication {
        check_datacenter(datacenter)?;
        replication.extend([", '", datacenter, "': '", &replicas.to_string(), "'"]);
    }
    let keyspace = &config.keyspace;
    Ok(format!("CREATE KEYSPACE IF NOT EXISTS {keyspace} WITH replication = {{{replication}}}"))
}

/// Refuses what cannot stand in a statement as it is.
pub(super) fn check_names(config: &CassandraConfig) -> Result<(), StoreError> {
    let fits = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_';
    let name = &config.keyspace;
    let starts = name.starts_with(|first: char| first.is_ascii_lowercase());
    if !starts || name.len() > 48 || !name.bytes().all(fits) {
        let rule = "a keyspace has 1 to 48 characters of a-z, 0-9 and _, the first a letter";
        return Err(StoreError::Unsupported(format!("{name:?}: {rule}")));
    }
    config.replication.keys().try_for_each(|datacenter| check_datacenter(datacenter))
}

fn check_datacenter(name: &str) -> Result<(), StoreError> {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    if (1..=128).contains(&name.len()) && name.bytes().all(fits) {
        return Ok(());
    }
    let rule = "a data centre has 1 to 128 characters of A-Z, a-z, 0-9, -, _ and .";
    Err(StoreError::Unsupported(format!("{name:?}: {rule}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config() -> CassandraConfig {
        CassandraConfig::at(["127.0.0.1:9042"], "farspan_1", "eu-west-1a")
    }

    #[test]
    fn tables_are_windowed_compressed_and_expire_as_retention_says() {
        let days = |days: u64| Duration::from_secs(days * 24 * 3_600);
        let text = TABLES[1].create("farspan", days(30), Dialect::Cassandra);
        for part in [
            "PRIMARY KEY ((tenant, trace_id, shard), part, span_id, kind, content)",
            "'class': 'TimeWindowCompactionStrategy'",
            "'compaction_window_size': '24'",
            "compression = {'class': 'ZstdCompressor'",
            "default_time_to_live = 2592000",
        ] {
            assert!(text.contains(part), "{part} in {text}");
        }
        assert!(TABLES[1].create("k", days(7), Dialect::Scylla).contains("'sstable_compression'"));
        assert_eq!(window_hours(days(7)), 6);
        assert_eq!(window_hours(Duration::from_secs(60)), 1);
        assert_eq!(retention_seconds(Duration::MAX), 630_720_000);
    }

    #[test]
    fn names_that_could_change_a_statement_are_refused() {
        assert!(check_names(&config()).is_ok());
        let statement = create_keyspace(&config()).unwrap();
        assert!(statement.ends_with("{'class': 'NetworkTopologyStrategy', 'eu-west-1a': '3'}"));
        for keyspace in ["", "1a", "A", "a-b", "a; DROP", "a\"b", &"a".repeat(49)] {
            let config = CassandraConfig { keyspace: keyspace.to_owned(), ..config() };
            assert!(check_names(&config).is_err(), "{keyspace}");
        }
        let config = CassandraConfig { replication: [("a'b".to_owned(), 1)].into(), ..config() };
        assert!(check_names(&config).is_err() && create_keyspace(&config).is_err());
    }

    #[test]
    fn every_key_is_a_column() {
        for table in TABLES {
            let keys = table.partition.iter().chain(table.clustering.iter().map(|(name, _)| name));
            for key in keys {
                assert!(table.columns.iter().any(|(name, _)| name == key), "{}.{key}", table.name);
            }
        }
    }
}
