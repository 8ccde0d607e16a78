//! What an operator asks of an index prefix: how it stands, and that its schema goes forward.

use std::sync::Arc;

use bytes::Bytes;
use elasticsearch::http::Method;
use serde::Deserialize;
use serde_json::{Value, json};
use trace_model::Clock;

use super::client::{Client, json as body};
use super::config::ElasticsearchConfig;
use super::names::{Kind, Names};
use super::store::ElasticsearchStore;
use super::templates::{self, SCHEMA};
use crate::migration::{MigrationReport, Schema};
use crate::port::{PartSize, SearchIndexer as _, StoreError, StoreStatus};

#[derive(Deserialize)]
struct IndexRow {
    #[serde(rename = "store.size", default)]
    bytes: Option<String>,
}

impl ElasticsearchStore {
    /// How the prefix stands; changes nothing.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] while the engine is away.
    pub async fn status(
        config: &ElasticsearchConfig,
        clock: Arc<dyn Clock>,
    ) -> Result<StoreStatus, StoreError> {
        config.check()?;
        let client = Client::new(config)?;
        let names = Names::new(config.index_prefix.clone());
        let engine = templates::engine(&client).await?;
        let product = if engine.is_opensearch { "OpenSearch" } else { "Elasticsearch" };
        let mut status = StoreStatus {
            engine: format!("{product} {}", engine.version),
            schema: templates::found_version(&client, &names).await?,
            ..StoreStatus::default()
        };
        if status.schema == Some(SCHEMA.version) {
            status.differences = templates::differences(&client, config, &names).await?;
            for kind in [Kind::Spans, Kind::Services] {
                status.sizes.extend(size(&client, &names.pattern(kind)).await?);
            }
            let store = Self::connect(config.clone(), clock).await?;
            status.covered = vec![("search-indexer", store.indexed())];
        }
        Ok(status)
    }

    /// Leads the prefix to this schema ([`super::SCHEMA`] is the release's), step by step; with
    /// `is_dry_run` only says which steps are due. Days that are there are changed by the statements of the
    /// steps, those that come by the templates, which are put last with their new version.
    ///
    /// # Errors
    /// As [`Schema::due`]; [`StoreError::Unavailable`] while the engine is away.
    pub async fn migrate(
        config: &ElasticsearchConfig,
        schema: &Schema,
        is_dry_run: bool,
    ) -> Result<MigrationReport, StoreError> {
        config.check()?;
        let client = Client::new(config)?;
        let names = Names::new(config.index_prefix.clone());
        templates::engine(&client).await?;
        let found = templates::found_version(&client, &names).await?;
        let report = schema.due(&names.own("span"), found)?;
        if is_dry_run || report.steps.is_empty() {
            return Ok(report);
        }
        for step in &report.steps {
            for statement in step.statements {
                send(&client, &statement.replace("{store}", &config.index_prefix)).await?;
            }
            let path = format!("/{}/_doc/migration-{}", names.state(), step.to);
            let note = json!({ "what": "migration", "next": step.to });
            let noted = client.write(Method::Put, &path, &[], body(&note)).await?;
            if !noted.is_success() {
                return Err(noted.failure());
            }
        }
        templates::put_all(&client, config, &names, schema.version).await?;
        Ok(report)
    }
}

/// `METHOD /path` and a body behind it.
async fn send(client: &Client, statement: &str) -> Result<(), StoreError> {
    let (head, text) = statement.split_once('\n').unwrap_or((statement, ""));
    let (method, path) = match head.split_once(' ') {
        Some(("PUT", path)) => (Method::Put, path),
        Some(("POST", path)) => (Method::Post, path),
        _ => {
            return Err(StoreError::Unsupported(format!(
                "a step of the schema that says {head:?}"
            )));
        }
    };
    let query = [("ignore_unavailable", "true"), ("allow_no_indices", "true")];
    let answer = client.write(method, path, &query, Bytes::from(text.to_owned())).await?;
    if answer.is_success() { Ok(()) } else { Err(answer.failure()) }
}

/// Documents and bytes of the indices of a pattern, copies included.
async fn size(client: &Client, pattern: &str) -> Result<Option<PartSize>, StoreError> {
    let path = format!("/_cat/indices/{pattern}");
    let query = [("format", "json"), ("bytes", "b"), ("h", "store.size")];
    let answer = client.read(Method::Get, &path, &query, Bytes::new()).await?;
    if answer.status == 404 {
        return Ok(None);
    }
    if !answer.is_success() {
        return Err(answer.failure());
    }
    let rows: Vec<IndexRow> = answer.json()?;
    if rows.is_empty() {
        return Ok(None);
    }
    // What the engine lists counts nested parts as documents of their own.
    let path = format!("/{pattern}/_count");
    let counted: Value = client.read(Method::Get, &path, &[], Bytes::new()).await?.json()?;
    let bytes = rows.iter().filter_map(|row| row.bytes.as_ref()?.parse::<u64>().ok());
    Ok(Some(PartSize {
        name: pattern.to_owned(),
        rows: counted.get("count").and_then(Value::as_u64),
        bytes: bytes.fold(0_u64, u64::saturating_add),
    }))
}

/// What a template is to have and has not, as paths.
pub(super) fn lacking(wanted: &Value, found: &Value) -> Option<String> {
    match (wanted, found) {
        (Value::Object(wanted), Value::Object(found)) => wanted.iter().find_map(|(key, value)| {
            let Some(held) = found.get(key) else { return Some(key.clone()) };
            lacking(value, held)
                .map(|path| if path.is_empty() { key.clone() } else { format!("{key}.{path}") })
        }),
        (wanted, found) => (plain(wanted) != plain(found)).then(String::new),
    }
}

/// Engines keep settings as texts.
fn plain(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_differs_in_a_template_is_named_by_its_path() {
        let wanted = json!({ "settings": { "index": { "number_of_shards": 3, "x": "1s" } } });
        let found = |shards: Value| json!({ "settings": { "index": { "number_of_shards": shards, "x": "1s", "y": 1 } } });
        assert_eq!(lacking(&wanted, &found(json!("3"))), None);
        assert_eq!(lacking(&wanted, &found(json!(3))), None);
        let path = Some("settings.index.number_of_shards".to_owned());
        assert_eq!(lacking(&wanted, &found(json!("5"))), path);
        let other =
            lacking(&wanted, &json!({ "settings": { "index": { "number_of_shards": "3" } } }));
        assert_eq!(other.as_deref(), Some("settings.index.x"));
        assert_eq!(lacking(&json!({ "a": { "b": 1 } }), &json!({ "a": 1 })).as_deref(), Some("a"));
    }
}
