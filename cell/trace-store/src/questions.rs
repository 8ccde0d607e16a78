//! Questions at work on the blocking pool: a bounded number at once, a bounded number that wait for
//! a place, and none that nobody waits for any more.
//!
//! A place belongs to the work, not to the caller: whoever goes away (its deadline, a broken
//! connection) frees nothing that is still in use. Going away raises a flag instead, and the work
//! looks at it before each block that it opens. Where all places are taken and the queue is full, a
//! question is refused at once and may be asked again: the pool's other threads stay free for the
//! writer, which shares it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::sync::Semaphore;
use trace_model::Clock;

use crate::StoreError;
use crate::metrics::{QuestionMetrics, Raised};

/// Work asks this on its way; an error says that nobody waits for it any more.
pub(crate) type GoOn<'a> = &'a dyn Fn() -> Result<(), StoreError>;

/// How many questions of one kind there may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QuestionLimits {
    /// At work at once, each on a thread of the blocking pool.
    pub at_work_max: usize,
    /// Waiting for a place; more are refused with [`StoreError::Busy`].
    pub waiting_max: usize,
}

/// The questions of one kind.
#[derive(Debug)]
pub(crate) struct Questions {
    at_work: Arc<Semaphore>,
    /// Places at work and in the queue together.
    admitted: Arc<Semaphore>,
    clock: Arc<dyn Clock>,
    metrics: QuestionMetrics,
}

impl Questions {
    pub(crate) fn new(
        limits: QuestionLimits,
        clock: Arc<dyn Clock>,
        metrics: QuestionMetrics,
    ) -> Self {
        let at_work = limits.at_work_max.clamp(1, Semaphore::MAX_PERMITS / 2);
        let waiting = limits.waiting_max.min(Semaphore::MAX_PERMITS / 2);
        Self {
            at_work: Arc::new(Semaphore::new(at_work)),
            admitted: Arc::new(Semaphore::new(at_work + waiting)),
            clock,
            metrics,
        }
    }

    /// Does the work on the blocking pool when there is a place for it.
    pub(crate) async fn ask<T: Send + 'static>(
        &self,
        work: impl FnOnce(GoOn<'_>) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let Ok(admitted) = Arc::clone(&self.admitted).try_acquire_owned() else {
            self.metrics.refused.inc();
            return Err(StoreError::Busy);
        };
        let mut caller = Caller::new(&self.metrics);
        let waiting = Raised::new(&self.metrics.waiting);
        let at_work = Arc::clone(&self.at_work).acquire_owned().await;
        let at_work = at_work.map_err(|error| StoreError::Unavailable(error.to_string()))?;
        drop(waiting);
        let is_gone = Arc::clone(&caller.is_gone);
        let (clock, metrics) = (Arc::clone(&self.clock), self.metrics.clone());
        let done = tokio::task::spawn_blocking(move || {
            let _places = (admitted, at_work, Raised::new(&metrics.at_work));
            let started = clock.monotonic();
            let go_on = || if is_gone.load(Ordering::Relaxed) { Err(abandoned()) } else { Ok(()) };
            let done = go_on().and_then(|()| work(&go_on));
            let took = clock.monotonic().saturating_sub(started);
            metrics.work.inc_by(took.as_secs_f64());
            done
        });
        let done = done.await;
        caller.is_answered = true;
        done.map_err(|error| StoreError::Unavailable(error.to_string()))?
    }
}

/// Nobody sees it: whoever would is gone.
fn abandoned() -> StoreError {
    StoreError::Unavailable("nobody waits for the answer any more".to_owned())
}

/// The caller's end of a question: dropped before the answer is in, it raises the flag.
struct Caller {
    is_gone: Arc<AtomicBool>,
    is_answered: bool,
    metrics: QuestionMetrics,
}

impl Caller {
    fn new(metrics: &QuestionMetrics) -> Self {
        Self { is_gone: Arc::default(), is_answered: false, metrics: metrics.clone() }
    }
}

impl Drop for Caller {
    fn drop(&mut self) {
        if !self.is_answered {
            self.is_gone.store(true, Ordering::Relaxed);
            self.metrics.abandoned.inc();
        }
    }
}
