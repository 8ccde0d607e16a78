//! The engines behind a proxy that spoils one request or all of a kind: late, cut, errors within a 200,
//! half a result. What is answered is whole or an error, and what counts as written is there.

use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::Value;
use trace_model::query::Field;
use trace_model::{Filter, TenantId, TimeRange};
use trace_store::elasticsearch::{ElasticsearchConfig, ElasticsearchStore};
use trace_store::{Eraser, ErasureReceipt, SearchIndexer, ServiceCatalog, StoreError, TraceSearch};

use super::documents::{Bench, TODAY, ids};
use super::moves::on_each;
use crate::fixture::{Log, NOW, Request, attribute, span, text, trace_id};
use crate::harness::{equals, query, tag};
use crate::http_proxy::{Fault, Meets, Proxy};

const TRACES: u64 = 5;

/// A store behind the proxy, and beside it one that is not, which holds [`TRACES`] traces.
struct Behind {
    direct: Bench,
    proxy: Proxy,
    store: Arc<ElasticsearchStore>,
}

impl Behind {
    async fn new(engine: &str) -> Self {
        let mut direct = Bench::on(engine, |config| config).await;
        direct.index(&request(0)).await;
        let proxy = Proxy::before(&direct.url).await;
        let config = ElasticsearchConfig {
            urls: vec![proxy.url.clone()],
            backoff_min: Duration::from_millis(1),
            bulk_tries_max: 2,
            ..direct.config.clone()
        };
        let store = ElasticsearchStore::connect(config, direct.clock.clone()).await.unwrap();
        Self { direct, proxy, store }
    }

    /// A store that waits for an answer no longer than this.
    async fn impatient(&self, patience: Duration) -> Arc<ElasticsearchStore> {
        let config = ElasticsearchConfig {
            urls: vec![self.proxy.url.clone()],
            write_timeout: patience,
            search_timeout: patience,
            bulk_tries_max: 1,
            ..self.direct.config.clone()
        };
        ElasticsearchStore::connect(config, self.direct.clock.clone()).await.unwrap()
    }

    /// The answer to a question, as text.
    async fn ask(&self, question: Question) -> Result<String, StoreError> {
        // What the last question has read is out of date.
        self.direct.clock.advance(Duration::from_secs(2));
        ask(&self.store, question).await
    }

    async fn found(&self) -> usize {
        self.direct.find(Filter::All).await.len()
    }
}

/// A trace of this number and the next ones.
fn request(first: u64) -> Request {
    let one = |trace: u64| {
        let mut span = span(trace, 0, "pay");
        span.attributes = vec![attribute("order", text(&format!("o-{trace}")))];
        span
    };
    Request::of("web", &(first..first + TRACES).map(one).collect::<Vec<_>>())
}

#[derive(Clone, Copy, Debug)]
enum Question {
    All,
    Service,
    Tag,
    Services,
    Operations,
    Listed,
}

const QUESTIONS: [Question; 6] = [
    Question::All,
    Question::Service,
    Question::Tag,
    Question::Services,
    Question::Operations,
    Question::Listed,
];

async fn ask(store: &ElasticsearchStore, question: Question) -> Result<String, StoreError> {
    let tenant = TenantId::default();
    let filter = match question {
        Question::Service => equals(Field::Service, "web"),
        Question::Tag => tag("order", "o-3"),
        Question::All => Filter::All,
        Question::Services => {
            return Ok(format!("{:?}", store.services(&tenant, TimeRange::ALL).await?));
        }
        Question::Operations => {
            return Ok(format!("{:?}", store.operations(&tenant, "web", TimeRange::ALL).await?));
        }
        Question::Listed => return Ok(format!("{:?}", store.listed().await?)),
    };
    let found = store.search(&query(filter)).await?;
    assert!(!found.is_damaged && !found.is_away);
    Ok(format!("{:?} {:?}", found.matches, found.covered))
}

/// Changes every object within the answer.
fn changed(change: fn(&mut serde_json::Map<String, Value>)) -> Fault {
    fn each(value: &mut Value, change: fn(&mut serde_json::Map<String, Value>)) {
        match value {
            Value::Object(object) => {
                change(object);
                object.values_mut().for_each(|value| each(value, change));
            }
            Value::Array(values) => values.iter_mut().for_each(|value| each(value, change)),
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
        }
    }
    Fault::Changed(Arc::new(move |body| {
        let Ok(mut value) = serde_json::from_slice::<Value>(&body) else { return body };
        each(&mut value, change);
        value.to_string().into_bytes()
    }))
}

/// The answer says that it ran out of time.
fn timed_out() -> Fault {
    changed(|object| {
        if let Some(value) = object.get_mut("timed_out") {
            *value = true.into();
        }
    })
}

/// A shard is missing.
fn shard_failed() -> Fault {
    changed(|object| {
        if let Some(Value::Object(shards)) = object.get_mut("_shards") {
            shards.insert("failed".to_owned(), 1.into());
        }
    })
}

/// How many shards answered is not told.
fn no_shards() -> Fault {
    changed(|object| drop(object.remove("_shards")))
}

/// A list of answers lacks its last.
fn shorter() -> Fault {
    changed(|object| {
        for name in ["responses", "docs", "items"] {
            if let Some(Value::Array(answers)) = object.get_mut(name) {
                answers.pop();
            }
        }
    })
}

/// A question within the request has failed.
fn error_within() -> Fault {
    changed(|object| {
        if let Some(Value::Array(answers)) = object.get_mut("responses") {
            let error = r#"{"error":{"type":"x_exception","reason":"no"},"status":500}"#;
            answers.iter_mut().for_each(|answer| *answer = serde_json::from_str(error).unwrap());
        }
    })
}

/// The first item was refused with this status, whatever the engine has done.
fn first_item(status: u16) -> Fault {
    Fault::Changed(Arc::new(move |body| {
        let Ok(mut value) = serde_json::from_slice::<Value>(&body) else { return body };
        let kind = if status == 400 { "document_parsing_exception" } else { "busy_exception" };
        let error = serde_json::json!({ "type": kind, "reason": "on purpose" });
        let item = serde_json::json!({ "create": { "status": status, "error": error } });
        value["items"][0] = item;
        value["errors"] = true.into();
        value.to_string().into_bytes()
    }))
}

const IS_SEARCH: Meets = |head| head.contains("search");
const IS_BULK: Meets = |head| head.contains("/_bulk");

#[tokio::test]
async fn whichever_request_of_a_question_is_spoilt_the_answer_is_whole_or_an_error() {
    on_each(async |engine| {
        let behind = Behind::new(engine).await;
        let faults: [fn() -> Fault; 9] = [
            || Fault::Before,
            || Fault::After,
            || Fault::Half,
            || Fault::Instead("{}"),
            timed_out,
            shard_failed,
            no_shards,
            shorter,
            error_within,
        ];
        for question in QUESTIONS {
            let whole = behind.ask(question).await.unwrap();
            for (number, fault) in faults.iter().enumerate() {
                for passing in 0.. {
                    behind.proxy.break_after(passing, fault());
                    let answer = behind.ask(question).await;
                    if !behind.proxy.has_broken() {
                        assert!(passing > 0 && answer.is_ok(), "{question:?}");
                        break;
                    }
                    let is_so = match &answer {
                        Ok(answer) => *answer == whole,
                        Err(error) => error.is_retryable(),
                    };
                    assert!(is_so, "{question:?} {number} {passing}: {answer:?} for {whole}");
                }
            }
            assert_eq!(behind.ask(question).await.unwrap(), whole);
        }
    })
    .await;
}

#[tokio::test]
async fn an_engine_that_answers_searches_by_half_or_too_late_does_not_answer_them() {
    on_each(async |engine| {
        let behind = Behind::new(engine).await;
        for question in QUESTIONS {
            let faults = [timed_out(), shard_failed(), no_shards(), shorter(), Fault::Half];
            for (number, fault) in faults.into_iter().enumerate() {
                // How far the log is listed is one answer, and no list of them.
                if matches!(question, Question::Listed) && number == 3 {
                    continue;
                }
                behind.proxy.break_each(0, IS_SEARCH, fault);
                let answer = behind.ask(question).await;
                assert!(behind.proxy.has_broken());
                let is_away = matches!(answer, Err(StoreError::Unavailable(_)));
                assert!(is_away, "{question:?} {number}: {answer:?}");
            }
        }
        let impatient = behind.impatient(Duration::from_millis(1_500)).await;
        for question in QUESTIONS {
            behind.direct.clock.advance(Duration::from_secs(2));
            behind.proxy.break_each(0, IS_SEARCH, Fault::Silence);
            let asked = Instant::now();
            let answer = ask(&impatient, question).await;
            assert!(behind.proxy.has_broken() && asked.elapsed() < Duration::from_secs(15));
            assert!(matches!(answer, Err(StoreError::Unavailable(_))), "{question:?}: {answer:?}");
        }
        assert!(behind.ask(Question::All).await.is_ok());
    })
    .await;
}

#[tokio::test]
async fn whichever_request_of_a_write_is_spoilt_what_is_said_to_be_indexed_is_found() {
    on_each(async |engine| {
        let mut behind = Behind::new(engine).await;
        let faults: [fn() -> Fault; 8] = [
            || Fault::Before,
            || Fault::After,
            || Fault::Half,
            || Fault::Instead("{}"),
            shard_failed,
            shorter,
            || first_item(429),
            || first_item(503),
        ];
        let mut traces = usize::try_from(TRACES).unwrap();
        let mut refused = 0;
        for (number, fault) in faults.iter().enumerate() {
            let of_items = number >= 6;
            for passing in 0.. {
                let first = 1_000 * (number as u64 + 1) + 10 * passing as u64;
                let batch = behind.direct.log.append(&request(first));
                let meets = if of_items { IS_BULK } else { |_: &str| true };
                behind.proxy.break_one(passing, meets, fault());
                let store = &behind.store;
                let indexed = store.index(std::slice::from_ref(&batch)).await;
                let flushed = SearchIndexer::flush(&**store, NOW, true).await;
                let is_met = behind.proxy.has_broken();
                if let (Ok(()), Ok(())) = (&indexed, &flushed) {
                    let next = store.indexed().next.get(&0).copied();
                    assert_eq!(next, Some(batch.range.next), "{number} {passing}");
                } else {
                    refused += 1;
                    for error in
                        [&indexed, &flushed].into_iter().filter_map(|one| one.as_ref().err())
                    {
                        assert!(error.is_retryable(), "{number} {passing}: {error}");
                    }
                    store.index(&[batch]).await.unwrap();
                    SearchIndexer::flush(&**store, NOW, true).await.unwrap();
                }
                traces += usize::try_from(TRACES).unwrap();
                let filter = tag("order", &format!("o-{first}"));
                assert_eq!(
                    behind.direct.find(filter).await,
                    [trace_id(first)],
                    "{number} {passing}"
                );
                if !is_met {
                    assert!(passing > 0);
                    break;
                }
            }
        }
        assert!(refused > 0);
        assert_eq!(behind.direct.count(TODAY), traces as u64, "each once");
    })
    .await;
}

#[tokio::test]
async fn a_document_that_is_refused_within_a_success_is_told_and_moves_no_cover() {
    on_each(async |engine| {
        let behind = Behind::new(engine).await;
        let durable = behind.store.indexed();
        let mut log = Log { next: TRACES, append_time: NOW };
        behind.proxy.break_one(0, IS_BULK, first_item(400));
        let refused = behind.store.index(&[log.append(&request(100))]).await;
        assert!(behind.proxy.has_broken());
        let Err(StoreError::Refused(words)) = refused else { panic!("{refused:?}") };
        assert!(words.contains("on purpose"), "{words}");
        SearchIndexer::flush(&*behind.store, NOW, true).await.unwrap();
        assert_eq!(behind.store.indexed(), durable);
        assert_eq!(behind.found().await as u64, 2 * TRACES, "the others are there");
        // One that is late is written again and is there once.
        let impatient = behind.impatient(Duration::from_millis(1_500)).await;
        let batch = log.append(&request(200));
        behind.proxy.break_one(0, IS_BULK, Fault::Silence);
        let late = impatient.index(std::slice::from_ref(&batch)).await;
        assert!(behind.proxy.has_broken());
        assert!(matches!(late, Err(StoreError::Unavailable(_))), "{late:?}");
        impatient.index(&[batch]).await.unwrap();
        SearchIndexer::flush(&*impatient, NOW, true).await.unwrap();
        assert_eq!(behind.found().await as u64, 3 * TRACES);
    })
    .await;
}

#[tokio::test]
async fn an_erasure_whose_requests_are_spoilt_is_not_done_before_nothing_is_left() {
    on_each(async |engine| {
        let mut behind = Behind::new(engine).await;
        let tenant = TenantId::default();
        let config = ElasticsearchConfig {
            urls: vec![behind.proxy.url.clone()],
            expunge_timeout: Duration::ZERO,
            ..behind.direct.config.clone()
        };
        let store = ElasticsearchStore::connect(config, behind.direct.clock.clone()).await.unwrap();
        let faults: [fn() -> Fault; 3] = [|| Fault::Half, shard_failed, shorter];
        for (number, fault) in faults.iter().enumerate() {
            // Every other request, and with the next fault those between.
            for passing in (number..).step_by(2) {
                let first = 1_000 * (number as u64 + 1) + 10 * passing as u64;
                behind.direct.index(&request(first)).await;
                behind.proxy.break_after(passing, fault());
                let has_removed = is_removed(store.erase(&tenant, trace_id(first)).await);
                let is_met = behind.proxy.has_broken();
                if !has_removed {
                    assert!(is_met, "{number} {passing}");
                    assert!(is_removed(store.erase(&tenant, trace_id(first)).await));
                }
                let filter = tag("order", &format!("o-{first}"));
                assert!(behind.direct.find(filter).await.is_empty(), "{number} {passing}");
                let next = tag("order", &format!("o-{}", first + 1));
                assert_eq!(
                    ids(&behind.direct.store.search(&query(next)).await.unwrap().matches),
                    [trace_id(first + 1)]
                );
                if !is_met {
                    assert!(passing > 5);
                    break;
                }
            }
        }
    })
    .await;
}

/// Whether an erasure that waits for nothing has removed all documents, and waits for the engine to let go
/// of what it has deleted.
fn is_removed(erased: Result<ErasureReceipt, StoreError>) -> bool {
    match erased {
        Ok(_) => true,
        Err(StoreError::Unavailable(words)) => words.contains("erase again later"),
        Err(error) => panic!("{error}"),
    }
}
