//! Letters without one of their traces.

use proto::SpanBatch;
use trace_model::{TenantId, TraceId};

use super::{DeadLetter, DeadLetterError, DeadLetters};

impl DeadLetters {
    /// Takes one trace of a tenant out of all letters: its spans, its id and what only they referred
    /// to are in no letter when this returns. A letter that held nothing else goes. Gives how many
    /// letters were rewritten or removed and how many spans are gone. A letter that cannot be read
    /// may hold the trace and is an error.
    pub fn erase(
        &self,
        tenant: &TenantId,
        trace_id: TraceId,
    ) -> Result<(u64, u64), DeadLetterError> {
        let (mut letters, mut spans) = (0_u64, 0_u64);
        let mut unread = None;
        for summary in self.list(0, usize::MAX)? {
            let erased =
                summary.and_then(|summary| self.erase_from(summary.sequence, tenant, trace_id));
            match erased {
                Ok(0) => {}
                Ok(gone) => {
                    letters = letters.saturating_add(1);
                    spans = spans.saturating_add(gone);
                }
                // What can be erased is, whatever else cannot be read.
                Err(error) => drop(unread.get_or_insert(error)),
            }
        }
        unread.map_or(Ok((letters, spans)), Err)
    }

    /// Gives how many spans are gone.
    fn erase_from(
        &self,
        sequence: u64,
        tenant: &TenantId,
        trace_id: TraceId,
    ) -> Result<u64, DeadLetterError> {
        let Some(letter) = self.take_for_retry(sequence)? else { return Ok(0) };
        let damaged = |_| DeadLetterError::Damaged { sequence, reason: "its batch cannot be read" };
        let batch = SpanBatch::decode(letter.encoded.clone()).map_err(damaged)?;
        if batch.source().tenant != *tenant {
            return Ok(0);
        }
        let Some(left) = batch.without_trace(trace_id).map_err(damaged)? else { return Ok(0) };
        if left.spans().is_empty() {
            self.settle(sequence)?;
        } else {
            let encoded = left.encoded().clone();
            self.rewrite(sequence, &DeadLetter { encoded, ..letter })?;
        }
        let gone = batch.spans().len().saturating_sub(left.spans().len());
        Ok(u64::try_from(gone).unwrap_or(u64::MAX))
    }
}
