//! Makes steps. Where several processes could meet (an erasure opens a day that is read-only) the day's
//! lock is taken, and what was decided is looked at again under it.

use std::collections::BTreeSet;
use std::time::Duration;

use bytes::Bytes;
use elasticsearch::http::Method;
use serde::Deserialize;
use serde_json::{Value, json};

use super::super::client::{Answer, json as body, unavailable};
use super::super::store::ElasticsearchStore;
use super::days::{DayFacts, DayKey, IndexFacts, tier_alias};
use super::lock::Lock;
use super::plan::{Cluster, Step};
use super::policy::Tier;
use crate::port::StoreError;

/// Between two looks at what the engine does by itself.
const LOOK_AGAIN: Duration = Duration::from_millis(250);
/// Longest wait for it; the next run goes on waiting.
const WAIT: Duration = Duration::from_secs(1_800);
/// The lock is renewed while something is waited for, this often.
const RENEW: Duration = Duration::from_secs(60);

/// Makes the steps of one run.
#[derive(Debug)]
pub(super) struct Runner<'a> {
    pub(super) store: &'a ElasticsearchStore,
    pub(super) lock: Lock<'a>,
    pub(super) cluster: Cluster,
}

/// What an engine does by itself.
#[derive(Debug)]
pub(super) enum Work<'a> {
    /// Bringing shards to one node.
    Gather { index: &'a str, shards: BTreeSet<String>, node: String },
    /// Merging segments.
    Merge { index: &'a str, segments_max: u64 },
    /// Starting primary shards.
    Start { index: &'a str },
    /// Writing a snapshot.
    Snapshot { name: &'a str },
}

#[derive(Deserialize)]
struct ShardRow {
    shard: String,
    state: String,
    #[serde(default)]
    node: Option<String>,
}

impl<'a> Runner<'a> {
    pub(super) const fn new(
        store: &'a ElasticsearchStore,
        lock: Lock<'a>,
        cluster: Cluster,
    ) -> Self {
        Self { store, lock, cluster }
    }

    /// Makes one step; whatever it was stopped at, it may be made again.
    pub(super) async fn make(&mut self, key: &DayKey, step: &Step) -> Result<(), StoreError> {
        let store = self.store;
        match step {
            Step::Alias { index } => {
                let alias = key.read_alias(&store.names);
                store.change_aliases(vec![add(index, &alias)]).await
            }
            Step::Block { index } => {
                let gate = store.lock_soon(&key.to_string()).await?;
                let blocked = store.block_writes(index).await;
                gate.release().await;
                blocked
            }
            Step::Gather { index } => self.gather(index).await,
            Step::Copy { from, to, shards } => self.copy(key, (from, to), *shards).await,
            Step::Fill { copy } => self.fill(key, copy).await,
            Step::Switch { copy, tier } => self.switch(key, copy, *tier).await,
            Step::Merge { index } => self.merge(index).await,
            Step::Snapshot { index, snapshot } => self.write_snapshot(index, snapshot).await,
            Step::Mount { snapshot } => self.mount(key, snapshot).await,
            Step::Mark { index, tier } => store.mark(key, index, *tier).await,
            Step::Allocate { index, tier } => {
                let attribute = &store.config.tiers.allocation_attribute;
                let wanted = json!({
                    (format!("index.routing.allocation.require.{attribute}")): tier.word(),
                    "index.routing.allocation.require._name": null,
                });
                store.change_settings(index, &wanted).await
            }
            Step::Discard { indices } => self.discard(key, indices).await,
            Step::Forget { snapshots } => self.forget(key, snapshots).await,
            Step::Remove { indices } => {
                for index in indices {
                    store.remove_index(index).await?;
                }
                Ok(())
            }
        }
    }

    /// Waits for what the engine does by itself, and keeps the run's lock meanwhile.
    pub(super) async fn wait_for(&mut self, work: &Work<'_>) -> Result<(), StoreError> {
        let begun = tokio::time::Instant::now();
        let mut renewed = begun;
        while !self.store.is_done(work).await? {
            if begun.elapsed() > WAIT {
                return Err(unavailable(format!("{work:?} takes long: the next run waits on")));
            }
            if renewed.elapsed() > RENEW {
                self.lock.renew().await?;
                renewed = tokio::time::Instant::now();
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
        Ok(())
    }

    /// A copy of each shard to the node that has most of them.
    async fn gather(&mut self, index: &str) -> Result<(), StoreError> {
        let store = self.store;
        let rows = store.started_shards(index).await?;
        let mut nodes: Vec<&String> = rows.iter().map(|(_, node)| node).collect();
        nodes.sort_unstable();
        let held = |node: &&String| rows.iter().filter(|(_, on)| on == *node).count();
        let Some(node) = nodes.into_iter().max_by_key(held).cloned() else {
            return Err(unavailable(format!("{index} has no shard that is there")));
        };
        let wanted = json!({ "index.routing.allocation.require._name": node });
        store.change_settings(index, &wanted).await?;
        let all: BTreeSet<String> = rows.into_iter().map(|(shard, _)| shard).collect();
        self.wait_for(&Work::Gather { index, shards: all, node }).await
    }

    /// Merges segments, and waits where that takes longer than a request.
    pub(super) async fn merge(&mut self, index: &str) -> Result<(), StoreError> {
        let store = self.store;
        let segments = store.config.tiers.force_merge_segments;
        let shards = store.segments(index).await?.1;
        let most = u64::from(segments).saturating_mul(shards);
        let text = segments.to_string();
        let query = [("max_num_segments", text.as_str()), ("flush", "true")];
        let path = format!("/{index}/_forcemerge");
        // The engine goes on when nobody waits for its answer.
        let merged = store.client.write(Method::Post, &path, &query, Bytes::new()).await;
        if let Some(answer) = merged.ok().filter(|answer| !answer.is_success()) {
            return Err(answer.failure());
        }
        self.wait_for(&Work::Merge { index, segments_max: most }).await
    }

    /// Removes copies that nothing leads to, after another look.
    async fn discard(&self, key: &DayKey, indices: &[String]) -> Result<(), StoreError> {
        let gate = self.store.lock_soon(&key.to_string()).await?;
        let discarded = async {
            let facts = self.store.day_facts(key).await?;
            for index in facts.unfinished.iter().filter(|index| indices.contains(&index.name)) {
                self.store.remove_index(&index.name).await?;
            }
            Ok(())
        };
        let discarded = discarded.await;
        gate.release().await;
        discarded
    }

    /// Lets the day's name lead to a copy, once both hold the same.
    async fn switch(&self, key: &DayKey, copy: &str, tier: Tier) -> Result<(), StoreError> {
        let gate = self.store.lock_soon(&key.to_string()).await?;
        let switched = async {
            let facts = self.store.day_facts(key).await?;
            self.store.verify_and_switch(key, &facts, copy, tier).await
        };
        let switched = switched.await;
        gate.release().await;
        switched
    }
}

fn add(index: &str, alias: &str) -> Value {
    json!({ "add": { "index": index, "alias": alias } })
}

fn take(index: &str, alias: &str) -> Value {
    json!({ "remove": { "index": index, "alias": alias } })
}

impl ElasticsearchStore {
    async fn is_done(&self, work: &Work<'_>) -> Result<bool, StoreError> {
        match work {
            Work::Gather { index, shards, node } => {
                let rows = self.started_shards(index).await?;
                let on_node =
                    |shard: &String| rows.iter().any(|(is, on)| is == shard && on == node);
                Ok(shards.iter().all(on_node))
            }
            Work::Merge { index, segments_max } => {
                self.refresh(&[(*index).to_owned()]).await?;
                Ok(self.segments(index).await?.0 <= *segments_max)
            }
            Work::Start { index } => self.is_ready(index).await,
            Work::Snapshot { name } => self.is_written(name).await,
        }
    }

    /// One action: the day's name goes to the copy, what it stood for and its late documents go. Under
    /// the day's lock alone: nobody else writes to what is compared here.
    pub(super) async fn verify_and_switch(
        &self,
        key: &DayKey,
        facts: &DayFacts,
        copy: &str,
        tier: Tier,
    ) -> Result<(), StoreError> {
        let found = facts.unfinished.iter().find(|index| index.name == copy);
        let (Some(found), Some(current)) = (found, &facts.current) else {
            return Err(unavailable("the day has changed meanwhile: the next run looks again"));
        };
        // What came late to a day in a snapshot, or after one, stays beside it.
        let late = facts.late.as_ref().filter(|_| !found.is_mount() && !current.is_mount());
        for index in [Some(current), late].into_iter().flatten().filter(|index| !index.is_mount()) {
            self.block_writes(&index.name).await?;
        }
        let expected = self.expected(current, late).await?;
        let has = self.count(copy).await?;
        if has != expected {
            self.remove_index(copy).await?;
            return Err(unavailable(format!(
                "{copy} holds {has} documents and not {expected}: it is made again"
            )));
        }
        let aliases = [key.day_name(&self.names), key.read_alias(&self.names)];
        let tier = [tier_alias(&self.names, tier)];
        let mut actions: Vec<Value> =
            aliases.iter().chain(&tier).map(|alias| add(copy, alias)).collect();
        let filling = key.filling_alias(&self.names);
        if found.aliases.contains(&filling) {
            actions.push(take(copy, &filling));
        }
        for index in [Some(current), late].into_iter().flatten() {
            actions.push(json!({ "remove_index": { "index": index.name } }));
        }
        self.change_aliases(actions).await
    }

    /// Documents that a copy has to have.
    async fn expected(
        &self,
        current: &IndexFacts,
        late: Option<&IndexFacts>,
    ) -> Result<u64, StoreError> {
        let mut expected = self.count(&current.name).await?;
        if let Some(late) = late {
            self.refresh(std::slice::from_ref(&late.name)).await?;
            expected = expected.saturating_add(self.count_apart(&late.name, &current.name).await?);
        }
        Ok(expected)
    }

    /// Documents of an index, each that is there now.
    async fn count(&self, index: &str) -> Result<u64, StoreError> {
        self.refresh(&[index.to_owned()]).await?;
        let path = format!("/{index}/_count");
        let found: Value = self.client.read(Method::Get, &path, &[], Bytes::new()).await?.json()?;
        let failed = found.pointer("/_shards/failed").and_then(Value::as_u64);
        let count = found.get("count").and_then(Value::as_u64).filter(|_| failed == Some(0));
        count.ok_or_else(|| unavailable(format!("not every shard of {index} was counted")))
    }

    /// Notes the tier of a day.
    pub(super) async fn mark(
        &self,
        key: &DayKey,
        index: &str,
        tier: Tier,
    ) -> Result<(), StoreError> {
        let facts = self.day_facts(key).await?;
        let Some(current) = facts.current.filter(|current| current.name == index) else {
            return Err(unavailable("the day has changed meanwhile: the next run looks again"));
        };
        let others = [Tier::Warm, Tier::Cold, Tier::Frozen].map(|one| tier_alias(&self.names, one));
        let wanted = tier_alias(&self.names, tier);
        let old = others.iter().filter(|one| **one != wanted && current.aliases.contains(*one));
        let actions = old.map(|alias| take(index, alias)).chain([add(index, &wanted)]);
        self.change_aliases(actions.collect()).await
    }

    pub(super) async fn change_aliases(&self, actions: Vec<Value>) -> Result<(), StoreError> {
        let wanted = json!({ "actions": actions });
        let answer = self.client.write(Method::Post, "/_aliases", &[], body(&wanted)).await?;
        acknowledged(&answer)
    }

    pub(super) async fn change_settings(
        &self,
        index: &str,
        settings: &Value,
    ) -> Result<(), StoreError> {
        let path = format!("/{index}/_settings");
        acknowledged(&self.client.write(Method::Put, &path, &[], body(settings)).await?)
    }

    /// Lets an index take no writes; those under way have ended when this returns.
    pub(super) async fn block_writes(&self, index: &str) -> Result<(), StoreError> {
        let path = format!("/{index}/_block/write");
        acknowledged(&self.client.write(Method::Put, &path, &[], Bytes::new()).await?)
    }

    /// Removes an index; one that is gone is fine.
    pub(super) async fn remove_index(&self, index: &str) -> Result<(), StoreError> {
        let path = format!("/{index}");
        let answer = self.client.write(Method::Delete, &path, &[], Bytes::new()).await?;
        if answer.status == 404 {
            return Ok(());
        }
        acknowledged(&answer)
    }

    /// Segments of the primary shards together, and how many of these there are.
    async fn segments(&self, index: &str) -> Result<(u64, u64), StoreError> {
        let path = format!("/{index}/_stats/segments");
        let query = [("filter_path", "_shards,_all.primaries.segments.count,indices.*.shards")];
        let level = [query[0], ("level", "shards")];
        let stats: Value =
            self.client.read(Method::Get, &path, &level, Bytes::new()).await?.json()?;
        let count = stats.pointer("/_all/primaries/segments/count").and_then(Value::as_u64);
        let indices = stats.get("indices").and_then(Value::as_object);
        let shards = indices.into_iter().flat_map(|all| all.values()).find_map(|index| {
            let shards = index.get("shards")?.as_object()?.len();
            u64::try_from(shards).ok()
        });
        match (count, shards) {
            (Some(count), Some(shards)) => Ok((count, shards)),
            _ => Err(unavailable(format!("the engine says nothing about the segments of {index}"))),
        }
    }

    /// Shards that are there, and on which node.
    async fn started_shards(&self, index: &str) -> Result<Vec<(String, String)>, StoreError> {
        let path = format!("/_cat/shards/{index}");
        let query = [("format", "json"), ("h", "shard,state,node")];
        let rows: Vec<ShardRow> =
            self.client.read(Method::Get, &path, &query, Bytes::new()).await?.json()?;
        let started = rows.into_iter().filter(|row| row.state == "STARTED");
        Ok(started.filter_map(|row| Some((row.shard, row.node?))).collect())
    }
}

/// A change that the cluster has taken.
pub(super) fn acknowledged(answer: &Answer) -> Result<(), StoreError> {
    if !answer.is_success() {
        return Err(unavailable(answer.failure().to_string()));
    }
    let value: Value = answer.json()?;
    if value.get("acknowledged").and_then(Value::as_bool) == Some(false) {
        return Err(unavailable("not every node has taken a change yet: the next run looks again"));
    }
    Ok(())
}
