//! The one connection: up or down, and who keeps it up.

use std::error::Error as _;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, Weak};
use std::time::Duration;

use ::redis::aio::MultiplexedConnection;
use ::redis::{AsyncConnectionConfig, ErrorKind, PushInfo, PushKind, RedisError, Value, cmd};
use service_kit::BackOff;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::super::port::{Away, Watcher};
use super::cache::key_of;
use super::config::{RedisConfig, RedisFault};
use super::stream;
use crate::metrics::{SharedStateMetrics, StateFault};

/// Waits between attempts to connect.
const FIRST_WAIT: Duration = Duration::from_millis(50);
const LONGEST_WAIT: Duration = Duration::from_secs(2);
/// Calls that wait for the connection to take them.
const CALLS_WAITING_MAX: usize = 1_024;

/// The connection of a gateway.
#[derive(Debug)]
pub(super) struct Link {
    pub(super) config: RedisConfig,
    pub(super) metrics: SharedStateMetrics,
    up: RwLock<Option<Up>>,
    lost: Notify,
    watchers: Mutex<Vec<Weak<dyn Watcher>>>,
    tracker: TaskTracker,
    stopping: CancellationToken,
}

/// A connection that stands and tracks.
#[derive(Clone, Debug)]
struct Up {
    connection: MultiplexedConnection,
    /// Every connection has its own.
    era: u64,
    /// Cancelled when it is over.
    end: CancellationToken,
}

impl Link {
    pub(super) fn new(
        config: RedisConfig,
        metrics: SharedStateMetrics,
        tracker: TaskTracker,
        stopping: CancellationToken,
    ) -> Self {
        Self {
            config,
            metrics,
            up: RwLock::default(),
            lost: Notify::new(),
            watchers: Mutex::default(),
            tracker,
            stopping,
        }
    }

    pub(super) fn watch(&self, watcher: Weak<dyn Watcher>) {
        let mut watchers = self.watchers();
        watchers.retain(|watcher| watcher.strong_count() > 0);
        watchers.push(watcher);
    }

    pub(super) fn is_up(&self) -> bool {
        self.up().is_some()
    }

    /// Which connection is up.
    pub(super) fn era(&self) -> Option<u64> {
        self.up().map(|up| up.era)
    }

    /// Calls Redis; also says on which connection. While it is down this returns at once; whoever
    /// finds it hanging or broken ends it for all.
    pub(super) async fn call<T, F>(
        &self,
        work: impl FnOnce(MultiplexedConnection) -> F,
    ) -> Result<(T, u64), Away>
    where
        F: Future<Output = Result<T, RedisError>>,
    {
        self.call_with(self.up().ok_or(Away)?, work).await
    }

    /// As [`Self::call`], but only on the connection of this era.
    pub(super) async fn call_on<T, F>(
        &self,
        era: u64,
        work: impl FnOnce(MultiplexedConnection) -> F,
    ) -> Result<(T, u64), Away>
    where
        F: Future<Output = Result<T, RedisError>>,
    {
        let up = self.up().filter(|up| up.era == era).ok_or(Away)?;
        self.call_with(up, work).await
    }

    async fn call_with<T, F>(
        &self,
        up: Up,
        work: impl FnOnce(MultiplexedConnection) -> F,
    ) -> Result<(T, u64), Away>
    where
        F: Future<Output = Result<T, RedisError>>,
    {
        let answer = tokio::time::timeout(self.config.timeout, work(up.connection)).await;
        match answer {
            Ok(Ok(found)) => Ok((found, up.era)),
            Ok(Err(error)) if is_broken(&error) => {
                self.end(up.era, StateFault::Connection, &error.to_string());
                Err(Away)
            }
            Ok(Err(error)) => {
                self.metrics.count_fault(StateFault::Refused);
                tracing::debug!(%error, "redis refused a command");
                Err(Away)
            }
            Err(_) => {
                self.end(up.era, StateFault::TimedOut, "no answer in time");
                Err(Away)
            }
        }
    }

    /// Connects, and again whenever the connection is lost, until the process stops.
    pub(super) async fn keep_up(self: Arc<Self>) {
        let mut waits = BackOff::new(FIRST_WAIT, LONGEST_WAIT, seed());
        let mut is_told = false;
        let stopping = self.stopping.clone();
        for era in 1_u64.. {
            let connected = tokio::select! {
                () = stopping.cancelled() => return,
                connected = self.connect(era) => connected,
            };
            match connected {
                Ok(up) => {
                    tracing::info!("redis answers");
                    is_told = false;
                    self.raise(up);
                    // One that answers a greeting and hangs at the first call is not tried again at
                    // once for ever.
                    if self.watch_over(era).await {
                        waits.reset();
                    }
                }
                Err(fault) => {
                    self.tell(&fault, &mut is_told);
                }
            }
            tokio::select! {
                () = stopping.cancelled() => return,
                () = tokio::time::sleep(waits.next_wait()) => {}
            }
        }
    }

    /// Says once why there is no connection; its absence is a gauge.
    fn tell(&self, fault: &RedisFault, is_told: &mut bool) {
        self.metrics.count_fault(StateFault::Connection);
        let cause = fault.source().map(ToString::to_string).unwrap_or_default();
        if std::mem::replace(is_told, true) {
            tracing::debug!(error = %fault, cause, "redis is still away");
            return;
        }
        tracing::warn!(
            error = %fault,
            cause,
            "redis is away: nothing is cached, and limits are this gateway's own"
        );
    }

    /// Returns when the connection of this era is over, and whether it had been of use.
    async fn watch_over(&self, era: u64) -> bool {
        let mut has_lasted = false;
        while self.up().is_some_and(|up| up.era == era) {
            tokio::select! {
                () = self.stopping.cancelled() => return has_lasted,
                () = self.lost.notified() => {}
                () = tokio::time::sleep(self.config.heartbeat) => has_lasted |= self.ping().await,
            }
        }
        has_lasted
    }

    async fn ping(&self) -> bool {
        let pinged =
            self.call(async |mut connection| cmd("PING").exec_async(&mut connection).await);
        pinged.await.is_ok()
    }

    async fn connect(self: &Arc<Self>, era: u64) -> Result<Up, RedisFault> {
        let connecting = self.connect_at_leisure(era);
        let connected = tokio::time::timeout(self.config.connect_timeout, connecting).await;
        connected.unwrap_or(Err(RedisFault::TimedOut))
    }

    async fn connect_at_leisure(self: &Arc<Self>, era: u64) -> Result<Up, RedisFault> {
        let refused = |error: RedisError| RedisFault::Refused(Box::new(error));
        let end = self.stopping.child_token();
        // Whatever fails from here on, or is given up, ends the connection's task.
        let unfinished = end.clone().drop_guard();
        let login = stream::login(&self.config).await?;
        let stream = stream::open(&self.config).await?;
        let link = Arc::downgrade(self);
        let listening = link.clone();
        let hear = move |push: PushInfo| {
            if let Some(link) = listening.upgrade() {
                link.hear(era, push);
            }
            Ok::<(), std::convert::Infallible>(())
        };
        let settings = AsyncConnectionConfig::new()
            .set_response_timeout(None)
            .set_pipeline_buffer_size(CALLS_WAITING_MAX)
            .set_push_sender(hear);
        let made = MultiplexedConnection::new_with_config(&login, stream, settings).await;
        let (mut connection, driver) = made.map_err(refused)?;
        let over = end.clone();
        drop(self.tracker.spawn(async move {
            tokio::select! {
                () = driver => {}
                () = over.cancelled() => {}
            }
            over.cancel();
            if let Some(link) = link.upgrade() {
                link.end(era, StateFault::Connection, "the connection has ended");
            }
        }));
        // Before anything is read. Reads opt in one by one: counters are not to be told about.
        let tracking = cmd("CLIENT").arg("TRACKING").arg("ON").arg("OPTIN").to_owned();
        tracking.exec_async(&mut connection).await.map_err(refused)?;
        // A server that still loads its data refuses this; one that is too slow for a call is of no
        // use.
        let ping = cmd("PING");
        let pinged = tokio::time::timeout(self.config.timeout, ping.exec_async(&mut connection));
        pinged.await.map_err(|_| RedisFault::TimedOut)?.map_err(refused)?;
        unfinished.disarm();
        Ok(Up { connection, era, end })
    }

    fn raise(&self, up: Up) {
        let (era, end) = (up.era, up.end.clone());
        *self.up.write().unwrap_or_else(PoisonError::into_inner) = Some(up);
        self.metrics.set_connected(true);
        if end.is_cancelled() {
            self.end(era, StateFault::Connection, "the connection has ended");
        }
    }

    /// Ends the connection of this era, if it is the one that is up: from here on nothing that was
    /// read on it may be believed.
    fn end(&self, era: u64, fault: StateFault, reason: &str) {
        let ended = {
            let mut up = self.up.write().unwrap_or_else(PoisonError::into_inner);
            up.take_if(|up| up.era == era)
        };
        let Some(ended) = ended else { return };
        ended.end.cancel();
        self.metrics.set_connected(false);
        self.for_watchers(|watcher| watcher.lost());
        self.lost.notify_one();
        if self.stopping.is_cancelled() {
            return;
        }
        self.metrics.count_fault(fault);
        tracing::warn!(
            reason,
            "redis is away: nothing is cached, and limits are this gateway's own"
        );
    }

    /// Takes in what Redis says unasked; in order with its answers, before those behind it are given
    /// to whoever waits for them.
    fn hear(&self, era: u64, push: PushInfo) {
        if push.kind == PushKind::Disconnection {
            self.end(era, StateFault::Connection, "the connection has ended");
            return;
        }
        if push.kind != PushKind::Invalidate {
            return;
        }
        let Some(Value::Array(keys)) = push.data.into_iter().next() else {
            // Everything was dropped at once.
            self.for_watchers(|watcher| watcher.lost());
            return;
        };
        for key in keys {
            let Value::BulkString(bytes) = key else { continue };
            if let Some(key) = key_of(&self.config.prefix, &bytes) {
                self.for_watchers(|watcher| watcher.changed(&key));
            }
        }
    }

    fn for_watchers(&self, tell: impl Fn(&dyn Watcher)) {
        let watchers = self.watchers().clone();
        for watcher in watchers.iter().filter_map(Weak::upgrade) {
            tell(watcher.as_ref());
        }
    }

    fn watchers(&self) -> MutexGuard<'_, Vec<Weak<dyn Watcher>>> {
        self.watchers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn up(&self) -> Option<Up> {
        self.up.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// An error of the connection; one of the server leaves it in order.
fn is_broken(error: &RedisError) -> bool {
    !matches!(error.kind(), ErrorKind::Server(_) | ErrorKind::Extension)
}

/// Gateways that lost the same Redis do not come back together.
fn seed() -> u64 {
    let mut bytes = [0; 8];
    // Without randomness they do: no harm to an answer.
    if getrandom::fill(&mut bytes).is_err() {
        return 0;
    }
    u64::from_le_bytes(bytes)
}
