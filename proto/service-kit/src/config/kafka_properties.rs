//! Properties of Kafka's client that `kafka.properties` must not hold, and where their values come from
//! instead. Whatever is not listed goes to the client as it is written.

/// Properties that a key of the file says, and the key.
const SAID_BY: [(&str, &str); 14] = [
    ("bootstrap.servers", "`brokers`"),
    ("metadata.broker.list", "`brokers`"),
    ("client.id", "`region`: `farspan-REGION`"),
    ("group.id", "`prefix`, before the names of the groups"),
    ("group.instance.id", "`member`"),
    ("session.timeout.ms", "`session_timeout`"),
    ("security.protocol", "`tls`, and `user` for SASL"),
    ("sasl.mechanism", "`sasl_mechanism`"),
    ("sasl.mechanisms", "`sasl_mechanism`"),
    ("sasl.username", "`user`"),
    ("sasl.password", "`password_file`"),
    ("ssl.ca.location", "`ca_file`"),
    ("ssl.certificate.location", "`certificate_file`"),
    ("ssl.key.location", "`key_file`"),
];

const COMPRESSION: &str = "records are compressed with lz4";
const APPEND: &str = "an append is acknowledged or refused within 15 s";
const QUEUE: &str = "64 MiB may be on their way to the brokers, and senders are refused beyond";
const LINGER: &str = "a record waits for no other";
const ACKS: &str = "a span is acknowledged when all in-sync replicas have it (`all`)";
const IDEMPOTENT: &str = "the producer is idempotent, so that no retry writes a record twice";
const COMMITS: &str = "an offset is committed when every store has what lies before it";
const FETCH: &str = "readers fetch 1 MiB ahead in a partition, in small pieces";
const MEMBERS: &str = "members share partitions by cooperative-sticky, in the classic protocol";
const SESSION: &str = "it follows from `session_timeout`";
const PLACES: &str = "readers say by themselves where they begin";
const REPORTS: &str = "every record's report and every word of the client is listened to";

/// Properties that the span log sets by itself, and how.
const SET_BY_THE_LOG: [(&str, &str); 40] = [
    ("acks", ACKS),
    ("request.required.acks", ACKS),
    ("allow.auto.create.topics", "topics are made by `farspan store init`"),
    ("auto.commit.enable", COMMITS),
    ("enable.auto.commit", COMMITS),
    ("enable.auto.offset.store", COMMITS),
    ("auto.offset.reset", PLACES),
    ("enable.partition.eof", PLACES),
    ("check.crcs", "every record is checked"),
    ("compression.codec", COMPRESSION),
    ("compression.type", COMPRESSION),
    ("delivery.report.only.error", REPORTS),
    ("log.queue", REPORTS),
    ("delivery.timeout.ms", APPEND),
    ("message.timeout.ms", APPEND),
    ("enable.idempotence", IDEMPOTENT),
    ("max.in.flight", IDEMPOTENT),
    ("max.in.flight.requests.per.connection", IDEMPOTENT),
    ("message.send.max.retries", IDEMPOTENT),
    ("retries", IDEMPOTENT),
    ("queuing.strategy", IDEMPOTENT),
    ("transactional.id", "there are no transactions"),
    ("isolation.level", "there are no transactions"),
    ("fetch.error.backoff.ms", FETCH),
    ("fetch.max.bytes", FETCH),
    ("fetch.message.max.bytes", FETCH),
    ("max.partition.fetch.bytes", FETCH),
    ("fetch.queue.backoff.ms", FETCH),
    ("fetch.wait.max.ms", FETCH),
    ("queued.max.messages.kbytes", FETCH),
    ("group.protocol", MEMBERS),
    ("group.remote.assignor", MEMBERS),
    ("partition.assignment.strategy", MEMBERS),
    ("heartbeat.interval.ms", SESSION),
    ("max.poll.interval.ms", SESSION),
    ("linger.ms", LINGER),
    ("queue.buffering.max.ms", LINGER),
    ("message.max.bytes", "a record has 900,000 bytes at most, and larger traces are cut"),
    ("queue.buffering.max.kbytes", QUEUE),
    ("queue.buffering.max.messages", QUEUE),
];

/// Properties that are secrets, and would be shown.
const SECRETS: [&str; 4] =
    ["ssl.key.pem", "ssl.key.password", "ssl.keystore.password", "sasl.oauthbearer.client.secret"];

/// Why this property may not be written; `None` where it may.
pub(super) fn refusal(name: &str) -> Option<String> {
    let find = |list: &[(&str, &'static str)]| {
        list.iter().find(|(property, _)| *property == name).map(|(_, words)| *words)
    };
    if let Some(key) = find(&SAID_BY) {
        return Some(format!("{name}: is said by {key}"));
    }
    if let Some(how) = find(&SET_BY_THE_LOG) {
        return Some(format!("{name}: is the span log's own: {how}"));
    }
    let is_secret = SECRETS.contains(&name);
    is_secret.then(|| format!("{name}: is a secret, which this file is no place for"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_property_is_listed_once_and_what_is_not_listed_may_be_written() {
        let listed = SAID_BY.iter().chain(&SET_BY_THE_LOG).map(|(name, _)| *name).chain(SECRETS);
        let mut names: Vec<_> = listed.collect();
        let all = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), all);
        for free in ["client.dns.lookup", "client.rack", "socket.timeout.ms", "debug", "batch.size"]
        {
            assert_eq!(refusal(free), None);
        }
    }
}
