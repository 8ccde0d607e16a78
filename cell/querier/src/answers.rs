//! Answers by trace id on their way out. The place of a question among those at work is free as soon
//! as the stores have answered; what they gave waits here until the reader has taken it.
//!
//! **Bounded.** There are so many answers, each of which may hold one frame, and so many bytes beyond
//! the first frames of all of them. What does not fit is refused.
//!
//! **A slow reader is in nobody's way.** A reader has to keep a least pace, and to be done by its own
//! deadline. One that does not is left alone while there is room, since the transport asks for
//! frames and cannot be asked. When its room is wanted it is cut: what waits for it goes, and if it
//! ever comes back it is told so. An answer that was cut has no summary and cannot be taken for a
//! whole one.

use std::collections::{BTreeMap, HashSet};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use proto::convert::query::FRAME_BYTES_TARGET;
use proto::v1::FindTraceResponse;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;
use trace_model::{ScopeContext, TraceSpans};

use crate::config::QuerierConfig;
use crate::metrics::QuerierMetrics;
use crate::status::QuerierError;

/// Room is counted in such units of bytes.
const UNIT_BYTES: usize = 1 << 10;
/// What a span takes in memory beside its bytes.
const SPAN_OVERHEAD_BYTES: usize = 128;
/// At the least pace, one frame is allowed this long.
const PACE_SLACK: Duration = Duration::from_secs(4);

/// Frames that are packed when they are asked for.
pub(crate) type Frames = Box<dyn Iterator<Item = FindTraceResponse> + Send>;

/// All answers on their way out; clones share them.
#[derive(Clone, Debug)]
pub(crate) struct Answers {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    places: Arc<Semaphore>,
    room: Arc<Semaphore>,
    room_units: u32,
    pace_bytes_per_second: u64,
    outgoing: Mutex<(u64, BTreeMap<u64, SharedOutgoing>)>,
    metrics: QuerierMetrics,
}

type SharedOutgoing = Arc<Mutex<Outgoing>>;

/// One answer, as long as its reader may come for it.
#[derive(Debug)]
pub(crate) struct Answer {
    id: u64,
    outgoing: SharedOutgoing,
    answers: Answers,
}

struct Outgoing {
    deadline: Instant,
    /// `None`: it was cut.
    place: Option<OwnedSemaphorePermit>,
    /// What waits for the reader.
    held: Option<Held>,
    /// Since when it is the reader's turn, and what it has taken since. `None`: the cell's.
    turn: Option<(Instant, usize)>,
}

struct Held {
    frames: Frames,
    bytes: usize,
    room: Option<OwnedSemaphorePermit>,
}

impl fmt::Debug for Outgoing {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bytes = self.held.as_ref().map_or(0, |held| held.bytes);
        let turn = self.turn;
        formatter.debug_struct("Outgoing").field("bytes", &bytes).field("turn", &turn).finish()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Answers {
    pub(crate) fn new(config: &QuerierConfig, metrics: QuerierMetrics) -> Self {
        let units = config.answer_bytes_max.div_ceil(UNIT_BYTES);
        let room_units = u32::try_from(units.min(Semaphore::MAX_PERMITS)).unwrap_or(u32::MAX);
        Self {
            shared: Arc::new(Shared {
                places: Arc::new(Semaphore::new(config.answers_max.max(config.queries_max))),
                room: Arc::new(Semaphore::new(room_units as usize)),
                room_units,
                pace_bytes_per_second: config.pace_bytes_per_second.max(1),
                outgoing: Mutex::default(),
                metrics,
            }),
        }
    }

    /// Takes a place for an answer; the reader's turn begins.
    pub(crate) fn begin(&self, deadline: Instant) -> Result<Answer, QuerierError> {
        let place = self.take(&self.shared.places, 1).ok_or(QuerierError::Busy)?;
        let outgoing =
            Outgoing { deadline, place: Some(place), held: None, turn: Some((Instant::now(), 0)) };
        let outgoing = Arc::new(Mutex::new(outgoing));
        let mut all = lock(&self.shared.outgoing);
        let id = all.0;
        all.0 = id.wrapping_add(1);
        all.1.insert(id, Arc::clone(&outgoing));
        self.shared.metrics.outgoing_answers.inc();
        Ok(Answer { id, outgoing, answers: self.clone() })
    }

    /// Takes so many, if need be from readers that are behind.
    fn take(&self, from: &Arc<Semaphore>, count: u32) -> Option<OwnedSemaphorePermit> {
        if let Ok(taken) = Arc::clone(from).try_acquire_many_owned(count) {
            return Some(taken);
        }
        self.cut_those_behind();
        Arc::clone(from).try_acquire_many_owned(count).ok()
    }

    fn cut_those_behind(&self) {
        let now = Instant::now();
        let all: Vec<SharedOutgoing> = lock(&self.shared.outgoing).1.values().cloned().collect();
        for outgoing in all {
            let mut outgoing = lock(&outgoing);
            if outgoing.place.is_some() && self.is_behind(&outgoing, now) {
                outgoing.place = None;
                self.let_go(outgoing.held.take());
                self.shared.metrics.cut_answers.inc();
            }
        }
    }

    /// Whether the reader is slower than the least pace, or beyond its own deadline.
    fn is_behind(&self, outgoing: &Outgoing, now: Instant) -> bool {
        let Some((since, taken)) = outgoing.turn else { return false };
        let millis = (taken as u64).saturating_mul(1_000) / self.shared.pace_bytes_per_second;
        let allowed = PACE_SLACK.saturating_add(Duration::from_millis(millis));
        now >= outgoing.deadline || now.saturating_duration_since(since) >= allowed
    }

    /// The units of room that so many bytes take beside their answer's place.
    fn room_for(&self, bytes: usize) -> u32 {
        let units = bytes.saturating_sub(FRAME_BYTES_TARGET).div_ceil(UNIT_BYTES);
        // An answer larger than all the room takes all of it.
        u32::try_from(units).unwrap_or(u32::MAX).min(self.shared.room_units)
    }

    fn let_go(&self, held: Option<Held>) {
        let bytes = held.map_or(0, |held| held.bytes);
        self.shared.metrics.outgoing_bytes.dec_by(gauge(bytes));
    }
}

impl Answer {
    /// The cell is at work for it: the reader waits.
    pub(crate) fn begin_work(&self) {
        lock(&self.outgoing).turn = None;
    }

    /// Puts frames of so many bytes out for the reader, or refuses where there is no room for them.
    pub(crate) fn offer(&self, frames: Frames, bytes: usize) -> Result<(), QuerierError> {
        let answers = &self.answers;
        let room = match answers.room_for(bytes) {
            0 => None,
            units => Some(answers.take(&answers.shared.room, units).ok_or(QuerierError::Busy)?),
        };
        let mut outgoing = lock(&self.outgoing);
        answers.let_go(outgoing.held.take());
        answers.shared.metrics.outgoing_bytes.inc_by(gauge(bytes));
        outgoing.held = Some(Held { frames, bytes, room });
        outgoing.turn = Some((Instant::now(), 0));
        Ok(())
    }

    /// The next frame of what was put out; `None` where all is taken.
    pub(crate) fn next_frame(&self) -> Result<Option<FindTraceResponse>, QuerierError> {
        let mut outgoing = lock(&self.outgoing);
        if outgoing.place.is_none() {
            return Err(QuerierError::TooSlow);
        }
        let Some(held) = &mut outgoing.held else { return Ok(None) };
        let Some(frame) = held.frames.next() else {
            self.answers.let_go(outgoing.held.take());
            return Ok(None);
        };
        let spans = frame.spans.iter().map(|span| span.span.len() + SPAN_OVERHEAD_BYTES);
        let taken = spans.sum::<usize>().min(held.bytes);
        held.bytes -= taken;
        self.answers.shared.metrics.outgoing_bytes.dec_by(gauge(taken));
        let still_needed = self.answers.room_for(held.bytes) as usize;
        if let Some(room) = &mut held.room {
            drop(room.split(room.num_permits().saturating_sub(still_needed)));
        }
        if let Some((_, all_taken)) = &mut outgoing.turn {
            *all_taken = all_taken.saturating_add(taken);
        }
        Ok(Some(frame))
    }
}

impl Drop for Answer {
    fn drop(&mut self) {
        lock(&self.answers.shared.outgoing).1.remove(&self.id);
        self.answers.let_go(lock(&self.outgoing).held.take());
        self.answers.shared.metrics.outgoing_answers.dec();
    }
}

/// The bytes that spans hold in memory, about: their own, and those of each context once.
pub(crate) fn bytes_of(spans: &TraceSpans) -> usize {
    let mut contexts: HashSet<*const ScopeContext> = HashSet::new();
    let mut bytes = 0_usize;
    for span in spans.iter() {
        bytes = bytes.saturating_add(span.span.len() + SPAN_OVERHEAD_BYTES);
        if contexts.insert(Arc::as_ptr(&span.context)) {
            let context = span.context.resource.len() + span.context.scope.len();
            bytes = bytes.saturating_add(context);
        }
    }
    bytes
}

fn gauge(bytes: usize) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}
