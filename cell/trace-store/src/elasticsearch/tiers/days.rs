//! What the cluster has of each day: its indices, what they are called, and what state they are in.
//!
//! ```text
//! PREFIX.TENANT-jaeger-span-DAY            the day: an index, or an alias of one below
//! PREFIX.TENANT-jaeger-span-DAY-late       what came after the day was closed
//! PREFIX-farspan-shrunk-span-DAY-N@TENANT  a copy of the day: shrunk, with its late documents
//! PREFIX-farspan-frozen-span-DAY-N@TENANT  a snapshot of the Nth copy, and the index that searches it
//! ```
//!
//! No pattern of a search meets the lower two: they are found by the day's alias alone, which goes from
//! one index to the next in one action. No tenant's part holds an `@`.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use bytes::Bytes;
use elasticsearch::http::Method;
use serde::Deserialize;
use serde_json::{Value, json};
use trace_model::UnixNanos;

use super::super::client::json as body;
use super::super::names::{Day, Kind, Names, Shelf};
use super::super::store::ElasticsearchStore;
use super::policy::Tier;
use crate::port::StoreError;

/// A day of one tenant and kind.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::elasticsearch) struct DayKey {
    pub(super) day: Day,
    pub(super) kind: Kind,
    /// The tenant, as its names have it.
    pub(super) part: String,
}

/// What an index is to its day. The number says which copy: 0 is the index that was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::elasticsearch) enum Role {
    Day,
    Late,
    Copy(u32),
    Mount(u32),
}

impl Role {
    pub(super) const fn number(self) -> u32 {
        match self {
            Self::Day | Self::Late => 0,
            Self::Copy(number) | Self::Mount(number) => number,
        }
    }
}

const fn kind_word(kind: Kind) -> &'static str {
    match kind {
        Kind::Spans => "span",
        Kind::Services => "service",
    }
}

impl DayKey {
    /// The name by which all the world knows the day.
    pub(super) fn day_name(&self, names: &Names) -> String {
        names.of_part(&self.part, self.kind).index(Shelf::Day(self.day))
    }

    /// How old it is: days age from their beginning.
    pub(super) fn age(&self, now: UnixNanos) -> Duration {
        Duration::from_nanos(now.0.saturating_sub(self.day.start().0))
    }

    pub(super) fn late_name(&self, names: &Names) -> String {
        names.of_part(&self.part, self.kind).index(Shelf::Late(self.day))
    }

    pub(super) fn read_alias(&self, names: &Names) -> String {
        names.of_part(&self.part, self.kind).read_alias()
    }

    pub(super) fn copy_name(&self, names: &Names, number: u32) -> String {
        self.numbered(names, "shrunk", &number.to_string())
    }

    /// Of the index and of the snapshot that it searches.
    pub(super) fn mount_name(&self, names: &Names, number: u32) -> String {
        self.numbered(names, "frozen", &number.to_string())
    }

    /// The alias by which a copy is filled: what writes to it makes no index where it is gone.
    pub(super) fn filling_alias(&self, names: &Names) -> String {
        names.own(&format!("filling-{self}"))
    }

    /// The pattern of its snapshots.
    pub(super) fn snapshots(&self, names: &Names) -> String {
        self.numbered(names, "frozen", "*")
    }

    fn numbered(&self, names: &Names, what: &str, number: &str) -> String {
        let Self { day, kind, part } = self;
        names.own(&format!("{what}-{}-{day}-{number}@{part}", kind_word(*kind)))
    }

    fn patterns(&self, names: &Names) -> Vec<String> {
        vec![
            self.day_name(names),
            self.late_name(names),
            self.numbered(names, "shrunk", "*"),
            self.numbered(names, "frozen", "*"),
        ]
    }
}

/// As locks and logs name it.
impl std::fmt::Display for DayKey {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "{}-{}@{}", kind_word(self.kind), self.day, self.part)
    }
}

/// The day that an index is of, and what it is to it.
pub(in crate::elasticsearch) fn role_of(names: &Names, index: &str) -> Option<(DayKey, Role)> {
    if let Some((part, kind, rest)) = names.parts(index) {
        let (day, role) = match rest.strip_suffix("-late") {
            Some(day) => (day, Role::Late),
            None => (rest, Role::Day),
        };
        let key = DayKey { day: Day::parse(day)?, kind, part: part.to_owned() };
        return Some((key, role));
    }
    let own = index.strip_prefix(&names.own(""))?;
    let (head, part) = own.split_once('@')?;
    let (head, number) = head.rsplit_once('-')?;
    let number = number.parse().ok()?;
    let (what, head) = head.split_once('-')?;
    let (kind, day) = head.split_once('-')?;
    let kind = match kind {
        "span" => Kind::Spans,
        "service" => Kind::Services,
        _ => return None,
    };
    let role = match what {
        "shrunk" => Role::Copy(number),
        "frozen" => Role::Mount(number),
        _ => return None,
    };
    Some((DayKey { day: Day::parse(day)?, kind, part: part.to_owned() }, role))
}

/// The alias of all indices that have arrived in a tier.
pub(super) fn tier_alias(names: &Names, tier: Tier) -> String {
    names.own(&format!("tier-{}", tier.word()))
}

/// An index as the cluster tells of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct IndexFacts {
    pub(super) name: String,
    pub(super) role: Role,
    pub(super) aliases: BTreeSet<String>,
    pub(super) settings: BTreeMap<String, String>,
    pub(super) bytes: u64,
    /// Of its primary shards, together; `None` where the index is closed.
    pub(super) segments: Option<u64>,
    pub(super) documents: u64,
}

impl IndexFacts {
    pub(super) fn setting(&self, name: &str) -> Option<&str> {
        self.settings.get(name).map(String::as_str).filter(|value| *value != "null")
    }

    fn number(&self, name: &str, default: u32) -> u32 {
        self.setting(name).and_then(|text| text.parse().ok()).unwrap_or(default)
    }

    pub(super) fn shards(&self) -> u32 {
        self.number("index.number_of_shards", 1)
    }

    pub(super) fn replicas(&self) -> u32 {
        self.number("index.number_of_replicas", 0)
    }

    pub(super) fn is_blocked(&self) -> bool {
        self.setting("index.blocks.write") == Some("true")
    }

    pub(super) fn required(&self, attribute: &str) -> Option<&str> {
        self.setting(&format!("index.routing.allocation.require.{attribute}"))
    }

    pub(super) const fn is_closed(&self) -> bool {
        self.segments.is_none()
    }

    pub(super) const fn is_mount(&self) -> bool {
        matches!(self.role, Role::Mount(_))
    }
}

/// A snapshot of a day.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub(super) struct Snapshot {
    #[serde(rename = "snapshot")]
    pub(super) name: String,
    #[serde(default)]
    pub(super) state: String,
    #[serde(default)]
    pub(super) indices: Vec<String>,
}

/// Everything of one day.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct DayFacts {
    /// What answers to the day's name.
    pub(super) current: Option<IndexFacts>,
    pub(super) late: Option<IndexFacts>,
    /// Copies and mounts that nothing leads to.
    pub(super) unfinished: Vec<IndexFacts>,
    pub(super) snapshots: Vec<Snapshot>,
}

impl DayFacts {
    fn add(&mut self, index: IndexFacts, day_name: &str) {
        match index.role {
            Role::Late => self.late = Some(index),
            _ if index.role == Role::Day || index.aliases.contains(day_name) => {
                self.current = Some(index);
            }
            Role::Day | Role::Copy(_) | Role::Mount(_) => self.unfinished.push(index),
        }
    }

    pub(super) fn indices(&self) -> impl Iterator<Item = &IndexFacts> {
        self.current.iter().chain(&self.late).chain(&self.unfinished)
    }

    /// The tier in which the day has arrived.
    pub(super) fn tier(&self, names: &Names) -> Tier {
        let Some(current) = &self.current else { return Tier::Hot };
        let is_in = |tier: &Tier| current.aliases.contains(&tier_alias(names, *tier));
        let found = [Tier::Frozen, Tier::Cold, Tier::Warm].into_iter().find(is_in);
        found.unwrap_or(Tier::Hot)
    }
}

#[derive(Deserialize)]
struct Found {
    #[serde(default)]
    aliases: BTreeMap<String, Value>,
    #[serde(default)]
    settings: BTreeMap<String, Value>,
}

impl ElasticsearchStore {
    /// All days, of all tenants.
    pub(super) async fn all_days(&self) -> Result<BTreeMap<DayKey, DayFacts>, StoreError> {
        let patterns = [
            self.names.pattern(Kind::Spans),
            self.names.pattern(Kind::Services),
            self.names.own("shrunk-*"),
            self.names.own("frozen-*"),
        ];
        self.days_of(&patterns, &self.names.own("frozen-*")).await
    }

    /// One day as it is now.
    pub(super) async fn day_facts(&self, key: &DayKey) -> Result<DayFacts, StoreError> {
        let mut days =
            self.days_of(&key.patterns(&self.names), &key.snapshots(&self.names)).await?;
        Ok(days.remove(key).unwrap_or_default())
    }

    async fn days_of(
        &self,
        patterns: &[String],
        snapshots: &str,
    ) -> Result<BTreeMap<DayKey, DayFacts>, StoreError> {
        let mut days: BTreeMap<DayKey, DayFacts> = BTreeMap::new();
        for index in self.index_facts(patterns).await? {
            let Some((key, _)) = role_of(&self.names, &index.name) else { continue };
            let day_name = key.day_name(&self.names);
            days.entry(key).or_default().add(index, &day_name);
        }
        for snapshot in self.snapshots(snapshots).await? {
            let Some((key, Role::Mount(_))) = role_of(&self.names, &snapshot.name) else {
                continue;
            };
            days.entry(key).or_default().snapshots.push(snapshot);
        }
        Ok(days)
    }

    async fn index_facts(&self, patterns: &[String]) -> Result<Vec<IndexFacts>, StoreError> {
        let names = patterns.join(",");
        let lenient = [("ignore_unavailable", "true"), ("allow_no_indices", "true")];
        let query = [
            lenient[0],
            lenient[1],
            ("expand_wildcards", "open,closed"),
            ("flat_settings", "true"),
            ("filter_path", "*.aliases,*.settings"),
        ];
        let answer =
            self.client.read(Method::Get, &format!("/{names}"), &query, Bytes::new()).await?;
        let found: BTreeMap<String, Found> = answer.json()?;
        if found.is_empty() {
            return Ok(vec![]);
        }
        let query = [
            lenient[0],
            lenient[1],
            ("expand_wildcards", "open"),
            ("filter_path", "indices.*.primaries.store,indices.*.primaries.segments.count"),
        ];
        let path = format!("/{names}/_stats/store,segments");
        let stats: Value =
            self.client.read(Method::Get, &path, &query, Bytes::new()).await?.json()?;
        let counts = self.counts(&names).await?;
        let facts = found.into_iter().filter_map(|(name, found)| {
            let (_, role) = role_of(&self.names, &name)?;
            let stats = stats.get("indices").and_then(|stats| stats.get(&name)?.get("primaries"));
            let number = |path: &str| stats?.pointer(path)?.as_u64();
            let text =
                |value: Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
            Some(IndexFacts {
                role,
                aliases: found.aliases.into_keys().collect(),
                settings: found
                    .settings
                    .into_iter()
                    .map(|(key, value)| (key, text(value)))
                    .collect(),
                bytes: number("/store/size_in_bytes").unwrap_or(0),
                segments: number("/segments/count"),
                documents: counts.get(&name).copied().unwrap_or(0),
                name,
            })
        });
        Ok(facts.collect())
    }

    /// Documents by index, of those that answer.
    async fn counts(&self, names: &str) -> Result<BTreeMap<String, u64>, StoreError> {
        let query = [
            ("ignore_unavailable", "true"),
            ("allow_no_indices", "true"),
            ("expand_wildcards", "open"),
            ("allow_partial_search_results", "true"),
            ("filter_path", "aggregations"),
        ];
        let by_index = json!({ "terms": { "field": "_index", "size": 10_000 } });
        let question = json!({ "size": 0, "aggs": { "indices": by_index } });
        let path = format!("/{names}/_search");
        let answer = self.client.read(Method::Post, &path, &query, body(&question)).await?;
        let answer: Value = match answer.status {
            // No shard of any answers.
            503 => Value::Null,
            _ => answer.json()?,
        };
        let buckets = answer.pointer("/aggregations/indices/buckets").and_then(Value::as_array);
        let one = |bucket: &Value| {
            let name = bucket.get("key")?.as_str()?.to_owned();
            Some((name, bucket.get("doc_count")?.as_u64()?))
        };
        Ok(buckets.into_iter().flatten().filter_map(one).collect())
    }

    /// Snapshots of ours; none where no repository is named.
    async fn snapshots(&self, pattern: &str) -> Result<Vec<Snapshot>, StoreError> {
        let Some(repository) = &self.config.tiers.repository else { return Ok(vec![]) };
        self.snapshots_in(repository, pattern).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_says_its_day_and_no_search_meets_a_copy() {
        let names = Names::new("eu".to_owned());
        let day = Day::parse("2026-09-21").unwrap();
        for part in ["default", "a.b", "x-y", "__-a", "2026-09-21-late"] {
            for kind in [Kind::Spans, Kind::Services] {
                let key = DayKey { day, kind, part: part.to_owned() };
                for (name, role) in [
                    (key.day_name(&names), Role::Day),
                    (key.late_name(&names), Role::Late),
                    (key.copy_name(&names, 3), Role::Copy(3)),
                    (key.mount_name(&names, 12), Role::Mount(12)),
                ] {
                    assert_eq!(role_of(&names, &name), Some((key.clone(), role)), "{name}");
                    let is_inner = matches!(role, Role::Copy(_) | Role::Mount(_));
                    assert_eq!(name.starts_with("eu-farspan-"), is_inner, "{name}");
                }
            }
        }
        for other in [
            "eu.default-jaeger-span-outlying",
            "eu.default-jaeger-span-read",
            "eu-farspan-state",
            "eu-farspan-shrunk-span-2026-09-21@a",
            "eu-farspan-shrunk-log-2026-09-21-1@a",
            "us.default-jaeger-span-2026-09-21",
        ] {
            assert_eq!(role_of(&names, other), None, "{other}");
        }
    }
}
