//! Engines' own figures, asked of each with the configuration of a cell or a gateway. Changes nothing.

#[cfg(feature = "kafka")]
pub(crate) async fn kafka(
    config: &service_kit::config::CellConfig,
    kafka: &service_kit::config::engines::KafkaConfig,
) -> anyhow::Result<span_log::kafka::KafkaFigures> {
    let settings = super::engines::kafka::settings(config, kafka)?;
    let topics = super::engines::kafka::topics(config, kafka);
    let clock = service_kit::SystemClock::new();
    Ok(span_log::kafka::figures(&settings, &topics, &clock).await?)
}

#[cfg(feature = "cassandra")]
pub(crate) async fn cassandra(
    config: &service_kit::config::CellConfig,
    cassandra: &service_kit::config::engines::CassandraConfig,
) -> anyhow::Result<trace_store::cassandra::CassandraFigures> {
    let settings = super::engines::cassandra::settings(config, cassandra)?;
    Ok(trace_store::cassandra::figures(&settings).await?)
}

/// `today` as in the names of indices, `YYYY-MM-DD`.
#[cfg(feature = "elasticsearch")]
pub(crate) async fn elasticsearch(
    config: &service_kit::config::CellConfig,
    elasticsearch: &service_kit::config::engines::ElasticsearchConfig,
    today: &str,
) -> anyhow::Result<trace_store::elasticsearch::ElasticsearchFigures> {
    let settings = super::engines::elasticsearch::settings(config, elasticsearch);
    Ok(trace_store::elasticsearch::figures(&settings, today).await?)
}

#[cfg(feature = "clickhouse")]
pub(crate) async fn clickhouse(
    config: &service_kit::config::CellConfig,
    clickhouse: &service_kit::config::engines::ClickhouseConfig,
) -> anyhow::Result<trace_store::clickhouse::ClickhouseFigures> {
    let settings = super::engines::clickhouse::settings(config, clickhouse);
    Ok(trace_store::clickhouse::figures(&settings).await?)
}

#[cfg(feature = "redis")]
pub(crate) async fn redis(
    redis: &service_kit::config::redis::RedisConfig,
) -> anyhow::Result<gateway::shared_state::redis::RedisFigures> {
    let settings = super::gateway::redis_settings(redis);
    Ok(gateway::shared_state::redis::figures(&settings).await?)
}
