//! Answers that a region gives by pages, taken one after the other.

use std::time::Duration;

use proto::v1;
use tokio::time::Instant;

use crate::ask_all::{Part, in_time};
use crate::port::CellError;
use crate::room::AnswerRoom;

/// Rows that are asked for at once: with their sketches some megabytes. A cell gives fewer where they would
/// not fit into a message.
pub(crate) const PAGE_ROWS: u32 = 50_000;

/// Where a page begins: behind this row.
pub(crate) trait Place: Clone + PartialEq {
    /// Whether it comes later than the other.
    fn is_behind(&self, other: &Self) -> bool;
}

/// Checks that rows, by their places, are a page: behind where it begins, in order, and up to where the next
/// one begins, which then lies further on. What is given whole may be in any order.
pub(crate) fn check_page<P: Place>(
    places: impl Iterator<Item = P>,
    after: Option<&P>,
    next: Option<&P>,
) -> Result<(), CellError> {
    if after.is_none() && next.is_none() {
        return Ok(());
    }
    let another = || CellError::Invalid("counts of another page than asked for".to_owned());
    let mut last: Option<P> = None;
    for place in places {
        let is_behind = after.is_none_or(|after| place.is_behind(after));
        let is_in_order = last.is_none_or(|last| !last.is_behind(&place));
        if !is_behind || !is_in_order {
            return Err(another());
        }
        last = Some(place);
    }
    let ends = next.is_none_or(|next| last.as_ref() == Some(next));
    if ends { Ok(()) } else { Err(another()) }
}

impl Place for v1::RedPlace {
    fn is_behind(&self, other: &Self) -> bool {
        (self.minute_unix_nano, &self.service, &self.operation, self.kind, self.status)
            > (other.minute_unix_nano, &other.service, &other.operation, other.kind, other.status)
    }
}

impl Place for v1::EdgePlace {
    fn is_behind(&self, other: &Self) -> bool {
        (&self.caller, &self.callee) > (&other.caller, &other.callee)
    }
}

/// One page of a region, checked by [`check_page`].
pub(crate) struct Page<T, P> {
    pub(crate) part: Part<T>,
    /// Where the next one begins, if there is one.
    pub(crate) next: Option<P>,
}

/// All pages of a region as one part: the first within its time, all within that of the whole. They take
/// room as they come; what they take is in [`Part::taken`].
pub(crate) async fn all_pages<T, P: Place, F>(
    room: &AnswerRoom,
    (first, whole): (Duration, Duration),
    ask: impl Fn(Option<P>, Duration) -> F,
) -> Result<Part<T>, CellError>
where
    F: Future<Output = Result<Page<T, P>, CellError>>,
{
    let until = Instant::now() + whole;
    let mut taken = room.share();
    let Page { part: mut whole, mut next } = in_time(first, ask(None, first)).await?;
    taken.grow(whole.bytes)?;
    while let Some(after) = next {
        let left = until.saturating_duration_since(Instant::now());
        let page = ask(Some(after), left).await?;
        taken.grow(page.part.bytes)?;
        if page.part.outcome != whole.outcome {
            return Err(CellError::Invalid("pages that do not belong together".to_owned()));
        }
        whole.items.extend(page.part.items);
        whole.reach = joined(whole.reach, page.part.reach);
        next = page.next;
    }
    Ok(Part { bytes: 0, taken: Some(taken), ..whole })
}

/// How far all pages reach: as far as the first, which was asked for before the others. What one lacks all
/// lack.
fn joined(first: Option<v1::Reach>, later: Option<v1::Reach>) -> Option<v1::Reach> {
    let (mut first, later) = (first?, later?);
    first.is_cut |= later.is_cut;
    if first.missed_by.is_empty() {
        first.missed_by = later.missed_by;
    }
    Some(first)
}
