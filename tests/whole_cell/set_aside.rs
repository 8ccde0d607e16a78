//! A span that the search engine refuses stops nobody: it is set aside with the engine's reason, and is
//! indexed, once, when it is tried again after the reason is gone.

use bytes::Bytes;
use http::Method;
use serde_json::{Value, json};

use crate::counts::{Names, elasticsearch, until_each_holds};
use crate::federation::{Federation, PATIENCE};
use crate::fixture::{encode, hex, now_nanos, random_trace_id, request, span, text};
use crate::http::{eventually, send};
use crate::load::{Load, SPANS};
use crate::poison::dead_letters;
use crate::running_engines::{Engine, Engines, share_engines};
use crate::whole_cell::{SERVICE, line_of, search, start, until_all_is_read_back};

/// Attributes of the span, and how many nested values the engine is told to take of a document meanwhile: no
/// other span has as many.
const ATTRIBUTES: usize = 60;
const TAKEN: usize = 30;
/// How many the engine takes by our template.
const TAKEN_ELSE: usize = 10_000;

async fn take_nested_values(engines: &Engines, name: &str, most: usize) {
    let address = engines.address(Engine::Elasticsearch);
    let url = format!("http://{address}/{name}.*-jaeger-span-*/_settings");
    let body = json!({ "index.mapping.nested_objects.limit": most }).to_string();
    let json = [("content-type", "application/json")];
    eventually("the engine takes the setting", PATIENCE, || async {
        let answer = send(Method::PUT, &url, &json, Bytes::from(body.clone())).await?;
        if answer.status == 200 { Ok(()) } else { Err(format!("{answer:?}")) }
    })
    .await;
}

/// Dead letters, and what the index has missed of them.
fn listed(federation: &Federation) -> (Vec<Value>, Vec<Value>) {
    let (code, listed) = dead_letters(federation, &["list"]);
    assert_eq!(code, Some(0), "{listed}");
    let listed: Value = serde_json::from_str(&listed).unwrap();
    let all = |what: &str| listed[what].as_array().unwrap().clone();
    (all("letters"), all("lost"))
}

async fn until_indexed(engines: &Engines, name: &str, spans: usize) {
    eventually("all but what is set aside is indexed", PATIENCE, || async {
        let found = elasticsearch(engines, name).await?;
        if found == spans as u64 { Ok(()) } else { Err(format!("{found} of {spans}")) }
    })
    .await;
}

/// On a busy machine an answer may come too late, which is said as well: then it is asked again. Never is one
/// complete.
async fn until_searches_name_who_missed_it(federation: &Federation, since: u64) {
    eventually("a search says who has missed it", PATIENCE, || async {
        let line = line_of(&search(federation, since, "").await?);
        assert!(!line.starts_with("complete"), "{line}");
        if line.contains("search-indexer") { Ok(()) } else { Err(line) }
    })
    .await;
}

/// Retries while the reason is there, and when it is gone.
async fn retry(engines: &Engines, federation: &Federation, name: &str, letter: &Value) {
    let number = letter["number"].to_string();
    eventually("it is refused again", PATIENCE, || async {
        let (code, words) = dead_letters(federation, &["retry", &number]);
        assert!(code.is_some_and(|code| code > 1), "{code:?} {words}");
        if words.contains("refused it again") { Ok(()) } else { Err(words) }
    })
    .await;
    let (letters, missed) = listed(federation);
    assert_eq!(
        (letters.as_slice(), missed.len()),
        (std::slice::from_ref(letter), 1),
        "it is still there"
    );
    take_nested_values(engines, name, TAKEN_ELSE).await;
    eventually("it is taken", PATIENCE, || async {
        let (code, words) = dead_letters(federation, &["retry", &number]);
        if code == Some(0) { Ok(()) } else { Err(format!("{code:?} {words}")) }
    })
    .await;
    assert_eq!(listed(federation), (vec![], vec![]));
    let (code, words) = dead_letters(federation, &["retry", &number]);
    assert_eq!(code, Some(1), "it is gone: {words}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_span_that_is_refused_is_set_aside_with_the_reason_and_is_there_once_after_a_retry() {
    let turn = share_engines().await;
    let names = Names::new("letters");
    let since = now_nanos();
    let federation = start(&turn.engines, &names).await;
    let mut load = Load::start(&federation);
    load.acknowledges(1).await;
    eventually("the day's index is there", PATIENCE, || async {
        let found = elasticsearch(&turn.engines, &names.name).await?;
        if found > 0 { Ok(()) } else { Err("it has no document".to_owned()) }
    })
    .await;
    take_nested_values(&turn.engines, &names.name, TAKEN).await;
    let trace = random_trace_id();
    let mut refused = span(trace, 1, 0, "work");
    refused.attributes.extend((0..ATTRIBUTES).map(|key| text(&format!("key.{key}"), "value")));
    let body = encode(&request(SERVICE, vec![refused]));
    eventually("it is acknowledged", PATIENCE, || federation.export(0, body.clone())).await;
    let letter = eventually("it is set aside", PATIENCE, || async {
        let (letters, _) = listed(&federation);
        letters.first().cloned().ok_or_else(|| federation.last_words())
    })
    .await;
    assert_eq!(
        (&letter["group"], &letter["spans"]),
        (&json!("search-indexer"), &json!(1)),
        "{letter}"
    );
    assert!(letter["reason"].as_str().unwrap().contains("nested"), "{letter}");
    let (_, missed) = listed(&federation);
    assert_eq!(missed.len(), 1, "{missed:?}");
    let told = (&missed[0]["cause"], &missed[0]["missedBy"]);
    assert_eq!(told, (&json!("set-aside"), &json!("search-indexer")));
    // It stops nobody, by id it is there, and a search that may lack it says so.
    load.acknowledges(20).await;
    load.stop().await;
    let spans = load.ledger.len() * SPANS.len();
    until_indexed(&turn.engines, &names.name, spans).await;
    load.ledger.note(trace, &[1]);
    eventually("it is read by id", PATIENCE, || async {
        let (line, found) = federation.certified(0, &trace).await?;
        let is_whole = line.starts_with("complete") && found == [hex(&1_u64.to_be_bytes())];
        if is_whole { Ok(()) } else { Err(format!("{line} {found:?}")) }
    })
    .await;
    until_searches_name_who_missed_it(&federation, since).await;
    retry(&turn.engines, &federation, &names.name, &letter).await;
    until_all_is_read_back(&federation, &load.ledger, since).await;
    until_each_holds(&turn.engines, &names, spans as u64 + 1).await;
}
