//! How far a replay is: a line that is drawn over on a terminal, a line now and then elsewhere.

use std::collections::VecDeque;
use std::time::Duration;

use ingester::ReplayProgress;

use crate::cli::duration;

/// The rate is that of so much time.
const WINDOW: Duration = Duration::from_secs(10);
/// Cells of the bar.
const CELLS: u64 = 24;

/// What is remembered to tell the rate.
#[derive(Debug, Default)]
pub(super) struct Bar {
    seen: VecDeque<(Duration, u64)>,
}

/// Hundredths of a percent; all of nothing is all.
pub(super) fn hundredths(progress: &ReplayProgress) -> u64 {
    if progress.records >= progress.total {
        return 10_000;
    }
    let share = u128::from(progress.records) * 10_000 / u128::from(progress.total.max(1));
    u64::try_from(share).unwrap_or(10_000)
}

impl Bar {
    /// Records a second over the last while, as of this time since the start.
    fn rate(&mut self, records: u64, now: Duration) -> u64 {
        self.seen.push_back((now, records));
        while self.seen.len() > 2
            && self.seen.get(1).is_some_and(|(at, _)| now.saturating_sub(*at) >= WINDOW)
        {
            self.seen.pop_front();
        }
        let Some((since, before)) = self.seen.front() else { return 0 };
        let millis = now.saturating_sub(*since).as_millis();
        let records = u128::from(records.saturating_sub(*before));
        (records * 1_000).checked_div(millis).and_then(|rate| u64::try_from(rate).ok()).unwrap_or(0)
    }

    /// The line of this moment.
    pub(super) fn line(
        &mut self,
        progress: &ReplayProgress,
        now: Duration,
        has_bar: bool,
    ) -> String {
        let rate = self.rate(progress.records, now);
        let share = hundredths(progress);
        let mut line = String::new();
        if has_bar {
            let full = share * CELLS / 10_000;
            let cell = |place: u64| if place < full { '#' } else { '.' };
            line = format!("[{}] ", (0..CELLS).map(cell).collect::<String>());
        }
        let (whole, rest) = (share / 100, share % 100);
        line.push_str(&format!(
            "{whole}.{rest:02} %  {} of {} records, {} spans, {rate} records/s",
            progress.records, progress.total, progress.spans
        ));
        let left = progress.total.saturating_sub(progress.records);
        if let (Some(reason), true) = (&progress.waits, left > 0) {
            line.push_str(&format!("; waits: {reason}"));
        } else if let (Some(seconds), true) = (left.checked_div(rate), left > 0) {
            line.push_str(&format!(", {} left", time_left(seconds)));
        }
        line
    }
}

fn time_left(seconds: u64) -> String {
    match seconds {
        0..=119 => duration(seconds.max(1) * 1_000_000_000),
        120..=7_199 => format!("{} min", seconds / 60),
        _ => format!("{} h", seconds / 3_600),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(records: u64, total: u64) -> ReplayProgress {
        ReplayProgress { records, total, spans: records.saturating_mul(2), waits: None }
    }

    #[test]
    fn a_line_says_how_far_how_fast_and_how_long() {
        let mut bar = Bar::default();
        let second = Duration::from_secs(1);
        let first = bar.line(&at(0, 1_000), Duration::ZERO, false);
        assert_eq!(first, "0.00 %  0 of 1000 records, 0 spans, 0 records/s");
        let line = bar.line(&at(250, 1_000), 2 * second, true);
        let expected = "[######..................] 25.00 %  250 of 1000 records, 500 spans, \
                        125 records/s, 6.00 s left";
        assert_eq!(line, expected);
        let done = bar.line(&at(1_000, 1_000), 4 * second, false);
        assert_eq!(done, "100.00 %  1000 of 1000 records, 2000 spans, 250 records/s");
        let waiting = ReplayProgress { waits: Some("it is away".to_owned()), ..at(1, 3) };
        assert!(Bar::default().line(&waiting, second, false).ends_with("/s; waits: it is away"));
    }

    #[test]
    fn the_rate_is_that_of_the_last_while() {
        let mut bar = Bar::default();
        let second = Duration::from_secs(1);
        for step in 0..=60_u32 {
            bar.rate(u64::from(step) * 10, second * step);
        }
        assert_eq!(bar.rate(100_600, 61 * second), 10_009);
        assert_eq!(bar.rate(100_600, 90 * second), 0, "nothing came for a while");
    }

    #[test]
    fn shares_are_exact_also_of_nothing_and_of_very_much() {
        assert_eq!(hundredths(&at(0, 0)), 10_000);
        assert_eq!(hundredths(&at(1, 3)), 3_333);
        assert_eq!(hundredths(&at(u64::MAX - 1, u64::MAX)), 9_999);
        assert_eq!(hundredths(&at(9, 7)), 10_000);
    }
}
