//! Deleting from days that take no writes. The day's lock keeps the runner from putting a copy in the
//! place of what is opened here; copies and snapshots that were made before go, since they hold what is
//! deleted, and the runner makes them again.

use std::collections::BTreeMap;

use bytes::Bytes;
use elasticsearch::http::Method;
use serde::de::IgnoredAny;
use serde_json::json;

use super::super::client::unavailable;
use super::super::store::ElasticsearchStore;
use super::days::{Role, role_of};
use crate::port::StoreError;

impl ElasticsearchStore {
    /// The name by which an index is to be called in what lasts longer than a moment: copies of a day
    /// come and go, its name stays.
    pub(in crate::elasticsearch) fn lasting_name(&self, index: &str) -> String {
        match role_of(&self.names, index) {
            Some((key, Role::Copy(_) | Role::Mount(_))) => key.day_name(&self.names),
            _ => index.to_owned(),
        }
    }

    /// Deletes documents of an index that refuses it. What has gone elsewhere meanwhile is left: the
    /// caller looks again until nothing is found.
    pub(in crate::elasticsearch) async fn delete_from_closed_day(
        &self,
        index: &str,
        documents: &[(&str, &str)],
    ) -> Result<(), StoreError> {
        let Some((key, _)) = role_of(&self.names, index) else {
            return self.open_and_delete(index, documents).await;
        };
        // Snapshots that are not seen may hold what is deleted, and come back with it.
        if let Some(repository) = self.missing_repository().await? {
            return Err(unavailable(format!(
                "the cluster has no snapshot repository {repository}, and {index} may be in it: make \
                 it and erase again"
            )));
        }
        if let Some((repository, snapshot)) = self.left_behind(&key.snapshots(&self.names)).await? {
            return Err(unavailable(format!(
                "{snapshot} in the snapshot repository {repository} may hold it, which \
                 `elasticsearch.tiers.repository` does not name: name it, or remove the snapshot, and \
                 erase again"
            )));
        }
        let mut gate = self.lock_soon(&key.to_string()).await?;
        let deleted = async {
            let facts = self.day_facts(&key).await?;
            let of_day = facts.current.iter().chain(&facts.late).find(|found| found.name == index);
            let Some(found) = of_day else { return Ok(()) };
            if found.is_mount() {
                return self.thaw(&key, found, &mut gate).await;
            }
            for copy in &facts.unfinished {
                self.remove_index(&copy.name).await?;
            }
            self.open_and_delete(index, documents).await?;
            self.forget_snapshots(&key, &facts).await
        };
        let deleted = deleted.await;
        gate.release().await;
        deleted
    }

    /// A snapshot of ours in a repository that the policy does not name any more, and that repository.
    pub(super) async fn left_behind(
        &self,
        pattern: &str,
    ) -> Result<Option<(String, String)>, StoreError> {
        let all = self.client.read(Method::Get, "/_snapshot", &[], Bytes::new()).await?;
        // Who may not see repositories has made no snapshot.
        if matches!(all.status, 401 | 403) {
            return Ok(None);
        }
        let all: BTreeMap<String, IgnoredAny> = all.json()?;
        let named = self.config.tiers.repository.as_ref();
        for repository in all.into_keys().filter(|name| Some(name) != named) {
            if let Some(snapshot) = self.snapshots_in(&repository, pattern).await?.pop() {
                return Ok(Some((repository, snapshot.name)));
            }
        }
        Ok(None)
    }

    async fn open_and_delete(
        &self,
        index: &str,
        documents: &[(&str, &str)],
    ) -> Result<(), StoreError> {
        self.change_settings(index, &json!({ "index.blocks.write": false })).await?;
        let again = self.try_delete(documents).await;
        self.change_settings(index, &json!({ "index.blocks.write": true })).await?;
        match again?.first() {
            None => Ok(()),
            Some(index) => {
                Err(unavailable(format!("{index} takes no deletions: erase again later")))
            }
        }
    }
}
