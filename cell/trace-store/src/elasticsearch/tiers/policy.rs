//! By which tiers a day grows old: one value, from which both the engine's lifecycle policy and the
//! plan of our own runner are made. No I/O.

use std::time::Duration;

use serde_json::{Map, Value, json};

const DAY: Duration = Duration::from_secs(24 * 3_600);

/// Where a day is on its way, in order.
#[derive(
    Clone,
    Copy,
    Debug,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    prometheus_client::encoding::EncodeLabelValue,
)]
pub enum Tier {
    /// Takes writes.
    Hot,
    /// Read-only, merged, shrunk.
    Warm,
    /// As warm, on nodes for cold data.
    Cold,
    /// In a snapshot, and searched there where the cluster can.
    Frozen,
    /// Past its retention.
    Gone,
}

impl Tier {
    /// Its word, as an allocation attribute has it.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Hot => "hot",
            Self::Warm => "warm",
            Self::Cold => "cold",
            Self::Frozen => "frozen",
            Self::Gone => "gone",
        }
    }
}

/// Who moves days from tier to tier, and removes them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TierDriver {
    /// The engine's index lifecycle management where it has one, else this store.
    Auto,
    /// The engine's index lifecycle management.
    Ilm,
    /// This store, when it is asked to.
    Own,
    /// Nobody.
    Off,
}

/// See the module. Ages count from the beginning of a day (UTC).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TierPolicy {
    /// Age from which a day is read-only, merged and shrunk.
    pub warm_after: Duration,
    /// Age from which it lies on nodes for cold data.
    pub cold_after: Duration,
    /// Age from which it is in a snapshot.
    pub frozen_after: Duration,
    /// The snapshot repository; without one there is no frozen tier.
    pub repository: Option<String>,
    /// The attribute of nodes whose value is a tier's word.
    pub allocation_attribute: String,
    /// Primary shards of a day that is read-only.
    pub shrink_to: u32,
    /// Segments of each of its shards.
    pub force_merge_segments: u32,
    /// Who does it.
    pub driver: TierDriver,
}

impl Default for TierPolicy {
    fn default() -> Self {
        Self {
            warm_after: DAY * 2,
            cold_after: DAY * 7,
            frozen_after: DAY * 30,
            repository: None,
            allocation_attribute: "data".to_owned(),
            shrink_to: 1,
            force_merge_segments: 1,
            driver: TierDriver::Auto,
        }
    }
}

impl TierPolicy {
    /// Age at which a day goes: its last span has been kept for the retention then.
    pub(in crate::elasticsearch) fn gone_after(retention: Duration) -> Duration {
        retention.saturating_add(DAY)
    }

    /// The tier in which a day of this age should be.
    #[must_use]
    pub fn due(&self, age: Duration, retention: Duration) -> Tier {
        let is_frozen = self.repository.is_some() && age >= self.frozen_after;
        match () {
            () if age >= Self::gone_after(retention) => Tier::Gone,
            () if is_frozen => Tier::Frozen,
            () if age >= self.cold_after => Tier::Cold,
            () if age >= self.warm_after => Tier::Warm,
            () => Tier::Hot,
        }
    }

    /// What cannot work.
    pub(in crate::elasticsearch) fn faults(&self) -> Vec<&'static str> {
        let is_frozen_early = self.repository.is_some() && self.frozen_after <= self.cold_after;
        [
            (self.warm_after < DAY, "days that are read-only before they end"),
            (self.cold_after <= self.warm_after, "a cold tier that does not follow the warm one"),
            (is_frozen_early, "a frozen tier that does not follow the cold one"),
            (self.shrink_to == 0, "days of no shards"),
            (self.force_merge_segments == 0, "shards of no segments"),
        ]
        .into_iter()
        .filter_map(|(is_fault, fault)| is_fault.then_some(fault))
        .collect()
    }

    /// The policy of the engine's lifecycle management. Tiers that the retention ends before are left
    /// out, and where nodes do not carry a tier's word no day is sent to them.
    pub(in crate::elasticsearch) fn lifecycle(
        &self,
        retention: Duration,
        nodes: impl Fn(Tier) -> bool,
    ) -> Value {
        let gone = Self::gone_after(retention);
        let mut phases = Map::new();
        let mut phase = |tier: Tier, after: Duration, actions: Value| {
            if tier == Tier::Hot || tier == Tier::Gone || after < gone {
                let name = if tier == Tier::Gone { "delete" } else { tier.word() };
                let phase = json!({ "min_age": engine_time(after), "actions": actions });
                phases.insert(name.to_owned(), phase);
            }
        };
        phase(Tier::Hot, Duration::ZERO, json!({ "set_priority": { "priority": 100 } }));
        let mut warm = json!({
            "readonly": {},
            "shrink": { "number_of_shards": self.shrink_to },
            "forcemerge": { "max_num_segments": self.force_merge_segments },
            "set_priority": { "priority": 50 },
        });
        let mut cold = json!({ "readonly": {}, "set_priority": { "priority": 0 } });
        for (tier, actions) in [(Tier::Warm, &mut warm), (Tier::Cold, &mut cold)] {
            if let Some(actions) = actions.as_object_mut().filter(|_| nodes(tier)) {
                let require = json!({ (self.allocation_attribute.as_str()): tier.word() });
                actions.insert("allocate".to_owned(), json!({ "require": require }));
            }
        }
        phase(Tier::Warm, self.warm_after, warm);
        phase(Tier::Cold, self.cold_after, cold);
        if let Some(repository) = &self.repository {
            let snapshot = json!({ "snapshot_repository": repository });
            phase(Tier::Frozen, self.frozen_after, json!({ "searchable_snapshot": snapshot }));
        }
        phase(Tier::Gone, gone, json!({ "delete": {} }));
        let meta = json!({ "description": "days of spans: hot, warm, cold, frozen, gone" });
        json!({ "policy": { "_meta": meta, "phases": phases } })
    }
}

/// A time as the engine writes it: whole days, or else whole seconds.
fn engine_time(time: Duration) -> String {
    let seconds = time.as_secs();
    match seconds {
        0 => "0ms".to_owned(),
        _ if seconds.is_multiple_of(DAY.as_secs()) => format!("{}d", seconds / DAY.as_secs()),
        _ => format!("{seconds}s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with_repository() -> TierPolicy {
        TierPolicy { repository: Some("backup".to_owned()), ..TierPolicy::default() }
    }

    #[test]
    fn a_day_is_due_in_the_tier_of_its_age_and_kept_until_its_last_span_has_had_its_time() {
        let policy = with_repository();
        let due = |days: f64| policy.due(DAY.mul_f64(days), DAY * 90);
        for (days, tier) in [
            (0.0, Tier::Hot),
            (1.99, Tier::Hot),
            (2.0, Tier::Warm),
            (6.99, Tier::Warm),
            (7.0, Tier::Cold),
            (30.0, Tier::Frozen),
            (90.99, Tier::Frozen),
            (91.0, Tier::Gone),
        ] {
            assert_eq!(due(days), tier, "{days}");
        }
        assert_eq!(TierPolicy::default().due(DAY * 40, DAY * 90), Tier::Cold);
        assert_eq!(policy.due(DAY * 2, DAY), Tier::Gone);
    }

    #[test]
    fn the_lifecycle_policy_is_what_it_was() {
        let golden = |text: &str| serde_json::from_str::<Value>(text).unwrap();
        let full = with_repository().lifecycle(DAY * 90, |_| true);
        assert_eq!(
            full,
            golden(include_str!("../../../tests/golden/tiers/lifecycle.json")),
            "{full:#}"
        );
        let short = TierPolicy { driver: TierDriver::Ilm, ..with_repository() };
        let short = short.lifecycle(DAY * 5 + Duration::from_secs(60), |_| false);
        assert_eq!(
            short,
            golden(include_str!("../../../tests/golden/tiers/short.json")),
            "{short:#}"
        );
    }

    /// The phase in which a lifecycle policy has a day of so many days.
    fn phase_at(policy: &Value, age: u32) -> &'static str {
        let phases = policy["policy"]["phases"].as_object().unwrap();
        let begun = |phase: &Value| {
            let text = phase["min_age"].as_str().unwrap();
            text == "0ms" || text.strip_suffix('d').unwrap().parse::<u32>().unwrap() <= age
        };
        let order = ["delete", "frozen", "cold", "warm", "hot"];
        order.into_iter().find(|name| phases.get(*name).is_some_and(begun)).unwrap()
    }

    #[test]
    fn the_policy_and_the_plan_agree_at_every_age() {
        let word = |tier: Tier| if tier == Tier::Gone { "delete" } else { tier.word() };
        for policy in [TierPolicy::default(), with_repository()] {
            for retention in [1, 2, 6, 7, 29, 30, 90].map(|days| DAY * days) {
                let value = policy.lifecycle(retention, |_| true);
                let found = |age: u32| phase_at(&value, age);
                let due = |age: u32| word(policy.due(DAY * age, retention));
                assert!((0..100).all(|age| found(age) == due(age)), "{retention:?}");
            }
        }
    }

    #[test]
    fn what_cannot_work_is_a_fault() {
        assert!(TierPolicy::default().faults().is_empty() && with_repository().faults().is_empty());
        let early = TierPolicy { cold_after: DAY, ..with_repository() };
        assert_eq!(early.faults().len(), 1);
        assert_eq!(TierPolicy { frozen_after: DAY, ..with_repository() }.faults().len(), 1);
        assert_eq!(TierPolicy { frozen_after: DAY, ..TierPolicy::default() }.faults().len(), 0);
    }
}
