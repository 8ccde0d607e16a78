//! A disk that a test owns: it runs out of room, fails syncs, writes short, flips bits, and loses
//! at a power cut what was not synced, sector by sector.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use span_log::embedded::disk::{Disk, DiskFile};

const SECTOR: usize = 512;

/// A change of a file that is not durable yet.
#[derive(Clone, Debug)]
enum Change {
    Write(usize, Vec<u8>),
    Grow(usize),
    Cut(usize),
}

/// A change of the directory that is not durable yet.
#[derive(Clone, Debug)]
enum Entry {
    Put(String, usize),
    Remove(String),
}

#[derive(Clone, Debug, Default)]
struct FileState {
    live: Vec<u8>,
    durable: Vec<u8>,
    pending: Vec<Change>,
}

#[derive(Clone, Debug)]
struct World {
    files: Vec<FileState>,
    live: BTreeMap<String, usize>,
    durable: BTreeMap<String, usize>,
    pending: Vec<Entry>,
    room: u64,
    rng: StdRng,
    has_short_writes: bool,
    /// How many of the next syncs fail.
    failing_syncs: u32,
    /// Chance of a sync to fail, in percent.
    sync_failure_percent: u32,
    /// Operations until the power goes.
    operations_left: Option<u64>,
    syncs: u64,
    is_gate_shut: bool,
    panics_at_next_sync: bool,
}

/// The disk; clones share it.
#[derive(Clone, Debug)]
pub(crate) struct FaultyDisk {
    world: Arc<Mutex<World>>,
    gate: Arc<Condvar>,
}

fn apply(bytes: &mut Vec<u8>, change: &Change) {
    match change {
        Change::Write(at, written) => {
            let end = at + written.len();
            if bytes.len() < end {
                bytes.resize(end, 0);
            }
            bytes[*at..end].copy_from_slice(written);
        }
        Change::Grow(length) => bytes.resize((*length).max(bytes.len()), 0),
        Change::Cut(length) => bytes.resize(*length, 0),
    }
}

fn apply_entry(names: &mut BTreeMap<String, usize>, entry: &Entry) {
    match entry {
        Entry::Put(name, file) => drop(names.insert(name.clone(), *file)),
        Entry::Remove(name) => drop(names.remove(name)),
    }
}

impl World {
    fn operate(&mut self) -> io::Result<()> {
        match &mut self.operations_left {
            None => Ok(()),
            Some(0) => Err(io::Error::other("the power is gone")),
            Some(left) => {
                *left -= 1;
                Ok(())
            }
        }
    }

    fn used(&self) -> u64 {
        self.live.values().map(|file| self.files[*file].live.len() as u64).sum()
    }

    fn change(&mut self, file: usize, change: Change) {
        let state = &mut self.files[file];
        apply(&mut state.live, &change);
        state.pending.push(change);
    }

    fn change_entry(&mut self, entry: Entry) {
        apply_entry(&mut self.live, &entry);
        self.pending.push(entry);
    }

    /// What the platters hold after the power went: any part of what was not synced, in sectors;
    /// of the directory any prefix, as a journal keeps it.
    fn survivor(&mut self) -> Self {
        let mut after = self.clone();
        let kept = self.rng.random_range(0..=self.pending.len());
        after.live = self.durable.clone();
        for entry in &self.pending[..kept] {
            apply_entry(&mut after.live, entry);
        }
        after.durable = after.live.clone();
        after.pending.clear();
        let percent = [0, 30, 70, 100][self.rng.random_range(0..4)];
        for file in &mut after.files {
            let parts = std::mem::take(&mut file.pending).into_iter().flat_map(sectors);
            for part in parts.filter(|_| self.rng.random_range(0..100) < percent) {
                apply(&mut file.durable, &part);
            }
            file.live.clone_from(&file.durable);
        }
        after.rng = StdRng::seed_from_u64(self.rng.random());
        after.operations_left = None;
        after.failing_syncs = 0;
        after.sync_failure_percent = 0;
        after
    }
}

fn sectors(change: Change) -> Vec<Change> {
    match change {
        Change::Write(at, bytes) => {
            let parts = bytes.chunks(SECTOR).enumerate();
            parts.map(|(place, part)| Change::Write(at + place * SECTOR, part.to_vec())).collect()
        }
        whole @ (Change::Grow(_) | Change::Cut(_)) => vec![whole],
    }
}

impl FaultyDisk {
    pub(crate) fn new(seed: u64) -> Self {
        let world = World {
            files: Vec::new(),
            live: BTreeMap::new(),
            durable: BTreeMap::new(),
            pending: Vec::new(),
            room: 1 << 40,
            rng: StdRng::seed_from_u64(seed),
            has_short_writes: false,
            failing_syncs: 0,
            sync_failure_percent: 0,
            operations_left: None,
            syncs: 0,
            is_gate_shut: false,
            panics_at_next_sync: false,
        };
        Self::of(world)
    }

    fn of(world: World) -> Self {
        Self { world: Arc::new(Mutex::new(world)), gate: Arc::default() }
    }

    fn lock(&self) -> MutexGuard<'_, World> {
        self.world.lock().unwrap()
    }

    /// The disk as it is found after a power cut.
    pub(crate) fn after_power_cut(&self) -> Self {
        Self::of(self.lock().survivor())
    }

    /// A copy of the disk as it is.
    pub(crate) fn copy(&self) -> Self {
        Self::of(self.lock().clone())
    }

    /// A copy with one bit of a file flipped.
    pub(crate) fn with_flipped(&self, name: &str, bit: usize) -> Self {
        let copy = self.copy();
        copy.flip(name, bit);
        copy
    }

    /// Flips a bit under an open file.
    pub(crate) fn flip(&self, name: &str, bit: usize) {
        let mut world = self.lock();
        let file = world.live[name];
        let state = &mut world.files[file];
        state.live[bit / 8] ^= 1 << (bit % 8);
        state.durable[bit / 8] ^= 1 << (bit % 8);
    }

    /// Overwrites bytes of a file.
    pub(crate) fn overwrite(&self, name: &str, at: usize, bytes: &[u8]) {
        let mut world = self.lock();
        let file = world.live[name];
        let state = &mut world.files[file];
        state.live[at..at + bytes.len()].copy_from_slice(bytes);
        state.durable[at..at + bytes.len()].copy_from_slice(bytes);
    }

    pub(crate) fn content(&self, name: &str) -> Vec<u8> {
        let world = self.lock();
        world.files[world.live[name]].live.clone()
    }

    pub(crate) fn names(&self) -> Vec<String> {
        self.lock().live.keys().cloned().collect()
    }

    pub(crate) fn set_room(&self, bytes: u64) {
        self.lock().room = bytes;
    }

    pub(crate) fn write_short(&self) {
        self.lock().has_short_writes = true;
    }

    pub(crate) fn fail_syncs(&self, next: u32) {
        self.lock().failing_syncs = next;
    }

    pub(crate) fn fail_syncs_at_random(&self, percent: u32) {
        self.lock().sync_failure_percent = percent;
    }

    /// The thread that syncs next panics: a bug of ours, as the disk sees it.
    pub(crate) fn panic_at_next_sync(&self) {
        self.lock().panics_at_next_sync = true;
    }

    pub(crate) fn cut_power_after(&self, operations: u64) {
        self.lock().operations_left = Some(operations);
    }

    pub(crate) fn syncs(&self) -> u64 {
        self.lock().syncs
    }

    /// Holds every sync until the gate opens.
    pub(crate) fn shut_gate(&self) {
        self.lock().is_gate_shut = true;
    }

    pub(crate) fn open_gate(&self) {
        self.lock().is_gate_shut = false;
        self.gate.notify_all();
    }

    fn file(&self, file: usize) -> Arc<dyn DiskFile> {
        Arc::new(FaultyFile { disk: self.clone(), file })
    }
}

impl Disk for FaultyDisk {
    fn create(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        let mut world = self.lock();
        world.operate()?;
        let file = world.files.len();
        world.files.push(FileState::default());
        world.change_entry(Entry::Put(name.to_owned(), file));
        Ok(self.file(file))
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        let mut world = self.lock();
        world.operate()?;
        let file = world.live.get(name).copied();
        file.map(|file| self.file(file)).ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn list(&self) -> io::Result<Vec<String>> {
        let mut world = self.lock();
        world.operate()?;
        Ok(world.live.keys().cloned().collect())
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        let mut world = self.lock();
        world.operate()?;
        if !world.live.contains_key(name) {
            return Err(io::ErrorKind::NotFound.into());
        }
        world.change_entry(Entry::Remove(name.to_owned()));
        Ok(())
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut world = self.lock();
        world.operate()?;
        let Some(file) = world.live.get(from).copied() else {
            return Err(io::ErrorKind::NotFound.into());
        };
        // The order matters to a prefix: the file is never without a name.
        world.change_entry(Entry::Put(to.to_owned(), file));
        world.change_entry(Entry::Remove(from.to_owned()));
        Ok(())
    }

    fn sync_directory(&self) -> io::Result<()> {
        let mut world = self.lock();
        world.operate()?;
        world.pending.clear();
        world.durable = world.live.clone();
        Ok(())
    }

    fn free_bytes(&self) -> io::Result<u64> {
        let world = self.lock();
        Ok(world.room.saturating_sub(world.used()))
    }
}

#[derive(Debug)]
struct FaultyFile {
    disk: FaultyDisk,
    file: usize,
}

impl DiskFile for FaultyFile {
    fn read_at(&self, buffer: &mut [u8], position: u64) -> io::Result<usize> {
        let mut world = self.disk.lock();
        world.operate()?;
        let live = &world.files[self.file].live;
        let from = usize::try_from(position).unwrap().min(live.len());
        let count = buffer.len().min(live.len() - from);
        buffer[..count].copy_from_slice(&live[from..from + count]);
        Ok(count)
    }

    fn write_at(&self, bytes: &[u8], position: u64) -> io::Result<usize> {
        let mut world = self.disk.lock();
        let is_last = world.operations_left == Some(1);
        world.operate()?;
        let is_short = (world.has_short_writes || is_last) && bytes.len() > 1;
        let count = if is_short { world.rng.random_range(1..=bytes.len()) } else { bytes.len() };
        let at = usize::try_from(position).unwrap();
        world.change(self.file, Change::Write(at, bytes[..count].to_vec()));
        Ok(count)
    }

    fn sync(&self) -> io::Result<()> {
        let mut world = self.disk.lock();
        while world.is_gate_shut {
            world = self.disk.gate.wait(world).unwrap();
        }
        world.operate()?;
        if std::mem::take(&mut world.panics_at_next_sync) {
            drop(world);
            panic!("injected by the test");
        }
        world.syncs += 1;
        let percent = world.sync_failure_percent;
        let is_unlucky = percent > 0 && world.rng.random_range(0..100) < percent;
        let pending = std::mem::take(&mut world.files[self.file].pending);
        if world.failing_syncs > 0 || is_unlucky {
            // As Linux does: the pages stay readable and count as clean, and a later sync that
            // succeeds writes none of them.
            world.failing_syncs = world.failing_syncs.saturating_sub(1);
            return Err(io::Error::from_raw_os_error(5));
        }
        for change in &pending {
            apply(&mut world.files[self.file].durable, change);
        }
        Ok(())
    }

    fn allocate(&self, bytes: u64) -> io::Result<()> {
        let mut world = self.disk.lock();
        world.operate()?;
        if world.used().saturating_add(bytes) > world.room {
            return Err(io::ErrorKind::StorageFull.into());
        }
        world.change(self.file, Change::Grow(usize::try_from(bytes).unwrap()));
        Ok(())
    }

    fn truncate(&self, bytes: u64) -> io::Result<()> {
        let mut world = self.disk.lock();
        world.operate()?;
        world.change(self.file, Change::Cut(usize::try_from(bytes).unwrap()));
        Ok(())
    }

    fn length(&self) -> io::Result<u64> {
        let mut world = self.disk.lock();
        world.operate()?;
        Ok(world.files[self.file].live.len() as u64)
    }
}
