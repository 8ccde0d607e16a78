//! A list of names that says whether it is all of them.

use std::borrow::Borrow;
use std::collections::BTreeSet;
use std::ops::Deref;
use std::sync::Arc;

use super::Operation;

/// Most services of a tenant, and most operations of a service, that a list has where nothing else
/// is set.
pub const NAMES_MAX: usize = 100_000;
/// Most bytes of the names of one list, 16 more counted for each: well below what a message may have.
pub const NAME_BYTES_MAX: usize = 16 << 20;
/// What a name takes in a message beside its text, at most.
const BYTES_BESIDE: usize = 16;

/// Names, each once, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NameList<T> {
    /// The names.
    pub names: Vec<T>,
    /// There are more: they are beyond a limit of this list, or of the store that was to keep them.
    pub is_cut: bool,
}

impl<T> Default for NameList<T> {
    fn default() -> Self {
        Self::whole(Vec::new())
    }
}

impl<T> Deref for NameList<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        &self.names
    }
}

impl<T> NameList<T> {
    /// All there are.
    #[must_use]
    pub const fn whole(names: Vec<T>) -> Self {
        Self { names, is_cut: false }
    }
}

/// A list equals these names where it has them and no others, and is not cut.
impl<T: PartialEq, const N: usize> PartialEq<[T; N]> for NameList<T> {
    fn eq(&self, names: &[T; N]) -> bool {
        !self.is_cut && self.names == names
    }
}

/// Something with a name.
pub(crate) trait Named: Ord {
    fn text(&self) -> &str;
}

impl Named for Arc<str> {
    fn text(&self) -> &str {
        self
    }
}

impl Named for Operation {
    fn text(&self) -> &str {
        &self.name
    }
}

/// Names being gathered: of too many the first are kept, in their order, whatever the order in which
/// they come. So two cut lists of one store agree.
#[derive(Debug)]
pub(crate) struct NamesFound<T> {
    found: BTreeSet<T>,
    bytes: usize,
    names_max: usize,
    is_cut: bool,
}

impl<T: Named> NamesFound<T> {
    pub(crate) const fn new(names_max: usize) -> Self {
        Self { found: BTreeSet::new(), bytes: 0, names_max, is_cut: false }
    }

    /// Takes a name in.
    pub(crate) fn insert(&mut self, name: T) {
        let is_full = self.found.len() >= self.names_max;
        if is_full && self.found.last().is_none_or(|last| *last < name) {
            self.is_cut = true;
            return;
        }
        let bytes = bytes_of(&name);
        if !self.found.insert(name) {
            return;
        }
        self.bytes = self.bytes.saturating_add(bytes);
        while self.found.len() > self.names_max || self.bytes > NAME_BYTES_MAX {
            let Some(last) = self.found.pop_last() else { return };
            self.bytes = self.bytes.saturating_sub(bytes_of(&last));
            self.is_cut = true;
        }
    }

    /// Says that names are missing, whichever.
    pub(crate) const fn cut(&mut self) {
        self.is_cut = true;
    }

    /// Whether some are missing: who is given names in order need not go on.
    pub(crate) const fn is_cut(&self) -> bool {
        self.is_cut
    }

    pub(crate) fn into_list(self) -> NameList<T> {
        NameList { names: self.found.into_iter().collect(), is_cut: self.is_cut }
    }
}

impl NamesFound<Arc<str>> {
    /// Takes a service in; one that is known costs no copy.
    pub(crate) fn insert_text(&mut self, name: &str) {
        if !self.found.contains(name) {
            self.insert(name.into());
        }
    }
}

impl<T: Ord> NamesFound<T> {
    pub(crate) fn contains<Q: Ord + ?Sized>(&self, name: &Q) -> bool
    where
        T: Borrow<Q>,
    {
        self.found.contains(name)
    }
}

fn bytes_of(name: &impl Named) -> usize {
    name.text().len().saturating_add(BYTES_BESIDE)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(names: impl IntoIterator<Item = String>, max: usize) -> NameList<Arc<str>> {
        let mut found = NamesFound::new(max);
        names.into_iter().for_each(|name| found.insert_text(&name));
        found.into_list()
    }

    #[test]
    fn of_too_many_names_the_first_are_kept_in_whatever_order_they_come() {
        let names = || (0..10).map(|number| format!("s{number}"));
        let expected =
            NameList { names: vec!["s0".into(), "s1".into(), "s2".into()], is_cut: true };
        assert_eq!(list(names(), 3), expected);
        assert_eq!(list(names().rev(), 3), expected);
        assert_eq!(list(names().chain(names()), 10).len(), 10);
        assert!(!list(names().chain(names()), 10).is_cut);
        assert!(list(names(), 3) != ["s0".into(), "s1".into(), "s2".into()]);
    }

    #[test]
    fn long_names_are_bounded_by_their_bytes() {
        let long = |number: usize| format!("{number:02}{}", "x".repeat(4 << 20));
        let cut = list((0..9).map(long), 100);
        assert!(cut.is_cut && cut.len() == 3, "{}", cut.len());
        let whole = list((0..3).map(long), 100);
        assert!(!whole.is_cut && whole.len() == 3);
    }
}
