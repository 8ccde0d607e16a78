//! What became of the spans of a request.

use std::fmt::Write as _;

use proto::wire::WireError;

/// Why a span was rejected. The sender must not repeat it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum RejectReason {
    /// The trace id is not 16 bytes, or all zero.
    BadTraceId,
    /// The span id is not 8 bytes, or all zero.
    BadSpanId,
    /// The bytes are not a span.
    Unreadable,
    /// A text is not UTF-8.
    NotUtf8,
    /// Too many attributes on one span, event, link, resource or scope.
    TooManyAttributes,
    /// A text or value that is too long.
    ValueTooLong,
    /// A value nested too deeply.
    TooDeep,
    /// Too many events, links and values in one span.
    TooManyParts,
    /// The span's resource or scope is unreadable or over a limit.
    BadContext,
    /// The span with its resource and scope is larger than the log keeps or readers take.
    SpanTooLarge,
}

impl RejectReason {
    /// All reasons.
    pub const ALL: [Self; 10] = [
        Self::BadTraceId,
        Self::BadSpanId,
        Self::Unreadable,
        Self::NotUtf8,
        Self::TooManyAttributes,
        Self::ValueTooLong,
        Self::TooDeep,
        Self::TooManyParts,
        Self::BadContext,
        Self::SpanTooLarge,
    ];

    /// The label of metrics.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::BadTraceId => "bad_trace_id",
            Self::BadSpanId => "bad_span_id",
            Self::Unreadable => "unreadable",
            Self::NotUtf8 => "not_utf8",
            Self::TooManyAttributes => "too_many_attributes",
            Self::ValueTooLong => "value_too_long",
            Self::TooDeep => "too_deep",
            Self::TooManyParts => "too_many_parts",
            Self::BadContext => "bad_context",
            Self::SpanTooLarge => "span_too_large",
        }
    }

    /// What is said to the sender.
    #[must_use]
    pub const fn explanation(self) -> &'static str {
        match self {
            Self::BadTraceId => "a trace id that is not 16 bytes or is all zero",
            Self::BadSpanId => "a span id that is not 8 bytes or is all zero",
            Self::Unreadable => "a field of the wrong type or a broken encoding",
            Self::NotUtf8 => "a text that is not UTF-8",
            Self::TooManyAttributes => "too many attributes",
            Self::ValueTooLong => "a text or value that is too long",
            Self::TooDeep => "a value nested too deeply",
            Self::TooManyParts => "too many events, links and nested values",
            Self::BadContext => "a resource or scope that is unreadable or over a limit",
            Self::SpanTooLarge => "more bytes, resource and scope included, than can be kept",
        }
    }

    const fn place(self) -> usize {
        self as usize
    }
}

impl From<WireError> for RejectReason {
    fn from(error: WireError) -> Self {
        match error {
            WireError::NotUtf8 => Self::NotUtf8,
            WireError::TooDeep => Self::TooDeep,
            WireError::Truncated
            | WireError::VarintTooLong
            | WireError::BadTag
            | WireError::WrongType => Self::Unreadable,
        }
    }
}

/// A field that holds what it does not take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Misfit {
    /// Its name, as the format that was sent has it.
    pub field: &'static str,
    /// What it takes.
    pub takes: &'static str,
}

/// Rejected spans by reason.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rejections {
    counts: [u32; RejectReason::ALL.len()],
    misfit: Option<Misfit>,
}

impl From<Option<Misfit>> for Rejections {
    /// None rejected yet; the field is the first one that will be the cause.
    fn from(misfit: Option<Misfit>) -> Self {
        Self { misfit, ..Self::default() }
    }
}

impl Rejections {
    /// Counts spans.
    pub fn add(&mut self, reason: RejectReason, spans: u32) {
        if let Some(count) = self.counts.get_mut(reason.place()) {
            *count = count.saturating_add(spans);
        }
    }

    /// Counts those of another stage too.
    pub fn add_all(&mut self, other: &Self) {
        for (reason, spans) in other.occurred() {
            self.add(reason, spans);
        }
        self.misfit = self.misfit.or(other.misfit);
    }

    /// Spans rejected for this reason.
    #[must_use]
    pub fn of(&self, reason: RejectReason) -> u32 {
        self.counts.get(reason.place()).copied().unwrap_or(0)
    }

    /// All spans rejected.
    #[must_use]
    pub fn total(&self) -> u32 {
        self.counts.iter().fold(0, |sum, count| sum.saturating_add(*count))
    }

    /// The reasons that occurred, with their counts.
    pub fn occurred(&self) -> impl Iterator<Item = (RejectReason, u32)> + '_ {
        RejectReason::ALL.into_iter().zip(self.counts).filter(|(_, count)| *count > 0)
    }
}

/// The answer to a request that was taken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Receipt {
    /// Spans that were acknowledged: durable, or left out by head sampling.
    pub accepted: u32,
    /// Of these, left out by the rate of head sampling.
    pub below_rate: u32,
    /// Of these, left out since their sender says that their trace is not sampled.
    pub unsampled: u32,
    /// Spans that were not taken.
    pub rejected: Rejections,
}

impl Receipt {
    /// What is said about rejected spans; `None` where there are none.
    #[must_use]
    pub fn rejection_message(&self) -> Option<String> {
        let rejected = self.rejected.total();
        if rejected == 0 {
            return None;
        }
        let sent = rejected.saturating_add(self.accepted);
        let mut message = format!("{rejected} of {sent} spans were rejected");
        for (place, (reason, count)) in self.rejected.occurred().enumerate() {
            let separator = if place == 0 { ": " } else { ", " };
            // Writing to a string does not fail.
            let _written = write!(message, "{separator}{count} with {}", reason.explanation());
        }
        if let Some(Misfit { field, takes }) = self.rejected.misfit {
            let _written = write!(message, "; the first such field is `{field}`: it takes {takes}");
        }
        Some(message)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn full_success_has_no_message() {
        assert_eq!(Receipt { accepted: 5, ..Receipt::default() }.rejection_message(), None);
    }

    #[test]
    fn the_message_names_every_reason_with_its_count() {
        let mut receipt = Receipt { accepted: 9, ..Receipt::default() };
        receipt.rejected.add(RejectReason::BadTraceId, 2);
        receipt.rejected.add(RejectReason::TooDeep, 1);
        assert_eq!(
            receipt.rejection_message().unwrap(),
            "3 of 12 spans were rejected: 2 with a trace id that is not 16 bytes or is all zero, \
             1 with a value nested too deeply"
        );
        let mut rejected = Rejections::default();
        rejected.add(RejectReason::TooDeep, 4);
        receipt.rejected.add_all(&rejected);
        assert_eq!(receipt.rejected.of(RejectReason::TooDeep), 5);
        assert_eq!(receipt.rejected.total(), 7);
    }

    #[test]
    fn the_message_names_the_first_field_that_does_not_fit() {
        let [first, second] = ["spanId", "kind"].map(|field| Misfit { field, takes: "a number" });
        let mut rejected = Rejections::from(Some(first));
        rejected.add_all(&Rejections::from(Some(second)));
        rejected.add(RejectReason::Unreadable, 2);
        assert_eq!(
            Receipt { rejected, ..Receipt::default() }.rejection_message().unwrap(),
            "2 of 2 spans were rejected: 2 with a field of the wrong type or a broken encoding; \
             the first such field is `spanId`: it takes a number"
        );
    }

    #[test]
    fn every_reason_has_its_own_place_and_label() {
        let mut labels = std::collections::BTreeSet::new();
        for (place, reason) in RejectReason::ALL.into_iter().enumerate() {
            assert_eq!(reason.place(), place);
            assert!(labels.insert(reason.label()));
        }
    }
}
