//! Names of indices: `PREFIX.TENANT-jaeger-span-YYYY-MM-DD`, as Jaeger makes them of the index prefix
//! `PREFIX.TENANT`, and which of them a range of time needs.
//!
//! A prefix holds no dot and a tenant's part begins behind the first one, so cells never meet. The
//! tenant's part is one to one but for very long names, which are hashed: every document carries its
//! tenant as well, and every question of ours asks for it.

use std::fmt;

use trace_model::{TenantId, TimeRange, UnixNanos};
use xxhash_rust::xxh3::xxh3_128;

const NANOS_PER_DAY: u64 = 24 * 3_600 * 1_000_000_000;
/// Longest part of a name that a tenant takes; a name has 255 bytes at most.
const TENANT_BYTES_MAX: usize = 150;
/// A question about more days than this goes to all of them: the engine rules days out by itself.
const DAYS_MAX: u64 = 40;

/// A day of UTC, counted from the epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Day(u64);

impl Day {
    /// The day of a time.
    pub(super) const fn of(time: UnixNanos) -> Self {
        Self(time.0 / NANOS_PER_DAY)
    }
}

impl Day {
    /// When it begins.
    pub(super) const fn start(self) -> UnixNanos {
        UnixNanos(self.0.saturating_mul(NANOS_PER_DAY))
    }

    /// The day of a `YYYY-MM-DD` from 1970 on.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let mut parts = text.split('-').map(|part| part.parse::<u64>().ok());
        let (year, month, day) = (parts.next()??, parts.next()??, parts.next()??);
        if !(1_970..=2_500).contains(&year) || !(1..=12).contains(&month) {
            return None;
        }
        // March begins a year, so that leap days come last.
        let (year, month) = if month < 3 { (year - 1, month + 9) } else { (year, month - 3) };
        let of_year = (153 * month + 2) / 5 + day.checked_sub(1)?;
        let days = year * 365 + year / 4 - year / 100 + year / 400 + of_year;
        // What no calendar has is printed otherwise.
        let found = Self(days.checked_sub(719_468)?);
        (found.to_string() == text).then_some(found)
    }
}

impl fmt::Display for Day {
    /// Counts days from 1 March of a year divisible by 400, so that leap days come last.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let days = self.0.saturating_add(719_468);
        let (era, of_era) = (days / 146_097, days % 146_097);
        let leap_free = of_era
            .saturating_add(of_era / 36_524)
            .saturating_sub(of_era / 1_460 + of_era / 146_096);
        let year_of_era = leap_free / 365;
        let before = year_of_era * 365 + year_of_era / 4 - year_of_era / 100;
        let of_year = of_era.saturating_sub(before);
        let shifted = (5 * of_year + 2) / 153;
        let day = of_year.saturating_sub((153 * shifted + 2) / 5) + 1;
        let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
        let year = era * 400 + year_of_era + u64::from(month <= 2);
        write!(formatter, "{year:04}-{month:02}-{day:02}")
    }
}

/// Where a document stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Shelf {
    /// With its day.
    Day(Day),
    /// With its day, which no longer takes anything: in the index beside it.
    Late(Day),
    /// With those that lie outside the retention or ahead of time.
    Outlying,
}

impl fmt::Display for Shelf {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Day(day) => write!(formatter, "{day}"),
            Self::Late(day) => write!(formatter, "{day}-late"),
            Self::Outlying => formatter.write_str("outlying"),
        }
    }
}

/// What an index holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Kind {
    /// Spans.
    Spans,
    /// Services and their operations.
    Services,
}

impl Kind {
    /// Its word in the names of indices.
    pub(super) const fn word(self) -> &'static str {
        match self {
            Self::Spans => "jaeger-span",
            Self::Services => "jaeger-service",
        }
    }
}

/// Makes the names of one cell.
#[derive(Clone, Debug)]
pub(super) struct Names {
    prefix: String,
}

impl Names {
    pub(super) const fn new(prefix: String) -> Self {
        Self { prefix }
    }

    /// Name of a template or an index of our own.
    pub(super) fn own(&self, what: &str) -> String {
        format!("{}-farspan-{what}", self.prefix)
    }

    /// The index with tombstones and progress.
    pub(super) fn state(&self) -> String {
        self.own("state")
    }

    /// All indices of a kind, of every tenant, as a template's pattern.
    pub(super) fn pattern(&self, kind: Kind) -> String {
        format!("{}.*-{}-*", self.prefix, kind.word())
    }

    /// The outlying index of a kind, of every tenant, as a pattern.
    pub(super) fn outlying_pattern(&self, kind: Kind) -> String {
        format!("{}.*-{}-{}*", self.prefix, kind.word(), Shelf::Outlying)
    }

    /// The companions of a kind, of all days and every tenant, as a pattern.
    pub(super) fn late_pattern(&self, kind: Kind) -> String {
        format!("{}.*-{}-*-late", self.prefix, kind.word())
    }

    /// The index prefix under which a stock Jaeger reads a tenant.
    pub(super) fn jaeger_prefix(&self, tenant: &TenantId) -> String {
        format!("{}.{}", self.prefix, tenant_part(tenant.as_str()))
    }

    /// The tenant's part, the kind and the rest of the name of an index of this cell.
    pub(super) fn parts<'a>(&self, index: &'a str) -> Option<(&'a str, Kind, &'a str)> {
        let rest = index.strip_prefix(&self.prefix)?.strip_prefix('.')?;
        // Jaeger's word stands within no tenant's part.
        [Kind::Spans, Kind::Services].into_iter().find_map(|kind| {
            let (part, rest) = rest.split_once(&format!("-{}-", kind.word()))?;
            Some((part, kind, rest))
        })
    }

    /// The indices of the tenant with this part and of a kind.
    pub(super) fn of_part(&self, part: &str, kind: Kind) -> TenantNames {
        TenantNames { base: format!("{}.{part}-{}-", self.prefix, kind.word()) }
    }

    /// The indices of a tenant and kind.
    pub(super) fn of(&self, tenant: &TenantId, kind: Kind) -> TenantNames {
        TenantNames { base: format!("{}-{}-", self.jaeger_prefix(tenant), kind.word()) }
    }
}

/// Names of one tenant's indices of one kind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct TenantNames {
    base: String,
}

impl TenantNames {
    pub(super) fn index(&self, shelf: Shelf) -> String {
        format!("{}{shelf}", self.base)
    }

    /// The alias by which a Jaeger with read aliases finds all of them.
    pub(super) fn read_alias(&self) -> String {
        format!("{}read", self.base)
    }

    /// Patterns of all indices.
    pub(super) fn all(&self) -> Vec<String> {
        vec![format!("{}2*", self.base), format!("{}1*", self.base), self.outlying()]
    }

    /// Patterns of the indices that may hold what is placed in the range.
    pub(super) fn within(&self, range: TimeRange) -> Vec<String> {
        let first = Day::of(range.start);
        let last = Day::of(range.end.minus(1));
        if last.0.saturating_sub(first.0) >= DAYS_MAX {
            return self.all();
        }
        let days = (first.0..=last.0).map(|day| format!("{}{}*", self.base, Day(day)));
        days.chain([self.outlying()]).collect()
    }

    fn outlying(&self) -> String {
        format!("{}*", self.index(Shelf::Outlying))
    }
}

/// A tenant as a part of an index's name. `_` escapes: itself doubled, any other byte in hex.
fn tenant_part(tenant: &str) -> String {
    // A name within which Jaeger's own word stands would be found by another's pattern.
    let keeps_dash = !tenant.contains("-jaeger-") && !tenant.ends_with("-jaeger");
    let mut part = String::with_capacity(tenant.len());
    for byte in tenant.bytes() {
        match byte {
            b'a'..=b'z' | b'0'..=b'9' | b'.' => part.push(char::from(byte)),
            b'-' if keeps_dash => part.push('-'),
            b'_' => part.push_str("__"),
            other => part.push_str(&format!("_{other:02x}")),
        }
    }
    if part.len() <= TENANT_BYTES_MAX {
        return part;
    }
    // `_z` begins no escape, so a hashed name is never that of another tenant.
    format!("_z{:032x}", xxh3_128(tenant.as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tenant(name: &str) -> TenantId {
        TenantId::new(name).unwrap()
    }

    #[test]
    fn days_are_those_of_the_calendar() {
        for (seconds, text) in [
            (0, "1970-01-01"),
            (951_782_399, "2000-02-28"),
            (951_782_400, "2000-02-29"),
            (951_868_800, "2000-03-01"),
            (1_790_000_400, "2026-09-21"),
            (1_798_761_599, "2026-12-31"),
            (4_107_542_400, "2100-03-01"),
            (18_446_744_073, "2554-07-21"),
        ] {
            assert_eq!(Day::of(UnixNanos(seconds * 1_000_000_000)).to_string(), text);
        }
    }

    #[test]
    fn every_day_is_read_as_it_is_written_and_nothing_else_is_a_day() {
        for day in 0..60_000 {
            let day = Day(day);
            assert_eq!(Day::parse(&day.to_string()), Some(day));
            assert_eq!(Day::of(day.start()), day);
        }
        for text in ["", "2026-02-29", "2026-13-01", "2026-01-00", "26-01-01", "2026-1-1", "read"] {
            assert_eq!(Day::parse(text), None, "{text}");
        }
        assert_eq!(Day::parse("2026-01-01-late"), None);
    }

    #[test]
    fn tenants_are_named_one_to_one_with_what_an_index_may_hold() {
        let long = "X".repeat(150);
        let tenants = [
            "default",
            "Default",
            "team-a",
            "team_a",
            "team__a",
            "team.a",
            "a*",
            "a!",
            "_5f",
            "(x)'",
            "x-jaeger-span-2026-01-01",
            "x-jaeger",
            "x_2djaeger",
            &long,
            "_z",
            "..a",
        ];
        let parts: std::collections::BTreeSet<String> =
            tenants.iter().map(|name| tenant_part(name)).collect();
        assert_eq!(parts.len(), tenants.len());
        let fits =
            |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-_.".contains(&byte);
        for part in &parts {
            assert!(part.len() <= 150 && part.bytes().all(fits), "{part}");
            assert!(!part.contains("-jaeger"), "{part}");
        }
        assert_eq!(tenant_part("team-a"), "team-a");
        assert_eq!(tenant_part("Team_A"), "_54eam___41");
    }

    #[test]
    fn a_range_names_its_days_their_companions_and_the_outlying() {
        let names = Names::new("eu".to_owned()).of(&tenant("default"), Kind::Spans);
        let day = UnixNanos(1_790_000_400_000_000_000);
        let range = TimeRange { start: day, end: day.plus(1) };
        assert_eq!(
            names.within(range),
            ["eu.default-jaeger-span-2026-09-21*", "eu.default-jaeger-span-outlying*"]
        );
        assert_eq!(names.within(TimeRange::ALL), names.all());
        let two = TimeRange { start: day, end: UnixNanos(1_790_035_200_000_000_001) };
        assert_eq!(names.within(two).len(), 3);
        let midnight = TimeRange { end: UnixNanos(1_790_035_200_000_000_000), ..two };
        assert_eq!(names.within(midnight).len(), 2);
        assert_eq!(
            names.index(Shelf::Late(Day::of(day))),
            "eu.default-jaeger-span-2026-09-21-late"
        );
    }
}
