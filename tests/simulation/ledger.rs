//! What the hosts of a run share with the test: what was sent and acknowledged, what a cell keeps
//! over a crash, what was asked, and which law was broken.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use bytes::Bytes;
use metadata_replicator::Replica;
use span_log::memory::MemoryLog;
use trace_model::{Region, SpanId, TenantId, TraceEntry, TraceId};
use trace_store::MemoryStore;

/// What outlives a cell's process: its disk, as far as memory can be one.
#[derive(Clone)]
pub(crate) struct Disk {
    pub(crate) log: Arc<MemoryLog>,
    pub(crate) store: Arc<MemoryStore>,
}

/// A span as it went out, and the regions to which it went.
#[derive(Clone, Debug)]
pub(crate) struct Sent {
    pub(crate) bytes: Bytes,
    pub(crate) regions: BTreeSet<Region>,
}

/// Spans of a trace, each with the regions that have acknowledged it.
pub(crate) type Acknowledged = BTreeMap<SpanId, BTreeSet<Region>>;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// Faults strike, or their traces are being repaired: askers ask at random.
    Unrest,
    /// All is sent and healed: every gateway must come to see every trace whole.
    Settled,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Figures {
    /// Answers while faults struck.
    pub(crate) complete: u64,
    pub(crate) partial: u64,
    pub(crate) not_found: u64,
    /// Regions left out of an answer under a proof.
    pub(crate) pruned: u64,
    /// Honest refusals of a gateway without an index.
    pub(crate) refused: u64,
    pub(crate) searches_complete: u64,
    pub(crate) searches_partial: u64,
    /// Requests that were sent again, on purpose or for want of an acknowledgement.
    pub(crate) repeats: u64,
    pub(crate) crashes: u64,
    pub(crate) cuts: u64,
    pub(crate) stalls: u64,
}

struct State {
    phase: Phase,
    sent: BTreeMap<TraceId, BTreeMap<SpanId, Sent>>,
    /// The trace of each span that was sent, the newest last.
    order: Vec<TraceId>,
    acknowledged: BTreeMap<TraceId, Acknowledged>,
    disks: BTreeMap<Region, Disk>,
    replicas: BTreeMap<Region, Weak<Replica>>,
    starts: BTreeMap<String, u64>,
    sent_all: BTreeSet<Region>,
    sees_all: BTreeSet<Region>,
    events: Vec<String>,
    violations: Vec<String>,
    figures: Figures,
}

/// Whether the entry counts fewer spans of a region than that region has acknowledged.
fn is_short(entry: &TraceEntry, acknowledged: &Acknowledged) -> bool {
    let rows = || entry.contributions.values();
    acknowledged.values().flatten().any(|region| {
        let own = rows().filter(|row| row.writer.region == *region);
        let counts = own.filter_map(|row| row.detail.as_ref()).map(|detail| detail.span_count);
        let regions_spans = acknowledged.values().filter(|regions| regions.contains(region));
        (counts.sum::<u32>() as usize) < regions_spans.count()
    })
}

/// A run's shared state.
#[derive(Clone)]
pub(crate) struct World {
    pub(crate) seed: u64,
    pub(crate) directory: PathBuf,
    state: Arc<Mutex<State>>,
}

impl World {
    pub(crate) fn new(seed: u64, directory: PathBuf) -> Self {
        let state = State {
            phase: Phase::Unrest,
            sent: BTreeMap::new(),
            order: Vec::new(),
            acknowledged: BTreeMap::new(),
            disks: BTreeMap::new(),
            replicas: BTreeMap::new(),
            starts: BTreeMap::new(),
            sent_all: BTreeSet::new(),
            sees_all: BTreeSet::new(),
            events: Vec::new(),
            violations: Vec::new(),
            figures: Figures::default(),
        };
        Self { seed, directory, state: Arc::new(Mutex::new(state)) }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn phase(&self) -> Phase {
        self.state().phase
    }

    pub(crate) fn settle(&self) {
        self.state().phase = Phase::Settled;
    }

    /// How often a host was started before.
    pub(crate) fn count_start(&self, host: &str) -> u64 {
        let mut state = self.state();
        let starts = state.starts.entry(host.to_owned()).or_default();
        *starts += 1;
        *starts - 1
    }

    /// Before a span leaves: from here on an answer may hold it.
    pub(crate) fn note_sent(&self, trace_id: TraceId, span_id: SpanId, bytes: &Bytes, to: &Region) {
        let mut state = self.state();
        state.order.push(trace_id);
        let spans = state.sent.entry(trace_id).or_default();
        let new = || Sent { bytes: bytes.clone(), regions: BTreeSet::new() };
        spans.entry(span_id).or_insert_with(new).regions.insert(to.clone());
    }

    /// From here on no answer may hide it.
    pub(crate) fn note_acknowledged(&self, trace_id: TraceId, span_id: SpanId, by: &Region) {
        let mut state = self.state();
        let spans = state.acknowledged.entry(trace_id).or_default();
        spans.entry(span_id).or_default().insert(by.clone());
    }

    pub(crate) fn sent(&self, trace_id: TraceId) -> BTreeMap<SpanId, Sent> {
        self.state().sent.get(&trace_id).cloned().unwrap_or_default()
    }

    pub(crate) fn acknowledged(&self, trace_id: TraceId) -> Acknowledged {
        self.state().acknowledged.get(&trace_id).cloned().unwrap_or_default()
    }

    /// Traces of which something was sent.
    pub(crate) fn traces(&self) -> Vec<TraceId> {
        self.state().sent.keys().copied().collect()
    }

    /// The traces of the last spans that were sent: of them something may be missing.
    pub(crate) fn newest(&self, spans_max: usize) -> Vec<TraceId> {
        self.state().order.iter().rev().take(spans_max).copied().collect()
    }

    pub(crate) fn disk(&self, region: &Region, new: impl FnOnce() -> Disk) -> Disk {
        self.state().disks.entry(region.clone()).or_insert_with(new).clone()
    }

    pub(crate) fn log_of(&self, region: &Region) -> Option<Arc<MemoryLog>> {
        self.state().disks.get(region).map(|disk| Arc::clone(&disk.log))
    }

    pub(crate) fn note_replica(&self, replica: &Arc<Replica>) {
        self.state().replicas.insert(replica.region().clone(), Arc::downgrade(replica));
    }

    /// Regions of which this region's replica holds a contribution to the trace now.
    pub(crate) fn indexed(&self, at: &Region, trace_id: TraceId) -> BTreeSet<Region> {
        let replica = self.state().replicas.get(at).and_then(Weak::upgrade);
        let entries = replica.map(|held| held.look_up(&TenantId::default(), &[trace_id]));
        entries.into_iter().flatten().flat_map(|entry| entry.regions()).collect()
    }

    /// Traces of which a replica's index counts fewer spans of a region than that region has
    /// acknowledged.
    pub(crate) fn undercounted(&self) -> Vec<String> {
        let state = self.state();
        let mut found = Vec::new();
        for (trace_id, spans) in &state.acknowledged {
            for replica in state.replicas.values().filter_map(Weak::upgrade) {
                let entries = replica.look_up(&TenantId::default(), &[*trace_id]);
                let short = entries.iter().filter(|entry| is_short(entry, spans));
                found.extend(short.map(|entry| format!("{}: {entry:?}", replica.region())));
            }
        }
        found
    }

    /// The digests of the replicas that are up.
    pub(crate) fn digests(&self) -> BTreeMap<Region, u128> {
        let replicas = self.state().replicas.clone();
        let up = replicas.into_iter().filter_map(|(region, held)| Some((region, held.upgrade()?)));
        up.map(|(region, replica)| (region, replica.digest())).collect()
    }

    pub(crate) fn note_all_sent(&self, to: &Region) {
        self.state().sent_all.insert(to.clone());
    }

    pub(crate) fn regions_sent(&self) -> usize {
        self.state().sent_all.len()
    }

    pub(crate) fn note_sees_all(&self, gateway: &Region) {
        self.state().sees_all.insert(gateway.clone());
    }

    pub(crate) fn gateways_satisfied(&self) -> usize {
        self.state().sees_all.len()
    }

    pub(crate) fn note_event(&self, event: &str) {
        let at = turmoil::sim_elapsed().unwrap_or_default();
        self.state().events.push(format!("{at:?} {event}"));
    }

    pub(crate) fn note_violation(&self, violation: String) {
        self.state().violations.push(violation);
    }

    pub(crate) fn count(&self, change: impl FnOnce(&mut Figures)) {
        change(&mut self.state().figures);
    }

    pub(crate) fn figures(&self) -> Figures {
        self.state().figures
    }

    pub(crate) fn violations(&self) -> Vec<String> {
        self.state().violations.clone()
    }

    pub(crate) fn events(&self) -> Vec<String> {
        self.state().events.clone()
    }
}
