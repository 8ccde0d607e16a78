//! Tests of the stories: what any trace of the shop looks like.

use std::collections::BTreeMap;

use super::*;

fn world(seed: u64) -> World {
    let millis = Duration::from_millis;
    let table = [[0, 40, 110], [40, 0, 75], [110, 75, 0]];
    World::new(seed, table.iter().map(|row| row.iter().map(|one| millis(*one)).collect()).collect())
}

fn stories(seed: u64, count: usize) -> Vec<Story> {
    let mut world = world(seed);
    (0..count).map(|_| next(&mut world)).collect()
}

fn depth(told: &Told) -> usize {
    1 + told.children.iter().map(depth).max().unwrap_or(0)
}

fn every<'a>(told: &'a Told, found: &mut Vec<&'a Told>) {
    found.push(told);
    for child in &told.children {
        every(child, found);
    }
}

#[test]
fn one_seed_tells_the_same_stories() {
    let text = |seed| format!("{:?}", stories(seed, 200));
    assert_eq!(text(7), text(7));
    assert_ne!(text(7), text(8));
}

#[test]
fn children_lie_within_their_parents_in_time() {
    for story in stories(1, 2_000) {
        let mut all = Vec::new();
        every(&story.root, &mut all);
        for told in all {
            assert!(told.begin <= told.end);
            for child in &told.children {
                assert!(told.begin <= child.begin && child.end <= told.end, "{}", told.name);
            }
        }
    }
}

#[test]
fn a_call_over_a_border_takes_at_least_its_round_trip() {
    let mut crossings = 0;
    for story in stories(2, 500) {
        let mut all = Vec::new();
        every(&story.root, &mut all);
        for told in all {
            for child in &told.children {
                let distance = Duration::from_millis(80).min(Duration::from_millis(150));
                if child.place.region != told.place.region {
                    crossings += 1;
                    let outside = (told.end - told.begin) - (child.end - child.begin);
                    assert!(outside >= distance, "{} {outside:?}", told.name);
                    assert_eq!(told.kind, SpanKind::Client);
                }
            }
        }
    }
    assert!(crossings > 500);
}

#[test]
fn the_shop_shows_every_kind_of_trace() {
    let stories = stories(3, 5_000);
    let count = |holds: fn(&Story) -> bool| stories.iter().filter(|story| holds(story)).count();
    assert!(count(|story| story.root.regions().len() == 3) > 1_000, "over three regions");
    assert!(count(|story| depth(&story.root) >= 60) > 10, "deep");
    assert!(count(|story| story.root.spans() >= 1_000) > 5, "wide");
    assert!(count(|story| story.reads_messages > 0) > 100, "messaging");
    assert!(count(|story| story.root.error.is_some()) > 30, "errors");
    let mut names: BTreeMap<String, usize> = BTreeMap::new();
    let mut retries = 0;
    for story in &stories {
        let mut all = Vec::new();
        every(&story.root, &mut all);
        for told in all {
            *names.entry(told.place.service.to_owned()).or_default() += 1;
            retries += usize::from(told.events.iter().any(|(_, event)| *event == "retry"));
        }
    }
    assert!(retries > 30, "retries");
    for service in SERVICES {
        assert!(names.contains_key(service), "{service} never appears");
    }
}

#[test]
fn one_region_alone_is_a_shop_too() {
    let mut world = World::new(1, vec![vec![Duration::ZERO]]);
    for _ in 0..500 {
        let regions = next(&mut world).root.regions();
        assert_eq!(regions.into_iter().collect::<Vec<_>>(), [0]);
    }
}
