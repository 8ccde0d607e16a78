//! The configuration of a cell in the words of each engine's adapter, and setting engines up.

use std::time::Duration;

use service_kit::config::CellConfig;
use service_kit::config::engines as raw;

/// What setting an engine up did, or found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SetUp {
    /// Which engine, and where in it.
    pub(crate) what: String,
    /// What a person should know: made anew, different from what is configured, lacking copies.
    pub(crate) notes: Vec<String>,
    /// What is there differs from what is configured; it was left as it is.
    pub(crate) is_different: bool,
}

/// Makes what is missing in every engine of a cell; repeating it is harmless.
pub(crate) async fn set_up(config: &CellConfig) -> anyhow::Result<Vec<SetUp>> {
    let mut done = Vec::new();
    #[cfg(feature = "kafka")]
    if let Some(kafka) = &config.stores.kafka {
        done.extend(kafka::set_up(config, kafka).await?);
    }
    #[cfg(feature = "cassandra")]
    if let Some(cassandra) = &config.stores.cassandra {
        done.push(cassandra::set_up(config, cassandra).await?);
    }
    #[cfg(feature = "elasticsearch")]
    if let Some(elasticsearch) = &config.stores.elasticsearch {
        done.push(elasticsearch::set_up(config, elasticsearch).await?);
    }
    #[cfg(feature = "clickhouse")]
    if let Some(clickhouse) = &config.stores.clickhouse {
        done.push(clickhouse::set_up(config, clickhouse).await?);
    }
    Ok(done)
}

/// Says which feature of the build an engine needs.
#[cfg(not(all(
    feature = "kafka",
    feature = "cassandra",
    feature = "elasticsearch",
    feature = "clickhouse",
    feature = "object-storage",
    feature = "redis"
)))]
pub(super) fn lacking(key: &str, feature: &str) -> anyhow::Error {
    anyhow::anyhow!("`{key}`: this build was made without the cargo feature `{feature}`")
}

#[cfg(feature = "kafka")]
pub(super) mod kafka {
    use anyhow::Context as _;
    use ingester::ANALYTICS_WRITER;
    use service_kit::config::cell::WhenFull;
    use span_log::kafka::{
        KafkaConfig, KafkaLog, KafkaLogin, KafkaSecurity, KafkaTailConfig, KafkaTailDisk, KafkaTls,
        SaslMechanism, TopicSettings,
    };

    use super::{CellConfig, Duration, SetUp, raw};

    /// Brokers that have not answered after so long are away, which the readiness then says.
    const OPEN_TIMEOUT: Duration = Duration::from_secs(10);

    pub(in crate::wiring) fn settings(
        config: &CellConfig,
        kafka: &raw::KafkaConfig,
    ) -> anyhow::Result<KafkaConfig> {
        let plain = KafkaConfig::at(kafka.brokers.clone());
        let mut groups = plain.groups.clone();
        if config.stores.clickhouse.as_ref().is_some_and(|engine| engine.is_keeping_spans) {
            groups.push(ANALYTICS_WRITER);
        }
        let required_groups = match config.log.when_full {
            WhenFull::Refuse => plain.required_groups.clone(),
            WhenFull::DropOldest => Vec::new(),
        };
        Ok(KafkaConfig {
            groups,
            required_groups,
            retention: Some(config.log.retention),
            open_timeout: OPEN_TIMEOUT,
            prefix: kafka.prefix.clone(),
            client_id: format!("farspan-{}", config.region),
            properties: kafka.properties.0.iter().cloned().collect(),
            security: security(kafka),
            member: kafka.member.clone(),
            session_timeout: kafka.session_timeout,
            tail: Some(KafkaTailConfig {
                bytes_max: usize::try_from(kafka.tail_bytes_max)?,
                disk: (kafka.tail_disk_bytes_max > 0).then(|| KafkaTailDisk {
                    directory: config.data_dir.join("tail"),
                    bytes_max: kafka.tail_disk_bytes_max,
                }),
                ..KafkaTailConfig::default()
            }),
            ..plain
        })
    }

    fn security(kafka: &raw::KafkaConfig) -> KafkaSecurity {
        let credentials = &kafka.credentials;
        let files = credentials.tls.as_ref();
        let identity = files.and_then(|tls| tls.identity.as_ref());
        let tls = kafka.is_tls.then(|| KafkaTls {
            ca_file: files.map(|tls| tls.ca_file.clone()),
            identity: identity.map(|one| (one.certificate_file.clone(), one.key_file.clone())),
        });
        let who = credentials.user.clone().zip(credentials.password_file.clone());
        let login = who.map(|(user, password_file)| KafkaLogin {
            mechanism: match kafka.sasl_mechanism {
                raw::SaslMechanism::Plain => SaslMechanism::Plain,
                raw::SaslMechanism::ScramSha256 => SaslMechanism::ScramSha256,
                raw::SaslMechanism::ScramSha512 => SaslMechanism::ScramSha512,
            },
            user,
            password_file,
        });
        KafkaSecurity { tls, login }
    }

    /// How the cell's topics are to be.
    pub(in crate::wiring) fn topics(
        config: &CellConfig,
        kafka: &raw::KafkaConfig,
    ) -> TopicSettings {
        TopicSettings {
            partitions: kafka.partitions,
            replication: kafka.replication,
            retention: config.log.retention,
            ..TopicSettings::default()
        }
    }

    pub(super) async fn set_up(
        config: &CellConfig,
        kafka: &raw::KafkaConfig,
    ) -> anyhow::Result<Vec<SetUp>> {
        let made = KafkaLog::init(&settings(config, kafka)?, &topics(config, kafka)).await;
        let made = made.context("setting Kafka's topics up")?;
        let report = |topic: span_log::kafka::TopicReport| {
            let is_different = !topic.differences.is_empty();
            let created = topic.is_created.then(|| "made".to_owned());
            let notes = created.into_iter().chain(topic.differences).chain(topic.warnings);
            SetUp {
                what: format!("Kafka topic {}", topic.topic),
                notes: notes.collect(),
                is_different,
            }
        };
        Ok(made.into_iter().map(report).collect())
    }

    #[cfg(test)]
    mod tests {
        use service_kit::config::{Config, parse};
        use span_log::port::{METADATA_PUBLISHER, STORAGE_WRITER};

        use super::*;

        #[test]
        fn groups_are_waited_for_by_the_retention_of_the_file_unless_it_says_otherwise() {
            let required = |when_full: &str| {
                let text = format!(
                    "kind: cell\nregion: a\nstores: {{log: kafka}}\nkafka: {{brokers: ['k:1']}}\n\
                     log: {{retention: 2h, when_full: {when_full}}}\n"
                );
                let Config::Cell(config) = parse("c.yaml", &text).unwrap().config else {
                    panic!("not a cell")
                };
                let kafka = config.stores.kafka.clone().unwrap();
                let settings = settings(&config, &kafka).unwrap();
                (settings.required_groups, settings.retention)
            };
            let retention = Some(Duration::from_secs(7_200));
            assert_eq!(required("refuse"), (vec![STORAGE_WRITER, METADATA_PUBLISHER], retention));
            assert_eq!(required("drop_oldest"), (vec![], retention));
        }

        #[test]
        fn every_property_that_the_log_refuses_is_refused_by_a_check_of_the_file() {
            for name in span_log::kafka::own_properties() {
                let text = format!(
                    "kind: cell\nregion: a\nstores: {{log: kafka}}\nkafka:\n  brokers: ['k:1']\n  \
                     properties: {{{name}: x}}\n"
                );
                let faults = parse("c.yaml", &text).unwrap_err();
                let faults: Vec<_> = faults.list().iter().map(ToString::to_string).collect();
                assert_eq!(faults.len(), 1, "{name}: {faults:?}");
                assert!(faults[0].contains(&format!("{name}: is ")), "{faults:?}");
            }
        }
    }
}

#[cfg(feature = "cassandra")]
pub(super) mod cassandra {
    use anyhow::Context as _;
    use trace_store::cassandra::{
        CassandraConfig, CassandraConsistency, CassandraCredentials, CassandraStore,
    };

    use super::{CellConfig, SetUp, raw};

    pub(in crate::wiring) fn settings(
        config: &CellConfig,
        cassandra: &raw::CassandraConfig,
    ) -> anyhow::Result<CassandraConfig> {
        let copies = cassandra.replication.0.iter();
        let copies = copies.map(|(name, copies)| Ok((name.clone(), copies.parse()?)));
        let credentials = &cassandra.credentials;
        let who = credentials.user.clone().zip(credentials.password_file.clone());
        let keyspace = cassandra.keyspace.clone();
        let datacenter = cassandra.datacenter.clone();
        Ok(CassandraConfig {
            replication: copies.collect::<anyhow::Result<_>>()?,
            retention: config.retention,
            consistency: match cassandra.consistency {
                raw::Consistency::LocalQuorum => CassandraConsistency::LocalQuorum,
                raw::Consistency::Quorum => CassandraConsistency::Quorum,
                raw::Consistency::EachQuorum => CassandraConsistency::EachQuorum,
            },
            request_timeout: cassandra.timeout,
            credentials: who
                .map(|(user, password_file)| CassandraCredentials { user, password_file }),
            tls: credentials.tls.clone(),
            ..CassandraConfig::at(cassandra.nodes.clone(), keyspace, datacenter)
        })
    }

    pub(super) async fn set_up(
        config: &CellConfig,
        cassandra: &raw::CassandraConfig,
    ) -> anyhow::Result<SetUp> {
        let settings = settings(config, cassandra)?;
        CassandraStore::init(&settings).await.context("setting Cassandra's keyspace up")?;
        let notes =
            CassandraStore::check(&settings).await.context("checking Cassandra's keyspace")?;
        let what = format!("Cassandra keyspace {}", settings.keyspace);
        Ok(SetUp { what, is_different: !notes.is_empty(), notes })
    }
}

#[cfg(feature = "elasticsearch")]
pub(super) mod elasticsearch {
    use anyhow::Context as _;
    use service_kit::config::search_engine::{self, TiersConfig};
    use trace_store::elasticsearch::{
        ElasticsearchConfig, ElasticsearchStore, EngineCredentials, TierDriver, TierPolicy,
        TierSteps,
    };

    use super::{CellConfig, SetUp, raw};

    fn tiers(tiers: &TiersConfig) -> TierPolicy {
        TierPolicy {
            warm_after: tiers.warm_after,
            cold_after: tiers.cold_after,
            frozen_after: tiers.frozen_after,
            repository: tiers.repository.clone(),
            allocation_attribute: tiers.allocation_attribute.clone(),
            shrink_to: tiers.shrink_to,
            force_merge_segments: tiers.force_merge_segments,
            driver: match tiers.driver {
                search_engine::TierDriver::Auto => TierDriver::Auto,
                search_engine::TierDriver::Ilm => TierDriver::Ilm,
                search_engine::TierDriver::Own => TierDriver::Own,
                search_engine::TierDriver::Off => TierDriver::Off,
            },
        }
    }

    pub(in crate::wiring) fn settings(
        config: &CellConfig,
        elasticsearch: &raw::ElasticsearchConfig,
    ) -> ElasticsearchConfig {
        let credentials = &elasticsearch.credentials;
        let who = credentials.user.clone().zip(credentials.password_file.clone());
        ElasticsearchConfig {
            urls: elasticsearch.urls.iter().map(|url| url.as_str().to_owned()).collect(),
            credentials: match (who, elasticsearch.api_key_file.clone()) {
                (Some((user, password_file)), _) => {
                    EngineCredentials::Basic { user, password_file }
                }
                (None, Some(file)) => EngineCredentials::ApiKey { file },
                (None, None) => EngineCredentials::None,
            },
            tls: credentials.tls.clone(),
            retention: config.retention,
            shards: elasticsearch.shards,
            replicas: elasticsearch.replicas,
            search_timeout: elasticsearch.timeout,
            tiers: tiers(&elasticsearch.tiers),
            jaeger_tags_are_nested: elasticsearch.jaeger_tags_are_nested,
            ..ElasticsearchConfig::at(String::new(), elasticsearch.prefix.clone())
        }
    }

    pub(super) async fn set_up(
        config: &CellConfig,
        elasticsearch: &raw::ElasticsearchConfig,
    ) -> anyhow::Result<SetUp> {
        let settings = settings(config, elasticsearch);
        let made = ElasticsearchStore::init(&settings).await;
        let made = made.context("setting Elasticsearch's templates up")?;
        let what = format!("Elasticsearch prefix {}", settings.index_prefix);
        Ok(SetUp { what, notes: made.warnings, is_different: false })
    }

    /// A run of the cell's own; what fails is left for the next one, and said.
    pub(in crate::wiring) async fn move_tiers(store: &ElasticsearchStore) -> anyhow::Result<()> {
        let report = store.move_tiers(TierSteps::All).await?;
        let steps: usize = report.days.iter().map(|day| day.done.len()).sum();
        let failed: Vec<&str> = report.days.iter().filter_map(|day| day.error.as_deref()).collect();
        tracing::info!(steps, failed = failed.len(), "days were moved between tiers");
        match failed.first() {
            Some(first) => {
                anyhow::bail!("{} days were not moved; the first: {first}", failed.len())
            }
            None => Ok(()),
        }
    }
}

#[cfg(feature = "clickhouse")]
pub(super) mod clickhouse {
    use anyhow::Context as _;
    use trace_store::clickhouse::{ClickhouseConfig, StorageTiers, init};

    use super::{CellConfig, Duration, SetUp, raw};

    /// Parts move to the volume `warm` when they are so old.
    const WARM_AFTER: Duration = Duration::from_secs(2 * 86_400);

    pub(in crate::wiring) fn settings(
        config: &CellConfig,
        clickhouse: &raw::ClickhouseConfig,
    ) -> ClickhouseConfig {
        let tiers = |policy: String| StorageTiers {
            policy,
            volume: "warm".to_owned(),
            after: WARM_AFTER.min(config.retention / 2),
        };
        ClickhouseConfig {
            user: clickhouse.credentials.user.clone(),
            password_file: clickhouse.credentials.password_file.clone(),
            tls: clickhouse.credentials.tls.clone(),
            cluster: clickhouse.cluster.clone(),
            storage: clickhouse.storage_policy.clone().map(tiers),
            retention: config.retention,
            query_timeout: clickhouse.timeout,
            ..ClickhouseConfig::new(clickhouse.url.as_str(), clickhouse.database.clone())
        }
    }

    pub(super) async fn set_up(
        config: &CellConfig,
        clickhouse: &raw::ClickhouseConfig,
    ) -> anyhow::Result<SetUp> {
        let settings = settings(config, clickhouse);
        init(&settings).await.context("setting ClickHouse's database up")?;
        let what = format!("ClickHouse database {}", settings.database);
        Ok(SetUp { what, notes: Vec::new(), is_different: false })
    }
}
