//! An engine that is away for as long as the guarantees say: it stands, or it is dead.

use std::time::{Duration, Instant};

use crate::running_engines::{Engine, Engines};

/// How long; `FARSPAN_TEST_OUTAGE` says another number of seconds.
const LASTS: Duration = Duration::from_secs(30);

/// How long an engine is away.
pub(crate) fn lasts() -> Duration {
    let seconds = std::env::var("FARSPAN_TEST_OUTAGE");
    seconds.map_or(LASTS, |seconds| Duration::from_secs(seconds.parse().unwrap()))
}

/// What happens to an engine.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Fault {
    /// SIGSTOP: connections stand, and nothing answers.
    Stop,
    /// SIGKILL: nobody listens.
    Kill,
}

/// An engine that is away. What is asked meanwhile is asked within the time that it lasts.
pub(crate) struct Outage<'a> {
    engines: &'a Engines,
    engine: Engine,
    fault: Fault,
    began: Instant,
}

impl<'a> Outage<'a> {
    pub(crate) fn begin(engines: &'a Engines, engine: Engine, fault: Fault) -> Self {
        println!("{fault:?} {engine:?}");
        match fault {
            Fault::Stop => engines.stop(engine),
            Fault::Kill => engines.kill(engine),
        }
        Self { engines, engine, fault, began: Instant::now() }
    }

    /// Whether the engine was away for long enough.
    pub(crate) fn has_lasted(&self) -> bool {
        self.began.elapsed() >= lasts()
    }

    /// The engine goes on, or is started again, and answers.
    pub(crate) async fn end(self) {
        assert!(self.has_lasted(), "{:?} was away for {:?}", self.engine, self.began.elapsed());
        let away = self.began.elapsed();
        match self.fault {
            Fault::Stop => self.engines.go_on(self.engine),
            Fault::Kill => self.engines.start_again(self.engine).await,
        }
        println!(
            "{:?} was away for {away:?}, and answers after {:?}",
            self.engine,
            self.began.elapsed()
        );
    }
}
