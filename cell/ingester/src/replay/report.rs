//! How far a replay is, and what it did.

use span_log::DamagedRange;
use tokio::sync::watch;
use trace_model::LogRange;

/// Records that were left out are named up to this many runs; more are counted.
const NAMED_MAX: usize = 1_000;

/// How far a replay is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ReplayProgress {
    /// Records that are behind it.
    pub records: u64,
    /// Records in all.
    pub total: u64,
    /// Spans of the records that were taken.
    pub spans: u64,
    /// Why it does not go on at the moment.
    pub waits: Option<String>,
}

/// Records that were not taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeftOut {
    /// Which.
    pub range: LogRange,
    /// Why.
    pub reason: String,
}

/// What a replay did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ReplayReport {
    /// How far it came.
    pub progress: ReplayProgress,
    /// Records that the store refuses, as far as they are named.
    pub refused: Vec<LeftOut>,
    /// How many records the store refuses.
    pub refused_records: u64,
    /// Records whose bytes are damaged, as far as they are named.
    pub damaged: Vec<LeftOut>,
    /// How many records are damaged.
    pub damaged_records: u64,
    /// Records that the log gave up before they were read.
    pub expired_records: u64,
    /// What is not durable where it was to go: from `first` on, another replay goes on. Empty where
    /// everything is.
    pub left: Vec<LogRange>,
    /// Why it was refused for good, where it was: another does the same work since it began.
    pub fenced: Option<String>,
}

impl ReplayReport {
    /// Whether all records were taken.
    #[must_use]
    pub const fn is_whole(&self) -> bool {
        self.left.is_empty()
            && self.fenced.is_none()
            && self.refused_records == 0
            && self.damaged_records == 0
            && self.expired_records == 0
    }
}

/// Counts while a replay runs.
#[derive(Debug)]
pub(super) struct Tally {
    report: ReplayReport,
    told: watch::Sender<ReplayProgress>,
}

impl Tally {
    pub(super) fn new(total: u64) -> Self {
        let progress = ReplayProgress { total, ..ReplayProgress::default() };
        let report = ReplayReport { progress: progress.clone(), ..ReplayReport::default() };
        Self { report, told: watch::channel(progress).0 }
    }

    pub(super) fn watched(&self) -> watch::Receiver<ReplayProgress> {
        self.told.subscribe()
    }

    pub(super) const fn records(&self) -> u64 {
        self.report.progress.records
    }

    pub(super) fn taken(&mut self, records: u64, spans: u64) {
        let progress = &mut self.report.progress;
        progress.records = progress.records.saturating_add(records);
        progress.spans = progress.spans.saturating_add(spans);
        progress.waits = None;
        self.tell();
    }

    pub(super) fn waits(&mut self, reason: &str) {
        self.report.progress.waits = Some(reason.to_owned());
        self.tell();
    }

    fn tell(&self) {
        self.told.send_replace(self.report.progress.clone());
    }

    pub(super) fn refused(&mut self, refused: &DamagedRange) {
        let report = &mut self.report;
        note(&mut report.refused, &mut report.refused_records, refused);
    }

    pub(super) fn damaged(&mut self, damaged: &DamagedRange) {
        let report = &mut self.report;
        note(&mut report.damaged, &mut report.damaged_records, damaged);
    }

    pub(super) fn expired(&mut self, expired: &DamagedRange) {
        let records = records_of(expired);
        self.report.expired_records = self.report.expired_records.saturating_add(records);
    }

    pub(super) fn report(mut self, left: Vec<LogRange>, fenced: Option<String>) -> ReplayReport {
        (self.report.left, self.report.fenced) = (left, fenced);
        self.report.progress.waits = None;
        self.report
    }
}

const fn records_of(damaged: &DamagedRange) -> u64 {
    damaged.range.next.saturating_sub(damaged.range.first)
}

fn note(named: &mut Vec<LeftOut>, records: &mut u64, damaged: &DamagedRange) {
    *records = records.saturating_add(records_of(damaged));
    if named.len() < NAMED_MAX {
        named.push(LeftOut { range: damaged.range, reason: damaged.reason.clone() });
    }
}
