//! Redis of a gateway and the objects of cold spans stand or die under a load: no sender notices it, and
//! answers are whole or name what they lack.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::future::join_all;
use http::Method;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, JoinSet, spawn_blocking};

use crate::federation::{Federation, PATIENCE};
use crate::fixture::{now_nanos, random_trace_id, span};
use crate::http::{eventually, get, send};
use crate::load::{Load, SPANS};
use crate::outage::{Fault, lasts};
use crate::process::free_ports;
use crate::running_engines::scripts;
use crate::stopped_engines::{span_ids, until_line};
use crate::whole_cell::{REGION, SERVICE, until_all_is_read_back};

/// On a busy machine an answer may come too late, and says so.
const IS_LATE: &str = "timed_out";
/// Questions asked at once.
const AT_ONCE: usize = 8;

/// A server that the project's script starts; gone with its data at the end.
struct Server {
    script: &'static str,
    settings: [(&'static str, String); 2],
    port: u16,
}

impl Server {
    async fn start(script: &'static str, name: &'static str, port: &'static str) -> Self {
        let free = free_ports(1)[0];
        let settings = [(name, format!("cell-{}", std::process::id())), (port, free.to_string())];
        let server = Self { script, settings, port: free };
        server.run_all(&["start", "wait"]).await;
        server
    }

    fn command(script: &str, settings: &[(&'static str, String)], verb: &str) -> String {
        let mut command = Command::new(scripts().join(script));
        command.arg(verb).envs(settings.iter().cloned()).stdin(Stdio::null());
        let output = command.output().unwrap();
        assert!(output.status.success(), "{script} {verb}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    async fn run_all(&self, verbs: &'static [&'static str]) {
        let (script, settings) = (self.script, self.settings.clone());
        let run = move || {
            for verb in verbs {
                Self::command(script, &settings, verb);
            }
        };
        spawn_blocking(run).await.unwrap();
    }

    fn signal(&self, signal: &str) {
        let status = Self::command(self.script, &self.settings, "status");
        let pid = status.split_whitespace().nth(1).unwrap_or_else(|| panic!("{status}"));
        let done = Command::new("kill").args([&format!("-{signal}"), pid]).status();
        assert!(done.unwrap().success(), "{signal} {status}");
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        Self::command(self.script, &self.settings, "wipe");
    }
}

/// Who listens in front of the server of objects, which keeps them in its memory: killed, it would lose them.
/// Where nobody listens it is dead for the cell.
struct Front {
    port: u16,
    to: u16,
    listens: Option<JoinHandle<()>>,
}

impl Front {
    async fn before(server: &Server) -> Self {
        let mut front = Self { port: free_ports(1)[0], to: server.port, listens: None };
        front.listen().await;
        front
    }

    async fn listen(&mut self) {
        let to = self.to;
        let listener = TcpListener::bind(("127.0.0.1", self.port)).await.unwrap();
        let listen = async move {
            let mut connections = JoinSet::new();
            while let Ok((mut client, _)) = listener.accept().await {
                connections.spawn(async move {
                    let Ok(mut server) = TcpStream::connect(("127.0.0.1", to)).await else {
                        return;
                    };
                    drop(tokio::io::copy_bidirectional(&mut client, &mut server).await);
                });
            }
        };
        self.listens = Some(tokio::spawn(listen));
    }

    async fn die(&mut self) {
        let listens = self.listens.take().unwrap();
        listens.abort();
        assert!(listens.await.unwrap_err().is_cancelled());
    }
}

/// A bucket without anything in it.
async fn make_bucket(server: &Server) {
    let url = format!("http://127.0.0.1:{}/spans", server.port);
    let made = send(Method::PUT, &url, &[], Bytes::new()).await.unwrap();
    assert!(made.status.is_success(), "{made:?}");
}

/// How many segments the bucket holds.
async fn segments(server: &Server) -> Result<usize, String> {
    let url = format!("http://127.0.0.1:{}/spans?list-type=2", server.port);
    let listed = get(&url).await?;
    Ok(String::from_utf8_lossy(&listed.body).matches(".seg</Key>").count())
}

/// A trace that is in objects and nowhere else.
async fn cold_trace(federation: &Federation, server: &Server) -> [u8; 16] {
    let trace = random_trace_id();
    let spans = SPANS.map(|id| span(trace, id, id / 2, "work"));
    federation.send_spans(0, SERVICE, spans.to_vec()).await;
    let store = federation.cell_data(0).join("store");
    eventually("all is in objects", PATIENCE, || async {
        let (hot, cold) = (hot_segments(&store), segments(server).await?);
        if hot == 0 && cold > 0 { Ok(()) } else { Err(format!("{hot} hot, {cold} cold")) }
    })
    .await;
    trace
}

fn hot_segments(directory: &Path) -> usize {
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
    let paths = entries.map(|entry| entry.path());
    let counted = paths.map(|path| match path.is_dir() {
        true => hot_segments(&path),
        false => usize::from(path.extension().is_some_and(|end| end == "seg")),
    });
    counted.sum()
}

async fn until_fresh_is_whole(federation: &Federation, load: &Load) {
    let fresh = load.next_acknowledged().await;
    until_line(federation, &fresh, "a fresh trace is whole", |line| line.starts_with("complete"))
        .await;
}

/// Of a trace that was acknowledged a moment ago all spans are there. The filter of a segment in the objects may
/// say that it has some of it as well, which cannot be looked up: then the answer is not called complete.
async fn is_fresh_complete(federation: &Federation, load: &Load) -> bool {
    let fresh = load.next_acknowledged().await;
    let (line, found) = federation.certified(0, &fresh).await.unwrap();
    let is_complete = line.starts_with("complete");
    if line.contains(IS_LATE) {
        return false;
    }
    assert!(is_complete || line.contains("its trace store is away"), "{line}");
    assert_eq!(found, span_ids(), "{line}");
    is_complete
}

#[tokio::test(flavor = "multi_thread")]
async fn without_the_objects_senders_go_on_and_cold_traces_are_never_called_complete() {
    let server = Server::start("objects.sh", "OBJECTS_NAME", "OBJECTS_PORT").await;
    let mut front = Front::before(&server).await;
    make_bucket(&server).await;
    let secret = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(secret.path(), "secret").unwrap();
    // What was read is not kept in memory.
    let extra = format!(
        "cold:\n  url: s3://spans/cell\n  endpoint: http://127.0.0.1:{}\n  allow_http: true\n  \
         region: us-east-1\n  access_key_id: key\n  secret_access_key_file: {}\n  after: 1s\n  \
         every: 1s\n  cache: 0\n",
        front.port,
        secret.path().display()
    );
    let since = now_nanos();
    let federation = Federation::start(&[REGION], &[(REGION, &extra)]).await;
    let cold = cold_trace(&federation, &server).await;
    let is_complete = |line: &str| line.starts_with("complete");
    let mut load = Load::start(&federation);
    for fault in [Fault::Stop, Fault::Kill] {
        load.acknowledges(AT_ONCE).await;
        until_line(&federation, &cold, "it is read from the objects", is_complete).await;
        match fault {
            Fault::Stop => server.signal("STOP"),
            Fault::Kill => front.die().await,
        }
        let began = Instant::now();
        let (mut whole, mut asked) = (0, 0);
        while began.elapsed() < lasts() {
            let (line, _) = federation.certified(0, &cold).await.unwrap();
            assert!(line.starts_with("partial"), "{fault:?}: {line}");
            asked += 1;
            whole += usize::from(is_fresh_complete(&federation, &load).await);
        }
        println!("{fault:?}: {whole} of {asked} fresh traces complete");
        assert!(whole > asked / 2, "{fault:?}: {whole} of {asked}");
        match fault {
            Fault::Stop => server.signal("CONT"),
            Fault::Kill => front.listen().await,
        }
        until_line(&federation, &cold, "it is there again", is_complete).await;
        assert_eq!(load.refusals(), [], "{fault:?}: no sender noticed anything");
    }
    load.stop().await;
    load.ledger.note(cold, &SPANS);
    until_all_is_read_back(&federation, &load.ledger, since).await;
}

async fn connected(federation: &Federation) -> Result<bool, String> {
    let url = format!("http://127.0.0.1:{}/metrics", federation.regions[0].ports.gateway_admin);
    let metrics = String::from_utf8_lossy(&get(&url).await?.body).into_owned();
    Ok(metrics.lines().any(|line| line == "farspan_gateway_shared_state_connected 1"))
}

async fn until_connected(federation: &Federation, is_wanted: bool) {
    eventually("the gateway knows how Redis is", PATIENCE, || async {
        let is_connected = connected(federation).await?;
        if is_connected == is_wanted { Ok(()) } else { Err(federation.last_words()) }
    })
    .await;
}

/// Names Redis in the gateway's file, and starts it again.
async fn with_redis(federation: &mut Federation, server: &Server) {
    let file = federation.file(0, "gateway");
    let text = std::fs::read_to_string(&file).unwrap();
    let shared = text.replace("rate_limit:\n", "rate_limit:\n  gateways: 1\n");
    assert_ne!(text, shared);
    std::fs::write(&file, shared).unwrap();
    let url = format!("redis:\n  url: redis://127.0.0.1:{}\n", server.port);
    federation.restart_gateway_with(0, &url).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_redis_no_question_fails_and_no_sender_notices_it() {
    let server = Server::start("redis.sh", "REDIS_NAME", "REDIS_PORT").await;
    let since = now_nanos();
    let mut federation = Federation::start(&[REGION], &[]).await;
    with_redis(&mut federation, &server).await;
    let mut load = Load::start(&federation);
    for fault in [Fault::Stop, Fault::Kill] {
        until_connected(&federation, true).await;
        let old = load.next_acknowledged().await;
        until_line(&federation, &old, "it is whole", |line| line.starts_with("complete")).await;
        server.signal(if fault == Fault::Stop { "STOP" } else { "KILL" });
        let began = Instant::now();
        let mut asked = 0;
        while began.elapsed() < lasts() {
            let questions = (0..AT_ONCE).map(|_| federation.trace_json(0, &old));
            for answer in join_all(questions).await {
                let answer = answer.unwrap();
                let is_late = String::from_utf8_lossy(&answer.body).contains(IS_LATE);
                assert!(
                    answer.status == 200 || is_late,
                    "{fault:?}: no question fails: {answer:?}"
                );
                asked += 1;
            }
            until_fresh_is_whole(&federation, &load).await;
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        assert!(!connected(&federation).await.unwrap(), "{fault:?}: {asked} asked");
        match fault {
            Fault::Stop => server.signal("CONT"),
            Fault::Kill => server.run_all(&["start", "wait"]).await,
        }
        until_connected(&federation, true).await;
        println!("{fault:?}: {asked} questions answered without Redis");
    }
    load.stop().await;
    assert_eq!(load.refusals(), [], "no sender noticed anything");
    until_all_is_read_back(&federation, &load.ledger, since).await;
}
