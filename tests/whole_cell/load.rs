//! A small load whose senders repeat what was not acknowledged, byte by byte, as SDKs do.

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::Method;

use crate::federation::{Federation, PATIENCE};
use crate::fixture::{encode, random_trace_id, request, span};
use crate::http::{eventually, send};
use crate::ledger::Ledger;
use crate::whole_cell::SERVICE;

/// Senders at once, and the pause of each between traces.
const SENDERS: usize = 2;
const PAUSE: Duration = Duration::from_millis(80);
/// Spans of a trace.
pub(crate) const SPANS: [u64; 3] = [1, 2, 3];

/// How an export was not acknowledged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// A status, and whether it said when to come again.
    Status(u16, bool),
    /// No answer.
    Broken(String),
}

/// A load that runs until it is stopped.
pub(crate) struct Load {
    pub(crate) ledger: Arc<Ledger>,
    pub(crate) refusals: Arc<Mutex<Vec<Refusal>>>,
    slowest: Arc<Mutex<Duration>>,
    stop: Arc<AtomicBool>,
    senders: Vec<tokio::task::JoinHandle<()>>,
}

impl Load {
    pub(crate) fn start(federation: &Federation) -> Self {
        let ports = &federation.regions[0].ports;
        let url = format!("http://127.0.0.1:{}/v1/traces", ports.otlp_http);
        let (ledger, refusals, stop) = (Arc::default(), Arc::default(), Arc::default());
        let slowest = Arc::default();
        let mut load = Self { ledger, refusals, slowest, stop, senders: Vec::new() };
        for _ in 0..SENDERS {
            let sender = Sender {
                url: url.clone(),
                ledger: Arc::clone(&load.ledger),
                refusals: Arc::clone(&load.refusals),
                slowest: Arc::clone(&load.slowest),
                stop: Arc::clone(&load.stop),
            };
            load.senders.push(tokio::spawn(sender.keep_sending()));
        }
        load
    }

    /// The longest that a trace waited for its acknowledgement since this was last asked.
    pub(crate) fn slowest(&self) -> Duration {
        std::mem::take(&mut *self.slowest.lock().unwrap())
    }

    /// Waits until so many traces more are acknowledged.
    pub(crate) async fn acknowledges(&self, more: usize) {
        let wanted = self.ledger.len() + more;
        eventually("traces are acknowledged", PATIENCE, || async {
            let found = self.ledger.len();
            if found >= wanted { Ok(()) } else { Err(format!("{found} of {wanted}")) }
        })
        .await;
    }

    /// What was refused since this was last asked.
    pub(crate) fn refusals(&self) -> Vec<Refusal> {
        std::mem::take(&mut *self.refusals.lock().unwrap())
    }

    /// A trace that is acknowledged from now on.
    pub(crate) async fn next_acknowledged(&self) -> [u8; 16] {
        let before: HashSet<_> =
            self.ledger.entries().into_iter().map(|(trace, _)| trace).collect();
        eventually("a trace is acknowledged", PATIENCE, || async {
            let is_new = |trace: &[u8; 16]| !before.contains(trace);
            let entries = self.ledger.entries();
            let new = entries.into_iter().map(|(trace, _)| trace).find(is_new);
            new.ok_or_else(|| format!("{:?}", self.refusals.lock().unwrap().last()))
        })
        .await
    }

    /// Ends the load, once what was sent is acknowledged.
    pub(crate) async fn stop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for sender in self.senders.drain(..) {
            tokio::time::timeout(PATIENCE, sender).await.unwrap().unwrap();
        }
    }
}

/// One of those who send.
struct Sender {
    url: String,
    ledger: Arc<Ledger>,
    refusals: Arc<Mutex<Vec<Refusal>>>,
    slowest: Arc<Mutex<Duration>>,
    stop: Arc<AtomicBool>,
}

impl Sender {
    async fn keep_sending(self) {
        while !self.stop.load(Ordering::Relaxed) {
            let trace = random_trace_id();
            let spans = SPANS.map(|id| span(trace, id, id / 2, "work"));
            let begun = Instant::now();
            self.until_acknowledged(encode(&request(SERVICE, spans.to_vec()))).await;
            self.note_wait(begun.elapsed());
            self.ledger.note(trace, &SPANS);
            tokio::time::sleep(PAUSE).await;
        }
    }

    fn note_wait(&self, waited: Duration) {
        let mut slowest = self.slowest.lock().unwrap();
        *slowest = waited.max(*slowest);
    }

    async fn until_acknowledged(&self, body: Bytes) {
        let headers = [("content-type", "application/x-protobuf")];
        loop {
            let refusal = match send(Method::POST, &self.url, &headers, body.clone()).await {
                Ok(answer) if answer.status.is_success() => return,
                Ok(answer) => {
                    let is_dated = answer.headers.contains_key("retry-after");
                    Refusal::Status(answer.status.as_u16(), is_dated)
                }
                Err(error) => Refusal::Broken(error),
            };
            self.refusals.lock().unwrap().push(refusal);
            tokio::time::sleep(PAUSE).await;
        }
    }
}
