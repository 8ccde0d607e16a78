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

/// What a collector's tail has said, checked.
struct Said {
    spans: Vec<StoredSpan>,
    committed: u64,
    covered: u64,
    is_damaged: bool,
    lost: Vec<v1::LostRecords>,
    lost_expired_until: u64,
}

impl Said {
    fn read(said: v1::ReadTailResponse, trace_id: TraceId) -> Result<Self, Refusal> {
        let mut spans = Vec::new();
        for frame in said.frames {
            let unpacked = unpack_frame(frame, trace_id);
            spans.extend(unpacked.map_err(|error| Refusal::Away(error.to_string()))?);
        }
        let v1::ReadTailResponse { committed, covered, is_damaged, lost, .. } = said;
        let lost_expired_until = said.lost_expired_until_unix_nano;
        Ok(Self { spans, committed, covered, is_damaged, lost, lost_expired_until })
    }
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
    };
    for partition in 0..shared.count() {
        let Some(seat) = shared.seat(partition).filter(|seat| !seat.is_retired()) else { continue };
        let Some(client) = shared.client(partition).filter(|_| seat.fault.is_none()) else {
            answer.is_behind = true;
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
            (partition, said.and_then(|said| Said::read(said, trace_id)))
        });
    }
    while let Some(said) = asking.join_next().await {
        let (partition, said) = said.map_err(|error| LogError::Unavailable(error.to_string()))?;
        take(shared, partition, said, &mut answer)?;
    }
    Ok(answer)
}

fn take(
    shared: &Shared,
    partition: u32,
    said: Result<Said, Refusal>,
    answer: &mut TailAnswer,
) -> Result<(), LogError> {
    match said {
        Ok(said) => {
            // Before anybody asks where the tail begins: it begins there, or later.
            shared.with(partition, |seat| {
                seat.note_stored(said.committed);
                seat.learn_lost(&said.lost, said.lost_expired_until);
            })?;
            answer.spans.extend(said.spans);
            answer.covered.extend(partition, said.covered);
            answer.is_damaged |= said.is_damaged;
        }
        Err(refusal) => {
            shared.note_away(partition, &refusal);
            answer.is_behind = true;
        }
    }
    Ok(())
}
