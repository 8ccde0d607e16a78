#![expect(clippy::cast_possible_truncation, reason = "numbers of a test are small")]

use std::collections::BTreeMap;
use std::sync::Arc;

use proptest::collection::vec;
use proptest::prelude::*;
use trace_model::location::{Detail, EntrySpan, Keep, RootSpan, ServiceCount, SummaryQuery};
use trace_model::{Region, SpanId, TimeRange};

use super::summaries::answers;
use super::*;

const MINUTE: u64 = 60_000_000_000;
const NOW: u64 = 1_790_000_000_000_000_000;

fn tenant(number: u8) -> TenantId {
    TenantId::new(["team-a", "team-b"][usize::from(number % 2)]).unwrap()
}

fn trace(number: u8) -> TraceId {
    TraceId::from_bytes([number + 1; 16]).unwrap()
}

fn writer(number: u8) -> WriterId {
    let region = ["eu-west-1", "us-east-1", "ap-southeast-1"][usize::from(number % 3)];
    WriterId {
        region: Region::new(region).unwrap(),
        incarnation: 1 + u64::from(number / 6),
        partition: u32::from(number / 3 % 2),
    }
}

fn service(number: u8) -> Arc<str> {
    ["web", "cart", "payment", "fraud"][usize::from(number % 4)].into()
}

fn detail(seed: u64, services: &[u8]) -> Detail {
    let start = UnixNanos(NOW - seed % 40 * MINUTE);
    let span_id = SpanId::from_bytes([1 + (seed % 200) as u8; 8]).unwrap();
    let mut counts: Vec<_> = services
        .iter()
        .map(|number| ServiceCount { service: service(*number), spans: 2, errors: 0 })
        .collect();
    counts.sort();
    counts.dedup();
    let root = RootSpan {
        service: service((seed % 4) as u8),
        operation: format!("op-{}", seed % 3).as_str().into(),
        start: start.minus(seed),
        span_id,
        duration_nanos: seed << 58,
        is_error: seed.is_multiple_of(2),
    };
    let entry = EntrySpan {
        span_id,
        parent_span_id: span_id,
        service: service((seed % 3) as u8),
        start: start.plus(seed % 9),
        duration_nanos: seed * 1_000,
        is_error: false,
    };
    Detail {
        min_start: start,
        max_end: start.plus(seed % 7 * MINUTE),
        span_count: counts.len() as u32 * 2,
        error_count: (seed % 3) as u32,
        is_lower_bound: seed.is_multiple_of(11),
        services: counts,
        root: (seed % 5 < 3).then_some(root),
        entries: vec![entry; (seed % 3) as usize],
    }
}

fn row() -> impl Strategy<Value = Contribution> {
    let ids = (0_u8..2, 0_u8..6, 0_u8..7);
    (ids, 0_u64..5, 0_u64..90, vec(0_u8..4, 0..4), 0_u8..12).prop_map(
        |((tenant_number, trace_number, writer_number), version, seed, services, special)| {
            Contribution {
                version,
                tenant: tenant(tenant_number),
                trace_id: trace(trace_number),
                writer: writer(writer_number),
                last_append: UnixNanos(NOW - seed * MINUTE / 3),
                keep: [Keep::Pending, Keep::SampledOut, Keep::Keep][usize::from(special % 3)],
                is_erased: special == 7,
                detail: (special != 5).then(|| detail(seed, &services)),
            }
        },
    )
}

type Oracle = BTreeMap<(TenantId, TraceId), TraceEntry>;

fn oracle_of(rows: &[Contribution]) -> Oracle {
    let mut oracle = Oracle::new();
    for row in rows {
        oracle.entry((row.tenant.clone(), row.trace_id)).or_default().join(row.clone());
    }
    oracle
}

fn index_of(rows: &[Contribution]) -> HotIndex {
    let mut index = HotIndex::new(1 << 20);
    for row in rows {
        index.join(row);
    }
    index
}

/// Rows of a region that hold spans and say no more than the route.
fn bare_rows(oracle: &Oracle, region: &Region) -> u64 {
    let rows = oracle.values().flat_map(|entry| entry.contributions.values());
    let is_bare = |row: &&Contribution| {
        let holds_spans = !row.is_erased && row.keep != Keep::SampledOut;
        row.writer.region == *region && holds_spans && row.detail.is_none()
    };
    rows.filter(is_bare).count() as u64
}

fn agree(index: &HotIndex, oracle: &Oracle) -> Result<(), TestCaseError> {
    prop_assert_eq!(index.traces(), oracle.len());
    let rows: usize = oracle.values().map(|entry| entry.contributions.len()).sum();
    prop_assert_eq!(index.rows(), rows);
    for region in (0..3).map(|number| writer(number).region) {
        prop_assert_eq!(index.rows_without_detail(&region), bare_rows(oracle, &region));
    }
    for ((tenant, trace_id), entry) in oracle {
        prop_assert_eq!(&index.look_up(tenant, *trace_id), entry);
    }
    Ok(())
}

fn query() -> impl Strategy<Value = SummaryQuery> {
    let names = (proptest::option::of(0_u8..4), proptest::option::of(0_u8..4), 0_u64..5);
    (names, 0_u64..60, 0_u64..60, 0_u64..5, 0_u8..4, 1_usize..9).prop_map(
        |((named, root, operation), back, length, minutes, flags, limit)| SummaryQuery {
            tenant: tenant(flags),
            range: TimeRange {
                start: UnixNanos(NOW - back * MINUTE),
                end: UnixNanos(NOW - back * MINUTE + length * MINUTE),
            },
            service: named.map(service),
            root_service: root.map(service),
            root_operation: (operation < 2).then(|| format!("op-{operation}").as_str().into()),
            duration_nanos_min: minutes.saturating_sub(2) * MINUTE,
            duration_nanos_max: (minutes == 1).then_some(3 * MINUTE),
            only_errors: flags == 3,
            limit,
        },
    )
}

/// The answer by looking at everything.
fn expected(oracle: &Oracle, query: &SummaryQuery) -> Vec<(TraceId, TraceEntry)> {
    let of_tenant = oracle.iter().filter(|((tenant, _), _)| *tenant == query.tenant);
    let mut found: Vec<_> = of_tenant
        .filter_map(|((_, id), entry)| Some((answers(query, entry)?, *id, entry.clone())))
        .collect();
    found.sort_by(|left, right| right.0.cmp(&left.0).then(left.1.cmp(&right.1)));
    found.into_iter().take(query.limit).map(|(_, id, entry)| (id, entry)).collect()
}

#[test]
fn a_search_ends_when_its_tenants_number_is_given_to_another_one() {
    let row_of = |tenant_number: u8, trace_number: u8| Contribution {
        version: 1,
        tenant: tenant(tenant_number),
        trace_id: trace(trace_number),
        writer: writer(0),
        last_append: UnixNanos(NOW),
        keep: Keep::Keep,
        is_erased: false,
        detail: Some(Detail {
            min_start: UnixNanos(NOW),
            max_end: UnixNanos(NOW + 1),
            span_count: 1,
            ..Detail::default()
        }),
    };
    let mut index = index_of(&(0..40).map(|number| row_of(0, number)).collect::<Vec<_>>());
    let range = TimeRange { start: UnixNanos(NOW - 40 * MINUTE), end: UnixNanos(NOW + MINUTE) };
    let query = SummaryQuery::newest(tenant(0), range, 1_000);
    let mut search = index.search(query);
    assert!(!search.step(&index, 1));
    let number = index.names.id_of(tenant(0).as_str());
    let horizon = UnixNanos(NOW + 2 * MINUTE);
    while !index.expire(&writer(0).region, horizon, LetGo::Expired, 64).is_done {}
    index.sweep_names();
    for other in 100..140 {
        index.join(&row_of(1, other));
    }
    assert_eq!(index.names.id_of(tenant(1).as_str()), number, "it has the number now");
    while !search.step(&index, 1) {}
    let found = search.finish().entries;
    assert!(found.iter().all(|(id, _)| (0..40).any(|number| trace(number) == *id)), "{found:?}");
}

proptest! {
    #[test]
    fn any_order_and_any_number_of_deliveries_give_the_same_index(
        rows in vec(row(), 0..60), order in vec(any::<prop::sample::Index>(), 0..120)
    ) {
        let index = index_of(&rows);
        agree(&index, &oracle_of(&rows))?;
        let mut other = HotIndex::new(1 << 20);
        for place in order.iter().filter(|_| !rows.is_empty()) {
            other.join(&rows[place.index(rows.len())]);
        }
        for row in rows.iter().rev() {
            other.join(row);
        }
        prop_assert_eq!(other.digest(), index.digest());
        agree(&other, &oracle_of(&rows))?;
    }

    #[test]
    fn summaries_are_what_looking_at_every_trace_gives(
        rows in vec(row(), 0..60), queries in vec(query(), 1..8), step_rows in 1_usize..9
    ) {
        let index = index_of(&rows);
        let oracle = oracle_of(&rows);
        for query in &queries {
            prop_assert_eq!(index.summaries(query).entries, expected(&oracle, query));
            let mut search = index.search(query.clone());
            while !search.step(&index, step_rows) {}
            prop_assert_eq!(search.finish().entries, expected(&oracle, query));
        }
    }

    #[test]
    fn expiry_takes_a_regions_rows_of_the_minutes_before_the_horizon_and_nothing_else(
        rows in vec(row(), 0..60), minutes in 0_u64..40, queries in vec(query(), 1..4),
        step_rows in 1_usize..9
    ) {
        let mut index = index_of(&rows);
        let horizon = UnixNanos((NOW / MINUTE - minutes) * MINUTE);
        let region = writer(0).region;
        let is_gone = |row: &Contribution| row.writer.region == region && row.last_append < horizon;
        let mut oracle = oracle_of(&rows);
        let latest = oracle.values().flat_map(|entry| entry.contributions.values());
        let gone = latest.filter(|row| is_gone(row)).map(|row| row.last_append).max();
        for entry in oracle.values_mut() {
            entry.contributions.retain(|_, row| !is_gone(row));
        }
        oracle.retain(|_, entry| !entry.contributions.is_empty());
        let before = index.rows();
        let mut expired = 0;
        loop {
            let step = index.expire(&region, horizon, LetGo::Expired, step_rows);
            prop_assert!(step.rows <= step_rows);
            expired += step.rows;
            if step.is_done {
                break;
            }
        }
        prop_assert_eq!(before - expired, index.rows());
        agree(&index, &oracle)?;
        for query in &queries {
            prop_assert_eq!(index.summaries(query).entries, expected(&oracle, query));
        }
        let forgotten = Forgotten { expired_until: gone, evicted_until: None };
        prop_assert_eq!(index.forgotten(&region), forgotten);
        prop_assert_eq!(index.forgotten(&writer(1).region), Forgotten::default());
    }

    #[test]
    fn the_orders_hold_what_the_rows_say_and_nothing_more(
        rows in vec(row(), 0..80), rows_max in 1_usize..60, minutes in 0_u64..40
    ) {
        let mut index = HotIndex::new(rows_max);
        for row in &rows {
            index.join(row);
        }
        let horizon = UnixNanos((NOW / MINUTE - minutes) * MINUTE);
        index.expire(&writer(2).region, horizon, LetGo::Evicted, usize::MAX);
        let mut fresh = HotIndex::new(1 << 20);
        for id in index.rows.numbers() {
            if let Some(row) = index.rows.view(id).and_then(|row| row.contribution(&index.names)) {
                fresh.join(&row);
            }
        }
        prop_assert_eq!(index.orders.entries(), fresh.orders.entries());
        prop_assert_eq!(index.digest(), fresh.digest());
        for region in (0..3).map(|number| writer(number).region) {
            prop_assert_eq!(index.rows_without_detail(&region), fresh.rows_without_detail(&region));
            index.expire(&region, UnixNanos::MAX, LetGo::Expired, usize::MAX);
            prop_assert_eq!(index.rows_without_detail(&region), 0);
        }
        prop_assert_eq!((index.rows(), index.traces(), index.orders.entries()), (0, 0, 0));
        prop_assert_eq!((index.orders.bytes(), index.arrivals.bytes()), (0, 0));
    }

    #[test]
    fn a_full_index_keeps_the_newest_arrivals_and_says_what_it_let_go(
        rows in vec(row(), 1..80), rows_max in 1_usize..20
    ) {
        let mut index = HotIndex::new(rows_max);
        for row in &rows {
            index.join(row);
            prop_assert!(index.rows() <= rows_max);
        }
        let everything = oracle_of(&rows);
        for ((tenant, trace_id), entry) in &everything {
            let held = index.look_up(tenant, *trace_id);
            for (writer, row) in &entry.contributions {
                if held.contributions.get(writer) != Some(row) {
                    // What went may have been an earlier version of it.
                    let forgotten = index.forgotten(&writer.region);
                    prop_assert!(forgotten.evicted_until.is_some());
                    prop_assert!(forgotten.expired_until.is_none());
                }
            }
        }
    }
}

#[test]
fn replay_below_the_version_changes_nothing() {
    let make = |version| Contribution {
        version,
        tenant: tenant(0),
        trace_id: trace(0),
        writer: writer(0),
        last_append: UnixNanos(NOW),
        keep: Keep::Keep,
        is_erased: false,
        detail: Some(detail(version, &[0])),
    };
    let mut index = HotIndex::new(10);
    assert!(index.join(&make(5)));
    assert!(!index.join(&make(4)));
    assert!(!index.join(&make(5)));
    assert!(index.join(&make(6)));
    assert_eq!(index.rows(), 1);
    assert_eq!(index.version_of("team-a", trace(0), &writer(0)), Some(6));
    assert_eq!(index.version_of("team-b", trace(0), &writer(0)), None);
}

/// A trace as a busy system has them: three services, fifty operations.
fn busy(number: u64, length_nanos: u64) -> Contribution {
    let mut id = [7_u8; 16];
    id[..8].copy_from_slice(&number.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes());
    let start = UnixNanos(NOW + number * 10_000_000);
    let services = ["cart", "payment", "web"].map(|name| ServiceCount {
        service: name.into(),
        spans: 3,
        errors: 0,
    });
    let root = RootSpan {
        service: "web".into(),
        operation: format!("GET /{}", number % 50).as_str().into(),
        start,
        span_id: SpanId::from_bytes(id[..8].try_into().unwrap())
            .unwrap_or(SpanId::from_bytes([1; 8]).unwrap()),
        duration_nanos: length_nanos,
        is_error: false,
    };
    Contribution {
        version: number + 1,
        tenant: TenantId::default(),
        trace_id: TraceId::from_bytes(id).unwrap(),
        writer: writer(0),
        last_append: start.plus(300_000_000),
        keep: Keep::Keep,
        is_erased: false,
        detail: Some(Detail {
            min_start: start,
            max_end: start.plus(length_nanos),
            span_count: 9,
            error_count: 0,
            is_lower_bound: false,
            services: services.to_vec(),
            root: Some(root),
            entries: Vec::new(),
        }),
    }
}

fn busy_index(traces: u64) -> HotIndex {
    let mut index = HotIndex::new(1 << 20);
    for number in 0..traces {
        // One trace in a thousand is slow.
        index.join(&busy(number, if number % 1_000 == 7 { 9_000_000_000 } else { 80_000_000 }));
    }
    index
}

/// Everything, newest first.
fn all() -> SummaryQuery {
    SummaryQuery::newest(
        TenantId::default(),
        TimeRange { start: UnixNanos(0), end: UnixNanos::MAX },
        20,
    )
}

#[test]
fn a_trace_of_three_services_takes_at_most_200_bytes() {
    let traces = 200_000;
    let each = busy_index(traces).bytes() as u64 / traces;
    assert!((80..=200).contains(&each), "{each} bytes a trace");
}

#[test]
fn a_page_looks_at_little_more_than_it_shows() {
    let index = busy_index(50_000);
    let slow = SummaryQuery { duration_nanos_min: 5_000_000_000, ..all() };
    let operation = SummaryQuery { root_operation: Some("GET /7".into()), ..all() };
    let service = SummaryQuery { service: Some("cart".into()), ..all() };
    let both = SummaryQuery { root_service: Some("web".into()), ..slow.clone() };
    for query in [all(), slow, operation, service, both] {
        let found = index.summaries(&query);
        assert_eq!(found.entries.len(), 20, "{query:?}");
        assert!(found.rows_scanned <= 40, "{} rows for {query:?}", found.rows_scanned);
    }
}

#[test]
fn a_question_that_nothing_answers_lets_writers_in_between_its_steps() {
    let traces = 20_000;
    let mut index = busy_index(traces);
    // Every trace is one of `cart`, and none of them has `cart` at its root.
    let query = SummaryQuery { root_service: Some("cart".into()), ..all() };
    assert_eq!(index.summaries(&query).rows_scanned, 0, "the roots have an order of their own");
    // Two orders that have no trace in common, each of all but a few traces.
    let query = SummaryQuery {
        service: Some("cart".into()),
        duration_nanos_min: 70_000_000,
        duration_nanos_max: Some(79_999_999),
        ..all()
    };
    let mut search = index.search(query);
    let (step_rows, mut steps) = (100, 0);
    while !search.step(&index, step_rows) {
        steps += 1;
        // A writer: what it adds is newer than where the search is, and changes nothing there.
        index.join(&busy(traces + steps, 80_000_000));
    }
    let found = search.finish();
    assert_eq!((found.entries.len(), found.steps), (0, steps + 1));
    assert!(found.rows_scanned >= traces - traces / 1_000, "{}", found.rows_scanned);
    assert!(found.rows_scanned <= found.steps * (step_rows as u64 + 1), "{found:?}");
}

#[test]
fn a_trace_that_grows_while_it_is_looked_for_comes_once() {
    let mut index = HotIndex::new(1 << 20);
    for number in 0..500 {
        index.join(&busy(number, 80_000_000));
    }
    let mut search = index.search(SummaryQuery { limit: 1_000, ..all() });
    assert!(!search.step(&index, 400));
    // Another region's part began an hour before: the trace moves to where the search comes yet.
    for number in 480..500 {
        let mut row = busy(number, 80_000_000);
        row.writer = writer(1);
        if let Some(detail) = &mut row.detail {
            detail.min_start = detail.min_start.minus(60 * MINUTE);
        }
        index.join(&row);
    }
    while !search.step(&index, 400) {}
    let mut ids: Vec<_> = search.finish().entries.into_iter().map(|(id, _)| id).collect();
    assert_eq!(ids.len(), 500);
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), 500);
}

#[test]
fn operations_without_number_share_an_order_and_are_found_all_the_same() {
    let mut index = HotIndex::new(1 << 20);
    let named = |number: u64| {
        let mut row = busy(number, 80_000_000);
        // All within ten minutes.
        if let Some(detail) = &mut row.detail {
            detail.min_start = UnixNanos(NOW + number);
            if let Some(root) = &mut detail.root {
                root.operation = format!("GET /orders/{number}").as_str().into();
            }
        }
        row
    };
    let traces = 20_000;
    for number in 0..traces {
        index.join(&named(number));
    }
    for number in [0, 9, traces - 1] {
        let operation = Some(format!("GET /orders/{number}").as_str().into());
        for root_service in [None, Some("web".into())] {
            let query = SummaryQuery { root_service, root_operation: operation.clone(), ..all() };
            let found = index.summaries(&query).entries;
            let ids: Vec<_> = found.into_iter().map(|(id, _)| id).collect();
            assert_eq!(ids, [named(number).trace_id], "{number}");
        }
    }
    let none = SummaryQuery { root_operation: Some("GET /nowhere".into()), ..all() };
    assert!(index.summaries(&none).entries.is_empty());
    index.expire(&writer(0).region, UnixNanos::MAX, LetGo::Expired, usize::MAX);
    assert_eq!((index.rows(), index.orders.entries()), (0, 0));
}

#[test]
fn a_rare_service_is_found_without_looking_at_every_row() {
    let mut index = HotIndex::new(1 << 20);
    for number in 0..2_000_u32 {
        let mut id = [1_u8; 16];
        id[..4].copy_from_slice(&number.to_le_bytes());
        let rare = number % 500 == 0;
        index.join(&Contribution {
            version: 1,
            tenant: tenant(0),
            trace_id: TraceId::from_bytes(id).unwrap(),
            writer: writer(0),
            last_append: UnixNanos(NOW),
            keep: Keep::Keep,
            is_erased: false,
            detail: Some(Detail { root: None, ..detail(1, if rare { &[0, 3] } else { &[0] }) }),
        });
    }
    let query =
        SummaryQuery { tenant: tenant(0), service: Some("fraud".into()), limit: 100, ..all() };
    let found = index.summaries(&query);
    assert_eq!((found.entries.len(), found.rows_scanned), (4, 4));
}

/// A row of a tenant, a service and an operation of its own.
fn fresh(number: u32) -> Contribution {
    let name = |what: &str| format!("{what}-{number}");
    let mut detail = detail(5, &[]);
    detail.services = vec![ServiceCount { service: name("svc").into(), spans: 1, errors: 0 }];
    let root = detail.root.as_mut().unwrap();
    root.operation = name("op").into();
    root.service = name("svc").into();
    let mut trace_id = [1; 16];
    trace_id[..4].copy_from_slice(&number.to_le_bytes());
    Contribution {
        version: 1,
        tenant: TenantId::new(&name("tenant")).unwrap(),
        trace_id: TraceId::from_bytes(trace_id).unwrap(),
        writer: writer(0),
        last_append: UnixNanos(NOW + u64::from(number) * MINUTE),
        keep: Keep::Keep,
        is_erased: false,
        detail: Some(detail),
    }
}

#[test]
fn names_that_no_row_uses_any_more_go_and_those_of_others_stay_what_they_were() {
    let mut index = HotIndex::new(1_000);
    let mut largest = 0;
    for number in 0..200_000 {
        index.join(&fresh(number));
        if number % 10_000 == 0 {
            index.expire(&writer(0).region, UnixNanos(0), LetGo::Expired, 1);
            largest = largest.max(index.names.numbers());
        }
    }
    assert!(largest < 250_000, "{largest} numbers for 600,000 names, of which 3,000 are in use");
    for number in 199_000..200_000 {
        let row = fresh(number);
        let entry = index.look_up(&row.tenant, row.trace_id);
        let mut expected = TraceEntry::default();
        expected.join(row);
        assert_eq!(entry, expected);
    }
    assert_eq!(index.look_up(&fresh(7).tenant, fresh(7).trace_id), TraceEntry::default());
}
