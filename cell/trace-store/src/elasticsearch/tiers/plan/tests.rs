use std::collections::BTreeMap;

use super::super::days::{Role, Snapshot, tier_alias};
use super::*;
use crate::elasticsearch::names::{Day, Kind};

const DAY: Duration = Duration::from_secs(24 * 3_600);

/// A day and its rules.
struct Case {
    names: Names,
    policy: TierPolicy,
    cluster: Cluster,
    key: DayKey,
    facts: DayFacts,
}

impl Case {
    fn new(shards: u32) -> Self {
        let names = Names::new("eu".to_owned());
        let day = Day::parse("2026-09-21").unwrap();
        let key = DayKey { day, kind: Kind::Spans, part: "a".to_owned() };
        let current = index(&names, &key, Role::Day, shards);
        let facts = DayFacts { current: Some(current), ..DayFacts::default() };
        let policy = TierPolicy { repository: Some("r".to_owned()), ..TierPolicy::default() };
        let cluster = Cluster { data_nodes: 1, has_mounts: true, ..Cluster::default() };
        Self { names, policy, cluster, key, facts }
    }

    fn next(&self, days: u32) -> Option<Step> {
        let now = UnixNanos(self.key.day.start().0 + u64::from(days) * 86_400_000_000_000);
        let rules = Rules {
            names: &self.names,
            policy: &self.policy,
            retention: DAY * 40,
            cluster: &self.cluster,
            now,
        };
        rules.next(&self.key, &self.facts)
    }

    fn current(&mut self) -> &mut IndexFacts {
        self.facts.current.as_mut().unwrap()
    }

    fn block(&mut self) {
        block(self.current());
    }

    fn other(&self, role: Role) -> IndexFacts {
        index(&self.names, &self.key, role, 1)
    }

    fn arrive(&mut self, tier: Tier) {
        let alias = tier_alias(&self.names, tier);
        self.current().aliases.insert(alias);
    }
}

fn block(index: &mut IndexFacts) {
    index.settings.insert("index.blocks.write".to_owned(), "true".to_owned());
}

fn index(names: &Names, key: &DayKey, role: Role, shards: u32) -> IndexFacts {
    let name = match role {
        Role::Day => key.day_name(names),
        Role::Late => key.late_name(names),
        Role::Copy(number) => key.copy_name(names, number),
        Role::Mount(number) => key.mount_name(names, number),
    };
    let shards = ("index.number_of_shards".to_owned(), shards.to_string());
    IndexFacts {
        name,
        role,
        aliases: [key.read_alias(names)].into(),
        settings: BTreeMap::from([shards]),
        bytes: 1,
        segments: Some(1),
        documents: 1,
    }
}

#[test]
fn a_young_day_is_left_alone_and_one_that_is_gone_goes_with_everything() {
    let mut case = Case::new(5);
    assert_eq!(case.next(1), None);
    case.facts.late = Some(case.other(Role::Late));
    case.facts.unfinished = vec![case.other(Role::Copy(1))];
    let Some(Step::Remove { indices }) = case.next(41) else { panic!("stays") };
    assert_eq!(indices.len(), 3);
    let name = case.key.mount_name(&case.names, 1);
    let snapshot = Snapshot { name: name.clone(), state: "SUCCESS".to_owned(), indices: vec![] };
    case.facts = DayFacts { snapshots: vec![snapshot], ..DayFacts::default() };
    assert_eq!(case.next(41), Some(Step::Forget { snapshots: vec![name] }));
    case.facts = DayFacts::default();
    assert_eq!(case.next(41), None);
}

#[test]
fn nothing_is_copied_before_the_day_and_its_companion_are_closed() {
    let mut case = Case::new(5);
    assert!(matches!(case.next(2), Some(Step::Block { .. })));
    case.block();
    case.facts.late = Some(case.other(Role::Late));
    let late = case.key.late_name(&case.names);
    assert_eq!(case.next(2), Some(Step::Block { index: late }));
    block(case.facts.late.as_mut().unwrap());
    let to = case.key.copy_name(&case.names, 1);
    let from = case.key.day_name(&case.names);
    assert_eq!(case.next(2), Some(Step::Copy { from, to: to.clone(), shards: 1 }));
    case.facts.unfinished = vec![case.other(Role::Copy(1))];
    assert_eq!(case.next(2), Some(Step::Fill { copy: to.clone() }));
    block(&mut case.facts.unfinished[0]);
    assert_eq!(case.next(2), Some(Step::Switch { copy: to, tier: Tier::Warm }));
    // What an earlier copy has left behind is not taken for this one.
    case.facts.unfinished.push(case.other(Role::Copy(7)));
    assert!(matches!(case.next(2), Some(Step::Discard { indices }) if indices.len() == 2));
}

#[test]
fn a_day_of_one_shard_is_merged_where_it_is_and_noted() {
    let mut case = Case::new(1);
    case.block();
    case.current().segments = Some(9);
    assert!(matches!(case.next(3), Some(Step::Merge { .. })));
    case.current().segments = Some(1);
    assert!(matches!(case.next(3), Some(Step::Mark { tier: Tier::Warm, .. })));
    case.arrive(Tier::Warm);
    assert_eq!(case.next(3), None);
    case.cluster.values = ["warm".to_owned()].into();
    assert!(matches!(case.next(3), Some(Step::Allocate { tier: Tier::Warm, .. })));
    let required = "index.routing.allocation.require.data".to_owned();
    case.current().settings.insert(required, "warm".to_owned());
    assert_eq!(case.next(3), None);
    // What comes late waits for the next move.
    case.facts.late = Some(case.other(Role::Late));
    assert_eq!(case.next(3), None);
    assert!(matches!(case.next(7), Some(Step::Block { .. })));
}

#[test]
fn shards_are_gathered_where_there_are_several_nodes() {
    let mut case = Case::new(5);
    case.block();
    case.cluster.data_nodes = 2;
    assert!(matches!(case.next(2), Some(Step::Gather { .. })));
    let required = "index.routing.allocation.require._name".to_owned();
    case.current().settings.insert(required, "n1".to_owned());
    assert!(matches!(case.next(2), Some(Step::Copy { .. })));
}

#[test]
fn a_frozen_day_has_a_whole_snapshot_first_and_is_mounted_where_the_cluster_can() {
    let mut case = Case::new(1);
    case.block();
    case.arrive(Tier::Cold);
    let name = case.key.mount_name(&case.names, 0);
    let snapshot = |state: &str| Snapshot {
        name: name.clone(),
        state: state.to_owned(),
        indices: vec!["x".to_owned()],
    };
    for state in [None, Some("IN_PROGRESS")] {
        case.facts.snapshots = state.map(snapshot).into_iter().collect();
        assert!(matches!(case.next(30), Some(Step::Snapshot { .. })), "{state:?}");
    }
    for state in ["PARTIAL", "FAILED"] {
        case.facts.snapshots = vec![snapshot(state)];
        assert_eq!(case.next(30), Some(Step::Forget { snapshots: vec![name.clone()] }));
    }
    case.facts.snapshots = vec![snapshot("SUCCESS")];
    assert_eq!(case.next(30), Some(Step::Mount { snapshot: name.clone() }));
    case.facts.unfinished = vec![case.other(Role::Mount(0))];
    assert_eq!(case.next(30), Some(Step::Switch { copy: name.clone(), tier: Tier::Frozen }));
    case.facts.unfinished.clear();
    case.cluster.has_mounts = false;
    assert!(matches!(case.next(30), Some(Step::Mark { tier: Tier::Frozen, .. })));
    case.arrive(Tier::Frozen);
    assert_eq!(case.next(30), None);
    // Snapshots of copies that are no more go.
    let old = Snapshot { name: case.key.mount_name(&case.names, 9), ..snapshot("SUCCESS") };
    case.facts.snapshots.push(old.clone());
    assert_eq!(case.next(30), Some(Step::Forget { snapshots: vec![old.name] }));
}

#[test]
fn a_number_of_shards_is_one_that_the_day_can_be_shrunk_to() {
    for (shards, wanted, found) in
        [(5, 1, 1), (5, 2, 1), (6, 4, 3), (6, 6, 6), (1, 1, 1), (3, 9, 3)]
    {
        assert_eq!(divisor(shards, wanted), found, "{shards} {wanted}");
    }
}

#[test]
fn a_day_stays_cold_while_its_repository_is_missing() {
    let mut case = Case::new(1);
    case.block();
    case.cluster.lacks_repository = true;
    assert!(matches!(case.next(30), Some(Step::Mark { tier: Tier::Cold, .. })));
    case.arrive(Tier::Cold);
    assert_eq!(case.next(30), None);
    case.cluster.lacks_repository = false;
    assert!(matches!(case.next(30), Some(Step::Snapshot { .. })));
}
