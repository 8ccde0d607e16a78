//! The S3 server behind a proxy that spoils requests: cut, late, half an answer, an error within a 200.
//! Answers say what they lack, nothing half-written is visible, and a move that failed is made good.

use std::sync::Arc;
use std::time::{Duration, Instant};

use service_kit::ManualClock;
use trace_model::{Clock, TenantId};
use trace_store::{EmbeddedStore, EmbeddedStoreConfig, StoreError, TraceReader, TraceSearch};

use super::{Bucket, LARGE, filled, settings, tier};
use crate::fixture::{NOW, trace_id};
use crate::harness::{query, small_config, tag};
use crate::http_proxy::{Fault, Meets, Proxy};

const IS_READ: Meets =
    |head| head.starts_with("GET ") && head.to_lowercase().contains("\r\nrange:");
const IS_END_OF_PARTS: Meets = |head| head.starts_with("POST ") && head.contains("uploadId=");
const IS_PART: Meets = |head| head.starts_with("PUT ") && head.contains("partNumber=2");
const ERROR: &str = "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<Error><Code>InternalError</Code>\
     <Message>We encountered an internal error. Please try again.</Message></Error>";

/// A store whose cold spans go through the proxy.
struct Behind {
    bucket: Bucket,
    proxy: Proxy,
    clock: Arc<ManualClock>,
    store: Arc<EmbeddedStore>,
    directory: tempfile::TempDir,
}

impl Behind {
    async fn new(config: fn(&std::path::Path) -> EmbeddedStoreConfig) -> Self {
        let (bucket, directory) = (Bucket::new(), tempfile::tempdir().unwrap());
        let proxy = Proxy::before(&bucket.server).await;
        let clock = Arc::new(ManualClock::at(NOW));
        let mut settings = settings(&proxy.url, &bucket.name, directory.path());
        settings.limits.read_timeout = Duration::from_millis(1_500);
        settings.limits.upload_timeout = Duration::from_secs(20);
        settings.limits.part_bytes = 5 << 20;
        let time: Arc<dyn Clock> = clock.clone();
        let tier = tier(&settings, &time);
        let config = config(&directory.path().join("store"));
        let store = EmbeddedStore::open_tiered(config, tier, time).unwrap();
        Self { bucket, proxy, clock, store, directory }
    }

    /// The trace is there whole, wherever it lies.
    async fn is_whole(&self, trace: u64) -> bool {
        let read = self.store.read_trace(&TenantId::default(), trace_id(trace)).await.unwrap();
        (read.spans.len(), read.is_away, read.is_damaged) == (1, false, false)
    }

    /// Objects that segments are read from.
    fn needed(&self) -> usize {
        usize::try_from(self.store.metrics().cold.objects.get()).unwrap()
    }
}

/// Half of an answer's body, behind a head that says that this is all.
fn halved() -> Fault {
    Fault::Changed(Arc::new(|mut body| {
        body.truncate(body.len() / 2);
        body
    }))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_range_that_is_cut_late_or_an_error_is_away_and_never_a_shorter_answer() {
    let behind = Behind::new(small_config).await;
    filled(&behind.store, 2_000).await;
    assert!(behind.store.move_cold().await.unwrap() >= 1);
    let tenant = TenantId::default();
    let faults =
        [Fault::Half, halved(), Fault::Before, Fault::After, Fault::Silence, Fault::Instead(ERROR)];
    for (fault, trace) in faults.into_iter().zip((100..).step_by(250)) {
        let asked = Instant::now();
        behind.proxy.break_each(0, IS_READ, fault);
        let read = behind.store.read_trace(&tenant, trace_id(trace)).await.unwrap();
        assert!(read.is_away && !read.is_damaged && read.spans.is_empty(), "{trace}: {read:?}");
        let order = tag("order", &format!("o-{trace}"));
        let found = behind.store.search(&query(order.clone())).await.unwrap();
        assert!(found.is_away && !found.is_damaged && found.matches.is_empty(), "{trace}");
        assert!(behind.proxy.has_broken() && asked.elapsed() < Duration::from_secs(10));
        behind.clock.advance(Duration::from_secs(3));
        assert!(behind.is_whole(trace).await, "{trace}");
        let found = behind.store.search(&query(order)).await.unwrap();
        assert_eq!((found.matches.len(), found.is_away), (1, false), "{trace}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn whichever_request_of_a_move_is_spoilt_every_trace_is_whole_and_the_move_is_made_good() {
    let behind = Behind::new(small_config).await;
    let (mut traces, mut failed) = (0, 0);
    for fault in [Fault::Before, Fault::After, Fault::Half, halved(), Fault::Instead(ERROR)] {
        for passing in 0.. {
            super::filled_from(&behind.store, traces, 20).await;
            traces += 20;
            // All requests from that one on: one alone is sent again and may be well.
            behind.proxy.break_each(passing, |_| true, fault.clone());
            let moved = behind.store.move_cold().await;
            let is_met = behind.proxy.has_broken();
            if let Err(error) = &moved {
                failed += 1;
                assert!(error.is_retryable(), "{error}");
                assert!(behind.is_whole(traces - 1).await, "it is here");
                behind.clock.advance(Duration::from_secs(61));
                assert!(behind.store.move_cold().await.unwrap() >= 1);
            }
            for trace in [traces - 20, traces - 1] {
                assert!(behind.is_whole(trace).await, "{passing}: {moved:?}");
            }
            if !is_met {
                assert!(passing > 0 && moved.is_ok(), "{moved:?}");
                break;
            }
        }
    }
    assert!(failed > 0);
    assert_eq!(behind.bucket.objects(), behind.needed(), "none that nobody names");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_in_parts_that_ends_in_an_error_within_a_success_is_not_there() {
    let behind = Behind::new(|at| EmbeddedStoreConfig::at(at)).await;
    filled(&behind.store, LARGE).await;
    // The last request is answered by an error and a 200, as S3 may; then it is cut; a part is.
    for (meets, fault) in [
        (IS_END_OF_PARTS, Fault::Instead(ERROR)),
        (IS_END_OF_PARTS, Fault::Instead("")),
        (IS_END_OF_PARTS, Fault::Before),
        (IS_PART, Fault::Half),
        (IS_PART, Fault::Before),
    ] {
        behind.proxy.break_each(0, meets, fault);
        let failed = behind.store.move_cold().await;
        assert!(behind.proxy.has_broken());
        assert!(matches!(failed, Err(StoreError::Unavailable(_))), "{failed:?}");
        assert_eq!((behind.needed(), behind.bucket.objects()), (0, 0));
        assert_eq!(behind.bucket.uploads(), 0, "it was given up");
        assert!(behind.is_whole(7).await);
        behind.clock.advance(Duration::from_secs(61));
    }
    assert_eq!(behind.store.move_cold().await.unwrap(), 1);
    assert_eq!((behind.needed(), behind.bucket.objects()), (1, 1));
    assert!(behind.is_whole(8).await);
    drop(behind.directory);
}
