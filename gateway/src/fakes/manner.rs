//! How cells answer, also wrongly.

use std::time::Duration;

/// How a cell answers by trace id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Manner {
    Honest,
    /// Its stores and tail reach one record less than it published, and miss the last span; its
    /// search reaches three records less.
    Behind,
    /// Its lists and counts are three records and five seconds behind.
    InStep,
    /// Its lists are cut.
    Cutting,
    /// Its lists and counts do not say how far they reach.
    Speechless,
    /// They say it by offsets alone.
    Timeless,
    Damaged,
    /// Its trace store does not answer.
    LackingStore,
    /// Groups of it have missed records.
    Missing,
    Forbidding,
    /// Its retention has taken all that came until now, but for one span.
    Expiring,
    Late(Duration),
    Hanging,
    HangingAfterAFrame,
    Unreachable,
    /// Its pages never end.
    Stuck,
    /// It gives a page, and then all there is: one of several queriers is older.
    Forgetful,
    ResetAfterAFrame,
    EndingWithoutSummary,
    OtherTrace,
    OtherTracesSpan,
    Garbage,
    OtherRegionsName,
    OtherRegionsSpans,
    Miscounting,
    Endless,
    EndlessEmptyFrames,
    GoingOnAfterTheSummary,
    /// All is said, and the stream does not end.
    HangingAfterTheSummary,
}
