//! Places in the log as people write them.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;
use trace_model::UnixNanos;

use crate::seam::replay::Place;

/// Reads a place.
///
/// # Errors
/// With all the forms that there are.
pub(super) fn place(text: &str) -> Result<Place, String> {
    let trimmed = text.trim();
    let read = match trimmed {
        "earliest" => Some(Place::Earliest),
        "end" => Some(Place::End),
        _ => number(trimmed)
            .map(Place::Offset)
            .or_else(|| offsets(trimmed).map(Place::Offsets))
            .or_else(|| ago(trimmed).map(Place::Ago))
            .or_else(|| moment(trimmed).map(Place::At)),
    };
    read.ok_or_else(|| {
        "is no time (2026-11-28T02:00:00Z), no time ago (90s, 10m, 2h, 1d), no offset (1200), no \
         offsets of partitions (0:1200,3:40), and neither `earliest` nor `end`"
            .to_owned()
    })
}

/// Digits alone: no sign, no blank.
fn number(text: &str) -> Option<u64> {
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok()).flatten()
}

/// `PARTITION:OFFSET,…`, each partition once.
fn offsets(text: &str) -> Option<BTreeMap<u32, u64>> {
    let mut offsets = BTreeMap::new();
    for part in text.split(',') {
        let (partition, offset) = part.split_once(':')?;
        let partition = u32::try_from(number(partition)?).ok()?;
        if offsets.insert(partition, number(offset)?).is_some() {
            return None;
        }
    }
    Some(offsets)
}

fn ago(text: &str) -> Option<Duration> {
    let end = text.find(|letter: char| !letter.is_ascii_digit())?;
    let (count, unit) = text.split_at_checked(end)?;
    let seconds = match unit {
        "s" => 1,
        "m" | "min" => 60,
        "h" => 3_600,
        "d" => 86_400,
        _ => return None,
    };
    Some(Duration::from_secs(number(count)?.checked_mul(seconds)?))
}

fn moment(text: &str) -> Option<UnixNanos> {
    let nanos = text.parse::<Timestamp>().ok()?.as_nanosecond();
    u64::try_from(nanos).ok().map(UnixNanos)
}

/// `PARTITION:OFFSET,…`, as [`place`] reads it.
pub(super) fn text_of(offsets: impl Iterator<Item = (u32, u64)>) -> String {
    let one = |(partition, offset)| format!("{partition}:{offset}");
    offsets.map(one).collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form_is_read() {
        let seconds = Duration::from_secs;
        for (text, expected) in [
            ("earliest", Place::Earliest),
            ("end", Place::End),
            ("0", Place::Offset(0)),
            (" 1200 ", Place::Offset(1_200)),
            ("3:40", Place::Offsets([(3, 40)].into())),
            ("0:1200,3:40", Place::Offsets([(0, 1_200), (3, 40)].into())),
            ("90s", Place::Ago(seconds(90))),
            ("2h", Place::Ago(seconds(7_200))),
            ("10m", Place::Ago(seconds(600))),
            ("1d", Place::Ago(seconds(86_400))),
            ("2026-09-21T14:13:20Z", Place::At(UnixNanos(1_790_000_000_000_000_000))),
            ("2026-09-21T16:13:20+02:00", Place::At(UnixNanos(1_790_000_000_000_000_000))),
        ] {
            assert_eq!(place(text), Ok(expected), "{text}");
        }
    }

    #[test]
    fn what_is_no_place_is_refused_with_the_forms() {
        for text in [
            "",
            "-5",
            "+5",
            "5 h",
            "h",
            "2w",
            "1:",
            ":1",
            "1:2,",
            "1:2,1:3",
            "4294967296:0",
            "x",
            "99999999999999999999",
            "999999999999999999d",
            "2026-09-21",
            "1969-01-01T00:00:00Z",
        ] {
            let refused = place(text).unwrap_err();
            assert!(refused.contains("0:1200,3:40") && refused.contains("2h"), "{text}: {refused}");
        }
    }

    #[test]
    fn offsets_are_written_as_they_are_read() {
        let offsets = [(0, 1_200), (3, 40)];
        assert_eq!(place(&text_of(offsets.into_iter())), Ok(Place::Offsets(offsets.into())));
    }
}
