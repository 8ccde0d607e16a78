//! A cell without a search engine: Cassandra's tables find traces by service and operation, and what they
//! cannot do is said.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::counts::{Names, cassandra, clickhouse};
use crate::federation::{Federation, PATIENCE};
use crate::fixture::{hex, now_nanos};
use crate::http::{eventually, get};
use crate::load::{Load, SPANS};
use crate::running_engines::{Engine, Engines, share_engines};
use crate::whole_cell::{
    REGION, ROUTE, SERVICE, line_of, search_for, set_up, until_all_is_read_back, yaml,
};

/// What a cell adds to its file that has no section for a search engine.
fn without_a_search_engine(engines: &Engines, names: &Names) -> String {
    let whole = yaml(engines, names);
    let (before, rest) = whole.split_once("elasticsearch:").unwrap();
    let (_, after) = rest.split_once("clickhouse:").unwrap();
    format!("{before}stores: {{search: cassandra}}\nclickhouse:{after}")
}

fn ids(found: &Value) -> BTreeSet<String> {
    let traces = found["traces"].as_array().into_iter().flatten();
    traces.map(|trace| trace["traceId"].as_str().unwrap().to_owned()).collect()
}

async fn until_found(federation: &Federation, asked: &str, since: u64, wanted: &BTreeSet<String>) {
    eventually(asked, PATIENCE, || async {
        let found = search_for(federation, asked, since, "").await?;
        let is_so = line_of(&found).starts_with("complete") && ids(&found) == *wanted;
        if is_so {
            Ok(())
        } else {
            Err(format!("{} of {}: {found}", ids(&found).len(), wanted.len()))
        }
    })
    .await;
}

/// What a search that names no service is told. Never does it find anything, nor is it complete.
async fn until_told_that_they_cannot(federation: &Federation, since: u64) {
    let way = "it cannot answer such a search: one that names a service may be answered";
    eventually("it is told what they cannot do", PATIENCE, || async {
        let found = search_for(federation, ROUTE, since, "").await?;
        assert_eq!(ids(&found), BTreeSet::new());
        assert!(line_of(&found).starts_with("partial: 0 of 1 regions"), "{found}");
        let region = &found["completeness"]["regions"][0];
        if region["reason"] == way { Ok(()) } else { Err(found.to_string()) }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_search_engine_the_tables_find_by_service_and_say_what_they_cannot_do() {
    let turn = share_engines().await;
    let names = Names::new("tables");
    let since = now_nanos();
    let extra = without_a_search_engine(&turn.engines, &names);
    set_up(&extra).await;
    let federation = Federation::start(&[REGION], &[(REGION, &extra)]).await;
    let mut load = Load::start(&federation);
    load.acknowledges(60).await;
    load.stop().await;
    assert_eq!(load.refusals(), []);
    let all = load.ledger.entries().iter().map(|(trace, _)| hex(trace)).collect();
    for asked in [
        format!("service={SERVICE}"),
        format!("service={SERVICE}&operation=work"),
        // Traces of the service are read and compared.
        format!("service={SERVICE}&{ROUTE}"),
    ] {
        until_found(&federation, &asked, since, &all).await;
    }
    for asked in [
        "service=nobody".to_owned(),
        format!("service={SERVICE}&operation=rest"),
        format!("service={SERVICE}&tag=http.route:/nowhere"),
    ] {
        until_found(&federation, &asked, since, &BTreeSet::new()).await;
    }
    // Without a service they cannot.
    until_told_that_they_cannot(&federation, since).await;
    let services = format!("{}/api/farspan/v1/services", federation.gateway_url(0));
    eventually("the service is listed", PATIENCE, || async {
        let services = get(&services).await?.json();
        let (line, is_listed) = (line_of(&services), services.to_string().contains(SERVICE));
        let is_complete = line.starts_with("complete");
        assert!(is_listed || !is_complete, "{services}");
        if is_complete { Ok(()) } else { Err(line) }
    })
    .await;
    until_all_is_read_back(&federation, &load.ledger, since).await;

    let spans = (load.ledger.len() * SPANS.len()) as u64;
    let rows = format!("SELECT count(*) FROM {}.spans WHERE part = 2 ALLOW FILTERING", names.name);
    let rows = eventually("Cassandra counts its rows", PATIENCE, || {
        let address = turn.engines.address(Engine::Cassandra);
        let rows = rows.clone();
        async move { cassandra(&address, &rows).await }
    })
    .await;
    let seen = format!("SELECT sum(seen) FROM {}.red_services", names.name);
    eventually("every span is counted once", PATIENCE, || async {
        let counted = clickhouse(&turn.engines, &seen).await?;
        if counted == spans { Ok(()) } else { Err(format!("{counted} of {spans}")) }
    })
    .await;
    assert_eq!(rows, spans);
}
