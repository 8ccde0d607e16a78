//! The manifest: which segments there are, how far the log is covered, which traces are erased. One
//! small file, replaced as a whole, so that every change of the store is one rename.
//!
//! A file that the manifest does not name does not exist: leftovers of a crash are removed when the
//! store opens. Two lines: JSON, then the CRC-32C of it in hexadecimal.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use trace_model::{Coverage, TenantId, TraceId, UnixNanos};
use xxhash_rust::xxh3::xxh3_128;

use super::expired::{Expired, ExpiredRun};
use super::sealed_file::{TEMPORARY_SUFFIX, damaged, disk_error};
use crate::StoreError;
use crate::disk::Disk;

/// The newest version that this release reads.
const VERSION: u32 = 3;
/// The version of a manifest of segments that are files of this machine alone.
const WITHOUT_COLD: u32 = 2;
/// The version of a manifest that says nothing about what has expired when.
const WITHOUT_RUNS: u32 = 1;
const NAME: &str = "manifest";

/// A trace that was erased. Only a hash is kept: the id itself is to be in no file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Erased {
    /// xxh3-128 of tenant, NUL, trace id, in hexadecimal.
    pub(crate) hash: String,
    /// When, in nanoseconds since the epoch.
    pub(crate) at: u64,
    /// No segment holds it any more.
    pub(crate) is_done: bool,
    /// By what the filters of segments know it: an erasure that was cut short reads only the cold
    /// segments that may hold the trace. Written where there is a cold tier.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) probe: Option<u64>,
}

/// What the store knows of objects.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ColdState {
    /// Who this store is to others that might use the same prefix.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) owner: Option<String>,
    /// Segments whose blocks lie in an object: id and name of the object.
    pub(crate) objects: BTreeMap<u64, String>,
    /// Names under which there may be an object that no segment needs, each with the time of the note:
    /// an upload that has begun, a segment that was rewritten or has expired.
    pub(crate) doomed: BTreeMap<String, u64>,
}

impl ColdState {
    fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// The 128-bit hash by which an erased trace is known.
pub(crate) fn erased_hash(tenant: &TenantId, trace_id: TraceId) -> u128 {
    let mut bytes = tenant.as_str().as_bytes().to_vec();
    bytes.push(0);
    bytes.extend_from_slice(trace_id.as_bytes());
    xxh3_128(&bytes)
}

/// The store's state.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Manifest {
    version: u32,
    /// Id of the next segment.
    pub(crate) next_id: u64,
    pub(crate) incarnation: u64,
    /// By partition.
    pub(crate) covered: BTreeMap<u32, u64>,
    /// The same of earlier incarnations of the log: what they promised is judged by it.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    earlier: BTreeMap<u64, BTreeMap<u32, u64>>,
    /// Ids, oldest first.
    pub(crate) segments: Vec<u64>,
    pub(crate) erased: Vec<Erased>,
    /// The latest append time among the segments that retention removed. Outlives them, since the
    /// cover does too: without it an answer could not tell "gone" from "never there".
    #[serde(default, skip_serializing_if = "Option::is_none")]
    expired_until: Option<u64>,
    /// When it was placed.
    #[serde(default, skip_serializing_if = "Expired::is_empty")]
    expired: Expired,
    /// Segments in cold storage.
    #[serde(default, skip_serializing_if = "ColdState::is_empty")]
    cold: ColdState,
}

impl Manifest {
    pub(crate) fn coverage(&self) -> Coverage {
        Coverage {
            incarnation: self.incarnation,
            next: self.covered.clone(),
            earlier: self.earlier.clone(),
        }
    }

    pub(crate) fn set_coverage(&mut self, coverage: &Coverage) {
        self.incarnation = coverage.incarnation;
        self.covered.clone_from(&coverage.next);
        self.earlier.clone_from(&coverage.earlier);
    }

    /// Append time up to which retention has removed spans.
    pub(crate) fn expired_until(&self) -> Option<UnixNanos> {
        self.expired_until.map(UnixNanos)
    }

    /// What retention has removed, by placement time.
    pub(crate) const fn expired(&self) -> &Expired {
        &self.expired
    }

    /// Notes that retention removes what was appended up to then.
    pub(crate) fn note_expired(&mut self, until: u64, runs: Vec<ExpiredRun>) {
        self.expired_until = self.expired_until.max(Some(until));
        self.expired.note(runs);
        self.version = self.version.max(WITHOUT_COLD);
    }

    pub(crate) const fn cold(&self) -> &ColdState {
        &self.cold
    }

    /// Changes what is known of objects.
    pub(crate) fn change_cold(&mut self, change: impl FnOnce(&mut ColdState)) {
        change(&mut self.cold);
        self.version = VERSION;
    }

    /// The objects of segments that are named no more are needed by nobody.
    pub(crate) fn doom_unnamed(&mut self, now: UnixNanos) {
        let segments = &self.segments;
        let unnamed: Vec<u64> =
            self.cold.objects.keys().filter(|id| !segments.contains(id)).copied().collect();
        for id in unnamed {
            let object = self.cold.objects.remove(&id);
            self.cold.doomed.extend(object.map(|object| (object, now.0)));
        }
    }

    /// Reads the manifest; that of a new store where there is none.
    pub(crate) fn load(directory: &Path) -> Result<Self, StoreError> {
        let path = directory.join(NAME);
        let text = match std::fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                return Ok(Self { version: WITHOUT_RUNS, next_id: 1, ..Self::default() });
            }
            Err(error) => return Err(disk_error(&path, &error)),
        };
        let (json, crc) = text.split_once('\n').ok_or_else(|| damaged(&path, &"cut short"))?;
        if crc.trim() != format!("{:08x}", crc32c::crc32c(json.as_bytes())) {
            return Err(damaged(&path, &"the checksum differs"));
        }
        let version: Version =
            serde_json::from_str(json).map_err(|error| damaged(&path, &error))?;
        if version.version > VERSION {
            let (file, found) = (NAME.to_owned(), version.version);
            return Err(StoreError::NewerFormat { file, found, known: VERSION });
        }
        let mut manifest: Self =
            serde_json::from_str(json).map_err(|error| damaged(&path, &error))?;
        if manifest.expired.is_empty()
            && let Some(until) = manifest.expired_until
        {
            manifest.note_expired(until, vec![ExpiredRun::of_all_time(until)]);
        }
        Ok(manifest)
    }

    /// Writes the manifest beside the one that counts; durable when it returns.
    pub(crate) fn write(&self, directory: &Path) -> Result<(), StoreError> {
        let temporary = temporary_path(directory);
        let json = serde_json::to_string(self).map_err(|error| damaged(&temporary, &error))?;
        let text = format!("{json}\n{:08x}\n", crc32c::crc32c(json.as_bytes()));
        let write = || {
            let mut file = File::create(&temporary)?;
            file.write_all(text.as_bytes())?;
            file.sync_data()
        };
        write().map_err(|error| disk_error(&temporary, &error))
    }
}

/// Puts the manifest that was written in the place of the one that counts; durable when it returns.
/// After a failure either may be found by the next start.
pub(crate) fn replace(directory: &Path, disk: &dyn Disk) -> Result<(), StoreError> {
    let path = directory.join(NAME);
    let renamed = std::fs::rename(temporary_path(directory), &path);
    let replaced = renamed.and_then(|()| disk.sync_directory(directory));
    replaced.map_err(|error| disk_error(&path, &error))
}

fn temporary_path(directory: &Path) -> PathBuf {
    directory.join(format!("{NAME}{TEMPORARY_SUFFIX}"))
}

/// The version alone: read first, since a newer manifest may have other fields.
#[derive(Deserialize)]
struct Version {
    version: u32,
}

#[cfg(test)]
mod tests {
    use trace_model::TimeRange;

    use super::*;
    use crate::disk::LocalDisk;

    fn load(json: &str) -> Result<Manifest, StoreError> {
        let directory = tempfile::tempdir().unwrap();
        let text = format!("{json}\n{:08x}\n", crc32c::crc32c(json.as_bytes()));
        std::fs::write(directory.path().join(NAME), text).unwrap();
        Manifest::load(directory.path())
    }

    fn saved(manifest: &Manifest) -> String {
        let directory = tempfile::tempdir().unwrap();
        manifest.write(directory.path()).unwrap();
        replace(directory.path(), &LocalDisk).unwrap();
        let text = std::fs::read_to_string(directory.path().join(NAME)).unwrap();
        text.lines().next().unwrap().to_owned()
    }

    const VERSION_1: &str = r#"{"version":1,"next_id":4,"incarnation":7,"covered":{"0":9},"segments":[2,3],"erased":[],"expired_until":5}"#;
    const VERSION_2: &str = r#"{"version":2,"next_id":4,"incarnation":7,"covered":{"0":9},"segments":[2,3],"erased":[],"expired_until":1800000000005,"expired":[{"first":3,"last":3,"until":1800000000005}]}"#;

    #[test]
    fn what_version_1_says_has_expired_may_lie_in_any_time() {
        let manifest = load(VERSION_1).unwrap();
        assert_eq!(manifest.expired_until(), Some(UnixNanos(5)));
        for start in [0, 1_790_000_400_000_000_000] {
            let range = TimeRange { start: UnixNanos(start), end: UnixNanos(start + 1) };
            assert_eq!(manifest.expired().until_within(range), Some(UnixNanos(5)));
        }
    }

    #[test]
    fn version_2_is_read_as_it_is_written_and_a_newer_one_is_refused() {
        assert_eq!(saved(&load(VERSION_2).unwrap()), VERSION_2);
        let newer = load(&VERSION_2.replace("\"version\":2", "\"version\":4")).unwrap_err();
        assert!(matches!(newer, StoreError::NewerFormat { found: 4, known: 3, .. }), "{newer}");
    }

    #[test]
    fn a_manifest_is_of_the_oldest_version_that_can_say_what_it_says() {
        let directory = tempfile::tempdir().unwrap();
        let mut manifest = Manifest::load(directory.path()).unwrap();
        assert!(saved(&manifest).starts_with(r#"{"version":1,"#));
        manifest.note_expired(9, vec![ExpiredRun::of_bucket(3, 9)]);
        assert!(saved(&manifest).starts_with(r#"{"version":2,"#));
        manifest.change_cold(|cold| cold.objects.extend([(4, "four".to_owned())]));
        let version_3 = saved(&manifest);
        assert!(version_3.starts_with(r#"{"version":3,"#));
        assert_eq!(load(&version_3).unwrap(), manifest);
        manifest.note_expired(9, Vec::new());
        assert_eq!(saved(&manifest), version_3);
    }

    #[test]
    fn the_object_of_a_segment_that_is_not_named_is_doomed() {
        let mut manifest = Manifest { segments: vec![1, 2], ..Manifest::default() };
        let objects = [(1, "one".to_owned()), (2, "two".to_owned())];
        manifest.change_cold(|cold| cold.objects.extend(objects));
        manifest.segments.retain(|id| *id != 1);
        manifest.doom_unnamed(UnixNanos(7));
        assert_eq!(manifest.cold().objects, BTreeMap::from([(2, "two".to_owned())]));
        assert_eq!(manifest.cold().doomed, BTreeMap::from([("one".to_owned(), 7)]));
    }
}
