//! The front's tasks: one follows each collector, one keeps what is known of all of them.

use std::sync::Arc;
use std::time::Duration;

use proto::v1;
use tokio::time::timeout;

use super::client::Refusal;
use super::shared::Shared;

/// Longest wait of a collector for news.
const WATCH_MILLIS: u32 = 500;
/// Pause after news: a busy log has some all the time.
const NEWS_PAUSE: Duration = Duration::from_millis(5);
/// Pause after a collector did not answer.
const AWAY_PAUSE: Duration = Duration::from_millis(250);
/// A retired collector that comes back is looked for so often.
const RETIRED_PAUSE: Duration = Duration::from_secs(2);
/// How often what is known is written, and how often where nothing but time has gone on.
const KEEP_EVERY: Duration = Duration::from_millis(500);
const KEEP_TIMES_EVERY: u32 = 20;

/// Follows a collector until the log closes.
pub(super) async fn follow(shared: Arc<Shared>, partition: u32) {
    let mut closing = shared.closing();
    loop {
        let pause = tokio::select! {
            biased;
            _ = closing.wait_for(|is_closing| *is_closing) => return,
            pause = round(&shared, partition) => pause,
        };
        drop(timeout(pause, closing.wait_for(|is_closing| *is_closing)).await);
    }
}

/// Asks a collector once; gives the pause until the next time.
async fn round(shared: &Arc<Shared>, partition: u32) -> Duration {
    if shared.is_fenced() {
        // It is void: whatever it said would be of another time.
        return RETIRED_PAUSE;
    }
    let Some(seat) = shared.seat(partition) else { return RETIRED_PAUSE };
    if let Some(retired) = &seat.note.retired {
        if !retired.is_told {
            tell_retired(shared, partition).await;
        }
        return RETIRED_PAUSE;
    }
    let request = v1::WatchLogRequest {
        front: Some(shared.front(partition)),
        // One that was not heard of yet answers at once.
        beyond: if seat.fault.is_some() { 0 } else { seat.note.next },
        at_most_millis: if seat.fault.is_some() { 0 } else { WATCH_MILLIS },
        commits: seat.commits(),
        leased_until_unix_nano: if seat.is_registered { shared.lease_of(&seat).0 } else { 0 },
        notes: seat.notes,
    };
    let Some(client) = shared.client(partition) else { return RETIRED_PAUSE };
    match client.watch(request).await {
        Ok(state) => heard(shared, partition, state).await,
        Err(refusal) => {
            shared.note_away(partition, &refusal);
            AWAY_PAUSE
        }
    }
}

async fn heard(shared: &Arc<Shared>, partition: u32, state: v1::LogState) -> Duration {
    let is_registered = state.is_registered;
    if state.is_retired {
        let reason = "it was retired by another front".to_owned();
        shared.note_away(partition, &Refusal::Other(reason));
        return AWAY_PAUSE;
    }
    if let Err(reason) = shared.learn(partition, &state).await {
        shared.note_away(partition, &Refusal::Other(reason));
        return AWAY_PAUSE;
    }
    if is_registered {
        return NEWS_PAUSE;
    }
    register(shared, partition).await
}

/// The number is noted, durably: the collector may take spans, later than anything vouched for.
async fn register(shared: &Arc<Shared>, partition: u32) -> Duration {
    let known = shared.client(partition).zip(shared.seat(partition));
    let Some((client, seat)) = known else { return RETIRED_PAUSE };
    let request = v1::RegisterCollectorRequest {
        front: Some(shared.front(partition)),
        not_before_unix_nano: shared.not_before().0,
        leased_until_unix_nano: shared.lease_of(&seat).0,
    };
    match client.register(request).await {
        Ok(state) => {
            if let Err(reason) = shared.learn(partition, &state).await {
                shared.note_away(partition, &Refusal::Other(reason));
            }
            NEWS_PAUSE
        }
        Err(refusal) => {
            tracing::debug!(partition, reason = refusal.reason(), "a collector was not registered");
            AWAY_PAUSE
        }
    }
}

/// A retired collector that came back takes nothing more.
async fn tell_retired(shared: &Arc<Shared>, partition: u32) {
    let Some(client) = shared.client(partition) else { return };
    let request = v1::RetireCollectorRequest { front: Some(shared.front(partition)) };
    match client.retire(request).await {
        Ok(state) if state.is_retired => {
            tracing::error!(
                collector = partition,
                "a retired collector had come back; it takes no spans any more"
            );
            shared.note_told(partition).await;
        }
        Ok(_) => {}
        Err(refusal) => tracing::trace!(partition, reason = refusal.reason(), "still gone"),
    }
}

/// Writes what is known, where it has changed, until the log closes and once more then.
pub(super) async fn keep(shared: Arc<Shared>) {
    let mut closing = shared.closing();
    for round in (0..KEEP_TIMES_EVERY).cycle() {
        let ended = timeout(KEEP_EVERY, closing.wait_for(|is_closing| *is_closing)).await.is_ok();
        if let Err(error) = shared.keep(ended || round == 0).await {
            tracing::warn!(%error, "what is known of the collectors was not written");
        }
        if ended {
            return;
        }
    }
}
