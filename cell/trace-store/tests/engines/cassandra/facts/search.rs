//! The store's own search, against the store in memory.

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use trace_model::query::{CompareOp, Field, Literal};
use trace_model::{Filter, SearchQuery, TenantId, TimeRange, TraceMatch};
use trace_store::{MemoryStore, SpanWriter, StoreError, TraceSearch};

use super::Bench;
use crate::fixture::{NOW, Request, attribute, span, text};
use crate::harness::{equals, query, tag};

const HOUR: u64 = 3_600_000_000_000;

/// Random spans in both stores: two days, few services and operations, traces in several records.
async fn fill(bench: &mut Bench, random: &mut SmallRng) -> MemoryStore {
    let memory = MemoryStore::new();
    for _ in 0..40 {
        let mut request = Request::of("web", &[]);
        request.groups.clear();
        request.receive_time = NOW.plus(random.random_range(0..HOUR));
        for service in ["web", "cart"] {
            let spans: Vec<_> = (0..random.random_range(1..12))
                .map(|_| {
                    let trace = random.random_range(0..60);
                    let operation = ["GET /", "POST /", "pay"][random.random_range(0..3)];
                    let mut span = span(trace, random.random_range(0..1_000), operation);
                    // Few distinct times, so that some are equal, over days and hours.
                    let back = random.random_range(0..3) * 20 * HOUR
                        + random.random_range(0..4) * HOUR / 3;
                    span.start_time_unix_nano = NOW.0 - back + random.random_range(0..3) * 1_000;
                    span.end_time_unix_nano = span.start_time_unix_nano + 5;
                    if random.random_range(0..20) == 0 {
                        span.start_time_unix_nano = 0;
                    }
                    span.attributes = vec![attribute("n", text(&(trace % 4).to_string()))];
                    span
                })
                .collect();
            request.groups.extend(Request::of(service, &spans).groups);
        }
        let batch = bench.write(&request).await;
        memory.write(&[batch]).await.unwrap();
    }
    memory
}

fn any_search(random: &mut SmallRng) -> SearchQuery {
    let mut parts = vec![equals(Field::Service, ["web", "cart"][random.random_range(0..2)])];
    if random.random() {
        let operation = ["GET /", "pay", "none"][random.random_range(0..3)];
        parts.push(equals(Field::Operation, operation));
    }
    if random.random_range(0..3) == 0 {
        parts.push(tag("n", "2"));
    }
    let start = NOW.minus(random.random_range(0..50 * HOUR));
    let mut range = TimeRange { start, end: start.plus(random.random_range(1..30 * HOUR)) };
    if random.random_range(0..4) == 0 {
        range = TimeRange::ALL;
    }
    if random.random_range(0..4) == 0 {
        range.end = NOW.plus(1_001);
    }
    let limit = random.random_range(1..12);
    SearchQuery { range, limit, ..query(Filter::And(parts)) }
}

fn shown(matches: &[TraceMatch]) -> Vec<(u64, trace_model::TraceId, String)> {
    let one = |found: &TraceMatch| {
        let rest = format!("{:?} {:?}", found.services, found.regions);
        (found.newest_match.0, found.trace_id, rest)
    };
    matches.iter().map(one).collect()
}

#[tokio::test]
async fn searches_agree_with_the_store_in_memory_page_by_page() {
    let seed = 20_261_127;
    println!("seed {seed}");
    let mut random = SmallRng::seed_from_u64(seed);
    let mut bench = Bench::new("agree").await;
    let memory = fill(&mut bench, &mut random).await;
    let mut pages = 0;
    for _ in 0..60 {
        let mut search = any_search(&mut random);
        loop {
            let expected = memory.search(&search).await.unwrap().matches;
            let found = bench.store.search(&search).await.unwrap().matches;
            assert_eq!(shown(&found), shown(&expected), "{search:?}");
            let Some(last) = expected.last() else { break };
            search.before = Some((last.newest_match, last.trace_id));
            pages += 1;
        }
    }
    assert!(pages > 100, "{pages}");
}

#[tokio::test]
async fn what_the_tables_cannot_answer_is_refused_and_never_cut_short() {
    let bounded = |config: &mut trace_store::CassandraConfig| {
        config.search_traces_max = 5;
        config.search_rows_max = 30;
    };
    let mut bench = Bench::with("refused", bounded).await;
    let spans: Vec<_> = (0..10).map(|trace| span(trace, 0, "a")).collect();
    bench.write(&Request::of("web", &spans)).await;
    let store = std::sync::Arc::clone(&bench.store);
    let refused = async |filter: Filter| match store.search(&query(filter)).await {
        Err(StoreError::Unsupported(words)) => words,
        other => panic!("{other:?}"),
    };
    assert!(refused(Filter::All).await.contains("name no service"));
    assert!(refused(tag("k", "v")).await.contains("search engine"));
    let (field, op, literal) = (Field::Duration, CompareOp::Gt, Literal::Int(1));
    let slow = Filter::Compare { field, op, literal };
    let filter = Filter::And(vec![equals(Field::Service, "web"), slow]);
    assert!(refused(filter).await.contains("more than 5 traces"));
    let spans: Vec<_> = (0..40).map(|trace| span(100 + trace, 1, "a")).collect();
    bench.write(&Request::of("web", &spans)).await;
    let words = refused(equals(Field::Service, "web")).await;
    assert!(words.contains("more than 30 index rows"), "{words}");
    let nobody = bench.store.search(&query(equals(Field::Service, "nobody"))).await.unwrap();
    assert!(nobody.matches.is_empty());
    // A day whose catalogue is not whole does not turn into an empty answer.
    let text = format!(
        "INSERT INTO {}.services (tenant, day, bucket, service, name) VALUES (?, ?, ?, ?, ?)",
        bench.keyspace
    );
    let day = i32::try_from(NOW.0 / 86_400_000_000_000).unwrap();
    for bucket in 0..8_i16 {
        let values = ("default", day, bucket, "\u{1}more", "");
        bench.session.query_unpaged(text.clone(), values).await.unwrap();
    }
    assert!(refused(equals(Field::Service, "nobody")).await.contains("more services than"));
}

#[tokio::test]
async fn tenants_do_not_find_one_another() {
    let mut bench = Bench::new("tenants").await;
    for tenant in ["team-a", "team-b"] {
        bench.write(&Request { tenant, ..Request::of("web", &[span(1, 0, "a")]) }).await;
    }
    let of = async |tenant: &str| {
        let tenant = TenantId::new(tenant).unwrap();
        let search = SearchQuery { tenant, ..query(equals(Field::Service, "web")) };
        bench.store.search(&search).await.unwrap().matches.len()
    };
    assert_eq!((of("team-a").await, of("team-b").await, of("team-c").await), (1, 1, 0));
}
