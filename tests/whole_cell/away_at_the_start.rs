//! A cell that is started while an engine is away waits for it and says so; what a person must mend
//! ends it.

use std::time::Duration;

use bytes::Bytes;
use http::Method;

use crate::counts::{Names, clickhouse, until_each_holds};
use crate::federation::{Federation, PATIENCE};
use crate::fixture::{encode, hex, random_trace_id, request, span};
use crate::http::{Answer, eventually, get, send};
use crate::process::Process;
use crate::running_engines::{ALL, Engine, have_engines_alone, share_engines};
use crate::whole_cell::{REGION, SERVICE, set_up, yaml};

async fn export(federation: &Federation, body: Bytes) -> Result<Answer, String> {
    let port = federation.regions[0].ports.otlp_http;
    let url = format!("http://127.0.0.1:{port}/v1/traces");
    send(Method::POST, &url, &[("content-type", "application/x-protobuf")], body).await
}

async fn until_named(federation: &Federation, engine: Engine) {
    let admin = format!("http://127.0.0.1:{}", federation.regions[0].ports.cell_admin);
    // Without the stores of searches and counts a cell takes spans and is ready.
    let (status, words) = match engine {
        Engine::Kafka => (503, "waits for the span log in Kafka: "),
        Engine::Cassandra => (503, "cassandra: the store is not available: "),
        Engine::Elasticsearch => {
            (200, "warning: waits for Elasticsearch: the store is not available: ")
        }
        Engine::Clickhouse => (200, "warning: waits for ClickHouse: the store is not available: "),
    };
    eventually("the engine that is away is named", PATIENCE, || async {
        let ready = get(&format!("{admin}/readyz")).await?;
        let text = String::from_utf8_lossy(&ready.body).into_owned();
        let is_named = ready.status == status && text.contains(words);
        if is_named { Ok(()) } else { Err(format!("{} {text}", ready.status)) }
    })
    .await;
    assert_eq!(get(&format!("{admin}/livez")).await.unwrap().status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cell_that_starts_while_an_engine_is_away_waits_for_it_names_it_and_goes_on_by_itself() {
    let turn = have_engines_alone().await;
    let names = Names::new("away");
    let extra = yaml(&turn.engines, &names);
    set_up(&extra).await;
    // Each engine that stands is known by a call that waits for nothing so long.
    let quick = extra.replace("  shards: 1\n", "  shards: 1\n  timeout: 3s\n") + "  timeout: 3s\n";
    let mut federation = Federation::start(&[REGION], &[(REGION, &quick)]).await;
    let mut sent = 0;
    for engine in ALL {
        println!("without {engine:?}");
        federation.stop_cell(0);
        turn.engines.stop(engine);
        federation.start_cell(0);
        until_named(&federation, engine).await;
        let trace = random_trace_id();
        let body = encode(&request(SERVICE, vec![span(trace, 1, 0, "work")]));
        match engine {
            Engine::Kafka => {
                let answer = export(&federation, body.clone()).await.unwrap();
                assert!(answer.headers.contains_key("retry-after"), "{answer:?}");
                assert_eq!(answer.status, 503);
            }
            Engine::Cassandra | Engine::Elasticsearch | Engine::Clickhouse => {
                eventually("exports are taken without it", PATIENCE, || async {
                    let answer = export(&federation, body.clone()).await?;
                    if answer.status == 200 { Ok(()) } else { Err(format!("{answer:?}")) }
                })
                .await;
                sent += 1;
            }
        }
        turn.engines.go_on(engine);
        federation.wait_ready(0).await;
        if engine == Engine::Kafka {
            eventually("exports are taken again", PATIENCE, || federation.export(0, body.clone()))
                .await;
            sent += 1;
        }
        eventually("the trace is whole", PATIENCE, || async {
            let (line, found) = federation.certified(0, &trace).await?;
            let is_whole = line.starts_with("complete") && found == [hex(&1_u64.to_be_bytes())];
            if is_whole { Ok(()) } else { Err(line) }
        })
        .await;
        // Each group begins by itself when its engine is there.
        until_each_holds(&turn.engines, &names, sent).await;
    }
    // One that waits is stopped as any other.
    federation.stop_cell(0);
    turn.engines.stop(Engine::Elasticsearch);
    federation.start_cell(0);
    until_named(&federation, Engine::Elasticsearch).await;
    federation.stop_cell(0);
    turn.engines.go_on(Engine::Elasticsearch);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_schema_of_a_newer_release_ends_the_start_with_words() {
    let turn = share_engines().await;
    let names = Names::new("newer");
    let extra = yaml(&turn.engines, &names);
    set_up(&extra).await;
    let newer = "INSERT INTO newer.schema_version VALUES (99, now())";
    clickhouse(&turn.engines, newer).await.unwrap();
    let directory = tempfile::tempdir().unwrap();
    let (file, data) = (directory.path().join("cell.yaml"), directory.path().display());
    let ports = crate::process::free_ports(5);
    let listen = format!(
        "listen:\n  otlp_grpc: 127.0.0.1:{}\n  otlp_http: 127.0.0.1:{}\n  zipkin: 127.0.0.1:{}\n  \
         internal: 127.0.0.1:{}\n  admin: 127.0.0.1:{}\n",
        ports[0], ports[1], ports[2], ports[3], ports[4]
    );
    let text = format!("kind: cell\nregion: {REGION}\ndata_dir: {data}/cell\n{listen}{extra}");
    std::fs::write(&file, text).unwrap();
    let file = file.display().to_string();
    let mut cell = Process::start("newer", directory.path(), &["cell", "--config", &file]);
    let ended =
        tokio::task::spawn_blocking(move || (cell.code(Duration::from_secs(30)), cell.output()));
    let (code, words) = ended.await.unwrap();
    assert!(code.is_some_and(|code| code != 0), "{code:?} {words}");
    assert!(words.contains("opening ClickHouse") && words.contains("version 99"), "{words}");
}
