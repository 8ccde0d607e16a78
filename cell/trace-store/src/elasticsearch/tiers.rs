//! How days grow old: hot → warm (read-only, merged, shrunk) → cold → frozen (a snapshot) → gone, step
//! by step, each decided from what the cluster has (docs/DECISIONS/028).
//!
//! ```text
//! days     what there is          plan   the next step        steps    makes it
//! copy     late documents in      frozen snapshots, mounts    erasing  what is read-only
//! lock     one process at a time  companions of days that the engine moves
//! ```
//!
//! **Never**: a document that searches see twice or not at all, a step that needs what a process
//! remembers, a copy that outlives an erasure in what it was made of.

mod companions;
mod copy;
mod days;
mod erasing;
mod frozen;
mod lock;
mod plan;
mod policy;
mod steps;

use std::collections::BTreeSet;

use bytes::Bytes;
use elasticsearch::http::Method;
use serde_json::Value;

use days::{DayFacts, DayKey};
use plan::{Cluster, Rules};
pub use policy::{Tier, TierDriver, TierPolicy};
use steps::Runner;

use super::client::Client;
use super::store::ElasticsearchStore;
use crate::metrics::TierLabels;
use crate::port::StoreError;

/// Most steps of a day in one run: more than its whole way needs.
const STEPS_MAX: usize = 40;

/// How many of the steps that are due a run makes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TierSteps {
    /// All of them.
    All,
    /// The first one of each day.
    OneOfEachDay,
}

/// A day of one tenant's spans or services.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DayReport {
    /// The name by which the day is read.
    pub name: String,
    /// The tier in which it is.
    pub tier: Tier,
    /// The tier in which it should be.
    pub due: Tier,
    /// Its documents, those that came late among them.
    pub documents: u64,
    /// Bytes of its primary shards.
    pub bytes: u64,
    /// Its indices.
    pub indices: Vec<String>,
    /// What this run did.
    pub done: Vec<String>,
    /// What is to be done next.
    pub next: Option<String>,
    /// Why a step failed; the next run tries again.
    pub error: Option<String>,
}

impl DayReport {
    fn has_late(&self) -> bool {
        self.indices.iter().any(|index| index.ends_with("-late"))
    }
}

/// All days.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TierReport {
    /// Who moves the days.
    pub driver: TierDriver,
    /// What a person should know.
    pub notes: Vec<String>,
    /// By day.
    pub days: Vec<DayReport>,
}

impl ElasticsearchStore {
    /// Where each day is and should be. Changes nothing.
    pub async fn tiers(&self) -> Result<TierReport, StoreError> {
        let (driver, cluster) = self.tier_setting().await?;
        self.report(driver, &cluster).await
    }

    /// Makes the steps that are due, day after day, where this store is the one that does it, and says
    /// what was done. A day whose step fails is left for the next run, and stops no other. One process
    /// at a time: while another one is at it nothing is done, and a note says so. Dropping the future
    /// is harmless: the next run goes on, at the latest ten minutes later.
    pub async fn move_tiers(&self, steps: TierSteps) -> Result<TierReport, StoreError> {
        let (driver, cluster) = self.tier_setting().await?;
        if driver != TierDriver::Own {
            return self.report(driver, &cluster).await;
        }
        let Some(lock) = self.try_lock("tiers").await? else {
            let mut report = self.report(driver, &cluster).await?;
            report.notes.push("another process moves the days right now".to_owned());
            return Ok(report);
        };
        let mut runner = Runner::new(self, lock, cluster.clone());
        let mut made = Vec::new();
        for key in self.all_days().await?.into_keys() {
            made.push((key.clone(), self.move_day(&mut runner, &key, steps).await?));
        }
        runner.lock.release().await;
        let mut report = self.report(driver, &cluster).await?;
        for (key, (done, error)) in made {
            self.add_done(&mut report, &key, done, error);
        }
        Ok(report)
    }

    /// The steps of one day. An error is one of the run; that of a step is given back.
    async fn move_day(
        &self,
        runner: &mut Runner<'_>,
        key: &DayKey,
        steps: TierSteps,
    ) -> Result<(Vec<String>, Option<String>), StoreError> {
        let steps_max = if steps == TierSteps::All { STEPS_MAX } else { 1 };
        let mut done = Vec::new();
        while done.len() < steps_max {
            runner.lock.renew().await?;
            let facts = self.day_facts(key).await?;
            let rules = self.rules(&runner.cluster);
            let (due, Some(step)) = (rules.due(key), rules.next(key, &facts)) else { break };
            let tier = TierLabels { tier: due };
            match runner.make(key, &step).await {
                Ok(()) => {
                    tracing::info!(day = %key, %step, "a step of a day to its tier");
                    self.metrics.tier_steps.get_or_create(&tier).inc();
                    done.push(step.to_string());
                }
                Err(error) => {
                    tracing::warn!(day = %key, %step, %error, "a day was not moved");
                    self.metrics.failed_tier_steps.get_or_create(&tier).inc();
                    return Ok((done, Some(format!("{step}: {error}"))));
                }
            }
        }
        Ok((done, None))
    }

    fn add_done(
        &self,
        report: &mut TierReport,
        key: &DayKey,
        done: Vec<String>,
        error: Option<String>,
    ) {
        let name = key.day_name(&self.names);
        if let Some(day) = report.days.iter_mut().find(|day| day.name == name) {
            (day.done, day.error) = (done, error);
            return;
        }
        if !done.is_empty() || error.is_some() {
            let gone = DayReport { done, error, ..self.day_report(key, &DayFacts::default()) };
            report.days.insert(0, DayReport { tier: Tier::Gone, due: Tier::Gone, ..gone });
        }
    }

    fn rules<'a>(&'a self, cluster: &'a Cluster) -> Rules<'a> {
        Rules {
            names: &self.names,
            policy: &self.config.tiers,
            retention: self.config.retention,
            cluster,
            now: self.clock.now(),
        }
    }

    async fn report(
        &self,
        driver: TierDriver,
        cluster: &Cluster,
    ) -> Result<TierReport, StoreError> {
        let rules = self.rules(cluster);
        let mut days = Vec::new();
        for tier in [Tier::Hot, Tier::Warm, Tier::Cold, Tier::Frozen] {
            self.metrics.tier_indices.get_or_create(&TierLabels { tier }).set(0);
        }
        for (key, facts) in self.all_days().await? {
            let mut day = self.day_report(&key, &facts);
            day.due = rules.due(&key);
            if driver == TierDriver::Own {
                day.next = rules.next(&key, &facts).map(|step| step.to_string());
            }
            let held = i64::try_from(day.indices.len()).unwrap_or(i64::MAX);
            let tier = TierLabels { tier: day.tier };
            self.metrics.tier_indices.get_or_create(&tier).inc_by(held);
            days.push(day);
        }
        let mut notes = self.notes(driver, cluster);
        let lates = days.iter().filter(|day| day.tier == Tier::Frozen && day.has_late()).count();
        if lates > 0 {
            notes.push(format!(
                "{lates} frozen days have -late companions: what came after they were frozen stays there"
            ));
        }
        notes.extend(match self.left_behind(&self.names.own("frozen-*")).await {
            Ok(None) => None,
            Ok(Some((repository, snapshot))) => Some(format!(
                "{snapshot} lies in the snapshot repository {repository}, which is not the one that the \
                 configuration names: nobody removes it, and erasures from its day fail"
            )),
            // A repository of somebody else: no reason to leave days where they are.
            Err(error) => Some(format!("not every snapshot repository can be read: {error}")),
        });
        Ok(TierReport { driver, notes, days })
    }

    fn day_report(&self, key: &DayKey, facts: &DayFacts) -> DayReport {
        let tier = facts.tier(&self.names);
        DayReport {
            name: key.day_name(&self.names),
            tier,
            due: tier,
            documents: facts.current.iter().chain(&facts.late).map(|index| index.documents).sum(),
            bytes: facts.indices().map(|index| index.bytes).sum(),
            indices: facts.indices().map(|index| index.name.clone()).collect(),
            done: Vec::new(),
            next: None,
            error: None,
        }
    }

    fn notes(&self, driver: TierDriver, cluster: &Cluster) -> Vec<String> {
        let policy = &self.config.tiers;
        let mut notes = Vec::new();
        match driver {
            TierDriver::Own | TierDriver::Auto => {}
            TierDriver::Ilm => notes.push(
                "the cluster's lifecycle management moves the days; -late companions stay beside them, \
                 and go when their day does"
                    .to_owned(),
            ),
            TierDriver::Off => notes.push("nobody moves the days (`driver: off`)".to_owned()),
        }
        let is_own = driver == TierDriver::Own;
        let lacks = |tier: &Tier| !cluster.values.contains(tier.word());
        for tier in [Tier::Warm, Tier::Cold].iter().filter(|tier| is_own && lacks(tier)) {
            notes.push(format!(
                "no node carries `{}: {}`: days stay on the nodes where they are",
                policy.allocation_attribute,
                tier.word()
            ));
        }
        let repository = policy.repository.as_ref().filter(|_| is_own);
        if let Some(repository) = repository.filter(|_| cluster.lacks_repository) {
            notes.push(format!(
                "the cluster has no snapshot repository {repository}: no day is frozen, they stay cold"
            ));
        } else if repository.is_some() && !cluster.has_mounts {
            notes.push(
                "the cluster does not search snapshots: a frozen day has one and stays beside it"
                    .to_owned(),
            );
        }
        notes
    }

    /// Who moves the days, and what the cluster can.
    async fn tier_setting(&self) -> Result<(TierDriver, Cluster), StoreError> {
        let driver = driver(&self.client, &self.config.tiers).await?;
        let attribute = &self.config.tiers.allocation_attribute;
        let mut cluster = cluster(&self.client, self.engine().is_opensearch, attribute).await?;
        cluster.lacks_repository = self.missing_repository().await?.is_some();
        Ok((driver, cluster))
    }
}

/// Who moves the days: `Auto` is the engine where it has a lifecycle management.
pub(super) async fn driver(client: &Client, policy: &TierPolicy) -> Result<TierDriver, StoreError> {
    if policy.driver != TierDriver::Auto {
        return Ok(policy.driver);
    }
    let answer = client.read(Method::Get, "/_ilm/status", &[], Bytes::new()).await?;
    Ok(match answer.status {
        200..300 => TierDriver::Ilm,
        400 | 404 | 405 => TierDriver::Own,
        // Neither guess would be harmless.
        _ => return Err(answer.failure()),
    })
}

/// The tiers for which nodes carry the attribute.
pub(super) async fn tiers_of_nodes(
    client: &Client,
    attribute: &str,
) -> Result<BTreeSet<String>, StoreError> {
    Ok(cluster(client, false, attribute).await?.values)
}

async fn cluster(
    client: &Client,
    is_opensearch: bool,
    attribute: &str,
) -> Result<Cluster, StoreError> {
    let query = [("filter_path", "nodes.*.roles,nodes.*.attributes,nodes.*.version")];
    let nodes: Value = client.read(Method::Get, "/_nodes", &query, Bytes::new()).await?.json()?;
    let mut cluster = Cluster { is_opensearch, ..Cluster::default() };
    for node in
        nodes.get("nodes").and_then(Value::as_object).into_iter().flat_map(|all| all.values())
    {
        let roles = node.get("roles").and_then(Value::as_array).into_iter().flatten();
        let roles: BTreeSet<&str> = roles.filter_map(Value::as_str).collect();
        let version = node.get("version").and_then(Value::as_str).unwrap_or_default();
        // OpenSearch 2 has nodes that search for it; from 3 on they are called warm.
        let searches = if version.starts_with("2.") { "search" } else { "warm" };
        cluster.has_mounts |= match is_opensearch {
            true => roles.contains(searches),
            false => roles.contains("data_frozen"),
        };
        if !roles.iter().any(|role| role.starts_with("data")) {
            continue;
        }
        cluster.data_nodes += 1;
        let value = node.get("attributes").and_then(|found| found.get(attribute)?.as_str());
        cluster.values.extend(value.map(str::to_owned));
    }
    if cluster.has_mounts && !is_opensearch {
        cluster.has_mounts = may_mount(client).await?;
    }
    Ok(cluster)
}

/// Whether an Elasticsearch with nodes for frozen data has the module and the license for it.
async fn may_mount(client: &Client) -> Result<bool, StoreError> {
    let module = "/_searchable_snapshots/cache/stats";
    if !client.read(Method::Get, module, &[], Bytes::new()).await?.is_success() {
        return Ok(false);
    }
    let answer = client.read(Method::Get, "/_license", &[], Bytes::new()).await?;
    let license: Value = serde_json::from_slice(&answer.body).unwrap_or_default();
    let kind = license.pointer("/license/type").and_then(Value::as_str);
    Ok(matches!(kind, Some("enterprise" | "trial")))
}
