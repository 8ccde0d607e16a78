//! Foreign records through the stages: what reaches the log, what is settled, what is stepped over.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use collector::{Collector, ForeignEncoding, ForeignParts, ForeignTaker, ForeignTenant};
use prometheus_client::registry::Registry;
use sampling::{HeadRules, RateSampler};
use service_kit::SystemClock;
use span_log::port::LogError;
use span_log::{ForeignFigures, ForeignPlace, ForeignRecord, ForeignRecords, SteppedOver};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use trace_model::{Clock as _, TenantId, UnixNanos};

use crate::fake_log::{Behaviour, FakeLog};
use crate::requests::{request, span, spans};
use crate::running::config;

/// A source in memory.
#[derive(Debug)]
struct Source {
    given: tokio::sync::Mutex<mpsc::Receiver<ForeignRecord>>,
    give: mpsc::Sender<ForeignRecord>,
    settled: Mutex<BTreeSet<u64>>,
}

#[async_trait]
impl ForeignRecords for Source {
    async fn next(&self) -> Option<ForeignRecord> {
        self.given.lock().await.recv().await
    }

    fn settle(&self, place: &ForeignPlace) {
        assert!(self.settled.lock().unwrap().insert(place.offset), "{place} is settled twice");
    }

    fn figures(&self) -> ForeignFigures {
        ForeignFigures { partitions: 1, lag_records: 7, expired_records: 2, is_paused: false }
    }

    async fn close(&self) {
        self.given.lock().await.close();
    }
}

struct Taking {
    log: Arc<FakeLog>,
    source: Arc<Source>,
    taker: Arc<ForeignTaker>,
    list: Arc<SteppedOver>,
    stop: CancellationToken,
    tracker: TaskTracker,
    registry: Registry,
    _directory: tempfile::TempDir,
}

impl Taking {
    fn start(tenant: ForeignTenant, encoding: ForeignEncoding) -> Self {
        let (log, directory) = (FakeLog::new(), tempfile::tempdir().unwrap());
        let (give, given) = mpsc::channel(64);
        let given = tokio::sync::Mutex::new(given);
        let source = Arc::new(Source { given, give, settled: Mutex::default() });
        let mut registry = Registry::default();
        let clock = Arc::new(SystemClock::new());
        let sampler = Arc::new(RateSampler::new(HeadRules::default()).unwrap());
        let collector =
            Collector::new(config(), log.clone(), sampler, clock.clone(), &mut registry);
        let list = Arc::new(SteppedOver::open(directory.path().join("list")).unwrap());
        let stepped_over = Arc::clone(&list);
        let parts =
            ForeignParts { tenant, encoding, payload_bytes_max: 1 << 20, stepped_over, clock };
        let taker = ForeignTaker::new(collector, source.clone(), parts, &mut registry);
        let (stop, tracker) = (CancellationToken::new(), TaskTracker::new());
        tracker.spawn(Arc::clone(&taker).run(stop.clone()));
        tracker.close();
        Self { log, source, taker, list, stop, tracker, registry, _directory: directory }
    }

    fn plain() -> Self {
        Self::start(ForeignTenant::One(TenantId::default()), ForeignEncoding::OtlpProto)
    }

    async fn give(&self, offset: u64, payload: Vec<u8>) {
        self.give_with(offset, payload, &[], None).await;
    }

    async fn give_with(
        &self,
        offset: u64,
        payload: Vec<u8>,
        header: &[&str],
        time: Option<UnixNanos>,
    ) {
        let place = ForeignPlace { topic: "otlp_spans".into(), partition: 0, offset, since: 1 };
        let header = header.iter().map(|value| Bytes::copy_from_slice(value.as_bytes())).collect();
        let key = Some(Bytes::from_static(b"a key"));
        let record = ForeignRecord { place, key, header, payload: payload.into(), time };
        self.source.give.send(record).await.unwrap();
    }

    async fn until(&self, what: &str, holds: impl Fn(&Self) -> bool) {
        let waiting = tokio::time::timeout(Duration::from_secs(30), async {
            while !holds(self) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        });
        assert!(waiting.await.is_ok(), "never came true: {what}");
    }

    async fn until_settled(&self, offsets: &[u64]) {
        let wanted: BTreeSet<u64> = offsets.iter().copied().collect();
        let is_so = |this: &Self| *this.source.settled.lock().unwrap() == wanted;
        self.until(&format!("{wanted:?} are settled"), is_so).await;
    }
}

#[tokio::test]
async fn a_record_of_many_traces_reaches_the_log_whole_with_the_time_and_digest_of_the_record() {
    let taking = Taking::plain();
    let written = SystemClock::new().now().minus(60_000_000_000);
    let body = request(spans(40));
    taking.give_with(3, body.clone(), &[], Some(written)).await;
    taking.give_with(4, body.clone(), &[], Some(UnixNanos(5))).await;
    taking.until_settled(&[3, 4]).await;
    let batches = taking.log.batches();
    assert_eq!((batches.len(), taking.log.span_count()), (2, 80));
    assert_eq!(batches[0].traces().len(), 7);
    // The same bytes are the same request, wherever they lie: counted once.
    for batch in &batches {
        assert_eq!(batch.source().digest, xxhash_rust::xxh3::xxh3_64(&body));
    }
    let times: BTreeSet<UnixNanos> = batches.iter().map(|one| one.source().receive_time).collect();
    assert!(times.contains(&written) && times.iter().all(|time| *time >= written), "{times:?}");
    assert_eq!((taking.taker.metrics().records.get(), taking.taker.metrics().spans.get()), (2, 80));
}

#[tokio::test]
async fn poison_between_good_records_is_noted_counted_and_stepped_over() {
    let taking = Taking::plain();
    taking.give(0, request(spans(2))).await;
    taking.give(1, b"{\"resourceSpans\":[]}".to_vec()).await;
    taking.give(2, Vec::new()).await;
    taking.give(3, vec![10; (1 << 20) + 1]).await;
    let mut bad = span(3, 9);
    bad.span_id.clear();
    taking.give(4, request(vec![span(3, 8), bad])).await;
    taking.until_settled(&[0, 1, 2, 3, 4]).await;
    assert_eq!(taking.log.span_count(), 3);
    let metrics = taking.taker.metrics();
    assert_eq!((metrics.dead("malformed"), metrics.dead("too_large")), (2, 1));
    let mut noted = taking.list.list();
    noted.sort_by_key(|run| run.first);
    let told: Vec<(u64, &str)> = noted.iter().map(|run| (run.first, run.reason.as_str())).collect();
    for (found, (offset, words)) in told.iter().zip([
        (1, "not an OTLP trace export request"),
        (2, "empty"),
        (3, "larger than"),
        (4, "1 of 2 spans were rejected"),
    ]) {
        assert!(found.0 == offset && found.1.contains(words), "{told:?}");
    }
    assert_eq!((told.len(), noted[0].key.as_str(), noted[0].bytes), (4, "61206b6579", 25));
    let mut shown = String::new();
    prometheus_client::encoding::text::encode(&mut shown, &taking.registry).unwrap();
    for line in [
        "farspan_foreign_dead_records_total{reason=\"malformed\"} 2",
        "farspan_foreign_rejected_spans_total{reason=\"bad_span_id\"} 1",
        "farspan_collector_rejected_spans_total{reason=\"bad_span_id\"} 1",
        "farspan_foreign_lag_records 7",
    ] {
        assert!(shown.contains(line), "{line} is not in {shown}");
    }
}

#[tokio::test]
async fn what_the_log_refuses_is_tried_until_it_is_taken_and_not_settled_before() {
    let taking = Taking::plain();
    taking.log.behave(Behaviour::Refuse(LogError::Full));
    taking.give(0, request(spans(2))).await;
    taking.until("it was tried", |taking| taking.taker.metrics().retries.get() >= 2).await;
    assert!(taking.source.settled.lock().unwrap().is_empty());
    // A busy loop would have tried far more often by now.
    assert!(taking.taker.metrics().retries.get() < 10);
    taking.log.behave(Behaviour::Keep);
    taking.until_settled(&[0]).await;
    assert_eq!(taking.log.span_count(), 2);
}

#[tokio::test]
async fn a_stop_leaves_what_the_log_has_not_acknowledged_to_the_next_reader() {
    let taking = Taking::plain();
    taking.log.behave(Behaviour::Refuse(LogError::Full));
    taking.give(0, request(spans(2))).await;
    taking.until("it was tried", |taking| taking.taker.metrics().retries.get() >= 1).await;
    taking.stop.cancel();
    taking.tracker.wait().await;
    assert!(taking.source.settled.lock().unwrap().is_empty());
    assert!(taking.list.list().is_empty());
}

#[tokio::test]
async fn a_header_names_the_tenant_and_a_record_without_is_nobodys() {
    let strict = ForeignTenant::InHeader { without: None };
    let taking = Taking::start(strict, ForeignEncoding::OtlpProto);
    taking.give_with(0, request(spans(2)), &["acme"], None).await;
    taking.give(1, request(spans(2))).await;
    taking.until_settled(&[0, 1]).await;
    let tenants: Vec<String> =
        taking.log.batches().iter().map(|one| one.source().tenant.as_str().to_owned()).collect();
    assert_eq!((tenants, taking.taker.metrics().dead("tenant")), (vec!["acme".to_owned()], 1));
}

#[tokio::test]
async fn records_in_otlp_json_go_the_same_way() {
    let taking = Taking::start(ForeignTenant::One(TenantId::default()), ForeignEncoding::OtlpJson);
    let json = r#"{"resourceSpans":[{"scopeSpans":[{"spans":[
        {"traceId":"0102030405060708090a0b0c0d0e0f10","spanId":"0102030405060708","name":"a"},
        {"traceId":"1102030405060708090a0b0c0d0e0f10","spanId":"0102030405060708","name":"b"}
    ]}]}]}"#;
    taking.give(0, json.as_bytes().to_vec()).await;
    taking.give(1, request(spans(2))).await;
    taking.until_settled(&[0, 1]).await;
    assert_eq!(taking.log.batches()[0].traces().len(), 2);
    assert_eq!((taking.log.span_count(), taking.taker.metrics().dead("malformed")), (2, 1));
}
