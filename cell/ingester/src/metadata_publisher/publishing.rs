//! Rows and watermarks on their way into the origin log.

use std::time::Duration;

use trace_model::UnixNanos;
use trace_model::location::Contribution;

use super::open_trace::{self, OpenTrace};
use super::{MetadataPublisher, TraceKey, policy, retry};
use crate::handler::HandleError;

/// Rows appended in one call.
const APPEND_ROWS_MAX: usize = 4096;

impl MetadataPublisher {
    /// Appends the rows of these traces, and behind the last of them the watermark.
    pub(super) async fn publish(
        &mut self,
        keys: &[TraceKey],
        log_end: Option<UnixNanos>,
        now: Duration,
    ) -> Result<(), HandleError> {
        let mut parts = keys.chunks(APPEND_ROWS_MAX).peekable();
        while let Some(part) = parts.next() {
            let end = if parts.peek().is_none() { log_end } else { None };
            self.publish_part(part, end, now).await?;
        }
        if keys.is_empty() {
            self.publish_part(&[], log_end, now).await?;
        }
        Ok(())
    }

    pub(super) async fn publish_part(
        &mut self,
        keys: &[TraceKey],
        log_end: Option<UnixNanos>,
        now: Duration,
    ) -> Result<(), HandleError> {
        let mut rows = Vec::with_capacity(keys.len());
        for key in keys {
            let Some(open) = self.open.get_mut(key) else { continue };
            let mut row = open.contribution();
            if let Some(offset) = open.first_dirty {
                self.progress.release(open.partition(), offset);
            }
            self.cut_entries(*key, &mut row);
            rows.extend(policy::let_out(self.policy.as_ref(), row));
        }
        let is_alone = rows.is_empty();
        let every = if is_alone { self.config.watermark_every } else { Duration::ZERO };
        let watermark = self.progress.watermark(log_end, now, every);
        if is_alone && watermark.is_none() {
            self.note_published(keys, now);
            return Ok(());
        }
        if let Err(error) = self.log.append(&rows, watermark.as_ref()).await {
            self.hold_again(keys);
            self.metrics.appends_failed.inc();
            return Err(retry(&error));
        }
        self.metrics.contributions_published.inc_by(rows.len() as u64);
        if let Some(watermark) = watermark {
            self.progress.note_appended(watermark, now);
        }
        self.note_published(keys, now);
        Ok(())
    }

    /// Keeps as many entry spans as a row may have: of those whose parents are not in another partition
    /// either.
    fn cut_entries(&self, key: TraceKey, row: &mut Contribution) {
        let Some(detail) = &mut row.detail else { return };
        if self.pace.is_some() {
            let others = (0..self.progress.partitions()).filter(|one| *one != key.partition);
            let others =
                others.filter_map(|partition| self.open.get(&TraceKey { partition, ..key }));
            let others: Vec<&OpenTrace> = others.collect();
            let is_held = |parent| others.iter().any(|other| other.has(parent));
            detail.entries.retain(|entry| !is_held(entry.parent_span_id));
        }
        open_trace::cut_entries(detail);
    }

    /// What was not appended is held back again.
    fn hold_again(&mut self, keys: &[TraceKey]) {
        for key in keys {
            let Some(open) = self.open.get(key) else { continue };
            if let Some(offset) = open.first_dirty {
                self.progress.hold_again(open.partition(), offset);
            }
        }
        self.progress.forget_released();
    }

    fn note_published(&mut self, keys: &[TraceKey], now: Duration) {
        self.progress.forget_released();
        for key in keys {
            let Some(open) = self.open.get_mut(key) else { continue };
            open.first_dirty = None;
            open.published_at = Some(now);
            self.schedule.add(*key, open.seen_at.saturating_add(self.config.quiet_after));
        }
    }
}
