//! A block whose rows were judged by a filter, and the matches in it.

use std::sync::Arc;

use trace_model::{Region, TimeRange, TraceId, UnixNanos};

use super::block_decode::Block;
use super::contexts::ReadContext;
use super::cursor::Corrupt;

/// A block whose rows were judged.
pub(super) struct Judged {
    pub(super) block: Block,
    pub(super) contexts: Arc<Vec<ReadContext>>,
    pub(super) rows: Vec<bool>,
}

/// A span that matches.
pub(super) struct Match<'a> {
    pub(super) trace_id: TraceId,
    pub(super) placed: UnixNanos,
    pub(super) service: &'a Arc<str>,
    pub(super) region: &'a Region,
}

impl Judged {
    /// The matches of the traces that are meant, in the range.
    pub(super) fn matches(
        &self,
        range: TimeRange,
        is_meant: impl Fn(TraceId) -> bool,
    ) -> Result<Vec<Match<'_>>, Corrupt> {
        let mut matches = Vec::new();
        for run in &self.block.traces {
            let verdicts = self.rows.get(run.first..run.first + run.rows).unwrap_or(&[]);
            if !verdicts.contains(&true) || !is_meant(run.trace_id) {
                continue;
            }
            for (row, _) in (run.first..).zip(verdicts).filter(|(_, verdict)| **verdict) {
                let placed = UnixNanos(self.block.placed(row)?);
                let context = self.block.contexts.get(row);
                let context = context.and_then(|at| self.contexts.get(*at as usize));
                if let Some(context) = context
                    && range.contains(placed)
                {
                    let region = &self.block.source_of(row)?.envelope.region;
                    let service = &context.context.service;
                    matches.push(Match { trace_id: run.trace_id, placed, service, region });
                }
            }
        }
        Ok(matches)
    }
}
