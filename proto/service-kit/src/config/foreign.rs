//! Topics of others in a cell's Kafka: which, whose spans their records are, and how they are written.

use trace_model::TenantId;

use super::section::Section;
use super::setting::Setting;
use super::tree::Node;

/// How the records are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ForeignEncoding {
    /// OTLP in protobuf.
    OtlpProto,
    /// OTLP in JSON.
    OtlpJson,
}

/// Topics of others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ForeignConfig {
    /// Their whole names: `kafka.prefix` does not stand before them.
    pub topics: Vec<String>,
    /// Whose the spans are; with `tenant_header`, of records that have none. `None` only with
    /// `tenant_header`: a record without it is nobody's.
    pub tenant: Option<TenantId>,
    /// The header of a record that names its tenant.
    pub tenant_header: Option<String>,
    /// How all of them are written.
    pub encoding: ForeignEncoding,
}

impl Setting for TenantId {
    const WANTED: &'static str = "a tenant";

    fn read(node: &Node) -> Result<Self, String> {
        let text = String::read(node)?;
        Self::new(&text).map_err(|error| format!("`{text}`: {error}"))
    }

    fn show(&self) -> String {
        self.as_str().to_owned()
    }
}

/// Longest name of a topic that brokers take.
const TOPIC_BYTES_MAX: usize = 249;
/// Longest name of a header.
const HEADER_BYTES_MAX: usize = 100;

/// Reads `foreign` where it is written.
pub(super) fn read_foreign(kafka: &mut Section<'_>, prefix: &str) -> Option<ForeignConfig> {
    if !kafka.has("foreign") {
        // Known all the same, so that a word like it is suggested.
        drop(kafka.section("foreign"));
        return None;
    }
    let mut section = kafka.section("foreign");
    let topics = section.required::<Vec<String>>("topics");
    check_topics(&section, topics.as_deref().unwrap_or_default(), prefix);
    if topics.as_ref().is_some_and(Vec::is_empty) {
        section.refuse("topics", "names no topic: leave `kafka.foreign` out");
    }
    let tenant_header = section.optional::<String>("tenant_header");
    let tenant = match &tenant_header {
        None => Some(section.value("tenant", TenantId::default())),
        Some(_) => section.optional("tenant"),
    };
    let is_name = |name: &String| {
        (1..=HEADER_BYTES_MAX).contains(&name.len())
            && name.bytes().all(|byte| byte.is_ascii_graphic())
    };
    if !tenant_header.iter().all(is_name) {
        section.refuse("tenant_header", "is 1 to 100 letters, digits and signs of ASCII");
    }
    let encoding = section.value("encoding", ForeignEncoding::OtlpProto);
    section.finish();
    Some(ForeignConfig { topics: topics?, tenant, tenant_header, encoding })
}

fn check_topics(section: &Section<'_>, topics: &[String], prefix: &str) {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    let ours = ["spans-raw", "spans-sampled"].map(|name| format!("{prefix}{name}"));
    for (place, topic) in topics.iter().enumerate() {
        let is_name = (1..=TOPIC_BYTES_MAX).contains(&topic.len()) && topic.bytes().all(fits);
        if !is_name {
            section.refuse(
                "topics",
                &format!("`{topic}` is no topic: up to 249 letters, digits and - _ ."),
            );
        }
        if ours.contains(topic) {
            section.refuse(
                "topics",
                &format!(
                    "`{topic}` is this cell's own span log: its records would come round for ever"
                ),
            );
        }
        if topics.iter().take(place).any(|before| before == topic) {
            section.refuse("topics", &format!("`{topic}` is named twice"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Config, Faults, Loaded, parse};
    use super::*;

    fn read(foreign: &str) -> Result<Loaded, Faults> {
        let text = format!(
            "kind: cell\nregion: eu-west-1\nstores: {{log: kafka}}\nkafka:\n  \
             brokers: [\"k:9092\"]\n  prefix: eu-\n  foreign: {foreign}\n"
        );
        parse("cell.yaml", &text)
    }

    fn foreign(text: &str) -> ForeignConfig {
        let Config::Cell(cell) = read(text).unwrap().config else { panic!("another kind") };
        cell.stores.kafka.unwrap().foreign.unwrap()
    }

    #[test]
    fn a_topic_is_enough_and_the_rest_has_defaults() {
        let plain = foreign("{topics: [otlp_spans]}");
        assert_eq!(plain.tenant, Some(TenantId::default()));
        assert_eq!((plain.tenant_header, plain.encoding), (None, ForeignEncoding::OtlpProto));
        let full = foreign("{topics: [a, b], tenant_header: X-Scope-OrgID, encoding: otlp_json}");
        assert_eq!((full.tenant, full.tenant_header.as_deref()), (None, Some("X-Scope-OrgID")));
        let both = foreign("{topics: [a], tenant_header: t, tenant: acme}");
        assert_eq!(both.tenant.unwrap().as_str(), "acme");
    }

    #[test]
    fn every_fault_is_named_with_its_line() {
        for (text, words) in [
            ("{}", "kafka.foreign.topics"),
            ("{topics: []}", "names no topic"),
            ("{topics: [eu-spans-raw]}", "own span log"),
            ("{topics: [a, a]}", "named twice"),
            ("{topics: [\"a b\"]}", "is no topic"),
            ("{topics: [a], encoding: jaeger_proto}", "is not taken"),
            ("{topics: [a], encoding: avro}", "not one of otlp_proto, otlp_json"),
            ("{topics: [a], tenant: \"a b/c\"}", "kafka.foreign.tenant"),
            ("{topics: [a], tenant_header: \"\"}", "tenant_header"),
            ("{topics: [a], topic: b}", "did you mean topics?"),
        ] {
            let faults = read(text).unwrap_err();
            let told = faults.to_string();
            assert!(told.contains(words), "{words} is not in {told}");
            assert!(faults.list().iter().all(|fault| fault.line == 7), "{told}");
        }
    }
}
