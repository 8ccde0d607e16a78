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
        for summary in self.list(0, usize::MAX)? {
            let sequence = summary?.sequence;
            let Some(letter) = self.take_for_retry(sequence)? else { continue };
            let damaged =
                |_| DeadLetterError::Damaged { sequence, reason: "its batch cannot be read" };
            let batch = SpanBatch::decode(letter.encoded.clone()).map_err(damaged)?;
            if batch.source().tenant != *tenant {
                continue;
            }
            let Some(left) = batch.without_trace(trace_id).map_err(damaged)? else { continue };
            let gone = batch.spans().len().saturating_sub(left.spans().len());
            letters = letters.saturating_add(1);
            spans = spans.saturating_add(u64::try_from(gone).unwrap_or(u64::MAX));
            if left.spans().is_empty() {
                self.settle(sequence)?;
            } else {
                let encoded = left.encoded().clone();
                self.rewrite(sequence, &DeadLetter { encoded, ..letter })?;
            }
        }
        Ok((letters, spans))
    }
}
