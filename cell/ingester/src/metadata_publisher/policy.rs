//! What leaves the region: the index mode of each contribution.

use std::fmt;

use trace_model::Contribution;
use trace_model::locality::IndexMode;

/// Decides what leaves with the index, contribution by contribution.
pub trait IndexPolicy: Send + Sync + fmt::Debug {
    /// What of this contribution goes out. Pure: the same answer for the same contribution.
    fn index_mode(&self, contribution: &Contribution) -> IndexMode;

    /// The most that it ever lets out.
    fn widest(&self) -> IndexMode;

    /// The least that it ever lets out: what goes to readers is judged again where this is not all.
    fn narrowest(&self) -> IndexMode;

    /// Whether it ever says [`IndexMode::None`]. Then the region's watermark proves nothing, and is
    /// published with a hole over all of time: a trace that the index does not know may be here.
    fn may_withhold(&self) -> bool {
        self.narrowest() == IndexMode::None
    }
}

/// One mode for everything.
#[derive(Clone, Copy, Debug, Default)]
pub struct FixedPolicy(pub IndexMode);

impl IndexPolicy for FixedPolicy {
    fn index_mode(&self, _contribution: &Contribution) -> IndexMode {
        self.0
    }

    fn widest(&self) -> IndexMode {
        self.0
    }

    fn narrowest(&self) -> IndexMode {
        self.0
    }
}

/// What goes into the log that peers read.
pub(super) fn let_out(policy: &dyn IndexPolicy, row: Contribution) -> Option<Contribution> {
    match policy.index_mode(&row) {
        IndexMode::Full => Some(row),
        IndexMode::Routing => Some(Contribution { detail: None, ..row }),
        IndexMode::None => None,
    }
}
