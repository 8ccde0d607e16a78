//! A group of keys being read: typed values out, faults on the side, and at the end a fault for
//! every key that nobody asked for.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fmt::Display;
use std::ops::RangeInclusive;

use serde_saphyr::{Location, Spanned};

use super::effective::{Effective, Origin};
use super::fault::Fault;
use super::setting::Setting;
use super::tree::{Node, place};

/// How alike two keys must be for one to be suggested for the other (Jaro-Winkler, 1 is equal).
const SUGGESTION_LIKENESS_MIN: f64 = 0.8;

/// What all sections of one file gather.
#[derive(Debug, Default)]
pub(super) struct FaultList {
    faults: RefCell<Vec<Fault>>,
    effective: RefCell<Effective>,
}

impl FaultList {
    fn add(&self, location: Location, key: String, message: String) {
        let (line, column) = place(location);
        self.faults.borrow_mut().push(Fault { line, column, key, message });
    }

    pub(super) fn into_parts(self) -> (Vec<Fault>, Effective) {
        (self.faults.into_inner(), self.effective.into_inner())
    }
}

/// A group of keys being read.
#[derive(Debug)]
pub(super) struct Section<'a> {
    path: Vec<String>,
    location: Location,
    entries: Vec<(Spanned<String>, Spanned<Node>)>,
    /// Keys that were asked for, and where they stand if they do.
    asked: BTreeMap<&'static str, Option<Location>>,
    list: &'a FaultList,
}

impl<'a> Section<'a> {
    /// The file as a whole.
    pub(super) fn root(root: Spanned<Node>, list: &'a FaultList) -> Self {
        Self::new(Vec::new(), root, list)
    }

    fn new(path: Vec<String>, node: Spanned<Node>, list: &'a FaultList) -> Self {
        let (location, kind) = (node.referenced, node.value.kind());
        let entries = match node.value {
            Node::Map(entries) => entries,
            Node::Null => Vec::new(),
            Node::Bool(_) | Node::Int(_) | Node::Float(_) | Node::Text(_) | Node::List(_) => {
                let message = format!("needs keys with values, and has {kind}");
                list.add(location, path.join("."), message);
                Vec::new()
            }
        };
        let mut section =
            Self { path, location, entries: Vec::new(), asked: BTreeMap::new(), list };
        section.keep_each_key_once(entries);
        section
    }

    /// The first of each key counts; each further one is a fault.
    fn keep_each_key_once(&mut self, entries: Vec<(Spanned<String>, Spanned<Node>)>) {
        for (key, node) in entries {
            let first = self.entries.iter().find(|(held, _)| held.value == key.value);
            let Some((first, _)) = first else {
                self.entries.push((key, node));
                continue;
            };
            let line = first.referenced.line();
            let message = format!("is written twice; it is in line {line} already");
            self.list.add(key.referenced, self.path_of(&key.value), message);
        }
    }

    /// The key's value; the default where it is not written or faulty.
    pub(super) fn value<T: Setting>(&mut self, key: &'static str, default: T) -> T {
        self.optional(key).unwrap_or_else(|| {
            self.show(key, &default, Origin::Default);
            default
        })
    }

    /// The key's value; the profile's own default where it is not written or faulty.
    pub(super) fn by_profile<T: Setting>(
        &mut self,
        key: &'static str,
        default: T,
        profile: &'static str,
    ) -> T {
        self.optional(key).unwrap_or_else(|| {
            self.show(key, &default, Origin::Profile(profile));
            default
        })
    }

    /// Says what is left out of what was asked for: no fault.
    pub(super) fn note(&self, note: String) {
        self.list.effective.borrow_mut().note(note);
    }

    /// The key's value if it is written and in order.
    pub(super) fn optional<T: Setting>(&mut self, key: &'static str) -> Option<T> {
        let node = self.take(key)?;
        match T::read(&node.value) {
            Ok(value) => {
                self.show(key, &value, Origin::Line(node.referenced.line()));
                Some(value)
            }
            Err(message) => {
                self.list.add(node.referenced, self.path_of(key), message);
                None
            }
        }
    }

    /// The key's value; a fault where it is not written.
    pub(super) fn required<T: Setting>(&mut self, key: &'static str) -> Option<T> {
        let value = self.optional(key);
        if self.asked.get(key) == Some(&None) {
            let message = format!("is missing: {}", T::WANTED);
            self.list.add(self.location, self.path_of(key), message);
        }
        value
    }

    /// The key's value within a range; the default where it is not written or faulty.
    pub(super) fn within<T>(&mut self, key: &'static str, default: T, range: RangeInclusive<T>) -> T
    where
        T: Setting + PartialOrd,
    {
        let value = self.value(key, default);
        self.check_range(key, value, range)
    }

    /// As [`Self::within`], with the profile's own default.
    pub(super) fn within_by_profile<T>(
        &mut self,
        key: &'static str,
        (default, profile): (T, &'static str),
        range: RangeInclusive<T>,
    ) -> T
    where
        T: Setting + PartialOrd,
    {
        let value = self.by_profile(key, default, profile);
        self.check_range(key, value, range)
    }

    fn check_range<T>(&self, key: &'static str, value: T, range: RangeInclusive<T>) -> T
    where
        T: Setting + PartialOrd,
    {
        if !range.contains(&value) {
            let (low, high) = (range.start().show(), range.end().show());
            self.refuse(key, &format!("{} is not within {low} to {high}", value.show()));
        }
        value
    }

    /// The section under the key; an empty one where it is not written.
    pub(super) fn section(&mut self, key: &'static str) -> Section<'a> {
        let location = self.location;
        let absent = || Spanned::new(Node::Null, location, location);
        let node = self.take(key).unwrap_or_else(absent);
        Section::new(self.child_path(key), node, self.list)
    }

    /// The list of sections under the key; an empty one where it is not written.
    pub(super) fn sections(&mut self, key: &'static str) -> Vec<Section<'a>> {
        let Some(node) = self.take(key) else { return Vec::new() };
        let Node::List(items) = node.value else {
            let message = format!("needs a list, and has {}", node.value.kind());
            self.list.add(node.referenced, self.path_of(key), message);
            return Vec::new();
        };
        let path = |index: usize| self.child_path(&format!("{key}[{index}]"));
        let read = |(index, item)| Section::new(path(index), item, self.list);
        items.into_iter().enumerate().map(read).collect()
    }

    /// A fault of a key that was read: it stands at the key's value, or at the section.
    pub(super) fn refuse(&self, key: &'static str, message: &str) {
        let written = self.asked.get(key).copied().flatten();
        let location = written.unwrap_or(self.location);
        self.list.add(location, self.path_of(key), message.to_owned());
    }

    /// Whether the key is written.
    pub(super) fn has(&self, key: &'static str) -> bool {
        matches!(self.asked.get(key), Some(Some(_)))
            || self.entries.iter().any(|(name, _)| name.value == key)
    }

    /// Leaves the rest unread without a fault: the file's kind is not known.
    pub(super) fn forget_unknown(&mut self) {
        self.entries.clear();
    }

    /// Ends the reading: what is left is unknown.
    pub(super) fn finish(&mut self) {
        for (key, _) in std::mem::take(&mut self.entries) {
            let name = self.path_of(&key.value);
            let message = match self.most_alike(&key.value) {
                Some(known) => format!("is not known; did you mean {known}?"),
                None => format!("is not known; known here: {}", self.known()),
            };
            self.list.add(key.referenced, name, message);
        }
    }

    fn take(&mut self, key: &'static str) -> Option<Spanned<Node>> {
        let index = self.entries.iter().position(|(name, _)| name.value == key);
        let node = index.map(|index| self.entries.remove(index).1);
        self.asked.insert(key, node.as_ref().map(|node| node.referenced));
        node
    }

    fn show(&self, key: &str, value: &impl Setting, origin: Origin) {
        self.list.effective.borrow_mut().add(self.path_of(key), value.show(), origin);
    }

    fn most_alike(&self, wrong: &str) -> Option<&'static str> {
        let likeness = |known: &str| strsim::jaro_winkler(wrong, known);
        self.asked
            .keys()
            .map(|known| (likeness(known), *known))
            .filter(|(likeness, _)| *likeness >= SUGGESTION_LIKENESS_MIN)
            .max_by(|one, other| one.0.total_cmp(&other.0))
            .map(|(_, known)| known)
    }

    fn known(&self) -> String {
        self.asked.keys().copied().collect::<Vec<_>>().join(", ")
    }

    fn child_path(&self, key: &(impl Display + ?Sized)) -> Vec<String> {
        let mut path = self.path.clone();
        path.push(key.to_string());
        path
    }

    fn path_of(&self, key: &(impl Display + ?Sized)) -> String {
        self.child_path(key).join(".")
    }
}
