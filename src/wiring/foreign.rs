//! Topics of others, taken by the processes that receive.

use std::sync::Arc;

use collector::Collector;
use service_kit::Stage;
use service_kit::config::CellConfig;
use span_log::SteppedOver;

use crate::seam::RoleContext;

/// Begins to take what the cell's file names, if it names any.
#[cfg(feature = "kafka")]
pub(super) fn start(
    config: &CellConfig,
    (collector, stepped_over): (&Arc<Collector>, &Arc<SteppedOver>),
    context: &mut RoleContext,
    stage: &Stage,
) -> anyhow::Result<()> {
    use collector::{ForeignEncoding, ForeignParts, ForeignTaker, ForeignTenant};
    use service_kit::config::engines as raw;
    use span_log::kafka::{ForeignLimits, ForeignTopics, KafkaForeign};

    let Some(kafka) = &config.stores.kafka else { return Ok(()) };
    let Some(foreign) = &kafka.foreign else { return Ok(()) };
    let settings = super::engines::kafka::settings(config, kafka)?;
    let topics = ForeignTopics {
        topics: foreign.topics.clone(),
        header: foreign.tenant_header.clone(),
        limits: ForeignLimits::default(),
    };
    let source = KafkaForeign::open(&settings, topics, Arc::clone(&context.clock))?;
    let tenant = match (&foreign.tenant_header, &foreign.tenant) {
        (None, tenant) => ForeignTenant::One(tenant.clone().unwrap_or_default()),
        (Some(_), without) => ForeignTenant::InHeader { without: without.clone() },
    };
    let parts = ForeignParts {
        tenant,
        encoding: match foreign.encoding {
            raw::ForeignEncoding::OtlpProto => ForeignEncoding::OtlpProto,
            raw::ForeignEncoding::OtlpJson => ForeignEncoding::OtlpJson,
        },
        payload_bytes_max: usize::try_from(config.receiver.http_body_bytes_max)?,
        stepped_over: Arc::clone(stepped_over),
        clock: Arc::clone(&context.clock),
    };
    let taker = ForeignTaker::new(Arc::clone(collector), source, parts, &mut context.registry);
    stage.spawn(taker.run(stage.stopping.clone()));
    Ok(())
}

/// Without Kafka's client there is no topic to take.
#[cfg(not(feature = "kafka"))]
#[expect(clippy::unnecessary_wraps, reason = "the other build may fail here")]
pub(super) fn start(
    _: &CellConfig,
    _: (&Arc<Collector>, &Arc<SteppedOver>),
    _: &mut RoleContext,
    _: &Stage,
) -> anyhow::Result<()> {
    Ok(())
}
