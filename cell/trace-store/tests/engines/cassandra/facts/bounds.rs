//! No partition grows without bound, and what is long is read piece by piece.

use std::collections::{BTreeMap, BTreeSet};

use trace_model::query::Field;
use trace_model::{Filter, SearchQuery, TenantId, TimeRange, TraceMatch};
use trace_store::cassandra::CassandraConfig;
use trace_store::{ServiceCatalog, SpanWriter, StoreError, TraceReader, TraceSearch};

use super::Bench;
use crate::fixture::{Request, attribute, span, text, trace_id};
use crate::harness::{equals, query};

const MIB: u64 = 1 << 20;

#[tokio::test]
async fn a_trace_of_50_000_spans_lies_in_bounded_shards_and_is_read_whole_in_bounded_memory() {
    let mut bench = Bench::with("long", |config| config.partition_bytes_max = 8 * MIB).await;
    let body = "0123456789abcdef".repeat(40);
    for part in 0..50 {
        let spans: Vec<_> = (0..1_000)
            .map(|at| {
                let mut span = span(1, part * 1_000 + at, "step");
                span.attributes = vec![attribute("body", text(&body))];
                span
            })
            .collect();
        bench.write(&Request::of("web", &spans)).await;
    }
    let tenant = TenantId::default();
    let mut pages = bench.store.pages(&tenant, trace_id(1)).await.unwrap().unwrap();
    let (mut keys, mut largest) = (BTreeSet::new(), 0);
    while let Some(page) = pages.next_page().await.unwrap() {
        assert!(!page.is_damaged);
        largest = largest.max(page.bytes);
        keys.extend(page.spans.iter().map(|span| span.key));
    }
    assert_eq!(keys.len(), 50_000);
    assert!(largest < 6 * MIB, "a page of {largest} bytes");
    assert_eq!(bench.read(trace_id(1)).await.len(), 50_000);
    let mut shards: BTreeMap<i32, u64> = BTreeMap::new();
    for (_, shard, ..) in bench.span_rows().await {
        *shards.entry(shard).or_default() += body.len() as u64 + 200;
    }
    assert!(shards.len() >= 4, "{shards:?}");
    // One run of a megabyte may come on top before the accounts are looked at.
    assert!(shards.values().all(|bytes| *bytes < 11 * MIB), "{shards:?}");
    // Another process knows nothing of the shards and finds them all.
    let other = bench.another().await;
    assert_eq!(super::read(&other, trace_id(1)).await.len(), 50_000);
}

#[tokio::test]
async fn a_trace_too_long_for_memory_is_refused_at_once_and_whole_in_pieces() {
    let small = |config: &mut CassandraConfig| {
        (config.piece_bytes, config.read_bytes_max) = (1, 100_000);
    };
    let mut bench = Bench::with("too-long", small).await;
    let name = "step with a name of some length";
    for part in 0..4 {
        let ids = part * 3_000..(part + 1) * 3_000;
        let spans: Vec<_> = ids.map(|id| span(1, id, name)).collect();
        bench.write(&Request::of("web", &spans)).await;
    }
    let read = bench.store.read_trace(&TenantId::default(), trace_id(1)).await;
    let read = read.map(|read| read.spans.len());
    assert!(matches!(read, Err(StoreError::Unsupported(_))), "{read:?}");
    let pieces = bench.store.read_pieces(&TenantId::default(), trace_id(1)).await.unwrap();
    let covered = pieces.first.covered.clone();
    assert_eq!(covered, bench.store.durable());
    let (mut all, mut rest) = (vec![pieces.first], pieces.rest.unwrap());
    while let Some(piece) = rest.next_piece().await.unwrap() {
        assert_eq!(piece.covered, covered);
        all.push(piece);
    }
    assert!(rest.next_piece().await.unwrap().is_none());
    // A page each.
    assert!(all.len() >= 4 && all.iter().all(|piece| piece.spans.len() <= 5_000), "{}", all.len());
    assert!(all.iter().all(|piece| !piece.is_damaged && piece.expired_until.is_some()));
    let keys: BTreeSet<_> =
        all.iter().flat_map(|piece| piece.spans.iter().map(|span| span.key)).collect();
    assert_eq!(keys.len(), 12_000);
    assert_eq!(all.iter().map(|piece| piece.spans.len()).sum::<usize>(), 12_000);
    // One that fits into a piece has no others, and one that is not there is a piece of nothing.
    let mut bench = Bench::new("fits").await;
    bench.write(&Request::of("web", &[span(2, 0, name)])).await;
    for (id, expected) in [(2, 1), (3, 0)] {
        let pieces = bench.store.read_pieces(&TenantId::default(), trace_id(id)).await.unwrap();
        assert!(pieces.rest.is_none());
        assert_eq!(pieces.first.spans.len(), expected);
    }
}

#[tokio::test]
async fn the_index_of_a_hot_service_spreads_over_buckets_and_is_paged_through_without_gap() {
    let mut bench = Bench::with("hot", |config| config.partition_bytes_max = MIB).await;
    let traces = 30_000_u64;
    for part in 0..30 {
        // Fifty times alone, so that many traces share one.
        let traces = part * 1_000..(part + 1) * 1_000;
        let spans: Vec<_> = traces.map(|trace| span(trace, trace % 50, "hot")).collect();
        bench.write(&Request::of("hot", &spans)).await;
    }
    let rows = bench.rows::<(i32,)>("SELECT hash_bucket FROM {}.service_index").await;
    let mut buckets: BTreeMap<i32, u64> = BTreeMap::new();
    for (bucket,) in rows {
        *buckets.entry(bucket).or_default() += 93;
    }
    assert!(buckets.len() >= 3, "{buckets:?}");
    assert!(buckets.values().all(|bytes| *bytes < 3 * MIB), "{buckets:?}");
    let filter = equals(Field::Service, "hot");
    let mut search = SearchQuery { limit: 4_000, ..query(filter.clone()) };
    let mut found: Vec<TraceMatch> = Vec::new();
    loop {
        let page = bench.store.search(&search).await.unwrap().matches;
        let Some(last) = page.last() else { break };
        search.before = Some((last.newest_match, last.trace_id));
        found.extend(page);
    }
    assert_eq!(found.len() as u64, traces);
    assert!(found.windows(2).all(|pair| pair[0].order_key() < pair[1].order_key()));
    // A process that begins anew finds the buckets as well.
    let other = bench.another().await;
    let newest = other.search(&SearchQuery { limit: 20, ..query(filter) }).await.unwrap();
    assert_eq!(newest.matches, found[..20]);
    assert!(newest.stats.spans_scanned < 5_000, "{:?}", newest.stats);
}

#[tokio::test]
async fn hostile_names_break_nothing() {
    let names = [
        "",
        " ",
        "'",
        "\"",
        "'; DROP TABLE spans; --",
        "$$",
        "{}",
        "\0",
        "a\0b",
        "\u{1}more",
        "\u{1}00000000000000000000000000000000",
        "\r\n\t",
        "ü🦀",
        "../../etc",
        "%s%n",
        "NULL",
    ];
    let mut bench = Bench::new("hostile").await;
    let tenant = TenantId::new("(a)'!*.b").unwrap();
    let long = "x".repeat(1 << 20);
    let mut all: Vec<&str> = names.to_vec();
    all.push(&long);
    for (at, name) in all.iter().enumerate() {
        let id = trace_id(at as u64);
        let mut odd = span(at as u64, 0, name);
        odd.attributes = vec![attribute(name, text(name)), attribute("k", text(&long[..1_000]))];
        odd.trace_state = (*name).to_owned();
        let request = Request { tenant: "(a)'!*.b", ..Request::of(name, &[odd]) };
        bench.write(&request).await;
        let read = bench.store.read_trace(&tenant, id).await.unwrap();
        assert_eq!(read.spans.len(), 1, "{at}");
        assert_eq!(read.spans[0].span.to_vec(), request.groups[0].2[0], "{at}");
        // A service without a name is the unknown one.
        let service = read.spans[0].context.service.to_string();
        let both = [equals(Field::Service, &service), equals(Field::Operation, name)];
        let search = query(Filter::And(both.to_vec()));
        let search = SearchQuery { tenant: tenant.clone(), ..search };
        let found = bench.store.search(&search).await.unwrap().matches;
        assert_eq!(found.iter().map(|one| one.trace_id).collect::<Vec<_>>(), [id], "{at}");
        let operations = bench.store.operations(&tenant, &service, TimeRange::ALL).await.unwrap();
        let shown = &operations[0].name;
        assert!(**shown == **name || (shown.ends_with('…') && name.len() > 4_096), "{at}");
    }
    let services = bench.store.services(&tenant, TimeRange::ALL).await.unwrap();
    assert_eq!(services.len(), all.len());
    for name in names.iter().filter(|name| !name.is_empty()) {
        assert!(services.iter().any(|service| &**service == *name), "{name:?}");
    }
    bench.flush().await;
}

#[tokio::test]
async fn a_span_too_large_for_the_engine_is_refused_and_its_like_are_not() {
    let mut bench = Bench::new("too-large").await;
    // Too large for a mutation; too large for a request.
    for mebibytes in [10, 20] {
        let mut large = span(1, 0, "large");
        large.attributes = vec![attribute("body", text(&"y".repeat(mebibytes << 20)))];
        let batch = bench.log.append(&Request::of("web", &[large]));
        let refused = bench.store.write(&[batch]).await;
        assert!(matches!(refused, Err(StoreError::Refused(_))), "{mebibytes}: {refused:?}");
    }
    let mut fitting = span(2, 0, "large");
    fitting.attributes = vec![attribute("body", text(&"y".repeat(4 << 20)))];
    bench.write(&Request::of("web", &[fitting])).await;
    assert_eq!(bench.read(trace_id(2)).await.len(), 1);
}
