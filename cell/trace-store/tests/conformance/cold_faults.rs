//! Objects that fail, hang, lie or are cut short, and processes that end at each step of a move: the
//! answers are the same as before or say what they lack, and nothing half-written is ever read.

use std::fmt;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream::BoxStream;
use object_store::memory::InMemory;
use object_store::path::Path as ObjectPath;
use object_store::{
    CopyOptions, GetOptions, GetResult, GetResultPayload, ListResult, MultipartUpload, ObjectMeta,
    ObjectStore, PutMultipartOptions, PutOptions, PutPayload, PutResult, Result, UploadPart,
};
use service_kit::ManualClock;
use trace_model::{Clock, TenantId};
use trace_store::disk::{Disk, LocalDisk};
use trace_store::{
    ColdLimits, EmbeddedStore, Eraser, SpanWriter, StoreError, TraceReader, TraceSearch,
};

use crate::cold::{Bench, answers, config, names, open};
use crate::cold_store::{limits, tier};
use crate::files::orders;
use crate::fixture::{Log, NOW, trace_id};
use crate::harness::{copied, query, tag};

/// What goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    PutFails,
    /// The request is lost, or its answer is.
    PutHangs,
    PutIsDoneAndHangs,
    PutIsCutShort,
    PartFails,
    PartHangs,
    CompleteFails,
    DeleteFails,
    GetFails,
    GetHangs,
    GetIsCutShort,
    GetIsSpoilt,
    IsGone,
}

type Hook = Box<dyn Fn() + Send + Sync>;

/// Objects in memory with one fault at a time.
struct Faulty {
    inner: InMemory,
    fault: Mutex<Option<Fault>>,
    /// Called around each write.
    hook: Mutex<Option<Hook>>,
}

impl fmt::Debug for Faulty {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Faulty")
    }
}

impl fmt::Display for Faulty {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Faulty")
    }
}

fn failed() -> object_store::Error {
    object_store::Error::Generic { store: "test", source: "503 slow down".into() }
}

impl Faulty {
    fn new() -> Arc<Self> {
        Arc::new(Self { inner: InMemory::new(), fault: Mutex::default(), hook: Mutex::default() })
    }

    fn set(&self, fault: Option<Fault>) {
        *self.fault.lock().unwrap() = fault;
    }

    fn is(&self, fault: Fault) -> bool {
        *self.fault.lock().unwrap() == Some(fault)
    }

    fn step(&self) {
        if let Some(hook) = &*self.hook.lock().unwrap() {
            hook();
        }
    }
}

#[derive(Debug)]
struct FaultyUpload {
    inner: Box<dyn MultipartUpload>,
    fault: Option<Fault>,
    parts: u32,
}

#[async_trait]
impl MultipartUpload for FaultyUpload {
    fn put_part(&mut self, data: PutPayload) -> UploadPart {
        self.parts += 1;
        match self.fault.filter(|_| self.parts == 2) {
            Some(Fault::PartFails) => Box::pin(std::future::ready(Err(failed()))),
            Some(Fault::PartHangs) => Box::pin(std::future::pending()),
            _ => self.inner.put_part(data),
        }
    }

    async fn complete(&mut self) -> Result<PutResult> {
        if self.fault == Some(Fault::CompleteFails) {
            return Err(failed());
        }
        self.inner.complete().await
    }

    async fn abort(&mut self) -> Result<()> {
        self.inner.abort().await
    }
}

#[async_trait]
impl ObjectStore for Faulty {
    async fn put_opts(
        &self,
        path: &ObjectPath,
        payload: PutPayload,
        options: PutOptions,
    ) -> Result<PutResult> {
        self.step();
        if self.is(Fault::PutFails) {
            return Err(failed());
        }
        if self.is(Fault::PutHangs) {
            std::future::pending::<()>().await;
        }
        let payload = match self.is(Fault::PutIsCutShort) {
            true => {
                let bytes = Bytes::from(payload);
                bytes.slice(..bytes.len() / 2).into()
            }
            false => payload,
        };
        let done = self.inner.put_opts(path, payload, options).await;
        if self.is(Fault::PutIsDoneAndHangs) {
            std::future::pending::<()>().await;
        }
        self.step();
        done
    }

    async fn put_multipart_opts(
        &self,
        path: &ObjectPath,
        options: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        let inner = self.inner.put_multipart_opts(path, options).await?;
        let fault = *self.fault.lock().unwrap();
        Ok(Box::new(FaultyUpload { inner, fault, parts: 0 }))
    }

    async fn get_opts(&self, path: &ObjectPath, options: GetOptions) -> Result<GetResult> {
        if self.is(Fault::GetFails) {
            return Err(failed());
        }
        if self.is(Fault::GetHangs) {
            std::future::pending::<()>().await;
        }
        if self.is(Fault::IsGone) {
            return Err(object_store::Error::NotFound {
                path: path.to_string(),
                source: "".into(),
            });
        }
        let is_ranged = options.range.is_some();
        let found = self.inner.get_opts(path, options).await?;
        if !is_ranged || !(self.is(Fault::GetIsCutShort) || self.is(Fault::GetIsSpoilt)) {
            return Ok(found);
        }
        let (meta, range) = (found.meta.clone(), found.range.clone());
        let (attributes, extensions) = (found.attributes.clone(), found.extensions.clone());
        let mut bytes = found.bytes().await?.to_vec();
        match self.is(Fault::GetIsCutShort) {
            true => bytes.truncate(bytes.len() / 2),
            false => bytes.iter_mut().for_each(|byte| *byte ^= 1),
        }
        let stream = futures_util::stream::iter([Ok(Bytes::from(bytes))]).boxed();
        let payload = GetResultPayload::Stream(stream);
        Ok(GetResult { payload, meta, range, attributes, extensions })
    }

    fn delete_stream(
        &self,
        paths: BoxStream<'static, Result<ObjectPath>>,
    ) -> BoxStream<'static, Result<ObjectPath>> {
        self.step();
        if self.is(Fault::DeleteFails) {
            return futures_util::stream::iter([Err(failed())]).boxed();
        }
        self.inner.delete_stream(paths)
    }

    fn list(&self, prefix: Option<&ObjectPath>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.inner.list(prefix)
    }

    async fn list_with_delimiter(&self, prefix: Option<&ObjectPath>) -> Result<ListResult> {
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(
        &self,
        from: &ObjectPath,
        to: &ObjectPath,
        options: CopyOptions,
    ) -> Result<()> {
        self.inner.copy_opts(from, to, options).await
    }
}

/// The objects that are there are those that segments are read from.
async fn settled(store: &EmbeddedStore, objects: &Arc<dyn ObjectStore>) {
    let (there, needed) = (names(objects).await.len(), store.metrics().cold.objects.get());
    assert_eq!(i64::try_from(there).unwrap(), needed);
}

#[tokio::test]
async fn a_move_that_fails_changes_no_answer_and_is_made_good() {
    let small =
        ColdLimits { upload_timeout: Duration::from_millis(40), part_bytes: 1_024, ..limits() };
    let whole = ColdLimits { part_bytes: 8 << 20, ..small };
    for (fault, limits) in [
        (Fault::PutFails, whole),
        (Fault::PutHangs, whole),
        (Fault::PutIsDoneAndHangs, whole),
        (Fault::PutIsCutShort, whole),
        (Fault::PartFails, small),
        (Fault::PartHangs, small),
        (Fault::CompleteFails, small),
        (Fault::GetFails, whole),
        (Fault::GetHangs, small),
        (Fault::GetIsCutShort, small),
        (Fault::GetIsSpoilt, whole),
        (Fault::IsGone, whole),
    ] {
        let faulty = Faulty::new();
        let mut bench = Bench::over(faulty.clone());
        drop(bench.store);
        bench.store = open(config(bench.directory.path()), &bench.objects, limits, &bench.clock);
        bench.seal(0).await;
        bench.store.claim_cold().await.unwrap();
        faulty.set(Some(fault));
        let failed = bench.store.move_cold().await;
        let is_told = matches!(&failed, Err(error) if error.is_retryable());
        assert!(is_told, "{fault:?}: {failed:?}");
        assert_eq!(bench.store.metrics().cold.failed_moves.get(), 1, "{fault:?}");
        assert_eq!(answers(&bench.store, 10).await, vec![(2, 1); 10], "{fault:?}");
        faulty.set(None);
        let bench = bench.reopen();
        assert_eq!(answers(&bench.store, 10).await, vec![(2, 1); 10], "{fault:?}");
        bench.clock.advance(Duration::from_secs(61));
        assert_eq!(bench.store.move_cold().await.unwrap(), 1, "{fault:?}");
        assert_eq!(answers(&bench.store, 10).await, vec![(2, 1); 10], "{fault:?}");
        settled(&bench.store, &bench.objects).await;
    }
}

#[tokio::test]
async fn objects_in_parts_come_back_whole() {
    let mut bench = Bench::in_memory();
    drop(bench.store);
    let parts = ColdLimits { part_bytes: 1_000, ..limits() };
    bench.store = open(config(bench.directory.path()), &bench.objects, parts, &bench.clock);
    bench.seal(0).await;
    assert_eq!(bench.store.move_cold().await.unwrap(), 1);
    assert_eq!(answers(&bench.store, 10).await, vec![(2, 1); 10]);
}

#[tokio::test]
async fn objects_that_cannot_be_read_are_named_and_what_is_here_is_given() {
    let tenant = TenantId::default();
    for fault in
        [Fault::GetFails, Fault::GetHangs, Fault::GetIsCutShort, Fault::GetIsSpoilt, Fault::IsGone]
    {
        let faulty = Faulty::new();
        let mut bench = Bench::over(faulty.clone());
        drop(bench.store);
        let quick = ColdLimits { read_timeout: Duration::from_millis(30), ..limits() };
        bench.store = open(config(bench.directory.path()), &bench.objects, quick, &bench.clock);
        bench.seal(0).await;
        bench.store.move_cold().await.unwrap();
        bench.seal(0).await;
        bench.seal(10).await;
        faulty.set(Some(fault));
        let is_away = !matches!(fault, Fault::GetIsSpoilt | Fault::IsGone);
        for _ in 0..3 {
            // Two spans are here, and may be in the object as well.
            let read = bench.store.read_trace(&tenant, trace_id(3)).await.unwrap();
            assert_eq!(read.spans.len(), 2, "{fault:?}");
            assert_eq!((read.is_away, read.is_damaged), (is_away, !is_away), "{fault:?}");
            // Of a trace that is only here the filters of the cold segment say so.
            let read = bench.store.read_trace(&tenant, trace_id(13)).await.unwrap();
            assert_eq!((read.spans.len(), read.is_away, read.is_damaged), (2, false, false));
            let found = bench.store.search(&query(tag("order", "o-3"))).await.unwrap();
            assert_eq!((found.is_away, found.is_damaged), (is_away, !is_away), "{fault:?}");
            assert_eq!(found.matches.len(), 1, "{fault:?}");
            let found = bench.store.search(&query(tag("order", "o-13"))).await.unwrap();
            assert!(!found.is_damaged && found.matches.len() == 1, "{fault:?}");
        }
        faulty.set(None);
        bench.clock.advance(quick.pause);
        let read = bench.store.read_trace(&tenant, trace_id(3)).await.unwrap();
        assert_eq!((read.spans.len(), read.is_away, read.is_damaged), (4, false, false));
        assert_eq!(answers(&bench.store, 20).await.len(), 20);
    }
}

#[tokio::test]
async fn who_has_waited_in_vain_spares_the_next_the_wait() {
    let faulty = Faulty::new();
    let mut bench = Bench::over(faulty.clone());
    bench.seal(0).await;
    bench.store.move_cold().await.unwrap();
    faulty.set(Some(Fault::GetHangs));
    let tenant = TenantId::default();
    let begun = tokio::time::Instant::now();
    for trace in 0..10 {
        let read = bench.store.read_trace(&tenant, trace_id(trace)).await.unwrap();
        assert!(read.is_away && read.spans.is_empty());
    }
    // One wait of half a second, not ten.
    assert!(begun.elapsed() < Duration::from_secs(3));
    assert_eq!(bench.store.metrics().cold.failed_reads.get(), 10);
}

#[tokio::test]
async fn an_erasure_ends_when_its_objects_are_gone() {
    let faulty = Faulty::new();
    let mut bench = Bench::over(faulty.clone());
    bench.seal(0).await;
    bench.store.move_cold().await.unwrap();
    let tenant = TenantId::default();
    faulty.set(Some(Fault::GetFails));
    let error = bench.store.erase(&tenant, trace_id(3)).await.unwrap_err();
    assert!(error.is_retryable(), "{error}");
    let read = bench.store.read_trace(&tenant, trace_id(3)).await.unwrap();
    assert!(read.spans.is_empty(), "the tombstone is there");
    bench.clock.advance(Duration::from_secs(10));
    faulty.set(Some(Fault::DeleteFails));
    let error = bench.store.erase(&tenant, trace_id(3)).await.unwrap_err();
    assert!(matches!(error, StoreError::Unavailable(_)), "{error}");
    assert_eq!(names(&bench.objects).await.len(), 1);
    assert_eq!(bench.store.metrics().cold.failed_deletions.get(), 1);
    let bench = bench.reopen();
    let error = bench.store.erase(&tenant, trace_id(3)).await.unwrap_err();
    assert!(error.is_retryable(), "{error}");
    faulty.set(None);
    bench.store.erase(&tenant, trace_id(3)).await.unwrap();
    assert!(names(&bench.objects).await.is_empty());
    bench.store.move_cold().await.unwrap();
    let mut expected = vec![(2, 1); 10];
    expected[3] = (0, 0);
    assert_eq!(answers(&bench.store, 10).await, expected);
}

/// An erasure that a failure cut short is finished by upkeep, which reads only what may hold it.
#[tokio::test]
async fn an_erasure_that_was_cut_short_is_finished_by_upkeep() {
    let faulty = Faulty::new();
    let mut bench = Bench::over(faulty.clone());
    bench.seal(0).await;
    bench.seal(10).await;
    bench.store.move_cold().await.unwrap();
    faulty.set(Some(Fault::GetFails));
    bench.store.erase(&TenantId::default(), trace_id(3)).await.unwrap_err();
    faulty.set(None);
    let bench = bench.reopen();
    bench.store.maintain().await.unwrap();
    assert!(bench.store.metrics().cold.reads.get() <= 2);
    bench.clock.advance(Duration::from_secs(61));
    bench.store.move_cold().await.unwrap();
    settled(&bench.store, &bench.objects).await;
    let mut expected = vec![(2, 1); 20];
    expected[3] = (0, 0);
    assert_eq!(answers(&bench.store, 20).await, expected);
}

/// What a process leaves that ends at each step: its directory and the objects.
#[derive(Debug)]
struct Ends {
    directory: std::path::PathBuf,
    objects: Mutex<Option<Arc<Faulty>>>,
    found: Mutex<Vec<(tempfile::TempDir, InMemory)>>,
}

impl Ends {
    fn note(&self) {
        if let Some(objects) = &*self.objects.lock().unwrap() {
            let left = (copied(&self.directory), objects.inner.fork());
            self.found.lock().unwrap().push(left);
        }
    }
}

/// A disk around whose syncs processes end.
#[derive(Debug)]
struct EndingDisk(Arc<Ends>);

impl Disk for EndingDisk {
    fn sync_directory(&self, directory: &Path) -> std::io::Result<()> {
        self.0.note();
        let synced = LocalDisk.sync_directory(directory);
        self.0.note();
        synced
    }
}

/// Opens what an ended process left and sees that the answers are these, then that a round of moves
/// leaves no object without a segment.
async fn goes_on(
    (directory, objects): (tempfile::TempDir, InMemory),
    expected: &[(usize, usize)],
    step: usize,
) {
    let clock = Arc::new(ManualClock::at(NOW));
    let objects: Arc<dyn ObjectStore> = Arc::new(objects);
    let store = open(config(directory.path()), &objects, limits(), &clock);
    let traces = expected.len() as u64;
    assert_eq!(answers(&store, traces).await, expected, "step {step}");
    clock.advance(Duration::from_secs(61));
    store.maintain().await.unwrap();
    store.move_cold().await.unwrap();
    // What that round has replaced goes with the next.
    clock.advance(Duration::from_secs(61));
    store.move_cold().await.unwrap();
    assert_eq!(answers(&store, traces).await, expected, "step {step}");
    settled(&store, &objects).await;
}

#[tokio::test]
async fn a_process_may_end_at_each_step_of_a_move_or_an_erasure() {
    let directory = tempfile::tempdir().unwrap();
    let faulty = Faulty::new();
    let ends = Arc::new(Ends {
        directory: directory.path().to_owned(),
        objects: Mutex::default(),
        found: Mutex::default(),
    });
    let clock: Arc<dyn Clock> = Arc::new(ManualClock::at(NOW));
    let disk = Arc::new(EndingDisk(Arc::clone(&ends)));
    let objects: Arc<dyn ObjectStore> = faulty.clone();
    let tier = tier(objects, limits(), &clock);
    let store = EmbeddedStore::open_with(disk, config(directory.path()), Some(tier), clock);
    let store = store.unwrap();
    let mut log = Log::new();
    for first in [0, 10] {
        store.write(&[log.append(&orders(first, 10))]).await.unwrap();
        SpanWriter::flush(&*store, NOW, true).await.unwrap();
    }
    let noted = Arc::clone(&ends);
    *faulty.hook.lock().unwrap() = Some(Box::new(move || noted.note()));
    *ends.objects.lock().unwrap() = Some(Arc::clone(&faulty));
    assert_eq!(store.move_cold().await.unwrap(), 2);
    let moved = std::mem::take(&mut *ends.found.lock().unwrap());
    assert!(moved.len() > 14, "{}", moved.len());
    for (step, left) in moved.into_iter().enumerate() {
        goes_on(left, &[(2, 1); 20], step).await;
    }
    store.erase(&TenantId::default(), trace_id(3)).await.unwrap();
    let erased = std::mem::take(&mut *ends.found.lock().unwrap());
    assert!(erased.len() > 8, "{}", erased.len());
    let mut after = vec![(2, 1); 20];
    after[3] = (0, 0);
    for (step, left) in erased.into_iter().enumerate() {
        // The tombstone comes with the first change of the manifest: two syncs note it, or do not yet.
        let store = std::fs::read_to_string(left.0.path().join("manifest")).unwrap();
        let is_buried = !store.contains("\"erased\":[]");
        goes_on(left, if is_buried { &after } else { &[(2, 1); 20] }, step).await;
    }
}

/// A change of the manifest that fails behind its rename: the disk may say "cold" and the memory "hot".
#[tokio::test]
async fn an_object_that_the_disk_may_name_is_not_deleted() {
    #[derive(Debug, Default)]
    struct Refusing(Mutex<u32>);

    impl Disk for Refusing {
        fn sync_directory(&self, directory: &Path) -> std::io::Result<()> {
            let mut good = self.0.lock().unwrap();
            match *good {
                0 => Err(std::io::Error::from_raw_os_error(5)),
                _ => {
                    *good -= 1;
                    LocalDisk.sync_directory(directory)
                }
            }
        }
    }

    for good in 0..5 {
        let directory = tempfile::tempdir().unwrap();
        let clock = Arc::new(ManualClock::at(NOW));
        let shared = Arc::clone(&clock) as Arc<dyn Clock>;
        let objects: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
        let disk = Arc::new(Refusing(Mutex::new(1_000)));
        let tier = tier(objects.clone(), limits(), &shared);
        let opened =
            EmbeddedStore::open_with(disk.clone(), config(directory.path()), Some(tier), shared);
        let store = opened.unwrap();
        let batch = Log::new().append(&orders(0, 10));
        store.write(&[batch]).await.unwrap();
        SpanWriter::flush(&*store, NOW, true).await.unwrap();
        *disk.0.lock().unwrap() = good;
        let moved = store.move_cold().await;
        assert_eq!(moved.is_ok(), good > 3, "{good}");
        clock.advance(Duration::from_secs(61));
        drop(store.move_cold().await);
        assert_eq!(answers(&store, 10).await, vec![(2, 1); 10], "{good}");
        drop(store);
        let left = (copied(directory.path()), ());
        let store = open(config(left.0.path()), &objects, limits(), &clock);
        assert_eq!(answers(&store, 10).await, vec![(2, 1); 10], "{good}");
        clock.advance(Duration::from_secs(61));
        store.move_cold().await.unwrap();
        assert_eq!(answers(&store, 10).await, vec![(2, 1); 10], "{good}");
        settled(&store, &objects).await;
    }
}
