//! What was found: a figure beside its limit, judged. Pure.

use std::time::Duration;

use super::limits::{Edge, Limit, Unit};
use crate::cli::{bytes, duration};

/// Who is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, clap::ValueEnum)]
pub(crate) enum Part {
    /// This machine: processor, memory, disk, kernel.
    Machine,
    /// Files of an embedded log or store.
    Embedded,
    /// The running process of the file.
    Cell,
    /// Kafka.
    Kafka,
    /// Cassandra or Scylla.
    Cassandra,
    /// Elasticsearch or OpenSearch.
    Elasticsearch,
    /// ClickHouse.
    Clickhouse,
    /// Redis, of gateways.
    Redis,
}

impl Part {
    /// Its word: in the table, in `--only`, and as the label `engine`.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Machine => "machine",
            Self::Embedded => "embedded",
            Self::Cell => "cell",
            Self::Kafka => "kafka",
            Self::Cassandra => "cassandra",
            Self::Elasticsearch => "elasticsearch",
            Self::Clickhouse => "clickhouse",
            Self::Redis => "redis",
        }
    }
}

/// What a finding comes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Verdict {
    /// Within its limits, or without any.
    Ok,
    /// A figure is not known.
    Unknown,
    /// Worth a look.
    Warn,
    /// Something must be done.
    Act,
}

impl Verdict {
    /// Its word.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Unknown => "unknown",
            Self::Warn => "warn",
            Self::Act => "act",
        }
    }
}

/// What was read.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Reading {
    /// A figure, in the unit of its limit.
    Number(f64),
    /// A fact in words, judged where it was found.
    Fact(String, Verdict),
    /// It could not be read, and why.
    Unknown(String),
    /// It is never told here, and where to look.
    Untold(String),
}

/// A line.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Finding {
    pub(crate) part: Part,
    pub(crate) check: &'static str,
    /// Of whom: a node, a group, a topic. "" where there is one.
    pub(crate) subject: String,
    pub(crate) reading: Reading,
    /// Said behind the value.
    pub(crate) note: String,
    pub(crate) limit: Option<&'static Limit>,
    /// Instead of the limit's edge to act at, where the file decides.
    pub(crate) own_edge: Option<f64>,
    /// The label `group` of its metric.
    pub(crate) group: Option<&'static str>,
    /// Instead of the limit's.
    pub(crate) own_advice: Option<String>,
}

impl Finding {
    /// A figure with a limit.
    pub(crate) fn of(limit: &'static Limit, value: f64) -> Self {
        Self::reading(limit, Reading::Number(value))
    }

    /// A figure that is a number of things.
    pub(crate) fn count(limit: &'static Limit, count: u64) -> Self {
        Self::of(limit, float(count))
    }

    /// A figure that is a time.
    pub(crate) fn time(limit: &'static Limit, time: Duration) -> Self {
        Self::of(limit, time.as_secs_f64())
    }

    /// A figure that is known, or why not; without one, nothing was measured yet.
    pub(crate) fn reading(limit: &'static Limit, reading: Reading) -> Self {
        let (part, check) = (limit.part, limit.check);
        Self { limit: Some(limit), ..Self::bare(part, check, reading) }
    }

    /// A fact that no number says.
    pub(crate) fn fact(
        part: Part,
        check: &'static str,
        (text, verdict): (String, Verdict),
        advice: &str,
    ) -> Self {
        let own_advice = Some(advice.to_owned());
        Self { own_advice, ..Self::bare(part, check, Reading::Fact(text, verdict)) }
    }

    /// Something that is shown and not judged.
    pub(crate) fn told(part: Part, check: &'static str, text: impl Into<String>) -> Self {
        Self::bare(part, check, Reading::Fact(text.into(), Verdict::Ok))
    }

    fn bare(part: Part, check: &'static str, reading: Reading) -> Self {
        let (subject, note) = (String::new(), String::new());
        Self {
            part,
            check,
            subject,
            reading,
            note,
            limit: None,
            own_edge: None,
            group: None,
            own_advice: None,
        }
    }

    /// Of whom.
    pub(crate) fn about(self, subject: impl Into<String>) -> Self {
        Self { subject: subject.into(), ..self }
    }

    /// Said behind the value.
    pub(crate) fn noting(self, note: impl Into<String>) -> Self {
        Self { note: note.into(), ..self }
    }

    /// Judges by this edge instead of the limit's; the one to warn at moves along.
    pub(crate) fn with_edge(self, edge: f64) -> Self {
        Self { own_edge: Some(edge), ..self }
    }

    /// The edges that it is judged by: to warn at, to act at.
    pub(crate) fn edges(&self) -> (Option<Edge>, Option<Edge>) {
        let Some(limit) = self.limit else { return (None, None) };
        let (Some(own), Some(act)) = (self.own_edge, limit.act) else {
            return (limit.warn, limit.act);
        };
        let moved = |edge: Edge| match edge {
            Edge::Above(at) if act.at() > 0.0 => Edge::Above(at / act.at() * own),
            Edge::Above(_) => Edge::Above(own),
            Edge::Below(_) => Edge::Below(own),
        };
        (limit.warn.map(moved), limit.act.map(moved))
    }

    /// What it comes to.
    pub(crate) fn verdict(&self) -> Verdict {
        match &self.reading {
            Reading::Number(value) => judge(self.edges(), *value),
            Reading::Fact(_, verdict) => *verdict,
            Reading::Unknown(_) | Reading::Untold(_) => Verdict::Unknown,
        }
    }

    /// Whether it is a reason to end with another code than 0.
    pub(crate) fn is_trouble(&self) -> bool {
        let is_untold = matches!(self.reading, Reading::Untold(_));
        !is_untold && self.verdict() != Verdict::Ok
    }

    /// The value in words.
    pub(crate) fn value(&self) -> String {
        let value = match (&self.reading, self.limit) {
            (Reading::Number(value), Some(limit)) => words(*value, limit.unit),
            (Reading::Number(value), None) => words(*value, Unit::Count),
            (Reading::Fact(text, _), _) => text.clone(),
            (Reading::Unknown(_) | Reading::Untold(_), _) => "?".to_owned(),
        };
        if self.note.is_empty() { value } else { format!("{value} ({})", self.note) }
    }

    /// The limit in words; "" without one.
    pub(crate) fn threshold(&self) -> String {
        let (warn, act) = self.edges();
        let unit = self.limit.map_or(Unit::Count, |limit| limit.unit);
        match act.or(warn) {
            Some(Edge::Above(edge)) => format!("≤ {}", words(edge, unit)),
            Some(Edge::Below(edge)) => format!("≥ {}", words(edge, unit)),
            None => String::new(),
        }
    }

    /// What to do; "" where nothing is to be done.
    pub(crate) fn advice(&self) -> String {
        let own = self.own_advice.as_deref();
        let advice = own.or(self.limit.map(|limit| limit.advice)).unwrap_or_default();
        match &self.reading {
            Reading::Unknown(why) | Reading::Untold(why) => why.clone(),
            Reading::Number(_) | Reading::Fact(..) if self.verdict() == Verdict::Ok => {
                String::new()
            }
            Reading::Number(_) | Reading::Fact(..) => advice.to_owned(),
        }
    }
}

/// Holds a value against its edges.
pub(crate) fn judge((warn, act): (Option<Edge>, Option<Edge>), value: f64) -> Verdict {
    let is_passed = |edge: Option<Edge>| edge.is_some_and(|edge| edge.is_passed_by(value));
    match (is_passed(act), is_passed(warn)) {
        (true, _) => Verdict::Act,
        (false, true) => Verdict::Warn,
        (false, false) => Verdict::Ok,
    }
}

/// A number in its unit, as people say it.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "it is made short for people; what lies beyond an integer is shown as the largest"
)]
pub(crate) fn words(value: f64, unit: Unit) -> String {
    match unit {
        Unit::Ratio => format!("{} %", short(value * 100.0)),
        Unit::Bytes => bytes(value as u64),
        Unit::Count => short(value),
        Unit::Seconds if value == 0.0 => "0 s".to_owned(),
        Unit::Seconds if value >= 7_200.0 => format!("{} h", short(value / 3_600.0)),
        Unit::Seconds if value >= 120.0 => format!("{} min", short(value / 60.0)),
        Unit::Seconds => duration((value * 1e9) as u64),
    }
}

/// With one digit behind the point where it is one.
fn short(value: f64) -> String {
    let text = format!("{value:.1}");
    text.strip_suffix(".0").unwrap_or(&text).to_owned()
}

/// An integer as a figure.
#[expect(clippy::cast_precision_loss, reason = "figures need no more digits than a float has")]
pub(crate) const fn float(number: u64) -> f64 {
    number as f64
}

#[cfg(test)]
mod tests;
