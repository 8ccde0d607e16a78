//! The live tail of all collectors: each is asked, at once, and who does not answer is known as away.

use std::sync::Arc;

use proto::convert::query::{id_bytes, unpack_frame};
use proto::v1;
use tokio::task::JoinSet;
use trace_model::{Coverage, StoredSpan, TenantId, TraceId};

use super::super::INCARNATION;
use super::client::Refusal;
use super::shared::Shared;
use crate::port::{LogError, TailAnswer};

/// What a collector's tail has said: its spans, and the rest of the answer.
type Said = (Vec<StoredSpan>, v1::ReadTailResponse);

fn unpacked(mut said: v1::ReadTailResponse, trace_id: TraceId) -> Result<Said, Refusal> {
    let mut spans = Vec::new();
    for frame in std::mem::take(&mut said.frames) {
        let unpacked = unpack_frame(frame, trace_id);
        spans.extend(unpacked.map_err(|error| Refusal::Away(error.to_string()))?);
    }
    Ok((spans, said))
}

/// Asks all of them but the retired ones. One that is known to be away is not waited for.
pub(super) async fn ask_all(
    shared: &Arc<Shared>,
    tenant: &TenantId,
    trace_id: TraceId,
) -> Result<TailAnswer, LogError> {
    let mut asking = JoinSet::new();
    let mut answer = TailAnswer {
        spans: Vec::new(),
        covered: Coverage::none(INCARNATION),
        is_damaged: false,
        is_behind: false,
        silent: Vec::new(),
        begins: Some(Coverage::none(INCARNATION)),
    };
    for partition in 0..shared.count() {
        let (is_retired, is_away) =
            shared.with(partition, |seat| (seat.is_retired(), seat.is_away()))?;
        if is_retired {
            continue;
        }
        let Some(client) = shared.client(partition).filter(|_| !is_away) else {
            answer.is_behind = true;
            answer.silent.push(partition);
            continue;
        };
        let request = v1::ReadTailRequest {
            front: Some(shared.front(partition)),
            tenant: tenant.as_str().to_owned(),
            trace_id: id_bytes(trace_id),
        };
        let client = client.clone();
        asking.spawn(async move {
            let said = client.tail(request).await;
            (partition, said.and_then(|said| unpacked(said, trace_id)))
        });
    }
    while let Some(said) = asking.join_next().await {
        let (partition, said) = said.map_err(|error| LogError::Unavailable(error.to_string()))?;
        take(shared, partition, said, &mut answer)?;
    }
    answer.silent.sort_unstable();
    Ok(answer)
}

fn take(
    shared: &Shared,
    partition: u32,
    said: Result<Said, Refusal>,
    answer: &mut TailAnswer,
) -> Result<(), LogError> {
    match said {
        Ok((spans, said)) => {
            // Before anybody asks where the tail begins: it begins there, or later.
            shared.with(partition, |seat| {
                seat.note_stored(said.committed);
                seat.learn_lost(said.lost, said.lost_expired_until_unix_nano, said.notes);
            })?;
            if let Some(begins) = &mut answer.begins {
                begins.extend(partition, said.begins);
            }
            answer.spans.extend(spans);
            answer.covered.extend(partition, said.covered);
            answer.is_damaged |= said.is_damaged;
        }
        Err(refusal) => {
            // One trace that is too much says nothing of the collector.
            if !matches!(refusal, Refusal::TooMuch(_)) {
                shared.note_away(partition, &refusal);
            }
            answer.is_behind = true;
            answer.silent.push(partition);
        }
    }
    Ok(())
}
