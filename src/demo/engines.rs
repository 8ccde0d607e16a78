//! The engines that the regions of a demo share: each region has a keyspace, topics, indices and a
//! database of its own, so that nothing but the machine is shared.

use clap::{Args, ValueEnum};
use trace_model::Region;

/// What the regions run on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum DemoProfile {
    /// Files of this process: no server needed.
    #[default]
    Embedded,
    /// Cassandra and Elasticsearch behind a write-ahead log in files.
    Startup,
    /// Kafka, Cassandra, Elasticsearch and ClickHouse.
    Growth,
}

/// Where the engines are. The defaults are where `tests/engines/all.sh start` puts them.
#[derive(Args, Clone, Debug, PartialEq, Eq)]
pub(crate) struct DemoEngines {
    /// On what the regions run; other profiles than embedded need their engines to be up.
    #[arg(long, value_enum, default_value_t)]
    pub(crate) profile: DemoProfile,
    /// A Kafka broker (`--profile growth`).
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:29092")]
    pub(crate) kafka: String,
    /// A Cassandra or Scylla node (`--profile startup|growth`).
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:29042")]
    pub(crate) cassandra: String,
    /// The data center of that node.
    #[arg(long, value_name = "NAME", default_value = "dc1")]
    pub(crate) cassandra_datacenter: String,
    /// An Elasticsearch or OpenSearch node (`--profile startup|growth`).
    #[arg(long, value_name = "URL", default_value = "http://127.0.0.1:29200")]
    pub(crate) elasticsearch: String,
    /// ClickHouse's HTTP interface (`--profile growth`).
    #[arg(long, value_name = "URL", default_value = "http://127.0.0.1:28123")]
    pub(crate) clickhouse: String,
}

impl DemoEngines {
    /// What a region's cell adds to its configuration. One node of each engine: one copy. The demo
    /// keeps every trace. Each profile has stores of its own: a store that has seen another log says that
    /// this one may have lost what came after.
    pub(crate) fn yaml(&self, region: &Region) -> String {
        let name = region.as_str().replace('-', "_");
        let apart = if self.profile == DemoProfile::Startup { "startup" } else { "growth" };
        let stores = format!(
            "cassandra:\n  nodes: [{}]\n  datacenter: {dc}\n  keyspace: farspan_{apart}_{name}\n  \
             replication: {{{dc}: 1}}\nelasticsearch:\n  urls: [{}]\n  prefix: farspan-{apart}-{region}\n  \
             shards: 1\n",
            quoted(&self.cassandra),
            quoted(&self.elasticsearch),
            dc = quoted(&self.cassandra_datacenter),
        );
        match self.profile {
            DemoProfile::Embedded => String::new(),
            DemoProfile::Startup => format!("profile: startup\nhead: {{rate: 1.0}}\n{stores}"),
            DemoProfile::Growth => format!(
                "profile: growth\nhead: {{rate: 1.0}}\nkafka:\n  brokers: [{}]\n  prefix: \
                 {region}.\n  partitions: 8\n  replication: 1\n{stores}clickhouse:\n  url: {}\n  \
                 database: farspan_{name}\n",
                quoted(&self.kafka),
                quoted(&self.clickhouse),
            ),
        }
    }

    /// The directory of the demo's data below the usual place: each profile has its own.
    pub(crate) const fn directory(&self) -> &'static str {
        match self.profile {
            DemoProfile::Embedded => "demo",
            DemoProfile::Startup => "demo-startup",
            DemoProfile::Growth => "demo-growth",
        }
    }
}

/// A YAML text in double quotes (JSON's escapes are YAML's).
pub(super) fn quoted(text: &str) -> String {
    serde_json::Value::String(text.to_owned()).to_string()
}

#[cfg(test)]
pub(super) mod tests {
    use clap::{Args, FromArgMatches};

    use super::*;

    /// The engines of a command line.
    pub(crate) fn engines(arguments: &[&str]) -> DemoEngines {
        let command = DemoEngines::augment_args(clap::Command::new("demo"));
        let matches = command.get_matches_from(std::iter::once(&"demo").chain(arguments));
        DemoEngines::from_arg_matches(&matches).unwrap()
    }

    #[test]
    fn a_demo_needs_no_engine_unless_it_is_told_to() {
        let region = Region::new("eu-west-1").unwrap();
        assert_eq!(engines(&[]).yaml(&region), "");
        assert_eq!(engines(&[]).directory(), "demo");
        assert_eq!(engines(&["--profile", "growth"]).directory(), "demo-growth");
    }
}
