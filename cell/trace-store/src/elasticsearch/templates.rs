//! What the cluster has to know before a document is written: component and index templates, the
//! state index, and the lifecycle policy where the engine has one. Versioned; a newer version is
//! refused, an older one is replaced (days that exist keep their mapping, the next day has ours).

use std::collections::BTreeSet;

use elasticsearch::http::Method;
use serde_json::{Value, json};

use super::client::{Answer, Client, json as body, unavailable};
use super::config::ElasticsearchConfig;
use super::names::{Kind, Names};
use super::standing::lacking;
use super::tiers::{self, Tier, TierDriver};
use crate::migration::{Migration, Schema, expect};
use crate::port::StoreError;

/// Version of the templates and of the documents.
const VERSION: u32 = 2;
/// The same, and the steps from older ones.
pub static SCHEMA: Schema = Schema { version: VERSION, steps: &STEPS };
/// Companions that the templates of version 1 have put into the lifecycle leave it. A setting that an
/// engine may not know is named by a pattern: a name would be refused. One that is being merged is
/// blocked again before its day is switched.
static STEPS: [Migration; 1] = [Migration {
    to: 2,
    what: "companions of closed days are in no lifecycle and take writes",
    statements: &["PUT /{store}.*-jaeger-*-late/_settings\n\
                   {\"index.lifecycle.*\":null,\"index.blocks.write\":null}"],
}];
/// Above Jaeger's own (500): a day that a Jaeger begins has our fields as well. Patterns that might
/// meet need priorities of their own.
const PRIORITY: u32 = 700;

/// Which engine answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EngineInfo {
    /// OpenSearch, not Elasticsearch.
    pub is_opensearch: bool,
    /// Its version, as it says.
    pub version: String,
}

/// What `init` has done, for the person who called it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InitReport {
    /// The engine.
    pub engine: EngineInfo,
    /// Copies of each shard.
    pub replicas: u32,
    /// What a person should know.
    pub warnings: Vec<String>,
}

/// Learns which engine answers. Elasticsearch before 8 is refused.
pub(super) async fn engine(client: &Client) -> Result<EngineInfo, StoreError> {
    let answer = client.read(Method::Get, "/", &[], body_of_none()).await?;
    if matches!(answer.status, 401 | 403) {
        let words = answer.error().words();
        return Err(StoreError::Unsupported(format!("the engine refuses who we are: {words}")));
    }
    let info: Value = answer.json()?;
    let text = |path: &str| info.pointer(path).and_then(Value::as_str).unwrap_or_default();
    let is_opensearch = text("/version/distribution") == "opensearch";
    let version = text("/version/number").to_owned();
    let major: u32 = version.split('.').next().and_then(|part| part.parse().ok()).unwrap_or(0);
    if major < if is_opensearch { 2 } else { 8 } {
        let words =
            format!("Elasticsearch 8, OpenSearch 2 or newer is needed; this is {version:?}");
        return Err(StoreError::Unsupported(words));
    }
    Ok(EngineInfo { is_opensearch, version })
}

/// Refuses a cluster that was not set up, or by a newer release.
pub(super) async fn check(client: &Client, names: &Names) -> Result<(), StoreError> {
    match found_version(client, names).await? {
        None => Err(unavailable(format!(
            "the index template {} is missing: the store was not set up (farspan store init)",
            names.own("span")
        ))),
        found => expect(&names.own("span"), found, VERSION),
    }
}

/// The version of the templates; `None` where the cluster was not set up.
pub(super) async fn found_version(
    client: &Client,
    names: &Names,
) -> Result<Option<u32>, StoreError> {
    let path = format!("/_index_template/{}", names.own("span"));
    let answer = client.read(Method::Get, &path, &[], body_of_none()).await?;
    if answer.status == 404 {
        return Ok(None);
    }
    let found: Value = answer.json()?;
    let version =
        found.pointer("/index_templates/0/index_template/version").and_then(Value::as_u64);
    Ok(Some(version.and_then(|version| u32::try_from(version).ok()).unwrap_or(0)))
}

/// Sets the cluster up. Repeating it is harmless.
pub(super) async fn init(
    client: &Client,
    config: &ElasticsearchConfig,
    names: &Names,
) -> Result<InitReport, StoreError> {
    let engine = engine(client).await?;
    let found = found_version(client, names).await?;
    if found.is_some() {
        // An older one is a person's to migrate: days that are there would keep what they have.
        expect(&names.own("span"), found, VERSION)?;
    }
    let replicas = put_all(client, config, names, VERSION).await?;
    let mut warnings = Vec::new();
    if replicas == 0 {
        warnings.push("no replicas: what the one node for data loses is lost".to_owned());
    }
    make_state_index(client, names).await?;
    for warning in &warnings {
        tracing::warn!(warning, "the search store is set up");
    }
    Ok(InitReport { engine, replicas, warnings })
}

/// What is said of new days.
struct DaySettings {
    driver: TierDriver,
    /// Tiers that nodes are for.
    nodes: BTreeSet<String>,
}

impl DaySettings {
    async fn of(client: &Client, config: &ElasticsearchConfig) -> Result<Self, StoreError> {
        Ok(Self {
            driver: tiers::driver(client, &config.tiers).await?,
            nodes: tiers::tiers_of_nodes(client, &config.tiers.allocation_attribute).await?,
        })
    }

    fn has(&self, tier: Tier) -> bool {
        self.nodes.contains(tier.word())
    }

    /// The policy's name where the engine moves the days, and the hot nodes where a day can move away
    /// from them.
    fn component(&self, config: &ElasticsearchConfig, names: &Names) -> Value {
        let mut settings = json!({});
        if self.driver == TierDriver::Ilm {
            set(&mut settings, "lifecycle.name", &names.own("days"));
        }
        if self.has(Tier::Hot) && (self.has(Tier::Warm) || self.has(Tier::Cold)) {
            let attribute = &config.tiers.allocation_attribute;
            let required = format!("routing.allocation.require.{attribute}");
            set(&mut settings, &required, Tier::Hot.word());
        }
        if settings == json!({}) {
            return settings;
        }
        json!({ "settings": { "index": settings } })
    }
}

/// Puts a setting where its path leads: so the engine keeps and shows it, whatever is written.
fn set(settings: &mut Value, path: &str, value: &str) {
    let mut place = settings;
    for part in path.split('.') {
        place = &mut place[part];
    }
    *place = json!(value);
}

/// Puts policy and templates under this version. Gives the copies of each shard.
pub(super) async fn put_all(
    client: &Client,
    config: &ElasticsearchConfig,
    names: &Names,
    version: u32,
) -> Result<u32, StoreError> {
    let replicas = replicas(client, config).await?;
    let days = DaySettings::of(client, config).await?;
    if days.driver == TierDriver::Ilm {
        let path = format!("/_ilm/policy/{}", names.own("days"));
        let policy = config.tiers.lifecycle(config.retention, |tier| days.has(tier));
        put(client, &path, &policy).await?;
    }
    for (name, component) in components(config, names, replicas, &days, version) {
        put(client, &format!("/_component_template/{}", names.own(name)), &component).await?;
    }
    for (name, template) in index_templates(names, version) {
        put(client, &format!("/_index_template/{}", names.own(name)), &template).await?;
    }
    Ok(replicas)
}

/// Copies of each shard: none where there is one node to keep them.
async fn replicas(client: &Client, config: &ElasticsearchConfig) -> Result<u32, StoreError> {
    let health: Value =
        client.read(Method::Get, "/_cluster/health", &[], body_of_none()).await?.json()?;
    let is_alone = health.pointer("/number_of_data_nodes").and_then(Value::as_u64) == Some(1);
    Ok(config.replicas.unwrap_or(u32::from(!is_alone)))
}

/// Whether the engine's lifecycle management moves the days: what they are made of says so.
pub(super) async fn has_lifecycle(client: &Client, names: &Names) -> Result<bool, StoreError> {
    let path = format!("/_component_template/{}", names.own("days"));
    let answer = client.read(Method::Get, &path, &[], body_of_none()).await?;
    if answer.status == 404 {
        return Ok(false);
    }
    let found: Value = answer.json()?;
    Ok(found.pointer("/component_templates/0/component_template").is_some_and(names_a_policy))
}

fn names_a_policy(component: &Value) -> bool {
    component.pointer("/template/settings/index/lifecycle/name").is_some()
}

/// Templates that are missing, or lack what this configuration puts into them.
pub(super) async fn differences(
    client: &Client,
    config: &ElasticsearchConfig,
    names: &Names,
) -> Result<Vec<String>, StoreError> {
    let replicas = replicas(client, config).await?;
    let days = DaySettings::of(client, config).await?;
    let mut differences = Vec::new();
    for (name, component) in components(config, names, replicas, &days, VERSION) {
        let name = names.own(name);
        differences.extend(difference(client, "component", &name, &component).await?);
    }
    for (name, template) in index_templates(names, VERSION) {
        let name = names.own(name);
        differences.extend(difference(client, "index", &name, &template).await?);
    }
    Ok(differences)
}

/// Of one template, of the kind `component` or `index`.
async fn difference(
    client: &Client,
    kind: &str,
    name: &str,
    wanted: &Value,
) -> Result<Option<String>, StoreError> {
    let path = format!("/_{kind}_template/{name}");
    let answer = client.read(Method::Get, &path, &[], body_of_none()).await?;
    if answer.status == 404 {
        return Ok(Some(format!("the {kind} template {name} is missing")));
    }
    let found: Value = answer.json()?;
    let found = found.pointer(&format!("/{kind}_templates/0/{kind}_template"));
    let path = found.and_then(|found| lacking(wanted, found));
    Ok(path.map(|path| format!("the {kind} template {name} differs at {path}")))
}

fn components(
    config: &ElasticsearchConfig,
    names: &Names,
    replicas: u32,
    days: &DaySettings,
    version: u32,
) -> Vec<(&'static str, Value)> {
    let mut settings = parsed(include_str!("templates/settings.json"));
    if let Some(index) = settings.pointer_mut("/settings/index").and_then(Value::as_object_mut) {
        index.insert("number_of_shards".to_owned(), json!(config.shards));
        index.insert("number_of_replicas".to_owned(), json!(replicas));
    }
    let component = |template: Value| json!({ "template": template, "version": version });
    vec![
        ("settings", component(settings)),
        ("days", component(days.component(config, names))),
        ("span", component(parsed(include_str!("templates/span.json")))),
        ("service", component(parsed(include_str!("templates/service.json")))),
        ("state", component(parsed(include_str!("templates/state.json")))),
    ]
}

fn index_templates(names: &Names, version: u32) -> Vec<(&'static str, Value)> {
    let template = |place: u32, pattern: String, parts: &[&str]| {
        let parts: Vec<String> = parts.iter().map(|part| names.own(part)).collect();
        json!({
            "index_patterns": [pattern],
            "priority": PRIORITY + place,
            "composed_of": parts,
            "version": version,
            "_meta": { "farspan": version },
        })
    };
    let state = json!({ "settings": { "index": { "number_of_shards": 1 } } });
    let mut of_state = template(2, names.state(), &["settings", "state"]);
    if let Some(template) = of_state.as_object_mut() {
        template.insert("template".to_owned(), state);
    }
    let spans = names.pattern(Kind::Spans);
    let services = names.pattern(Kind::Services);
    // No lifecycle: these take writes for as long as they are there, and the store empties or removes
    // them itself.
    let outlying = |kind| names.outlying_pattern(kind);
    let late = |kind| names.late_pattern(kind);
    vec![
        ("service", template(1, services, &["settings", "days", "service"])),
        ("state", of_state),
        ("outlying-span", template(3, outlying(Kind::Spans), &["settings", "span"])),
        ("outlying-service", template(4, outlying(Kind::Services), &["settings", "service"])),
        ("late-span", template(5, late(Kind::Spans), &["settings", "span"])),
        ("late-service", template(6, late(Kind::Services), &["settings", "service"])),
        // The last one: its version says that all are there.
        ("span", template(0, spans, &["settings", "days", "span"])),
    ]
}

async fn make_state_index(client: &Client, names: &Names) -> Result<(), StoreError> {
    let path = format!("/{}", names.state());
    let answer = client.write(Method::Put, &path, &[], body_of_none()).await?;
    if answer.is_success() || is_there_already(&answer) {
        return Ok(());
    }
    Err(answer.failure())
}

/// Whether an index could not be made because it, or an alias of its name, is there.
pub(super) fn is_there_already(answer: &Answer) -> bool {
    let error = answer.error();
    error.kind == "resource_already_exists_exception"
        || error.words().contains("already exists as alias")
}

async fn put(client: &Client, path: &str, value: &Value) -> Result<(), StoreError> {
    let answer = client.write(Method::Put, path, &[], body(value)).await?;
    if answer.is_success() {
        return Ok(());
    }
    let error = answer.error();
    Err(StoreError::Unsupported(format!("the engine refuses {path}: {}", error.words())))
}

/// A file of ours; that it is JSON is tested.
fn parsed(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_default()
}

fn body_of_none() -> bytes::Bytes {
    bytes::Bytes::new()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config() -> ElasticsearchConfig {
        ElasticsearchConfig::at("http://127.0.0.1:9200", "eu")
    }

    fn days(driver: TierDriver, nodes: &[&str]) -> DaySettings {
        DaySettings { driver, nodes: nodes.iter().map(|node| (*node).to_owned()).collect() }
    }

    #[test]
    fn every_file_is_json_and_no_mapping_grows_with_what_is_sent() {
        fn assert_closed(mapping: &Value, path: &str) {
            if let Some(properties) = mapping.get("properties").and_then(Value::as_object) {
                assert_eq!(mapping.get("dynamic"), Some(&json!(false)), "{path}");
                for (name, property) in properties {
                    assert_closed(property, &format!("{path}.{name}"));
                }
            }
        }
        let names = Names::new("eu".to_owned());
        let days = days(TierDriver::Ilm, &[]);
        let components = components(&config(), &names, 1, &days, VERSION);
        assert_eq!(components.len(), 5);
        for (name, component) in &components {
            assert!(component.get("template").unwrap().is_object(), "{name}");
            if let Some(mapping) = component.pointer("/template/mappings") {
                assert_closed(mapping, name);
            }
        }
        let shards = components[0].1.pointer("/template/settings/index/number_of_shards");
        assert_eq!(shards, Some(&json!(5)));
    }

    #[test]
    fn a_lifecycle_is_named_only_where_the_engine_has_it() {
        let names = Names::new("eu".to_owned());
        let settings = |driver: TierDriver, nodes: &[&str]| {
            let all = components(&config(), &names, 0, &days(driver, nodes), VERSION);
            all[1].1["template"].clone()
        };
        let ilm = settings(TierDriver::Ilm, &["hot"]);
        assert_eq!(
            ilm,
            json!({ "settings": { "index": { "lifecycle": { "name": "eu-farspan-days" } } } })
        );
        assert_eq!(settings(TierDriver::Own, &["hot"]), json!({}));
        let both = settings(TierDriver::Own, &["hot", "warm"]);
        let hot = json!({ "routing": { "allocation": { "require": { "data": "hot" } } } });
        assert_eq!(both, json!({ "settings": { "index": hot } }));
        for (driver, named) in
            [(TierDriver::Ilm, true), (TierDriver::Own, false), (TierDriver::Off, false)]
        {
            let component = json!({ "template": settings(driver, &["hot", "warm"]) });
            assert_eq!(names_a_policy(&component), named, "{driver:?}");
        }
    }

    #[test]
    fn days_alone_are_in_the_lifecycle_and_no_two_templates_of_an_index_are_equal() {
        let names = Names::new("eu".to_owned());
        let templates = index_templates(&names, VERSION);
        let of =
            |wanted: &str| templates.iter().find(|(name, _)| *name == wanted).unwrap().1.clone();
        let priority = |name: &str| of(name)["priority"].as_u64().unwrap();
        for kind in ["span", "service"] {
            assert!(of(kind)["composed_of"].to_string().contains("days"), "{kind}");
            for apart in ["outlying", "late"].map(|apart| format!("{apart}-{kind}")) {
                assert!(!of(&apart)["composed_of"].to_string().contains("days"), "{apart}");
                assert!(priority(&apart) > priority(kind), "{apart}");
            }
        }
        let late = of("late-span");
        assert_eq!(late["index_patterns"], json!(["eu.*-jaeger-span-*-late"]));
        assert_eq!(late["composed_of"], json!(["eu-farspan-settings", "eu-farspan-span"]));
        let priorities: BTreeSet<u64> = templates.iter().map(|(name, _)| priority(name)).collect();
        assert_eq!(priorities.len(), templates.len());
        assert_eq!(templates.last().unwrap().0, "span");
    }
}
