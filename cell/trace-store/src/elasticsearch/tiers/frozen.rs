//! The frozen tier: a snapshot of a day, an index that searches it where the cluster can, and the way
//! back, which an erasure needs.

use bytes::Bytes;
use elasticsearch::http::Method;
use serde::Deserialize;
use serde_json::{Value, json};

use super::super::client::{json as body, unavailable};
use super::super::store::ElasticsearchStore;
use super::super::templates::is_there_already;
use super::days::{DayFacts, DayKey, IndexFacts, Role, Snapshot};
use super::lock::Lock;
use super::policy::Tier;
use super::steps::{Runner, Work, acknowledged};
use crate::port::StoreError;

/// Between two looks at an index that comes back.
const LOOK_AGAIN: std::time::Duration = std::time::Duration::from_millis(250);

#[derive(Deserialize)]
struct Snapshots {
    #[serde(default)]
    snapshots: Vec<Snapshot>,
}

impl Runner<'_> {
    /// Writes a snapshot of one index, or waits for one that is being written.
    pub(super) async fn write_snapshot(
        &mut self,
        index: &str,
        snapshot: &str,
    ) -> Result<(), StoreError> {
        let store = self.store;
        let path = store.snapshot_path(snapshot)?;
        if store.snapshot(snapshot).await?.is_none() {
            let wanted =
                json!({ "indices": index, "include_global_state": false, "partial": false });
            let answer = store.client.write(Method::Put, &path, &[], body(&wanted)).await?;
            let is_there = answer.error().kind == "invalid_snapshot_name_exception";
            if !answer.is_success() && !is_there {
                return Err(unavailable(answer.failure().to_string()));
            }
        }
        self.wait_for(&Work::Snapshot { name: snapshot }).await
    }

    /// Makes the index that searches a snapshot. It has the snapshot's name.
    pub(super) async fn mount(&mut self, key: &DayKey, snapshot: &str) -> Result<(), StoreError> {
        let store = self.store;
        let source = store.held_by(snapshot).await?;
        let attribute = &store.config.tiers.allocation_attribute;
        let required = |name: &str| format!("index.routing.allocation.require.{name}");
        let settings = json!({ "index.number_of_replicas": 0 });
        let ignored = json!([required(attribute), required("_name")]);
        let path = store.snapshot_path(snapshot)?;
        let (path, wanted) = match self.cluster.is_opensearch {
            true => (
                format!("{path}/_restore"),
                json!({
                    "indices": source, "storage_type": "remote_snapshot",
                    "include_global_state": false, "include_aliases": false,
                    "rename_pattern": "^.+$", "rename_replacement": snapshot,
                    "index_settings": settings, "ignore_index_settings": ignored,
                }),
            ),
            false => (
                format!("{path}/_mount?storage=shared_cache"),
                json!({
                    "index": source, "renamed_index": snapshot,
                    "index_settings": settings, "ignore_index_settings": ignored,
                }),
            ),
        };
        let answer = store.client.write(Method::Post, &path, &[], body(&wanted)).await?;
        if !answer.is_success() && !is_there_already(&answer) {
            return Err(unavailable(format!("{key} was not mounted: {}", answer.failure())));
        }
        self.ready(snapshot).await
    }

    /// Removes snapshots that stand for nothing, after another look.
    pub(super) async fn forget(
        &self,
        key: &DayKey,
        snapshots: &[String],
    ) -> Result<(), StoreError> {
        let gate = self.store.lock_soon(&key.to_string()).await?;
        let forgotten = async {
            let facts = self.store.day_facts(key).await?;
            let used = |name: &String| facts.indices().any(|index| index.name == *name);
            for snapshot in snapshots.iter().filter(|name| !used(name)) {
                self.store.remove_snapshot(snapshot).await?;
            }
            Ok(())
        };
        let forgotten = forgotten.await;
        gate.release().await;
        forgotten
    }
}

impl ElasticsearchStore {
    /// Brings a day that is searched in its snapshot back as an index, under the day's lock. What was
    /// begun by one that is gone is gone on with: no runner makes copies of such a day.
    pub(super) async fn thaw(
        &self,
        key: &DayKey,
        mount: &IndexFacts,
        gate: &mut Lock<'_>,
    ) -> Result<(), StoreError> {
        let Role::Mount(number) = mount.role else { return Ok(()) };
        let to = key.copy_name(&self.names, number.saturating_add(1));
        let source = self.held_by(&mount.name).await?;
        let path = format!("{}/_restore", self.snapshot_path(&mount.name)?);
        let replicas = self.restored_replicas();
        let wanted = json!({
            "indices": source, "include_global_state": false, "include_aliases": false,
            "rename_pattern": "^.+$", "rename_replacement": to,
            "index_settings": { "index.number_of_replicas": replicas },
            "ignore_index_settings": ["index.routing.allocation.require._name"],
        });
        let answer = self.client.write(Method::Post, &path, &[], body(&wanted)).await?;
        let words = answer.error().words();
        // An index of that name is there already: it is the one that was begun.
        let is_there =
            words.contains("already exists") || words.contains("open index with same name");
        if !answer.is_success() && !is_there {
            return Err(unavailable(answer.failure().to_string()));
        }
        while !self.is_ready(&to).await? {
            gate.renew().await?;
            tokio::time::sleep(LOOK_AGAIN).await;
        }
        let facts = self.day_facts(key).await?;
        self.verify_and_switch(key, &facts, &to, Tier::Cold).await?;
        self.remove_snapshot(&mount.name).await
    }

    fn restored_replicas(&self) -> Value {
        // As the template has it where nothing is said: the engine's own count for new indices.
        self.config.replicas.map_or(json!(1), |replicas| json!(replicas))
    }

    /// Removes all snapshots of a day: what was erased stands in them as well.
    pub(super) async fn forget_snapshots(
        &self,
        key: &DayKey,
        facts: &DayFacts,
    ) -> Result<(), StoreError> {
        if facts.snapshots.is_empty() {
            return Ok(());
        }
        for snapshot in &facts.snapshots {
            self.remove_snapshot(&snapshot.name).await?;
        }
        match &facts.current {
            Some(current) if facts.tier(&self.names) == Tier::Frozen => {
                self.mark(key, &current.name, Tier::Cold).await
            }
            _ => Ok(()),
        }
    }

    fn snapshot_path(&self, snapshot: &str) -> Result<String, StoreError> {
        let repository = self.config.tiers.repository.as_ref();
        let repository = repository
            .ok_or_else(|| unavailable("this day needs `elasticsearch.tiers.repository`"))?;
        Ok(format!("/_snapshot/{repository}/{snapshot}"))
    }

    async fn snapshot(&self, name: &str) -> Result<Option<Snapshot>, StoreError> {
        let path = self.snapshot_path(name)?;
        let answer = self.client.read(Method::Get, &path, &[], Bytes::new()).await?;
        if answer.status == 404 && answer.error().kind == "snapshot_missing_exception" {
            return Ok(None);
        }
        Ok(answer.json::<Snapshots>()?.snapshots.pop())
    }

    /// Whether a snapshot is whole; an error where it will never be.
    pub(super) async fn is_written(&self, name: &str) -> Result<bool, StoreError> {
        let found = self.snapshot(name).await?;
        match found.as_ref().map_or("", |found| found.state.as_str()) {
            "IN_PROGRESS" | "STARTED" | "" => Ok(false),
            "SUCCESS" => Ok(true),
            other => Err(unavailable(format!("the snapshot {name} ended as {other}"))),
        }
    }

    /// The index that a snapshot holds.
    async fn held_by(&self, snapshot: &str) -> Result<String, StoreError> {
        let found = self.snapshot(snapshot).await?;
        let index = found.and_then(|mut found| found.indices.pop());
        index.ok_or_else(|| unavailable(format!("the snapshot {snapshot} is not there")))
    }

    async fn remove_snapshot(&self, name: &str) -> Result<(), StoreError> {
        let path = self.snapshot_path(name)?;
        let answer = self.client.write(Method::Delete, &path, &[], Bytes::new()).await?;
        if answer.status == 404 && answer.error().kind == "snapshot_missing_exception" {
            return Ok(());
        }
        acknowledged(&answer)
    }

    /// Snapshots in a repository; none where it is gone.
    pub(super) async fn snapshots_in(
        &self,
        repository: &str,
        pattern: &str,
    ) -> Result<Vec<Snapshot>, StoreError> {
        let path = format!("/_snapshot/{repository}/{pattern}");
        let query = [("ignore_unavailable", "true")];
        let answer = self.client.read(Method::Get, &path, &query, Bytes::new()).await?;
        if answer.status == 404 {
            return Ok(vec![]);
        }
        Ok(answer.json::<Snapshots>()?.snapshots)
    }

    /// The repository that the policy names where the cluster does not know it.
    pub(super) async fn missing_repository(&self) -> Result<Option<&str>, StoreError> {
        let Some(repository) = &self.config.tiers.repository else { return Ok(None) };
        let path = format!("/_snapshot/{repository}");
        let answer = self.client.read(Method::Get, &path, &[], Bytes::new()).await?;
        match answer.status {
            404 => Ok(Some(repository)),
            200..300 => Ok(None),
            _ => Err(answer.failure()),
        }
    }
}
