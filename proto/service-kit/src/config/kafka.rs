//! The section `kafka`: where the brokers are, and how they are spoken to.

use std::time::Duration;

use super::credentials::{Credentials, Encryption, read_credentials};
use super::engines::hosts;
use super::foreign::{ForeignConfig, read_foreign};
use super::kafka_properties::refusal;
use super::section::Section;
use super::setting::{Bytes, Properties};

/// How brokers are told who we are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SaslMechanism {
    /// User and password as they are.
    Plain,
    /// A proof of the password, by SHA-256.
    ScramSha256,
    /// A proof of the password, by SHA-512.
    ScramSha512,
}

/// Kafka.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KafkaConfig {
    /// Brokers to begin with, `host:port`.
    pub brokers: Vec<String>,
    /// Put before the names of topics and groups.
    pub prefix: String,
    /// Partitions of a topic that is made.
    pub partitions: u32,
    /// Copies of a topic that is made.
    pub replication: u32,
    /// Memory of the live tail, in bytes.
    pub tail_bytes_max: u64,
    /// Disk of the live tail, below the data directory, in bytes; 0 for none.
    pub tail_disk_bytes_max: u64,
    /// Name of this process among the members of its groups, where it is to get its partitions back
    /// after a quick restart; no other process may have it.
    pub member: Option<String>,
    /// A member that was not heard of for so long is given up for dead.
    pub session_timeout: Duration,
    /// Properties of the client library that have no key here.
    pub properties: Properties,
    /// Whether brokers are spoken to through TLS: by the authorities of `credentials`, or by those
    /// of the machine.
    pub is_tls: bool,
    /// Who we are, and whom we believe.
    pub credentials: Credentials,
    /// How brokers are told who we are, where there is a user.
    pub sasl_mechanism: SaslMechanism,
    /// Topics of others whose records collectors take.
    pub foreign: Option<ForeignConfig>,
}

const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

/// Reads the section.
pub(super) fn read_kafka(section: &mut Section<'_>) -> Option<KafkaConfig> {
    let (bytes, seconds) = (Bytes, Duration::from_secs);
    let brokers = hosts(section, "brokers");
    let prefix = section.value("prefix", String::new());
    let (tail, on_disk) = (bytes(MIB)..=bytes(64 * GIB), bytes(0)..=bytes(4_096 * GIB));
    let is_tls = section.value("tls", false);
    let encryption = Encryption { is_on: is_tls, words: "`tls: true`", needs_authority: false };
    let credentials = read_credentials(section, &encryption);
    let has_user = credentials.user.is_some();
    let config = KafkaConfig {
        brokers: Vec::new(),
        partitions: section.within("partitions", 64, 1..=4_096),
        replication: section.within("replication", 3, 1..=7),
        tail_bytes_max: section.within("tail_max", bytes(256 * MIB), tail).0,
        tail_disk_bytes_max: section.within("tail_disk_max", bytes(4 * GIB), on_disk).0,
        member: section.optional("member"),
        session_timeout: section.within("session_timeout", seconds(15), seconds(6)..=seconds(300)),
        properties: read_properties(section),
        is_tls,
        credentials,
        sasl_mechanism: read_mechanism(section, has_user),
        foreign: read_foreign(section, &prefix),
        prefix,
    };
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    let is_name = |name: &String| (1..=200).contains(&name.len()) && name.bytes().all(fits);
    if !config.member.iter().all(is_name) {
        section.refuse("member", "is 1 to 200 letters, digits and - _ .");
    }
    Some(KafkaConfig { brokers: brokers?, ..config })
}

fn read_properties(section: &mut Section<'_>) -> Properties {
    let properties = section.value("properties", Properties::default());
    for refusal in properties.0.iter().filter_map(|(name, _)| refusal(name)) {
        section.refuse("properties", &refusal);
    }
    properties
}

fn read_mechanism(section: &mut Section<'_>, has_user: bool) -> SaslMechanism {
    let mechanism = section.value("sasl_mechanism", SaslMechanism::Plain);
    if section.has("sasl_mechanism") && !has_user {
        section.refuse("sasl_mechanism", "has no effect without `user` and `password_file`");
    }
    mechanism
}

#[cfg(test)]
mod tests {
    use super::super::{Config, parse};
    use super::*;

    fn text(kafka: &str) -> String {
        format!(
            "kind: cell\nregion: a\nstores: {{log: kafka}}\nkafka:\n  brokers: ['k:9092']\n{kafka}"
        )
    }

    fn kafka(section: &str) -> KafkaConfig {
        let Config::Cell(config) = parse("c.yaml", &text(section)).unwrap().config else {
            panic!("not a cell")
        };
        config.stores.kafka.unwrap()
    }

    #[test]
    fn nothing_is_encrypted_or_asked_unless_it_is_said() {
        let plain = kafka("");
        assert!(!plain.is_tls && plain.credentials == Credentials::default());
        let public = kafka("  tls: true\n");
        assert!(public.is_tls && public.credentials.tls.is_none());
        let whole = kafka(
            "  tls: true\n  ca_file: ca\n  certificate_file: c\n  key_file: k\n  user: me\n  \
             password_file: p\n  sasl_mechanism: scram-sha-512\n",
        );
        let tls = whole.credentials.tls.unwrap();
        assert_eq!(tls.ca_file.to_str(), Some("ca"));
        assert_eq!(tls.identity.unwrap().key_file.to_str(), Some("k"));
        assert_eq!(whole.credentials.user.as_deref(), Some("me"));
        assert_eq!(whole.sasl_mechanism, SaslMechanism::ScramSha512);
    }

    #[test]
    fn what_is_said_twice_or_has_no_effect_is_a_fault() {
        for (section, words) in [
            ("ca_file: x", "kafka.ca_file: has no effect without `tls: true`"),
            ("key_file: x", "kafka.key_file: has no effect without `tls: true`"),
            (
                "tls: true\n  ca_file: c\n  key_file: x",
                "kafka.key_file: goes with `certificate_file`",
            ),
            (
                "tls: true\n  certificate_file: c\n  key_file: x",
                "kafka.certificate_file: goes with `ca_file`",
            ),
            ("user: me", "kafka.password_file: goes with `user`"),
            ("sasl_mechanism: plain", "kafka.sasl_mechanism: has no effect"),
            ("properties: {security.protocol: ssl}", "security.protocol: is said by `tls`"),
            ("properties: {sasl.password: x}", "sasl.password: is said by `password_file`"),
            ("properties: {ssl.key.password: x}", "ssl.key.password: is a secret"),
            (
                "properties: {acks: 1}",
                "acks: is the span log's own: a span is acknowledged when all",
            ),
            ("properties: {compression.codec: zstd}", "are compressed with lz4"),
            ("properties: {linger.ms: 5}", "linger.ms: is the span log's own"),
            ("properties: {fetch.wait.max.ms: 5}", "fetch.wait.max.ms: is the span log's own"),
            ("properties: {client.id: me}", "client.id: is said by `region`"),
            ("properties: {session.timeout.ms: 9000}", "is said by `session_timeout`"),
            (
                "user: me\n  password_file: p\n  sasl_mechanism: gssapi",
                "kafka.sasl_mechanism: `gssapi` is not one of plain",
            ),
        ] {
            let faults = parse("c.yaml", &text(&format!("  {section}\n"))).unwrap_err();
            assert_eq!(faults.list().len(), 1, "{section}: {faults}");
            assert!(faults.to_string().contains(words), "{words} is not in {faults}");
        }
    }
}
