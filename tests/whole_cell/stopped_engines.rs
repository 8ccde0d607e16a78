//! One store stands or dies under a load: nothing is lost, and answers name what is missing. Of two cells
//! one has its log in Kafka, and one, without Kafka, in files of its process.

use futures_util::future::join_all;

use crate::counts::{Names, until_each_holds, until_stored};
use crate::federation::{Federation, PATIENCE};
use crate::fixture::{hex, now_nanos, random_trace_id};
use crate::http::{eventually, get};
use crate::load::{Load, SPANS};
use crate::outage::{Fault, Outage};
use crate::running_engines::{Engine, Engines, have_engines_alone};
use crate::whole_cell::{
    REGION, ROUTE, SERVICE, line_of, search, search_for, set_up, start, until_all_is_read_back,
    yaml_without_kafka,
};

const IS_AWAY: &str = "missing eu-west-1 (its trace store is away)";

/// How far searches look back that are asked during an outage: tables read each trace that they find to
/// compare its attributes, within the two seconds that a region has.
const LOOKED_BACK: u64 = 10_000_000_000;

/// One of the cells, and who sends to it.
struct Loaded {
    federation: Federation,
    load: Load,
    names: Names,
}

pub(crate) fn span_ids() -> Vec<String> {
    SPANS.map(|id| hex(&id.to_be_bytes())).to_vec()
}

pub(crate) async fn until_line(
    federation: &Federation,
    trace: &[u8],
    what: &str,
    is_so: impl Fn(&str) -> bool,
) {
    eventually(what, PATIENCE, || async {
        let (line, found) = federation.certified(0, trace).await?;
        let is_found = found == span_ids() && is_so(&line);
        if is_found {
            Ok(())
        } else {
            Err(format!("{line} {found:?}\n{}", federation.last_words()))
        }
    })
    .await;
}

/// By id without the trace store: fresh traces from the live tail, never called complete, and nothing
/// is proven absent.
async fn ask_without_traces(federation: &Federation, load: &Load, old: &[u8], since: u64) {
    let fresh = load.next_acknowledged().await;
    until_line(federation, &fresh, "a fresh trace comes from the live tail", |line| {
        line.contains(IS_AWAY)
    })
    .await;
    eventually("an old one is never called complete", PATIENCE, || async {
        let (line, _) = federation.certified(0, old).await?;
        assert!(!line.starts_with("complete"), "{line}");
        if line.contains(IS_AWAY) { Ok(()) } else { Err(line) }
    })
    .await;
    let unknown = federation.trace_json(0, &random_trace_id()).await.unwrap();
    assert_eq!(unknown.status, 503, "no absence is proven: {unknown:?}");
    until_found_whichever_way(federation, &fresh, since).await;
}

/// The end of a search that finds what was sent so far: what comes while it is repeated takes no place on
/// its page.
fn until_now() -> String {
    format!("&end={}", now_nanos() / 1_000)
}

/// By a service alone, which the trace store's tables are asked first, and by an attribute beside it, which
/// the search index is.
async fn until_found_whichever_way(federation: &Federation, fresh: &[u8], since: u64) {
    let until = until_now();
    for asked in [format!("service={SERVICE}"), format!("service={SERVICE}&{ROUTE}")] {
        eventually("one store searches in the other's place", PATIENCE, || async {
            let found = search_for(federation, &asked, since, &until).await?;
            let is_found = found.to_string().contains(&hex(fresh));
            if is_found && line_of(&found).starts_with("complete") {
                Ok(())
            } else {
                Err(format!("{asked}: {found}"))
            }
        })
        .await;
    }
}

/// Without the search index the trace store's tables find by service; a search that names none fails and
/// says so. By id everything is there.
async fn ask_without_search(federation: &Federation, load: &Load, since: u64) {
    let fresh = load.next_acknowledged().await;
    until_line(federation, &fresh, "by id all is there", |line| line.starts_with("complete")).await;
    until_found_whichever_way(federation, &fresh, since).await;
    let services = format!("{}/api/farspan/v1/services", federation.gateway_url(0));
    eventually("the service is listed", PATIENCE, || async {
        let services = get(&services).await?.json();
        let (line, is_listed) = (line_of(&services), services.to_string().contains(SERVICE));
        assert!(is_listed || !line.starts_with("complete"), "{services}");
        if is_listed { Ok(()) } else { Err(line) }
    })
    .await;
    let found = search_for(federation, ROUTE, since, "").await.unwrap();
    let line = line_of(&found);
    assert!(line.starts_with("partial") && line.contains("missing eu-west-1"), "{found}");
}

/// Counts fail and say so; by id and by search everything is there.
async fn ask_without_counts(federation: &Federation, load: &Load, since: u64) {
    let fresh = load.next_acknowledged().await;
    until_line(federation, &fresh, "by id all is there", |line| line.starts_with("complete")).await;
    let until = until_now();
    eventually("search goes on alone", PATIENCE, || async {
        let found = search(federation, since, &until).await?;
        if found.to_string().contains(&hex(&fresh)) { Ok(()) } else { Err(found.to_string()) }
    })
    .await;
    let red = format!("{}/api/farspan/v1/red?service=cell-load", federation.gateway_url(0));
    let red = get(&red).await.unwrap().json();
    assert!(line_of(&red).contains("missing eu-west-1"), "{red}");
}

/// What a cell answers while an engine is away.
async fn ask(cell: &Loaded, engine: Engine, old: &[u8], since: u64) {
    let Loaded { federation, load, .. } = cell;
    match engine {
        Engine::Cassandra => ask_without_traces(federation, load, old, since).await,
        Engine::Elasticsearch => ask_without_search(federation, load, since).await,
        Engine::Clickhouse => ask_without_counts(federation, load, since).await,
        Engine::Kafka => panic!("no store"),
    }
}

/// A trace that the load sends from now on is answered whole.
async fn until_next_is_whole(cell: &Loaded, what: &str) -> [u8; 16] {
    let trace = cell.load.next_acknowledged().await;
    until_line(&cell.federation, &trace, what, |line| line.starts_with("complete")).await;
    trace
}

/// An engine is away, and each of the cells is asked all the while.
async fn go_through(engines: &Engines, cells: &[&Loaded], (engine, fault): (Engine, Fault)) {
    let mut olds = Vec::new();
    for cell in cells {
        olds.push(until_next_is_whole(cell, "a trace is whole").await);
    }
    let outage = Outage::begin(engines, engine, fault);
    let mut rounds = 0;
    while !outage.has_lasted() {
        let since = now_nanos() - LOOKED_BACK;
        let asked = cells.iter().zip(&olds).map(|(cell, old)| ask(cell, engine, old, since));
        join_all(asked).await;
        rounds += 1;
    }
    outage.end().await;
    println!("asked {rounds} times meanwhile");
    for cell in cells {
        until_next_is_whole(cell, "all is there again").await;
        let Names { name } = &cell.names;
        assert_eq!(cell.load.refusals(), [], "{name}: no sender noticed anything");
    }
}

async fn start_without_kafka(engines: &Engines, names: &Names) -> Federation {
    let extra = yaml_without_kafka(engines, names);
    set_up(&extra).await;
    Federation::start(&[REGION], &[(REGION, &extra)]).await
}

/// Spans of the load's service by the counts that a cell keeps in files of its own.
async fn until_counted_once(federation: &Federation, spans: u64, since: u64) {
    let start = since / 1_000;
    let url =
        format!("{}/api/farspan/v1/red?service={SERVICE}&start={start}", federation.gateway_url(0));
    eventually("every span is counted once", PATIENCE, || async {
        let red = get(&url).await?.json();
        let series = red["series"].as_array().into_iter().flatten();
        let points = series.flat_map(|one| one["points"].as_array().into_iter().flatten());
        let counted: u64 = points.filter_map(|point| point["spans"].as_u64()).sum();
        if counted == spans { Ok(()) } else { Err(format!("{counted} of {spans}: {red}")) }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_stands_or_dies_refuses_no_sender_loses_nothing_and_its_absence_is_named() {
    let turn = have_engines_alone().await;
    let since = now_nanos();
    let (names, without) = (Names::new("stores"), Names::new("without"));
    let federation = start(&turn.engines, &names).await;
    let load = Load::start(&federation);
    let mut cell = Loaded { federation, load, names };
    let federation = start_without_kafka(&turn.engines, &without).await;
    let load = Load::start(&federation);
    let mut alone = Loaded { federation, load, names: without };
    for fault in [Fault::Stop, Fault::Kill] {
        for engine in [Engine::Cassandra, Engine::Elasticsearch] {
            go_through(&turn.engines, &[&cell, &alone], (engine, fault)).await;
        }
        // One of them counts in files of its own.
        go_through(&turn.engines, &[&cell], (Engine::Clickhouse, fault)).await;
    }
    for cell in [&mut cell, &mut alone] {
        cell.load.stop().await;
        println!("{}: {} traces acknowledged", cell.names.name, cell.load.ledger.len());
        assert_eq!(cell.load.refusals(), [], "no sender noticed anything");
        until_all_is_read_back(&cell.federation, &cell.load.ledger, since).await;
    }
    let spans = |cell: &Loaded| (cell.load.ledger.len() * SPANS.len()) as u64;
    until_each_holds(&turn.engines, &cell.names, spans(&cell)).await;
    let node = turn.engines.address(Engine::Cassandra);
    until_stored(&turn.engines, &[node], &alone.names, spans(&alone)).await;
    until_counted_once(&alone.federation, spans(&alone), since).await;
}
