//! Apache Kafka: the port's laws, and what is Kafka's own.

mod cluster;
mod figures;
mod foreign;
mod groups;
mod ledger;
mod lost;
mod lost_members;
mod members;
mod records;
mod required;
mod restart;
mod security;

use crate::kafka::cluster::TestTopic;
use crate::laws::Subject;

async fn kafka() -> Subject {
    let topic = TestTopic::new(1).await;
    let log = topic.open().await;
    Subject { log, eraser: None, clock: None, _keep: Box::new(topic) }
}

/// No cache and no head start of the live tail: every read comes from the brokers.
async fn kafka_uncached() -> Subject {
    let topic = TestTopic::new(1).await;
    let log = topic.open_with(|config| config.cache_bytes_max = 0).await;
    Subject { log, eraser: None, clock: None, _keep: Box::new(topic) }
}

// Left out are the laws of a clock that is set (the brokers' clocks give the append times) and those
// of erasure (brokers remove whole segments, at the retention's end, and no single record).
mod kafka_log {
    crate::laws::every_law!(super::kafka);
}

mod kafka_log_from_the_brokers {
    crate::laws::every_law!(super::kafka_uncached);
}
