//! The engines of a file, each asked and judged; one that is away is a line.

use service_kit::config::CellConfig;
use service_kit::config::engines as raw;

use super::finding::{Finding, Part, Reading};
use super::limits::{CASSANDRA_UP, CLICKHOUSE_UP, ELASTICSEARCH_UP, KAFKA_UP, Limit, REDIS_UP};
use crate::wiring::figures;

/// The limit `answers` of an engine.
pub(super) const fn up(part: Part) -> Option<&'static Limit> {
    match part {
        Part::Kafka => Some(&KAFKA_UP),
        Part::Cassandra => Some(&CASSANDRA_UP),
        Part::Elasticsearch => Some(&ELASTICSEARCH_UP),
        Part::Clickhouse => Some(&CLICKHOUSE_UP),
        Part::Redis => Some(&REDIS_UP),
        Part::Machine | Part::Embedded | Part::Cell => None,
    }
}

/// The line of an engine that does not answer.
pub(super) fn away(part: Part, why: &str) -> Vec<Finding> {
    let line = up(part).map(|limit| {
        let why = crate::cli::clean(why.trim());
        Finding { own_advice: Some(why), ..Finding::of(limit, 0.0) }
    });
    line.into_iter().collect()
}

/// What was found of an engine that answered, or the line of one that did not.
fn judged<F>(
    part: Part,
    asked: anyhow::Result<F>,
    judge: impl FnOnce(F) -> Vec<Finding>,
) -> Vec<Finding> {
    match asked {
        Ok(figures) => {
            let answers = up(part).map(|limit| Finding::of(limit, 1.0));
            answers.into_iter().chain(judge(figures)).collect()
        }
        Err(error) => away(part, &format!("{error:#}")),
    }
}

/// The line of an engine that this build cannot speak to.
#[cfg(not(all(
    feature = "kafka",
    feature = "cassandra",
    feature = "elasticsearch",
    feature = "clickhouse",
    feature = "redis"
)))]
fn lacking(limit: &'static Limit) -> Vec<Finding> {
    let why = format!("this build was made without the cargo feature `{}`", limit.part.name());
    vec![Finding::reading(limit, Reading::Unknown(why))]
}

#[cfg(feature = "kafka")]
pub(super) async fn kafka(config: &CellConfig, kafka: &raw::KafkaConfig) -> Vec<Finding> {
    let asked = figures::kafka(config, kafka).await;
    let is_one_here = match &asked {
        Ok(figures) if figures.hosts.len() == 1 => super::is_any_here(&figures.hosts).await,
        Ok(_) | Err(_) => false,
    };
    judged(Part::Kafka, asked, |figures| {
        super::kafka::judge(&figures, kafka.replication, is_one_here)
    })
}

#[cfg(not(feature = "kafka"))]
#[expect(clippy::unused_async, reason = "the other build waits here")]
pub(super) async fn kafka(_: &CellConfig, _: &raw::KafkaConfig) -> Vec<Finding> {
    lacking(&KAFKA_UP)
}

#[cfg(feature = "cassandra")]
pub(super) async fn cassandra(
    config: &CellConfig,
    cassandra: &raw::CassandraConfig,
) -> Vec<Finding> {
    let asked = figures::cassandra(config, cassandra).await;
    let mut here = Vec::new();
    for node in asked.iter().flat_map(|figures| &figures.nodes) {
        if super::machine::is_here(&node.host).await {
            here.push(node.host.clone());
        }
    }
    judged(Part::Cassandra, asked, |figures| super::cassandra::judge(&figures, &here))
}

#[cfg(not(feature = "cassandra"))]
#[expect(clippy::unused_async, reason = "the other build waits here")]
pub(super) async fn cassandra(_: &CellConfig, _: &raw::CassandraConfig) -> Vec<Finding> {
    lacking(&CASSANDRA_UP)
}

#[cfg(feature = "elasticsearch")]
pub(super) async fn elasticsearch(
    config: &CellConfig,
    elasticsearch: &raw::ElasticsearchConfig,
) -> Vec<Finding> {
    let asked = figures::elasticsearch(config, elasticsearch, &super::today()).await;
    judged(Part::Elasticsearch, asked, |figures| super::elasticsearch::judge(&figures))
}

#[cfg(not(feature = "elasticsearch"))]
#[expect(clippy::unused_async, reason = "the other build waits here")]
pub(super) async fn elasticsearch(_: &CellConfig, _: &raw::ElasticsearchConfig) -> Vec<Finding> {
    lacking(&ELASTICSEARCH_UP)
}

#[cfg(feature = "clickhouse")]
pub(super) async fn clickhouse(
    config: &CellConfig,
    clickhouse: &raw::ClickhouseConfig,
) -> Vec<Finding> {
    let asked = figures::clickhouse(config, clickhouse).await;
    judged(Part::Clickhouse, asked, |figures| super::clickhouse::judge(&figures))
}

#[cfg(not(feature = "clickhouse"))]
#[expect(clippy::unused_async, reason = "the other build waits here")]
pub(super) async fn clickhouse(_: &CellConfig, _: &raw::ClickhouseConfig) -> Vec<Finding> {
    lacking(&CLICKHOUSE_UP)
}

#[cfg(feature = "redis")]
pub(super) async fn redis(redis: &service_kit::config::redis::RedisConfig) -> Vec<Finding> {
    let asked = figures::redis(redis).await;
    judged(Part::Redis, asked, |figures| super::redis::judge(&figures, redis.timeout))
}

#[cfg(not(feature = "redis"))]
#[expect(clippy::unused_async, reason = "the other build waits here")]
pub(super) async fn redis(_: &service_kit::config::redis::RedisConfig) -> Vec<Finding> {
    lacking(&REDIS_UP)
}

/// A figure that may not be known.
#[cfg(any(feature = "cassandra", feature = "clickhouse", feature = "elasticsearch"))]
pub(super) fn known<T>(
    limit: &'static Limit,
    figure: Option<T>,
    none_yet: &str,
    found: impl FnOnce(T) -> Finding,
) -> Finding {
    match figure {
        Some(figure) => found(figure),
        None => {
            let words = Reading::Fact(none_yet.to_owned(), super::finding::Verdict::Ok);
            Finding::reading(limit, words)
        }
    }
}
