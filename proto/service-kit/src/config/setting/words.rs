//! Values that are one of a few words. Words that do not exist yet are refused by name.

use trace_model::locality::{IndexMode, SpanMode};

use super::super::Kind;
use super::super::cell::{GroupKind, Profile, WhenFull};
use super::super::consistency::Consistency;
use super::super::engines::{LogKind, MetricsKind, SearchKind, TracesKind};
use super::super::foreign::ForeignEncoding;
use super::super::kafka::SaslMechanism;
use super::super::listen::LogFormat;
use super::super::search_engine::TierDriver;
use super::super::tree::Node;
use super::{Setting, needs, text_of};

/// One of a few words.
fn word_of<T: Copy>(node: &Node, words: &[(&str, T)]) -> Result<T, String> {
    let known = words.iter().map(|(word, _)| *word).collect::<Vec<_>>().join(", ");
    let text = text_of(node, &format!("one of {known}"))?;
    let found = words.iter().find(|(word, _)| *word == text);
    found.map(|(_, value)| *value).ok_or_else(|| format!("`{text}` is not one of {known}"))
}

fn word_for<T: PartialEq>(value: &T, words: &[(&str, T)]) -> String {
    let found = words.iter().find(|(_, known)| known == value);
    found.map_or("", |(word, _)| word).to_owned()
}

const KINDS: [(&str, Kind); 3] =
    [("cell", Kind::Cell), ("replicator", Kind::Replicator), ("gateway", Kind::Gateway)];

impl Setting for Kind {
    const WANTED: &'static str = "cell, replicator or gateway";

    fn read(node: &Node) -> Result<Self, String> {
        word_of(node, &KINDS)
    }

    fn show(&self) -> String {
        word_for(self, &KINDS)
    }
}

const WHEN_FULL: [(&str, WhenFull); 2] =
    [("refuse", WhenFull::Refuse), ("drop_oldest", WhenFull::DropOldest)];

impl Setting for WhenFull {
    const WANTED: &'static str = "refuse or drop_oldest";

    fn read(node: &Node) -> Result<Self, String> {
        word_of(node, &WHEN_FULL)
    }

    fn show(&self) -> String {
        word_for(self, &WHEN_FULL)
    }
}

const LOG_FORMATS: [(&str, LogFormat); 2] = [("text", LogFormat::Text), ("json", LogFormat::Json)];

impl Setting for LogFormat {
    const WANTED: &'static str = "text or json";

    fn read(node: &Node) -> Result<Self, String> {
        word_of(node, &LOG_FORMATS)
    }

    fn show(&self) -> String {
        word_for(self, &LOG_FORMATS)
    }
}

const PROFILES: [(&str, Profile); 5] = [
    ("embedded", Profile::Embedded),
    ("startup", Profile::Startup),
    ("growth", Profile::Growth),
    ("scale", Profile::Scale),
    ("hyperscale", Profile::Hyperscale),
];

impl Setting for Profile {
    const WANTED: &'static str = "embedded, startup, growth, scale or hyperscale";

    fn read(node: &Node) -> Result<Self, String> {
        word_of(node, &PROFILES)
    }

    fn show(&self) -> String {
        self.name().to_owned()
    }
}

const GROUP_KINDS: [(&str, GroupKind); 5] = [
    ("storage-writer", GroupKind::StorageWriter),
    ("search-indexer", GroupKind::SearchIndexer),
    ("metrics-aggregator", GroupKind::MetricsAggregator),
    ("metadata-publisher", GroupKind::MetadataPublisher),
    ("analytics-writer", GroupKind::AnalyticsWriter),
];

impl Setting for Vec<GroupKind> {
    const WANTED: &'static str = "a list of consumer groups";

    fn read(node: &Node) -> Result<Self, String> {
        let Node::List(items) = node else { return Err(needs(Self::WANTED, node)) };
        items.iter().map(|item| word_of(&item.value, &GROUP_KINDS)).collect()
    }

    fn show(&self) -> String {
        let groups: Vec<String> = self.iter().map(|one| word_for(one, &GROUP_KINDS)).collect();
        format!("[{}]", groups.join(", "))
    }
}

const SASL_MECHANISMS: [(&str, SaslMechanism); 3] = [
    ("plain", SaslMechanism::Plain),
    ("scram-sha-256", SaslMechanism::ScramSha256),
    ("scram-sha-512", SaslMechanism::ScramSha512),
];

impl Setting for SaslMechanism {
    const WANTED: &'static str = "plain, scram-sha-256 or scram-sha-512";

    fn read(node: &Node) -> Result<Self, String> {
        word_of(node, &SASL_MECHANISMS)
    }

    fn show(&self) -> String {
        word_for(self, &SASL_MECHANISMS)
    }
}

const LOG_KINDS: [(&str, LogKind); 2] =
    [("embedded", LogKind::Embedded), ("kafka", LogKind::Kafka)];

impl Setting for LogKind {
    const WANTED: &'static str = "embedded or kafka";

    fn read(node: &Node) -> Result<Self, String> {
        word_of(node, &LOG_KINDS)
    }

    fn show(&self) -> String {
        word_for(self, &LOG_KINDS)
    }
}

const TRACE_KINDS: [(&str, TracesKind); 2] =
    [("embedded", TracesKind::Embedded), ("cassandra", TracesKind::Cassandra)];

impl Setting for TracesKind {
    const WANTED: &'static str = "embedded or cassandra";

    fn read(node: &Node) -> Result<Self, String> {
        word_of(node, &TRACE_KINDS)
    }

    fn show(&self) -> String {
        word_for(self, &TRACE_KINDS)
    }
}

const SEARCH_KINDS: [(&str, SearchKind); 2] =
    [("embedded", SearchKind::Embedded), ("elasticsearch", SearchKind::Elasticsearch)];

impl Setting for SearchKind {
    const WANTED: &'static str = "embedded or elasticsearch";

    fn read(node: &Node) -> Result<Self, String> {
        word_of(node, &SEARCH_KINDS)
    }

    fn show(&self) -> String {
        word_for(self, &SEARCH_KINDS)
    }
}

const METRICS_KINDS: [(&str, MetricsKind); 2] =
    [("embedded", MetricsKind::Embedded), ("clickhouse", MetricsKind::Clickhouse)];

impl Setting for MetricsKind {
    const WANTED: &'static str = "embedded or clickhouse";

    fn read(node: &Node) -> Result<Self, String> {
        word_of(node, &METRICS_KINDS)
    }

    fn show(&self) -> String {
        word_for(self, &METRICS_KINDS)
    }
}

const FOREIGN_ENCODINGS: [(&str, ForeignEncoding); 2] =
    [("otlp_proto", ForeignEncoding::OtlpProto), ("otlp_json", ForeignEncoding::OtlpJson)];

impl Setting for ForeignEncoding {
    const WANTED: &'static str = "otlp_proto or otlp_json";

    fn read(node: &Node) -> Result<Self, String> {
        if let Node::Text(text) = node
            && ["jaeger_proto", "jaeger_json", "zipkin_proto", "zipkin_json"].contains(&&**text)
        {
            return Err(format!(
                "`{text}` is not taken: the exporter keeps more of a span in otlp_proto"
            ));
        }
        word_of(node, &FOREIGN_ENCODINGS)
    }

    fn show(&self) -> String {
        word_for(self, &FOREIGN_ENCODINGS)
    }
}

const INDEX_MODES: [(&str, IndexMode); 3] =
    [("full", IndexMode::Full), ("routing", IndexMode::Routing), ("none", IndexMode::None)];

impl Setting for IndexMode {
    const WANTED: &'static str = "full, routing or none";

    fn read(node: &Node) -> Result<Self, String> {
        if matches!(node, Node::Text(text) if text == "filter") {
            return Err("the index mode `filter` does not exist yet: routing lets ids out, none \
                        lets nothing out"
                .to_owned());
        }
        word_of(node, &INDEX_MODES)
    }

    fn show(&self) -> String {
        word_for(self, &INDEX_MODES)
    }
}

const SPAN_MODES: [(&str, SpanMode); 2] = [("open", SpanMode::Open), ("closed", SpanMode::Closed)];

impl Setting for SpanMode {
    const WANTED: &'static str = "open or closed";

    fn read(node: &Node) -> Result<Self, String> {
        if matches!(node, Node::Text(text) if text == "masked") {
            return Err(
                "the span mode `masked` does not exist yet: closed lets nothing out".to_owned()
            );
        }
        word_of(node, &SPAN_MODES)
    }

    fn show(&self) -> String {
        word_for(self, &SPAN_MODES)
    }
}

const TIER_DRIVERS: [(&str, TierDriver); 4] = [
    ("auto", TierDriver::Auto),
    ("ilm", TierDriver::Ilm),
    ("own", TierDriver::Own),
    ("off", TierDriver::Off),
];

impl Setting for TierDriver {
    const WANTED: &'static str = "auto, ilm, own or off";

    fn read(node: &Node) -> Result<Self, String> {
        word_of(node, &TIER_DRIVERS)
    }

    fn show(&self) -> String {
        word_for(self, &TIER_DRIVERS)
    }
}

const CONSISTENCIES: [(&str, Consistency); 3] = [
    ("local_quorum", Consistency::LocalQuorum),
    ("quorum", Consistency::Quorum),
    ("each_quorum", Consistency::EachQuorum),
];

impl Setting for Consistency {
    const WANTED: &'static str = "local_quorum, quorum or each_quorum";

    fn read(node: &Node) -> Result<Self, String> {
        word_of(node, &CONSISTENCIES)
    }

    fn show(&self) -> String {
        word_for(self, &CONSISTENCIES)
    }
}
