//! `farspan demo` as a person runs it: Ctrl-C at any moment, a second start on the same directory,
//! and the codes that the shell sees.

use std::io::Write as _;
use std::net::TcpStream;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::federation::PATIENCE;
use crate::fixture::{hex, random_trace_id};
use crate::http::eventually;
use crate::process::{Process, free_run};

/// Until everything has ended after the first Ctrl-C.
const END: Duration = Duration::from_secs(10);
/// Ports of three regions.
const PORTS: u16 = 60;

struct Demo {
    process: Process,
    base: u16,
}

impl Demo {
    fn start(name: &str, directory: &Path, base: u16, arguments: &[&str]) -> Self {
        let (port, data) = (base.to_string(), directory.join("data"));
        let data = data.to_str().unwrap();
        let mut all = vec!["demo", "--base-port", &port, "--data-dir", data];
        all.extend(arguments);
        Self { process: Process::start(name, directory, &all), base }
    }

    fn gateway(&self) -> String {
        format!("http://127.0.0.1:{}", self.base + 3)
    }

    /// Waits until its output has a line that begins so; gives the rest of it.
    async fn said(&self, start: &str) -> String {
        eventually(start, PATIENCE, || async {
            let output = self.process.output();
            let line = output.lines().find_map(|line| line.trim_start().strip_prefix(start));
            line.map(str::to_owned).ok_or(output.clone())
        })
        .await
    }

    /// Ctrl-C, and the code within the time that it may take.
    fn interrupted(&mut self, at_most: Duration) -> Option<i32> {
        self.process.interrupt();
        self.process.code(at_most)
    }

    fn ends_well(mut self) {
        let code = self.interrupted(END);
        let output = self.process.output();
        assert_eq!(code, Some(0), "{}", self.process.last_words());
        assert!(output.lines().any(|line| line == "drained"), "{output}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn ctrl_c_right_after_the_start_drains_and_ends_well() {
    let directory = tempfile::tempdir().unwrap();
    let demo = Demo::start("early", directory.path(), free_run(PORTS), &["--wan", "off"]);
    eventually("the signal is caught", PATIENCE, || async {
        if demo.process.catches_interrupts() { Ok(()) } else { Err(demo.process.output()) }
    })
    .await;
    demo.ends_well();
}

#[tokio::test(flavor = "multi_thread")]
async fn ctrl_c_while_the_sample_is_read_back_drains_and_ends_well() {
    let directory = tempfile::tempdir().unwrap();
    let arguments = ["--seconds", "2", "--rate", "40"];
    let demo = Demo::start("check", directory.path(), free_run(PORTS), &arguments);
    demo.said("reading a sample back").await;
    demo.ends_well();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_ctrl_c_ends_the_demo_at_once() {
    let directory = tempfile::tempdir().unwrap();
    let arguments = ["--no-traffic", "--wan", "off"];
    let mut demo = Demo::start("twice", directory.path(), free_run(PORTS), &arguments);
    demo.said("open http").await;
    // A sender that does not end its request keeps the receivers for a while.
    let mut slow = TcpStream::connect(("127.0.0.1", demo.base + 1)).unwrap();
    let head = "POST /v1/traces HTTP/1.1\r\nhost: a\r\ncontent-type: application/x-protobuf\r\n\
                content-length: 100\r\n\r\nx";
    slow.write_all(head.as_bytes()).unwrap();
    demo.process.interrupt();
    demo.said("draining").await;
    let asked = Instant::now();
    let code = demo.interrupted(END);
    assert_eq!(code, Some(130), "{}", demo.process.last_words());
    assert!(asked.elapsed() < Duration::from_secs(2), "{:?}", asked.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sender_that_does_not_end_its_request_holds_no_drain() {
    let directory = tempfile::tempdir().unwrap();
    let arguments = ["--no-traffic", "--wan", "off"];
    let demo = Demo::start("slow", directory.path(), free_run(PORTS), &arguments);
    demo.said("open http").await;
    let mut slow = TcpStream::connect(("127.0.0.1", demo.base + 1)).unwrap();
    slow.write_all(b"POST /v1/traces HTTP/1.1\r\nhost: a\r\ncontent-length: 100\r\n\r\nx").unwrap();
    demo.ends_well();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_start_on_the_same_directory_finds_what_the_first_was_sent() {
    let (directory, base) = (tempfile::tempdir().unwrap(), free_run(PORTS));
    let first = Demo::start("first", directory.path(), base, &["--rate", "20"]);
    let id = first.said("a trace over 3 regions: ").await;
    let printed = first.said(&format!("{} trace ", env!("CARGO_BIN_EXE_farspan"))).await;
    assert_eq!(printed, format!("{id} --gateway {}", first.gateway()));
    first.ends_well();

    let second = Demo::start("second", directory.path(), base, &["--no-traffic"]);
    second.said("open http").await;
    let gateway = second.gateway();
    let ask = |name: &str, arguments: &[&str]| {
        let mut process = Process::start(name, directory.path(), arguments);
        (process.code(PATIENCE), process.output())
    };
    eventually("the whole trace again", PATIENCE, || async {
        let (code, output) = ask("trace", &["trace", &id, "--gateway", &gateway]);
        let is_whole = code == Some(0) && output.contains("complete: 3 of 3 regions");
        if is_whole { Ok(()) } else { Err(format!("{code:?} {output}")) }
    })
    .await;
    let unknown = hex(&random_trace_id());
    eventually("a proof that there is no such trace", PATIENCE, || async {
        let (code, output) = ask("unknown", &["trace", &unknown, "--gateway", &gateway]);
        if code == Some(1) { Ok(()) } else { Err(format!("{code:?} {output}")) }
    })
    .await;
    let (code, output) = ask("bad", &["trace", "not an id", "--gateway", &gateway]);
    assert_eq!(code, Some(2), "{output}");
    let (code, output) =
        ask("taken", &["demo", "--base-port", &base.to_string(), "--data-dir", "/nonexistent"]);
    assert_eq!(code, Some(4), "{output}");
    assert!(output.contains(&base.to_string()) && output.contains("--base-port"), "{output}");
    second.ends_well();
    let (code, output) = ask("nobody", &["trace", &unknown, "--gateway", &gateway]);
    assert_eq!(code, Some(4), "{output}");
}
