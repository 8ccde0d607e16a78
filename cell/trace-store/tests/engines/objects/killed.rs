//! kill -9 in the middle of an upload in parts: nothing of it is visible, and the next start moves it.

use std::path::Path;
use std::process::{Child, Command};
use std::sync::{Arc, Mutex};

use service_kit::ManualClock;
use trace_model::{Clock, TenantId};
use trace_store::{EmbeddedStore, EmbeddedStoreConfig, TraceReader, TraceSearch};

use super::{Bucket, LARGE, filled, settings, tier};
use crate::fixture::{NOW, trace_id};
use crate::harness::{query, tag};
use crate::http_proxy::{Fault, Proxy};

/// Before address, bucket and directory, in the argument that makes a process the one that is killed.
const MOVER: &str = "mover-to=";
const THE_TEST: &str = "objects::killed::an_upload_that_is_killed_is_not_there_and_is_made_again";

fn open(endpoint: &str, bucket: &str, directory: &Path) -> Arc<EmbeddedStore> {
    let clock: Arc<dyn Clock> = Arc::new(ManualClock::at(NOW));
    let mut settings = settings(endpoint, bucket, directory);
    settings.limits.part_bytes = 5 << 20;
    let tier = tier(&settings, &clock);
    let config = EmbeddedStoreConfig::at(directory.join("store"));
    EmbeddedStore::open_tiered(config, tier, clock).unwrap()
}

/// This executable with this one test, which moves what is in the directory.
fn start_mover(arguments: [&str; 3]) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", THE_TEST, "--nocapture"])
        .arg(format!("{MOVER}{}", arguments.join("|")))
        .spawn()
        .unwrap()
}

/// The test harness takes the argument for one more filter, which fits no test.
fn arguments_of_mover() -> Option<Vec<String>> {
    let found = std::env::args().find_map(|one| one.strip_prefix(MOVER).map(str::to_owned))?;
    Some(found.split('|').map(str::to_owned).collect())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_that_is_killed_is_not_there_and_is_made_again() {
    if let Some(arguments) = arguments_of_mover() {
        let store = open(&arguments[0], &arguments[1], Path::new(&arguments[2]));
        let moved = store.move_cold().await;
        panic!("it was to be killed: {moved:?}");
    }
    let (bucket, directory) = (Bucket::new(), tempfile::tempdir().unwrap());
    let traces = LARGE;
    filled(&open(&bucket.server, &bucket.name, directory.path()), traces).await;
    let proxy = Proxy::before(&bucket.server).await;
    let mover: Arc<Mutex<Option<Child>>> = Arc::default();
    let killing = Arc::clone(&mover);
    let kill = move || killing.lock().unwrap().as_mut().unwrap().kill().unwrap();
    let is_second = |head: &str| head.starts_with("PUT ") && head.contains("partNumber=2");
    proxy.break_one(0, is_second, Fault::Hook(Arc::new(kill)));
    {
        let mut mover = mover.lock().unwrap();
        let at = directory.path().to_str().unwrap();
        *mover = Some(start_mover([&proxy.url, &bucket.name, at]));
    }
    let ended = tokio::task::spawn_blocking(move || {
        loop {
            // Not held while it is waited for: who kills it needs it as well.
            if let Some(ended) = mover.lock().unwrap().as_mut().unwrap().try_wait().unwrap() {
                return ended;
            }
            std::thread::park_timeout(std::time::Duration::from_millis(10));
        }
    });
    let ended = ended.await.unwrap();
    assert!(proxy.has_broken() && ended.code().is_none(), "{ended}: it was not killed");
    assert_eq!(bucket.uploads(), 1, "it was in the middle");
    assert_eq!(bucket.objects(), 0);

    let store = open(&bucket.server, &bucket.name, directory.path());
    let tenant = TenantId::default();
    let is_whole = async |trace: u64| {
        let read = store.read_trace(&tenant, trace_id(trace)).await.unwrap();
        (read.spans.len(), read.is_away, read.is_damaged) == (1, false, false)
    };
    assert!(is_whole(0).await && is_whole(traces - 1).await);
    assert_eq!(store.move_cold().await.unwrap(), 1);
    assert_eq!(bucket.objects(), 1);
    assert!(is_whole(0).await && is_whole(traces - 1).await);
    let found = store.search(&query(tag("order", "o-4711"))).await.unwrap();
    assert_eq!((found.matches.len(), found.is_away, found.is_damaged), (1, false, false));
    assert!(store.metrics().cold.reads.get() > 0);
}
