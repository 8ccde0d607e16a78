//! The store on Elasticsearch against an engine that misbehaves: one that is busy, full, slow, half
//! dead or wrong. What it answers is said by each test.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use service_kit::ManualClock;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use trace_model::Filter;
use trace_store::elasticsearch::{
    ElasticsearchConfig, ElasticsearchStore, EngineCredentials, SCHEMA,
};
use trace_store::{SearchIndexer, StoreError, TraceSearch};

use crate::fixture::{INCARNATION, Log, NOW, Request, span};
use crate::harness::query;

/// A request as it came.
#[derive(Clone, Debug)]
struct Asked {
    line: String,
    head: String,
    body: String,
}

impl Asked {
    /// Documents of a bulk request.
    fn items(&self) -> usize {
        self.body.matches("{\"create\":").count()
    }
}

/// What a fake engine does; `None`: it never answers.
type Play = dyn Fn(&Asked) -> Option<(u16, String)> + Send + Sync;

struct FakeEngine {
    address: SocketAddr,
    asked: Arc<Mutex<Vec<Asked>>>,
    _tasks: JoinSet<()>,
}

impl FakeEngine {
    async fn new(play: impl Fn(&Asked) -> Option<(u16, String)> + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let asked = Arc::new(Mutex::new(Vec::new()));
        let (play, seen): (Arc<Play>, _) = (Arc::new(play), asked.clone());
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let mut serving = JoinSet::new();
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                serving.spawn(serve(stream, play.clone(), seen.clone()));
            }
        });
        Self { address, asked, _tasks: tasks }
    }

    fn config(&self) -> ElasticsearchConfig {
        ElasticsearchConfig {
            backoff_min: Duration::from_millis(1),
            write_timeout: Duration::from_millis(500),
            search_timeout: Duration::from_millis(500),
            bulk_tries_max: 4,
            ..ElasticsearchConfig::at(format!("http://{}", self.address), "fake")
        }
    }

    async fn connect(&self) -> Result<Arc<ElasticsearchStore>, StoreError> {
        ElasticsearchStore::connect(self.config(), Arc::new(ManualClock::at(NOW))).await
    }

    fn asked(&self, line: &str) -> Vec<Asked> {
        let asked = self.asked.lock().unwrap();
        asked.iter().filter(|asked| asked.line.starts_with(line)).cloned().collect()
    }
}

async fn serve(mut stream: TcpStream, play: Arc<Play>, seen: Arc<Mutex<Vec<Asked>>>) {
    let mut bytes = Vec::new();
    let (head, mut body) = loop {
        if stream.read_buf(&mut bytes).await.unwrap_or(0) == 0 {
            return;
        }
        let text = String::from_utf8_lossy(&bytes).into_owned();
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            break (head.to_owned(), body.to_owned());
        }
    };
    let length = head.to_lowercase().lines().find_map(|line| {
        line.strip_prefix("content-length:").map(|length| length.trim().parse::<usize>().unwrap())
    });
    let mut rest = vec![0; length.unwrap_or(0) - body.len()];
    stream.read_exact(&mut rest).await.unwrap();
    body.push_str(&String::from_utf8_lossy(&rest));
    let line = head.lines().next().unwrap().to_owned();
    let asked = Asked { line, head, body };
    seen.lock().unwrap().push(asked.clone());
    let Some((status, body)) = play(&asked) else {
        return std::future::pending().await;
    };
    let answer = format!(
        "HTTP/1.1 {status} x\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\
         Connection: close\r\n\r\n{body}",
        body.len()
    );
    drop(stream.write_all(answer.as_bytes()).await);
}

/// An engine in good order that holds nothing.
fn well(asked: &Asked) -> Option<(u16, String)> {
    let line = asked.line.as_str();
    let body = if line.starts_with("GET / ") {
        r#"{"version":{"number":"8.19.0"}}"#.to_owned()
    } else if line.starts_with("GET /_index_template") {
        let version = SCHEMA.version;
        format!(r#"{{"index_templates":[{{"index_template":{{"version":{version}}}}}]}}"#)
    } else if line.contains("/_doc/") {
        return Some((404, r#"{"found":false}"#.to_owned()));
    } else if line.contains("/_refresh") {
        r#"{"_shards":{"total":1,"successful":1,"failed":0}}"#.to_owned()
    } else if line.starts_with("POST /_bulk") {
        let actions = asked.body.matches("\"_index\":").count();
        bulk(&vec![CREATED.to_owned(); actions])
    } else if line.starts_with("POST /_msearch") {
        let empty = r#"{"_shards":{"failed":0},"timed_out":false,"hits":{"hits":[]}}"#;
        // Each question has a line before it.
        let questions = asked.body.lines().count() / 2;
        format!(r#"{{"responses":[{}]}}"#, vec![empty; questions].join(","))
    } else if line.contains("/_search") {
        r#"{"_shards":{"failed":0},"timed_out":false,"hits":{"hits":[]}}"#.to_owned()
    } else {
        "{}".to_owned()
    };
    Some((200, body))
}

const CREATED: &str = r#"{"create":{"status":201}}"#;

fn failed(status: u16, kind: &str, reason: &str) -> String {
    format!(r#"{{"create":{{"status":{status},"error":{{"type":"{kind}","reason":"{reason}"}}}}}}"#)
}

fn bulk(items: &[String]) -> String {
    let errors = items.iter().any(|item| item.contains("error"));
    format!(r#"{{"errors":{errors},"items":[{}]}}"#, items.join(","))
}

async fn index(store: &ElasticsearchStore, spans: u64) -> Result<(), StoreError> {
    let spans: Vec<_> = (0..spans).map(|trace| span(trace, 0, "a")).collect();
    store.index(&[Log::new().append(&Request::of("web", &spans))]).await
}

fn is_covered(store: &ElasticsearchStore) -> bool {
    store.indexed().covers(INCARNATION, trace_model::LogPosition { partition: 0, offset: 0 })
}

#[tokio::test]
async fn items_that_the_engine_was_too_busy_for_are_sent_again_and_no_others() {
    let is_first = AtomicBool::new(true);
    let engine = FakeEngine::new(move |asked| {
        if asked.items() > 0 && is_first.swap(false, Ordering::SeqCst) {
            let mut items = vec![CREATED.to_owned(); asked.items()];
            items[1] = failed(429, "es_rejected_execution_exception", "queue");
            items[2] = failed(503, "unavailable_shards_exception", "no primary");
            return Some((200, bulk(&items)));
        }
        well(asked)
    })
    .await;
    let store = engine.connect().await.unwrap();
    index(&store, 4).await.unwrap();
    SearchIndexer::flush(&*store, NOW, true).await.unwrap();
    assert!(is_covered(&store));
    let sent: Vec<usize> = engine.asked("POST /_bulk").iter().map(Asked::items).collect();
    // Four spans and an entry of the catalogue; two of them again; the progress.
    assert_eq!(sent, [5, 2, 0]);
}

#[tokio::test]
async fn a_document_that_is_refused_is_told_with_its_reason_once_the_others_are_there() {
    let engine = FakeEngine::new(|asked| {
        if asked.items() > 0 {
            let mut items = vec![CREATED.to_owned(); asked.items()];
            items[0] = failed(400, "document_parsing_exception", "no such date");
            return Some((200, bulk(&items)));
        }
        well(asked)
    })
    .await;
    let store = engine.connect().await.unwrap();
    let refused = index(&store, 3).await;
    let Err(StoreError::Refused(reason)) = refused else { panic!("{refused:?}") };
    assert!(reason.contains("document_parsing_exception: no such date"), "{reason}");
    SearchIndexer::flush(&*store, NOW, true).await.unwrap();
    assert!(!is_covered(&store));
}

#[tokio::test]
async fn an_engine_that_stays_busy_full_or_silent_is_away_and_nothing_counts_as_indexed() {
    let item = |status, kind: &'static str, reason: &'static str| {
        move |asked: &Asked| Some((200, bulk(&vec![failed(status, kind, reason); asked.items()])))
    };
    let always = |status: u16, body: &'static str| move |_: &Asked| Some((status, body.to_owned()));
    type Case = (&'static str, Box<Play>);
    let cases: Vec<Case> = vec![
        ("busy", Box::new(item(429, "es_rejected_execution_exception", "queue"))),
        (
            "full",
            Box::new(item(
                429,
                "cluster_block_exception",
                "index has read-only / allow delete block",
            )),
        ),
        ("forbidden", Box::new(item(403, "security_exception", "no"))),
        ("shards", Box::new(item(400, "validation_exception", "too many shards"))),
        ("overloaded", Box::new(always(503, "{}"))),
        ("unauthorized", Box::new(always(401, "{}"))),
        ("half", Box::new(always(200, r#"{"errors":false,"items":[{"create":{"status":201}}]}"#))),
        ("torn", Box::new(always(200, r#"{"errors":false,"ite"#))),
        ("nonsense", Box::new(always(200, "<html>"))),
        ("silent", Box::new(|_: &Asked| None)),
    ];
    for (name, play) in cases {
        let engine =
            FakeEngine::new(move |asked| if asked.items() > 0 { play(asked) } else { well(asked) })
                .await;
        let store = engine.connect().await.unwrap();
        let error = index(&store, 3).await.unwrap_err();
        assert!(error.is_retryable(), "{name}: {error}");
        assert_eq!(matches!(error, StoreError::Full), name == "full", "{name}: {error}");
        SearchIndexer::flush(&*store, NOW, true).await.unwrap();
        assert!(!is_covered(&store), "{name}");
        assert!(engine.asked("POST /_bulk").len() <= 4, "{name}");
    }
}

/// The day of [`NOW`] and its companion.
const DAY: &str = "fake.default-jaeger-span-2026-09-21";
const LATE: &str = "fake.default-jaeger-span-2026-09-21-late";

/// An engine that moves the days by itself, and in which some indices take no writes.
fn moving(blocked: &'static [&'static str]) -> impl Fn(&Asked) -> Option<(u16, String)> {
    move |asked| {
        if asked.line.starts_with("GET /_component_template/fake-farspan-days") {
            let template = r#"{"settings":{"index":{"lifecycle":{"name":"fake-farspan-days"}}}}"#;
            let component = format!(r#"{{"component_template":{{"template":{template}}}}}"#);
            return Some((200, format!(r#"{{"component_templates":[{component}]}}"#)));
        }
        if asked.line.contains("/_mget") {
            let unknown = vec![r#"{"found":false}"#; asked.body.matches("\"_id\":").count()];
            return Some((200, format!(r#"{{"docs":[{}]}}"#, unknown.join(","))));
        }
        if asked.items() == 0 {
            return well(asked);
        }
        let index_of = |line: &str| {
            let rest = line.strip_prefix("{\"create\":{\"_index\":\"")?;
            rest.split_once('"').map(|(index, _)| index.to_owned())
        };
        let items: Vec<String> = asked
            .body
            .lines()
            .filter_map(index_of)
            .map(|index| {
                let reason =
                    format!("index [{index}] blocked by: [FORBIDDEN/8/index write (api)];");
                let is_blocked = blocked.contains(&index.as_str());
                if is_blocked {
                    failed(403, "cluster_block_exception", &reason)
                } else {
                    CREATED.to_owned()
                }
            })
            .collect();
        Some((200, bulk(&items)))
    }
}

#[tokio::test]
async fn a_day_is_made_with_its_date_where_the_engine_moves_days_and_a_companion_is_not() {
    let engine = FakeEngine::new(moving(&[DAY])).await;
    let store = engine.connect().await.unwrap();
    index(&store, 2).await.unwrap();
    let made = |index: &str| {
        let asked = engine.asked(&format!("PUT /{index} "));
        assert_eq!(asked.len(), 1, "{index}");
        asked[0].body.clone()
    };
    let date = r#""settings":{"index":{"lifecycle":{"origination_date":1789948800000}}}"#;
    assert!(made(DAY).contains(date), "{}", made(DAY));
    assert_eq!(made(LATE), r#"{"aliases":{"fake.default-jaeger-span-read":{}}}"#);
    let plain = FakeEngine::new(well).await;
    index(&plain.connect().await.unwrap(), 2).await.unwrap();
    assert!(!plain.asked("PUT ").is_empty());
    assert!(plain.asked("PUT ").iter().all(|asked| !asked.body.contains("lifecycle")));
}

#[tokio::test]
async fn a_late_span_that_neither_its_day_nor_the_companion_takes_is_told_in_the_engines_words() {
    let engine = FakeEngine::new(moving(&[DAY, LATE])).await;
    let store = engine.connect().await.unwrap();
    let error = index(&store, 2).await.unwrap_err();
    assert!(matches!(error, StoreError::Unavailable(_)), "{error:?}");
    let words = error.to_string();
    for word in [LATE, "403", "FORBIDDEN/8/index write (api)"] {
        assert!(words.contains(word), "{words}");
    }
    SearchIndexer::flush(&*store, NOW, true).await.unwrap();
    assert!(!is_covered(&store));
}

#[tokio::test]
async fn companions_go_with_their_day_where_the_engine_moves_days() {
    const LISTED: &str = "GET /fake.*-jaeger-span-*-late,fake.*-jaeger-service-*-late?";
    let (gone, kept) = ("fake.a-jaeger-span-2026-08-21-late", "fake.a-jaeger-span-2026-08-22-late");
    let play = move |asked: &Asked| {
        if !asked.line.starts_with(LISTED) {
            return moving(&[])(asked);
        }
        let one =
            |index: &str, alias: &str| format!(r#""{index}":{{"aliases":{{"{alias}":{{}}}}}}"#);
        let (read, shrunk) = ("fake.a-jaeger-span-read", format!("shrink-x1y2-{gone}"));
        Some((200, format!("{{{},{}}}", one(&shrunk, gone), one(kept, read))))
    };
    let engine = FakeEngine::new(play).await;
    let store = engine.connect().await.unwrap();
    assert_eq!(store.maintain().await.unwrap(), 0);
    let removed: Vec<String> =
        engine.asked("DELETE ").into_iter().map(|asked| asked.line).collect();
    assert_eq!(removed, [format!("DELETE /shrink-x1y2-{gone} HTTP/1.1")]);
    // Where the cell moves the days, its own steps do it.
    let plain = FakeEngine::new(well).await;
    plain.connect().await.unwrap().maintain().await.unwrap();
    assert!(plain.asked(LISTED).is_empty() && plain.asked("DELETE ").is_empty());
}

#[tokio::test]
async fn a_body_that_is_too_large_for_the_engine_is_halved_and_one_document_refused() {
    let engine = FakeEngine::new(|asked| {
        let is_poison = asked.body.contains("poison");
        if asked.items() > 2 || (is_poison && asked.items() > 0) {
            return Some((413, r#"{"error":"too large"}"#.to_owned()));
        }
        well(asked)
    })
    .await;
    let store = engine.connect().await.unwrap();
    index(&store, 7).await.unwrap();
    let poison =
        store.index(&[Log::new().append(&Request::of("web", &[span(9, 0, "poison")]))]).await;
    assert!(matches!(poison, Err(StoreError::Refused(_))), "{poison:?}");
}

#[tokio::test]
async fn an_answer_that_lacks_a_shard_is_no_answer() {
    let hits = r#""hits":{"hits":[]}"#;
    for body in [
        format!(r#"{{"_shards":{{"failed":1}},"timed_out":false,{hits}}}"#),
        format!(r#"{{"_shards":{{"failed":0}},"timed_out":true,{hits}}}"#),
        r#"{"status":503,"error":{"type":"no_shard_available_action_exception"}}"#.to_owned(),
        r#"{"_shards":{"failed":0}}"#.to_owned(),
        format!(r#"{{"timed_out":false,{hits}}}"#),
        format!(r#"{{"_shards":{{}},"timed_out":false,{hits}}}"#),
        format!(r#"{{"_shards":{{"failed":0}},{hits}}}"#),
    ] {
        let answer = format!(r#"{{"responses":[{body},{body}]}}"#);
        let engine = FakeEngine::new(move |asked| {
            if asked.line.contains("_msearch") { Some((200, answer.clone())) } else { well(asked) }
        })
        .await;
        let store = engine.connect().await.unwrap();
        let found = store.search(&query(Filter::All)).await;
        assert!(matches!(found, Err(StoreError::Unavailable(_))), "{body}: {found:?}");
    }
}

#[tokio::test]
async fn a_refresh_that_failed_is_made_up_for_before_progress_is_claimed() {
    let is_well = Arc::new(AtomicBool::new(false));
    let seen = is_well.clone();
    let engine = FakeEngine::new(move |asked| {
        if asked.line.contains("span-2026-09-21/_refresh") && !seen.load(Ordering::SeqCst) {
            return Some((200, r#"{"_shards":{"failed":1}}"#.to_owned()));
        }
        well(asked)
    })
    .await;
    let store = engine.connect().await.unwrap();
    store.index(&[Log::new().append(&Request::of("web", &[span(1, 0, "a")]))]).await.unwrap();
    let asked = || engine.asked("POST /fake.default-jaeger").len();
    let failed = SearchIndexer::flush(&*store, NOW, true).await;
    assert!(failed.is_err() && !is_covered(&store) && asked() > 0);
    is_well.store(true, Ordering::SeqCst);
    SearchIndexer::flush(&*store, NOW, true).await.unwrap();
    assert!(is_covered(&store));
}

#[tokio::test]
async fn an_engine_that_is_away_old_or_not_set_up_is_refused_with_words() {
    let unused = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let config = ElasticsearchConfig::at(format!("http://{unused}"), "fake");
    let clock = Arc::new(ManualClock::at(NOW));
    let away = ElasticsearchStore::connect(config, clock).await.unwrap_err();
    assert!(matches!(away, StoreError::Unavailable(_)), "{away}");
    let old = FakeEngine::new(|asked| {
        if asked.line.starts_with("GET / ") {
            return Some((200, r#"{"version":{"number":"7.17.9"}}"#.to_owned()));
        }
        well(asked)
    })
    .await;
    let refused = old.connect().await.unwrap_err();
    assert!(matches!(&refused, StoreError::Unsupported(words) if words.contains("7.17.9")));
    for status in [401, 403] {
        let closed = FakeEngine::new(move |_| {
            Some((status, r#"{"error":{"type":"security_exception","reason":"no"}}"#.to_owned()))
        })
        .await;
        let refused = closed.connect().await.unwrap_err();
        assert!(!refused.is_retryable() && refused.to_string().contains("security_exception"));
    }
    let bare = FakeEngine::new(|asked| {
        if asked.line.starts_with("GET /_index_template") {
            return Some((404, "{}".to_owned()));
        }
        well(asked)
    })
    .await;
    let refused = bare.connect().await.unwrap_err();
    assert!(refused.to_string().contains("farspan store init"), "{refused}");
}

#[tokio::test]
async fn another_node_answers_where_the_first_is_away() {
    let engine = FakeEngine::new(well).await;
    let unused = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let mut config = engine.config();
    config.urls.insert(0, format!("http://{unused}"));
    let store = ElasticsearchStore::connect(config, Arc::new(ManualClock::at(NOW))).await.unwrap();
    for _ in 0..4 {
        index(&store, 2).await.unwrap();
    }
}

#[tokio::test]
async fn credentials_come_from_files_and_go_with_every_request() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("secret");
    std::fs::write(&file, "s3cret\n").unwrap();
    let cases = [
        (
            EngineCredentials::Basic { user: "anna".into(), password_file: file.clone() },
            "basic yw5uytpzm2nyzxq=",
        ),
        (EngineCredentials::ApiKey { file: file.clone() }, "apikey s3cret"),
    ];
    for (credentials, header) in cases {
        let engine = FakeEngine::new(well).await;
        let config = ElasticsearchConfig { credentials, ..engine.config() };
        let clock = Arc::new(ManualClock::at(NOW));
        let store = ElasticsearchStore::connect(config.clone(), clock.clone()).await.unwrap();
        assert!(!format!("{store:?}").contains("s3cret"));
        for asked in engine.asked("") {
            let expected = format!("authorization: {header}");
            assert!(asked.head.to_lowercase().contains(&expected), "{}", asked.head);
        }
        std::fs::remove_file(&file).unwrap();
        let missing = ElasticsearchStore::connect(config, clock).await.unwrap_err();
        assert!(missing.to_string().contains("secret"), "{missing}");
        std::fs::write(&file, "s3cret\n").unwrap();
    }
    let named = ElasticsearchConfig::at("http://anna:s3cret@127.0.0.1:1", "fake");
    let refused = ElasticsearchStore::init(&named).await.unwrap_err();
    assert!(!refused.to_string().contains("s3cret"), "{refused}");
}
