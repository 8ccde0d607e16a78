//! The adapter `object_storage`: objects in S3, GCS, Azure or a directory, by the crate `object_store`.
//!
//! Every request has a deadline, and so many are under way at once at most. When one has failed, those
//! that would read are refused for a moment without being sent: a search that meets a hundred objects
//! that are away waits for one of them. It must never take "not reached" for "not there".

mod config;
mod connect;
mod upload;

use std::fmt;
use std::ops::Range;
use std::path::Path as FilePath;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures_util::TryStreamExt;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt, PutMode, PutPayload};
use tokio::runtime::Handle;
use tokio::sync::Semaphore;
use trace_model::{Clock, UnixNanos};

pub use self::config::{ColdConfig, ColdCredentials, ColdLimits};
use crate::StoreError;
use crate::causes::words_of;
use crate::port::{ColdObjects, ObjectFound};

/// The name of the object that says whose a prefix is.
const OWNER: &str = "owner";

/// Objects under a prefix.
pub struct ObjectStorage {
    store: Arc<dyn ObjectStore>,
    prefix: Path,
    limits: ColdLimits,
    requests: Semaphore,
    runtime: Handle,
    clock: Arc<dyn Clock>,
    /// Until when reads are refused, by the monotonic clock.
    away_until: Mutex<Option<Duration>>,
}

impl fmt::Debug for ObjectStorage {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("ObjectStorage")
            .field("prefix", &self.prefix)
            .finish_non_exhaustive()
    }
}

impl ObjectStorage {
    /// Objects where the configuration says. Nothing is asked yet: reads only the files with keys and
    /// certificates. Called on a tokio runtime, which drives the requests.
    pub fn connect(config: &ColdConfig, clock: Arc<dyn Clock>) -> Result<Self, StoreError> {
        let (store, prefix) = connect::connect(config)?;
        Ok(Self::over(store, prefix, config.limits, clock))
    }

    /// Objects of any store that the crate `object_store` knows. Called on a tokio runtime.
    pub fn over(
        store: Arc<dyn ObjectStore>,
        prefix: Path,
        limits: ColdLimits,
        clock: Arc<dyn Clock>,
    ) -> Self {
        let requests = Semaphore::new(limits.requests_max.clamp(1, 1_024));
        let runtime = Handle::current();
        Self { store, prefix, limits, requests, runtime, clock, away_until: Mutex::default() }
    }

    fn path_of(&self, name: &str) -> Path {
        name.split('/').fold(self.prefix.clone(), |path, part| path.join(part))
    }

    /// Waits for a request, for so long at most, its turn included.
    fn wait<T>(
        &self,
        time: Duration,
        request: impl Future<Output = object_store::Result<T>>,
    ) -> Result<T, StoreError> {
        let in_turn = async {
            let _turn = self.requests.acquire().await;
            request.await
        };
        match self.runtime.block_on(async { tokio::time::timeout(time, in_turn).await }) {
            Ok(done) => done.map_err(|error| fault(&error)),
            Err(_) => Err(StoreError::Unavailable(format!(
                "objects: no answer within {} ms",
                time.as_millis()
            ))),
        }
    }

    /// Refuses a read while the objects are known to be away.
    fn check_away(&self) -> Result<(), StoreError> {
        let away_until = *self.away_until.lock().unwrap_or_else(PoisonError::into_inner);
        match away_until.is_some_and(|until| self.clock.monotonic() < until) {
            true => {
                Err(StoreError::Unavailable("objects: they did not answer just now".to_owned()))
            }
            false => Ok(()),
        }
    }

    /// Remembers whether objects answer. Told once when they go away and once when they are back.
    fn note<T>(&self, read: &Result<T, StoreError>) {
        let mut away_until = self.away_until.lock().unwrap_or_else(PoisonError::into_inner);
        match read {
            Err(error) if error.is_retryable() => {
                if away_until.is_none() {
                    tracing::warn!(%error, "cold spans cannot be read: answers say so");
                }
                *away_until = Some(self.clock.monotonic().saturating_add(self.limits.pause));
            }
            Ok(_) | Err(_) => {
                if away_until.take().is_some() {
                    tracing::info!("cold spans can be read again");
                }
            }
        }
    }

    fn owner(&self) -> Result<Option<String>, StoreError> {
        let path = self.path_of(OWNER);
        let store = &self.store;
        let read = self.wait(self.limits.upload_timeout, async {
            match store.get(&path).await {
                Ok(found) => found.bytes().await.map(Some),
                Err(object_store::Error::NotFound { .. }) => Ok(None),
                Err(error) => Err(error),
            }
        });
        let text = |bytes: Bytes| String::from_utf8_lossy(&bytes).trim().to_owned();
        Ok(read?.map(text))
    }

    /// Writes the owner's mark unless there is one.
    fn write_owner(&self, owner: &str) -> Result<(), StoreError> {
        let path = self.path_of(OWNER);
        let payload = || PutPayload::from(format!("{owner}\n"));
        let time = self.limits.upload_timeout;
        let written = self.wait(time, async {
            match self.store.put_opts(&path, payload(), PutMode::Create.into()).await {
                // Somebody was here first, perhaps we: whoever reads it will see.
                Ok(_) | Err(object_store::Error::AlreadyExists { .. }) => Ok(true),
                Err(
                    object_store::Error::NotImplemented { .. }
                    | object_store::Error::NotSupported { .. },
                ) => Ok(false),
                Err(error) => Err(error),
            }
        })?;
        if !written {
            self.wait(time, self.store.put(&path, payload()))?;
        }
        Ok(())
    }
}

impl ColdObjects for ObjectStorage {
    fn claim(&self, owner: &str, has_objects: bool) -> Result<(), StoreError> {
        let mut found = self.owner()?;
        if found.is_none() {
            if has_objects {
                return Err(StoreError::Refused(format!(
                    "nothing says whose the objects under `{}` are, and this store has some there: \
                     is it the right place?",
                    self.prefix
                )));
            }
            self.write_owner(owner)?;
            found = self.owner()?;
        }
        match found.as_deref() == Some(owner) {
            true => Ok(()),
            false => Err(StoreError::Refused(format!(
                "the objects under `{}` are those of another store ({})",
                self.prefix,
                found.unwrap_or_default()
            ))),
        }
    }

    fn put(&self, name: &str, file: &FilePath) -> Result<u64, StoreError> {
        upload::put(self, name, file)
    }

    fn read(&self, name: &str, ranges: &[Range<u64>]) -> Result<Vec<Bytes>, StoreError> {
        self.check_away()?;
        let path = self.path_of(name);
        let read = self.wait(self.limits.read_timeout, async {
            match self.store.get_ranges(&path, ranges).await {
                Ok(parts) => Ok(Some(parts)),
                Err(object_store::Error::NotFound { .. }) => Ok(None),
                Err(error) => Err(error),
            }
        });
        let gone = || StoreError::Damaged(format!("the object {path} is gone"));
        let read = read.and_then(|parts| parts.ok_or_else(gone)).and_then(|parts| {
            let is_whole = parts.len() == ranges.len()
                && parts.iter().zip(ranges).all(|(part, range)| {
                    part.len() as u64 == range.end.saturating_sub(range.start)
                });
            let cut = || StoreError::Unavailable(format!("objects: {name} was cut short"));
            if is_whole { Ok(parts) } else { Err(cut()) }
        });
        self.note(&read);
        read
    }

    fn delete(&self, name: &str) -> Result<(), StoreError> {
        let path = self.path_of(name);
        self.wait(self.limits.upload_timeout, async {
            match self.store.delete(&path).await {
                Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
                Err(error) => Err(error),
            }
        })
    }

    fn list(&self, under: &str) -> Result<Vec<ObjectFound>, StoreError> {
        let path = self.path_of(under);
        let listed = self.store.list(Some(&path)).try_collect::<Vec<_>>();
        let listed = self.wait(self.limits.upload_timeout, listed)?;
        let found = listed.into_iter().filter_map(|meta| {
            let parts: Vec<_> = meta.location.prefix_match(&self.prefix)?.collect();
            let name = parts.iter().map(AsRef::as_ref).collect::<Vec<&str>>().join("/");
            let nanos = meta.last_modified.timestamp_nanos_opt()?;
            Some(ObjectFound { name, written: UnixNanos(u64::try_from(nanos).ok()?) })
        });
        Ok(found.collect())
    }
}

/// What the keeper of the objects said, in the store's words. Wrong keys, no such bucket, no rights: a
/// person mends it, and then the same call succeeds.
fn fault(error: &object_store::Error) -> StoreError {
    StoreError::Unavailable(format!("objects: {}", words_of(error)))
}
