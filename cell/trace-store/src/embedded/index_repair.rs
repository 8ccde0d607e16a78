//! The index as the group search-indexer sees it: how far it reaches, and building anew what is
//! lost.
//!
//! The entries of the index are gathered while a segment is sealed, where the hash of every distinct
//! value is at hand anyway: as a second pass the index would cost as much as the segment itself. A
//! segment whose index is lost or damaged holds `indexed` back until it is rewritten with one.

use std::sync::Arc;

use trace_model::Coverage;

use super::replace::replace;
use super::segment_read::Segment;
use super::state::{ErasedSet, State, lock};
use crate::StoreError;

/// Whether a segment is without its index and can get one now. A cold one waits for the next round
/// of moves: the indexer is not held up by objects that are away. Searches read all of its blocks.
fn is_bare(segment: &&Arc<Segment>) -> bool {
    segment.index().is_none() && !segment.is_cold()
}

/// Whether a segment has no index.
pub(crate) fn is_needed(state: &State) -> bool {
    state.segments().iter().any(|segment| is_bare(&segment))
}

/// Gives every segment an index.
pub(crate) fn repair(state: &State) -> Result<(), StoreError> {
    let _one_at_a_time = lock(&state.maintenance);
    let erased = Arc::clone(&state.view().erased);
    for segment in state.segments().iter().filter(is_bare) {
        rewrite(state, segment, &erased)?;
    }
    Ok(())
}

/// Rewrites a segment with an index; one that is damaged is noted and stays as it is.
pub(super) fn rewrite(
    state: &State,
    segment: &Arc<Segment>,
    erased: &ErasedSet,
) -> Result<(), StoreError> {
    match replace(state, std::slice::from_ref(segment), erased) {
        Ok(_) => Ok(()),
        Err(error @ StoreError::Damaged(_)) => {
            state.note_damage(segment, &error);
            Ok(())
        }
        Err(error) => Err(error),
    }
}

/// How far the log is indexed: as far as it is sealed, but not beyond a segment without an index.
pub(crate) fn indexed(state: &State) -> Coverage {
    let (segments, mut covered) = {
        let view = state.view();
        (Arc::clone(&view.segments), view.covered.clone())
    };
    for segment in segments.iter().filter(is_bare) {
        for range in &segment.footer.ranges {
            if range.incarnation == covered.incarnation
                && let Some(next) = covered.next.get_mut(&range.partition)
            {
                *next = range.first.min(*next);
            }
        }
    }
    covered
}
