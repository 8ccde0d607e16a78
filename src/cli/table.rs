//! Text in columns, and text from outside made fit for a terminal.

use unicode_width::{UnicodeWidthChar, UnicodeWidthStr};

/// Text from outside as it may be shown: no control characters, so that a span's name cannot move
/// the cursor or change the terminal.
pub(crate) fn clean(text: &str) -> String {
    let fits = |character: char| !character.is_control() && !is_bidi_control(character);
    text.chars().map(|character| if fits(character) { character } else { '\u{fffd}' }).collect()
}

/// Characters that reorder what stands around them (Unicode Annex 9).
const fn is_bidi_control(character: char) -> bool {
    matches!(character, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// Columns that a text takes.
pub(super) fn width(text: &str) -> usize {
    UnicodeWidthStr::width(text)
}

/// The text in exactly so many columns: padded, or cut with `…`.
pub(super) fn fit(text: &str, columns: usize) -> String {
    if width(text) <= columns {
        let padding = columns.saturating_sub(width(text));
        return format!("{text}{}", " ".repeat(padding));
    }
    let mut cut = String::new();
    let mut taken = 1;
    for character in text.chars() {
        taken += character.width().unwrap_or(0);
        if taken > columns {
            break;
        }
        cut.push(character);
    }
    cut.push('…');
    let padding = columns.saturating_sub(width(&cut));
    format!("{cut}{}", " ".repeat(padding))
}

/// The text at the right of so many columns.
pub(super) fn fit_right(text: &str, columns: usize) -> String {
    let padding = columns.saturating_sub(width(text));
    format!("{}{text}", " ".repeat(padding))
}

/// A table: every column as wide as its widest cell, the last one cut to the total.
pub(super) fn table(head: &[&str], rows: &[Vec<String>], columns: usize) -> Vec<String> {
    let mut widths: Vec<usize> = head.iter().map(|cell| width(cell)).collect();
    for row in rows {
        for (slot, cell) in widths.iter_mut().zip(row) {
            *slot = (*slot).max(width(cell));
        }
    }
    let line = |cells: &mut dyn Iterator<Item = &str>| {
        let mut text = String::new();
        for (cell, width) in cells.zip(&widths) {
            text.push_str(&fit(cell, *width));
            text.push_str("  ");
        }
        let text = text.trim_end();
        if width(text) > columns { fit(text, columns) } else { text.to_owned() }
    };
    let mut lines = vec![line(&mut head.iter().copied())];
    lines.extend(rows.iter().map(|row| line(&mut row.iter().map(String::as_str))));
    lines
}

/// Nanoseconds as people say them: three digits and a unit.
pub(crate) fn duration(nanos: u64) -> String {
    let units = [(1_000_000_000_u64, "s"), (1_000_000, "ms"), (1_000, "µs")];
    for (factor, unit) in units {
        if nanos >= factor {
            let whole = nanos / factor;
            let hundredths = nanos % factor * 100 / factor;
            return match whole {
                0..=9 => format!("{whole}.{hundredths:02} {unit}"),
                10..=99 => format!("{whole}.{} {unit}", hundredths / 10),
                _ => format!("{whole} {unit}"),
            };
        }
    }
    format!("{nanos} ns")
}

/// A time of days, hours or minutes as people say it.
pub(super) fn long_time(millis: u64) -> String {
    let seconds = millis / 1_000;
    for (unit_seconds, unit) in [(86_400, "d"), (3_600, "h"), (60, "min")] {
        if seconds >= 2 * unit_seconds {
            return format!("{} {unit}", seconds / unit_seconds);
        }
    }
    duration(millis.saturating_mul(1_000_000))
}

/// Bytes as people say them.
pub(crate) fn bytes(bytes: u64) -> String {
    for (shift, unit) in [(30_u32, "GiB"), (20, "MiB"), (10, "KiB")] {
        if bytes >> shift > 0 {
            let tenths = (bytes >> (shift - 10)) % 1_024 * 10 / 1_024;
            return format!("{}.{tenths} {unit}", bytes >> shift);
        }
    }
    format!("{bytes} B")
}

/// A moment as RFC 3339 in UTC, to the millisecond.
pub(crate) fn moment(unix_nanos: u64) -> String {
    let millis = i64::try_from(unix_nanos / 1_000_000).unwrap_or(i64::MAX);
    match jiff::Timestamp::from_millisecond(millis) {
        Ok(timestamp) => format!("{timestamp:.3}"),
        Err(_) => format!("{unix_nanos} ns since 1970"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_from_outside_cannot_steer_the_terminal() {
        assert_eq!(clean("a\u{1b}[31mb\nc\u{202e}d"), "a\u{fffd}[31mb\u{fffd}c\u{fffd}d");
    }

    #[test]
    fn text_takes_exactly_its_columns_however_wide_its_letters_are() {
        for text in ["", "abc", "abcdef", "支払い", "a支払いb", "é"] {
            for columns in 1..8 {
                assert_eq!(width(&fit(text, columns)), columns, "{text} in {columns}");
            }
        }
        assert_eq!(fit("abcdef", 4), "abc…");
    }

    #[test]
    fn durations_have_three_digits() {
        for (nanos, text) in [
            (0, "0 ns"),
            (999, "999 ns"),
            (1_500, "1.50 µs"),
            (12_345_678, "12.3 ms"),
            (345_678_901, "345 ms"),
            (7_000_000_000, "7.00 s"),
            (u64::MAX, "18446744073 s"),
        ] {
            assert_eq!(duration(nanos), text);
        }
    }

    #[test]
    fn long_times_are_days_hours_and_minutes() {
        for (seconds, text) in [
            (7 * 86_400, "7 d"),
            (86_400, "24 h"),
            (3_600, "60 min"),
            (119, "119 s"),
            (u64::MAX / 1_000, "213503982334 d"),
        ] {
            assert_eq!(long_time(seconds * 1_000), text);
        }
    }

    #[test]
    fn moments_beyond_the_calendar_do_not_fail() {
        assert_eq!(moment(1_790_000_000_123_000_000), "2026-09-21T14:13:20.123Z");
        assert!(!moment(u64::MAX).is_empty());
    }

    #[test]
    fn a_table_aligns_and_keeps_within_its_columns() {
        let rows = [vec!["a".to_owned(), "long cell".to_owned()], vec!["bbb".into(), "c".into()]];
        assert_eq!(table(&["x", "y"], &rows, 80), ["x    y", "a    long cell", "bbb  c"]);
        assert!(table(&["x", "y"], &rows, 8).iter().all(|line| width(line) <= 8));
    }
}
