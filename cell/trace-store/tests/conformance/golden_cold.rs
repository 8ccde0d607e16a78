//! The third version of the manifest and what stays here of cold segments, with the objects, as the
//! release that brought them wrote them.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use futures_util::TryStreamExt;
use object_store::memory::InMemory;
use object_store::path::Path as ObjectPath;
use object_store::{ObjectStore, ObjectStoreExt};
use service_kit::ManualClock;
use trace_model::{Clock, TenantId};
use trace_store::{
    ColdTier, EmbeddedStore, Eraser, ObjectStorage, SpanWriter, TraceReader, TraceSearch,
};

use crate::cold_store::limits;
use crate::fixture::{Log, NOW, trace_id};
use crate::golden::{compare, copy_of, golden, requests};
use crate::harness::{query, small_config, tag};

/// Between the parts of an object's name where it stands for a file's.
const PART: &str = "+";

fn open(directory: &Path, objects: Arc<InMemory>) -> Arc<EmbeddedStore> {
    let clock: Arc<dyn Clock> = Arc::new(ManualClock::at(NOW));
    let storage = ObjectStorage::over(objects, ObjectPath::from("p"), limits(), clock.clone());
    let tier = ColdTier::new(Arc::new(storage), Duration::ZERO, 1 << 20, 7);
    EmbeddedStore::open_tiered(small_config(directory), tier, clock).unwrap()
}

/// Two cold segments, and a third that lost a trace and is here again.
async fn write(directory: &Path, objects: Arc<InMemory>) {
    let store = open(directory, objects);
    let mut log = Log::new();
    for request in requests() {
        store.write(&[log.append(&request)]).await.unwrap();
        SpanWriter::flush(&*store, NOW, true).await.unwrap();
    }
    store.move_cold().await.unwrap();
    store.erase(&TenantId::default(), trace_id(12)).await.unwrap();
}

fn made_anew(name: &str) -> std::path::PathBuf {
    let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("golden-store-{name}"));
    if directory.exists() {
        std::fs::remove_dir_all(&directory).unwrap();
    }
    std::fs::create_dir_all(&directory).unwrap();
    directory
}

/// As the golden directories of the older versions, and with the same rule.
#[tokio::test]
async fn what_is_written_today_is_of_the_golden_version() {
    let (directory, beside) = (made_anew("v3"), made_anew("v3-objects"));
    let objects = Arc::new(InMemory::new());
    write(&directory, objects.clone()).await;
    std::fs::remove_file(directory.join("lock")).unwrap();
    let found: Vec<_> = objects.list(None).try_collect().await.unwrap();
    for meta in found {
        let bytes = objects.get(&meta.location).await.unwrap().bytes().await.unwrap();
        let name = meta.location.to_string().replace('/', PART);
        std::fs::write(beside.join(name), bytes).unwrap();
    }
    compare("v3", &directory);
    compare("v3-objects", &beside);
}

#[tokio::test]
async fn version_3_opens_and_answers_out_of_its_objects() {
    let directory = copy_of("v3");
    let objects = Arc::new(InMemory::new());
    for entry in std::fs::read_dir(golden("v3-objects")).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap().replace(PART, "/");
        let bytes = std::fs::read(&path).unwrap();
        objects.put(&ObjectPath::from(name), bytes.into()).await.unwrap();
    }
    let store = open(directory.path(), objects);
    store.claim_cold().await.unwrap();
    assert_eq!(store.metrics().cold.objects.get(), 2);
    let tenant = TenantId::default();
    for request in requests() {
        let batch = request.batch();
        for slice in batch.traces().iter().filter(|slice| slice.trace_id != trace_id(12)) {
            let read = store.read_trace(&tenant, slice.trace_id).await.unwrap();
            assert!(!read.is_damaged && !read.is_away);
            for span in batch.spans_of(slice) {
                let found = read.spans.iter().find(|found| found.key == batch.key_of(span));
                assert_eq!(found.unwrap().span, batch.bytes_of(span));
            }
        }
    }
    assert!(store.read_trace(&tenant, trace_id(12)).await.unwrap().spans.is_empty());
    let found = store.search(&query(tag("order", "o-17"))).await.unwrap();
    assert_eq!((found.matches.len(), found.is_damaged), (1, false));
}
