//! Days on their way through all tiers: after each step the same documents are found, each once.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::{Value, json as value};
use trace_model::query::Field;
use trace_model::{Filter, TenantId, TimeRange, TraceId, TraceMatch};
use trace_store::elasticsearch::{
    DayReport, ElasticsearchConfig, ElasticsearchStore, Tier, TierDriver, TierPolicy, TierReport,
    TierSteps,
};
use trace_store::{Eraser, SearchIndexer, ServiceCatalog, StoreError, TraceSearch};

use super::documents::{Bench, TODAY};
use super::engine::{http, json};
use crate::fixture::{NOW, Request, span, trace_id};
use crate::harness::{equals, query};

const DAY: u64 = 24 * 3_600 * 1_000_000_000;
const ENGINES: [&str; 2] = ["FARSPAN_TEST_ELASTICSEARCH", "FARSPAN_TEST_OPENSEARCH"];

/// A store of three shards a day on one of the engines, whose days this store moves itself.
struct Moving {
    bench: Bench,
    repository: Option<String>,
}

impl Moving {
    async fn new(engine: &str, has_repository: bool) -> Self {
        let mut name = None;
        let bench = Bench::on(engine, |config| {
            name = has_repository.then(|| format!("{}-repository", config.index_prefix));
            let tiers = TierPolicy {
                repository: name.clone(),
                driver: TierDriver::Auto,
                ..TierPolicy::default()
            };
            let retention = Duration::from_secs(40 * 24 * 3_600);
            ElasticsearchConfig { shards: 3, tiers, retention, ..config }
        })
        .await;
        if let Some(name) = &name {
            let settings = value!({ "type": "fs", "settings": { "location": name } });
            json(&bench.url, "PUT", &format!("/_snapshot/{name}"), &settings);
        }
        Self { bench, repository: name }
    }

    fn at_day(&self, days: u64) {
        self.bench.clock.set_wall(NOW.plus(days * DAY));
    }

    async fn run(&self, steps: TierSteps) -> TierReport {
        let report = self.bench.store.move_tiers(steps).await.unwrap();
        for day in &report.days {
            assert_eq!(day.error, None, "{day:?}");
        }
        report
    }

    /// Steps one by one, each by a process of its own, with the laws in between; the names of steps.
    async fn step_by_step(&self, laws: &Laws) -> Vec<String> {
        let mut made = Vec::new();
        loop {
            let report =
                self.bench.another().await.move_tiers(TierSteps::OneOfEachDay).await.unwrap();
            for day in &report.days {
                assert_eq!(day.error, None, "{day:?}");
            }
            let done: Vec<String> = report.days.into_iter().flat_map(|day| day.done).collect();
            laws.hold(self, &done).await;
            if done.is_empty() {
                return made;
            }
            made.extend(done);
            assert!(made.len() < 80, "{made:#?}");
        }
    }

    async fn day(&self, name: &str) -> DayReport {
        let days = self.bench.store.tiers().await.unwrap().days;
        let wanted = self.bench.name(name);
        days.into_iter().find(|day| day.name == wanted).unwrap()
    }

    async fn index(&mut self, service: &str, traces: std::ops::Range<u64>) {
        let spans: Vec<_> = traces.map(|trace| span(trace, 0, "a")).collect();
        self.bench.index(&Request::of(service, &spans)).await;
    }

    fn indices(&self) -> Vec<String> {
        let path = format!("/_cat/indices/{}*?h=index", self.bench.config.index_prefix);
        let listed = http(&self.bench.url, "GET", &path, "").1;
        listed.split_whitespace().map(str::to_owned).collect()
    }

    fn snapshots(&self) -> usize {
        let Some(name) = &self.repository else { return 0 };
        let path = format!("/_snapshot/{name}/_all");
        json(&self.bench.url, "GET", &path, &Value::Null)["snapshots"].as_array().unwrap().len()
    }
}

impl Drop for Moving {
    fn drop(&mut self) {
        let Some(name) = &self.repository else { return };
        let url = &self.bench.url;
        super::engine::remove_all(url, &self.bench.config.index_prefix);
        http(url, "DELETE", &format!("/_snapshot/{name}/*"), "");
        http(url, "DELETE", &format!("/_snapshot/{name}"), "");
    }
}

/// The same on both engines, side by side: most of the time is theirs.
pub(super) async fn on_each(law: impl AsyncFn(&'static str)) {
    tokio::join!(Box::pin(law(ENGINES[0])), Box::pin(law(ENGINES[1])));
}

/// What has to be found, however it is asked for.
#[derive(Clone, Debug)]
struct Laws {
    /// By service: the traces.
    traces: BTreeMap<String, Vec<TraceId>>,
}

impl Laws {
    fn of(services: &[(&str, &[u64])]) -> Self {
        let one = |(service, traces): &(&str, &[u64])| {
            let mut traces: Vec<TraceId> = traces.iter().map(|trace| trace_id(*trace)).collect();
            traces.sort();
            ((*service).to_owned(), traces)
        };
        Self { traces: services.iter().map(one).collect() }
    }

    fn spans(&self) -> usize {
        self.traces.values().map(Vec::len).sum()
    }

    async fn hold(&self, moving: &Moving, after: &[String]) {
        let bench = &moving.bench;
        let store = bench.another().await;
        let found = found_at_last(&store).await;
        let spans: u32 = found.iter().map(|found| found.matched_spans).sum();
        assert_eq!(spans as usize, self.spans(), "{after:?}");
        for (service, traces) in &self.traces {
            let mut found = bench.find(equals(Field::Service, service)).await;
            found.sort();
            assert_eq!(&found, traces, "{after:?}");
        }
        // As another client counts: by pattern, by the read alias, and by the day's own name.
        assert_eq!(bench.count("span-2026*") as usize, self.spans(), "{after:?}");
        assert_eq!(bench.count("span-read") as usize, self.spans(), "{after:?}");
        let late = moving.indices().iter().any(|index| index.ends_with(&format!("{TODAY}-late")));
        let late = if late { bench.count(&format!("{TODAY}-late")) } else { 0 };
        assert_eq!((bench.count(TODAY) + late) as usize, self.spans(), "{after:?}");
        let tenant = TenantId::default();
        let services = store.services(&tenant, TimeRange::ALL).await.unwrap();
        let services: Vec<&str> = services.iter().map(AsRef::as_ref).collect();
        let expected: Vec<&String> = self.traces.keys().collect();
        assert_eq!(services, expected, "{after:?}");
    }
}

/// What a search finds, once the engine has opened what a step that was dropped has made: until then it
/// is refused, and never shorter.
async fn found_at_last(store: &ElasticsearchStore) -> Vec<TraceMatch> {
    let searched = async {
        loop {
            match store.search(&query(Filter::All)).await {
                Ok(answer) => return answer.matches,
                Err(StoreError::Unavailable(_)) => tokio::time::sleep(POLL).await,
                Err(error) => panic!("{error}"),
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(30), searched).await.expect("it cannot be searched")
}

/// How often it is looked again.
const POLL: Duration = Duration::from_millis(50);

fn has(made: &[String], word: &str) -> bool {
    made.iter().any(|step| step.contains(word))
}

#[tokio::test]
async fn a_day_goes_through_all_tiers_and_each_document_is_found_once_after_every_step() {
    on_each(async |engine| {
        let mut moving = Moving::new(engine, true).await;
        let is_opensearch = engine.contains("OPENSEARCH");
        moving.index("web", 0..10).await;
        moving.index("cart", 10..12).await;
        let mut laws = Laws::of(&[("web", &[0, 1, 2, 3, 4, 5, 6, 7, 8, 9]), ("cart", &[10, 11])]);
        assert!(moving.step_by_step(&laws).await.is_empty());

        moving.at_day(2);
        let made = moving.step_by_step(&laws).await;
        for word in ["read-only", "copy into", "switch to"] {
            assert!(has(&made, word), "{word}: {made:#?}");
        }
        let warm = moving.day(TODAY).await;
        assert_eq!(
            (warm.tier, warm.due, warm.documents, warm.next),
            (Tier::Warm, Tier::Warm, 12, None)
        );
        let settings = format!("/{}/_settings?flat_settings=true", moving.bench.name(TODAY));
        let settings = json(&moving.bench.url, "GET", &settings, &Value::Null);
        let settings = settings.as_object().unwrap().values().next().unwrap()["settings"].clone();
        let plain = |name: &str| settings[name].as_str().map(str::to_owned);
        assert_eq!(plain("index.number_of_shards").as_deref(), Some("1"));
        assert_eq!(plain("index.number_of_replicas").as_deref(), Some("0"));
        assert_eq!(plain("index.merge.policy.expunge_deletes_allowed").as_deref(), Some("0"));

        // A late span of a day that is shrunk, and one that it has already.
        moving.index("cart", 11..13).await;
        laws = Laws::of(&[("web", &[0, 1, 2, 3, 4, 5, 6, 7, 8, 9]), ("cart", &[10, 11, 12])]);
        assert_eq!(moving.bench.count(&format!("{TODAY}-late")), 1);
        assert!(moving.step_by_step(&laws).await.is_empty(), "merged at the next move alone");

        moving.at_day(7);
        let made = moving.step_by_step(&laws).await;
        assert!(has(&made, "late documents") && has(&made, "(cold)"), "{made:#?}");
        assert_eq!(moving.bench.count(TODAY), 13);
        assert!(!moving.indices().iter().any(|index| index.ends_with("span-2026-09-21-late")));

        moving.at_day(30);
        let made = moving.step_by_step(&laws).await;
        assert!(has(&made, "snapshot") && has(&made, "mount") == is_opensearch, "{made:#?}");
        assert_eq!(moving.day(TODAY).await.tier, Tier::Frozen);
        assert_eq!(moving.snapshots(), 2);
        moving.index("web", 12..14).await;
        laws =
            Laws::of(&[("web", &[0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 12, 13]), ("cart", &[10, 11, 12])]);
        assert_eq!(moving.bench.count(&format!("{TODAY}-late")), 2);
        assert!(moving.step_by_step(&laws).await.is_empty());

        // Kept until its last span has been kept for the retention.
        moving.at_day(40);
        assert!(moving.step_by_step(&laws).await.is_empty());
        moving.at_day(41);
        let made = moving.run(TierSteps::All).await.days;
        assert!(made.iter().all(|day| day.tier == Tier::Gone), "{made:#?}");
        assert_eq!(
            moving.indices(),
            [format!("{}-farspan-state", moving.bench.config.index_prefix)]
        );
        assert_eq!(moving.snapshots(), 0);
        assert!(moving.bench.find(Filter::All).await.is_empty());
    })
    .await;
}

/// Erases a trace of one span, by a process of its own: it is gone then, and after the next run.
async fn erase(moving: &Moving, trace: u64, laws: &Laws) {
    let store = moving.bench.another().await;
    let receipt = store.erase(&TenantId::default(), trace_id(trace)).await.unwrap();
    assert_eq!(receipt.spans, 1, "{trace}");
    laws.hold(moving, &[format!("the erasure of {trace}")]).await;
    moving.run(TierSteps::All).await;
    laws.hold(moving, &[format!("the run after the erasure of {trace}")]).await;
}

#[tokio::test]
async fn a_trace_is_erased_from_a_warm_day_and_from_a_cold_one() {
    on_each(async |engine| {
        let mut moving = Moving::new(engine, true).await;
        moving.index("web", 0..4).await;
        moving.index("fraud", 4..5).await;
        moving.at_day(2);
        moving.run(TierSteps::All).await;
        // The last trace of its service: its entry of the catalogue goes as well.
        erase(&moving, 4, &Laws::of(&[("web", &[0, 1, 2, 3])])).await;
        moving.at_day(8);
        moving.index("web", 5..6).await;
        moving.run(TierSteps::All).await;
        erase(&moving, 5, &Laws::of(&[("web", &[0, 1, 2, 3])])).await;
    })
    .await;
}

#[tokio::test]
async fn a_trace_is_erased_from_a_frozen_day_which_is_frozen_again_without_it() {
    on_each(async |engine| {
        let mut moving = Moving::new(engine, true).await;
        moving.index("web", 0..4).await;
        moving.at_day(8);
        moving.run(TierSteps::All).await;
        moving.at_day(31);
        moving.run(TierSteps::All).await;
        assert_eq!(moving.snapshots(), 2);
        erase(&moving, 0, &Laws::of(&[("web", &[1, 2, 3])])).await;
        assert_eq!(moving.day(TODAY).await.tier, Tier::Frozen);
        assert_eq!(moving.snapshots(), 2);
    })
    .await;
}

/// A copy that was made before an erasure never takes the day's place.
#[tokio::test]
async fn what_is_erased_while_its_day_is_being_copied_stays_erased() {
    on_each(async |engine| {
        let mut moving = Moving::new(engine, false).await;
        moving.index("web", 0..4).await;
        moving.at_day(2);
        let copy = "-farspan-shrunk-span-";
        let mut laws = Laws::of(&[("web", &[0, 1, 2, 3])]);
        for erased in 0..2 {
            loop {
                let report = moving.run(TierSteps::OneOfEachDay).await;
                let done: Vec<String> = report.days.into_iter().flat_map(|day| day.done).collect();
                let word = if erased == 0 { "copy into" } else { "add late documents" };
                if done.iter().any(|step| step.contains(word) && step.contains(copy)) {
                    break;
                }
                assert!(!done.is_empty());
            }
            laws = Laws::of(&[("web", if erased == 0 { &[1, 2, 3] } else { &[2, 3] })]);
            moving.bench.store.erase(&TenantId::default(), trace_id(erased)).await.unwrap();
            assert!(!moving.indices().iter().any(|index| index.contains(copy)), "{erased}");
            laws.hold(&moving, &[format!("the erasure of {erased}")]).await;
        }
        moving.step_by_step(&laws).await;
        assert_eq!(moving.day(TODAY).await.tier, Tier::Warm);
        let by_id = value!({ "query": { "match_all": {} } });
        let path = format!("/{}*/_search?expand_wildcards=all", moving.bench.config.index_prefix);
        let all = json(&moving.bench.url, "POST", &path, &by_id).to_string();
        assert!(!all.contains(&trace_id(0).to_string()) && !all.contains(&trace_id(1).to_string()));
    })
    .await;
}

#[tokio::test]
async fn a_run_that_is_dropped_anywhere_is_gone_on_with() {
    on_each(async |engine| {
        let mut moving = Moving::new(engine, true).await;
        moving.index("web", 0..6).await;
        let mut laws = Laws::of(&[("web", &[0, 1, 2, 3, 4, 5])]);
        for (day, late) in [(2, 6), (7, 7), (30, 8)] {
            moving.at_day(day);
            let mut patience = Duration::from_millis(20);
            let mut drops = 0;
            loop {
                let store = moving.bench.another().await;
                let run = store.move_tiers(TierSteps::All);
                match tokio::time::timeout(patience, run).await {
                    Ok(report) => {
                        let report = report.unwrap();
                        assert!(report.days.iter().all(|day| day.error.is_none()), "{report:?}");
                        assert!(report.days.iter().all(|day| day.tier == day.due), "{report:?}");
                        break;
                    }
                    Err(_) => drops += 1,
                }
                laws.hold(&moving, &[format!("a drop after {patience:?}")]).await;
                // The dropped one's locks have to end first.
                moving.bench.clock.set_wall(NOW.plus(day * DAY + drops * 601_000_000_000));
                patience = patience.mul_f64(1.4);
            }
            assert!(drops > 2, "{drops}");
            laws.hold(&moving, &["the run's end".to_owned()]).await;
            moving.index("web", late..late + 1).await;
            laws = Laws::of(&[("web", &(0..=late).collect::<Vec<_>>())]);
        }
    })
    .await;
}

#[tokio::test]
async fn two_runners_at_once_and_a_writer_and_a_reader_beside_them_see_every_document_once() {
    on_each(async |engine| {
        let mut moving = Moving::new(engine, false).await;
        moving.index("web", 0..50).await;
        moving.at_day(2);
        let (one, other) = (moving.bench.another().await, moving.bench.another().await);
        let reader = moving.bench.another().await;
        let runs = async {
            let all = async |store: &ElasticsearchStore| {
                let mut is_held = false;
                loop {
                    let report = store.move_tiers(TierSteps::OneOfEachDay).await.unwrap();
                    is_held |= report.notes.iter().any(|note| note.contains("another process"));
                    assert!(report.days.iter().all(|day| day.error.is_none()), "{report:?}");
                    if report.days.iter().all(|day| day.tier == Tier::Warm) {
                        return is_held;
                    }
                }
            };
            let held = tokio::join!(all(&one), all(&other));
            assert!(held.0 || held.1, "they never met");
        };
        let mut answers = 0;
        let reads = async {
            loop {
                // An index that goes in the middle of a search is an error, and never half an answer.
                if let Ok(answer) = reader.search(&query(Filter::All)).await {
                    assert_eq!(answer.matches.len(), 50);
                    assert!(answer.matches.iter().all(|found| found.matched_spans == 1));
                    answers += 1;
                }
            }
        };
        tokio::select! { () = runs => {}, () = reads => {} }
        assert!(answers > 3, "{answers}");
        assert_eq!(moving.bench.count(TODAY), 50);
    })
    .await;
}

/// A writer that still takes the companion for there, and one that meets it while it is merged.
#[tokio::test]
async fn late_spans_that_come_while_late_spans_are_merged_are_not_lost() {
    on_each(async |engine| {
        let mut moving = Moving::new(engine, false).await;
        moving.index("web", 0..4).await;
        moving.at_day(2);
        moving.run(TierSteps::All).await;
        moving.index("web", 4..6).await;
        moving.at_day(7);
        let mut next = 6;
        loop {
            let report =
                moving.bench.another().await.move_tiers(TierSteps::OneOfEachDay).await.unwrap();
            let is_done = report.days.iter().all(|day| day.done.is_empty() && day.error.is_none());
            // A companion that takes nothing for a moment is tried again by the group.
            let one = moving.bench.log.append(&Request::of("web", &[span(next, 0, "a")]));
            if moving.bench.store.index(&[one]).await.is_ok() {
                next += 1;
            }
            SearchIndexer::flush(&*moving.bench.store, NOW, true).await.unwrap();
            Laws::of(&[("web", &(0..next).collect::<Vec<_>>())])
                .hold(&moving, &[format!("{report:?}")])
                .await;
            if is_done {
                break;
            }
        }
        // While the companion is closed nothing is taken; before and after it is.
        assert!(next > 7, "{next}");
        assert_eq!(moving.day(TODAY).await.tier, Tier::Cold);
    })
    .await;
}

#[tokio::test]
async fn a_repository_that_is_missing_is_a_note_and_days_stay_cold_until_it_is_there() {
    on_each(async |engine| {
        let mut moving = Moving::new(engine, true).await;
        let repository = format!("/_snapshot/{}", moving.repository.clone().unwrap());
        let settings = http(&moving.bench.url, "DELETE", &repository, "");
        assert_eq!(settings.0, 200, "{settings:?}");
        moving.index("web", 0..3).await;
        let laws = Laws::of(&[("web", &[0, 1, 2])]);
        moving.at_day(30);
        moving.step_by_step(&laws).await;
        let report = moving.run(TierSteps::All).await;
        assert!(report.days.iter().all(|day| day.tier == Tier::Cold && day.due == Tier::Frozen));
        assert!(report.notes.iter().any(|note| note.contains("no snapshot repository")));
        let erased = moving.bench.store.erase(&TenantId::default(), trace_id(0)).await;
        assert!(erased.unwrap_err().to_string().contains("repository"), "snapshots are not seen");

        let name = moving.repository.clone().unwrap();
        let settings = value!({ "type": "fs", "settings": { "location": name } });
        json(&moving.bench.url, "PUT", &repository, &settings);
        assert_eq!(
            moving.bench.store.erase(&TenantId::default(), trace_id(0)).await.unwrap().spans,
            1
        );
        let laws = Laws::of(&[("web", &[1, 2])]);
        moving.step_by_step(&laws).await;
        assert_eq!(moving.day(TODAY).await.tier, Tier::Frozen);
    })
    .await;
}

#[tokio::test]
async fn snapshots_in_a_repository_that_is_not_named_any_more_hold_an_erasure_up_and_are_told() {
    on_each(async |engine| {
        let mut moving = Moving::new(engine, true).await;
        moving.index("web", 0..3).await;
        moving.at_day(30);
        moving.run(TierSteps::All).await;
        assert_eq!(moving.day(TODAY).await.tier, Tier::Frozen);
        let tiers = TierPolicy { repository: None, ..moving.bench.config.tiers.clone() };
        let config = ElasticsearchConfig { tiers, ..moving.bench.config.clone() };
        let other = ElasticsearchStore::connect(config, moving.bench.clock.clone()).await.unwrap();
        let name = moving.repository.clone().unwrap();
        let report = other.tiers().await.unwrap();
        assert!(report.notes.iter().any(|note| note.contains(&name)), "{report:?}");
        let erased = other.erase(&TenantId::default(), trace_id(0)).await.unwrap_err();
        assert!(erased.is_retryable() && erased.to_string().contains(&name), "{erased}");
        Laws::of(&[("web", &[0, 1, 2])]).hold(&moving, &["nothing was erased".to_owned()]).await;

        let store = moving.bench.another().await;
        assert!(store.tiers().await.unwrap().notes.iter().all(|note| !note.contains(&name)));
        assert_eq!(store.erase(&TenantId::default(), trace_id(0)).await.unwrap().spans, 1);
        Laws::of(&[("web", &[1, 2])]).hold(&moving, &["erased".to_owned()]).await;
    })
    .await;
}

#[tokio::test]
async fn a_lock_of_a_run_that_is_gone_ends_and_one_that_is_held_is_respected() {
    let mut moving = Moving::new(ENGINES[0], false).await;
    moving.index("web", 0..2).await;
    moving.at_day(2);
    let held = moving.bench.another().await;
    let path = format!("/{}-farspan-state/_doc/lock-tiers", moving.bench.config.index_prefix);
    let until = NOW.0 + 2 * DAY + 60_000_000_000;
    json(&moving.bench.url, "PUT", &path, &value!({ "what": "lock", "until": until }));
    let report = held.move_tiers(TierSteps::All).await.unwrap();
    assert!(report.days.iter().all(|day| day.done.is_empty()) && !report.notes.is_empty());
    moving.bench.clock.set_wall(NOW.plus(2 * DAY).plus(61_000_000_000));
    let report = moving.run(TierSteps::All).await;
    assert!(report.days.iter().all(|day| !day.done.is_empty() && day.tier == Tier::Warm));
    let gone = http(&moving.bench.url, "GET", &path, "");
    assert_eq!(gone.0, 404, "given back: {gone:?}");
}
