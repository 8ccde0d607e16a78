//! Texts and writers by number. Numbers are this process's alone and are never sent.

use std::sync::Arc;

use rustc_hash::FxHashMap;
use trace_model::{Region, WriterId};

/// Texts beyond this many are not given a number: they lie in their rows. Bounds the table against
/// operations that carry an id in their name.
const NAMES_MAX: usize = 1 << 20;
/// So many new texts at least, before it is looked for those that no row uses any more.
const SWEEP_TEXTS_MIN: usize = 1 << 16;

#[derive(Debug, Default)]
pub(super) struct Names {
    /// `None`: no row uses the number, it is given again.
    texts: Vec<Option<Arc<str>>>,
    free: Vec<u32>,
    /// Texts given a number since the last sweep, and those that were in use then.
    new: usize,
    swept: usize,
    ids: FxHashMap<Arc<str>, u32>,
    writers: Vec<WriterId>,
    /// The number of each writer's region.
    writer_regions: Vec<u32>,
    regions: Vec<Region>,
    writer_ids: FxHashMap<WriterId, u32>,
    text_bytes: usize,
}

impl Names {
    /// The number of a text, given now where it has none.
    pub(super) fn intern(&mut self, text: &str) -> u32 {
        if let Some(id) = self.ids.get(text) {
            return *id;
        }
        let text: Arc<str> = text.into();
        self.text_bytes = self.text_bytes.saturating_add(text.len());
        self.new = self.new.saturating_add(1);
        let id = self.put(Arc::clone(&text));
        self.ids.insert(text, id);
        id
    }

    fn put(&mut self, text: Arc<str>) -> u32 {
        if let Some(id) = self.free.pop() {
            if let Some(place) = self.texts.get_mut(id as usize) {
                *place = Some(text);
            }
            return id;
        }
        let id = u32::try_from(self.texts.len()).unwrap_or(u32::MAX);
        self.texts.push(Some(text));
        id
    }

    /// Whether as many texts came since the last sweep as were in use then: a sweep costs a look at
    /// every row, so it comes the more seldom the more there are.
    pub(super) fn is_sweep_due(&self) -> bool {
        self.new >= self.swept.max(SWEEP_TEXTS_MIN)
    }

    /// Numbers that were ever given to texts.
    pub(super) const fn numbers(&self) -> usize {
        self.texts.len()
    }

    /// Takes the texts out whose numbers are not said to be in use.
    pub(super) fn sweep(&mut self, is_used: &[bool]) {
        for (id, place) in (0_u32..).zip(&mut self.texts) {
            let is_free = !is_used.get(id as usize).copied().unwrap_or(false);
            let Some(text) = place.take_if(|_| is_free) else { continue };
            self.ids.remove(&text);
            self.text_bytes = self.text_bytes.saturating_sub(text.len());
            self.free.push(id);
        }
        self.ids.shrink_to(self.ids.len().saturating_mul(2));
        (self.new, self.swept) = (0, self.ids.len());
    }

    /// The number of a text, given now where there is room.
    pub(super) fn intern_bounded(&mut self, text: &str) -> Option<u32> {
        if self.ids.len() >= NAMES_MAX {
            return self.id_of(text);
        }
        Some(self.intern(text))
    }

    pub(super) fn id_of(&self, text: &str) -> Option<u32> {
        self.ids.get(text).copied()
    }

    pub(super) fn text(&self, id: u32) -> Option<&Arc<str>> {
        self.texts.get(id as usize)?.as_ref()
    }

    pub(super) fn intern_writer(&mut self, writer: &WriterId) -> u32 {
        if let Some(id) = self.writer_ids.get(writer) {
            return *id;
        }
        let id = u32::try_from(self.writers.len()).unwrap_or(u32::MAX);
        let region = self.intern_region(&writer.region);
        self.writers.push(writer.clone());
        self.writer_regions.push(region);
        self.writer_ids.insert(writer.clone(), id);
        id
    }

    pub(super) fn writer_id_of(&self, writer: &WriterId) -> Option<u32> {
        self.writer_ids.get(writer).copied()
    }

    pub(super) fn writer(&self, id: u32) -> Option<&WriterId> {
        self.writers.get(id as usize)
    }

    /// The number of a region, given now where it has none. There are few: they are searched.
    pub(super) fn intern_region(&mut self, region: &Region) -> u32 {
        let number = self.region_id_of(region).unwrap_or_else(|| {
            self.regions.push(region.clone());
            self.regions.len().saturating_sub(1)
        });
        u32::try_from(number).unwrap_or(u32::MAX)
    }

    /// The number of a region.
    pub(super) fn region_id_of(&self, region: &Region) -> Option<usize> {
        self.regions.iter().position(|held| held == region)
    }

    /// The number of a writer's region.
    pub(super) fn region_of(&self, writer: u32) -> Option<u32> {
        self.writer_regions.get(writer as usize).copied()
    }

    /// Bytes held, about.
    pub(super) fn bytes(&self) -> usize {
        let each_text = 16 + 16 + 16 + 8;
        let each_writer = 2 * size_of::<WriterId>() + 12;
        self.text_bytes
            .saturating_add(self.texts.len().saturating_mul(each_text))
            .saturating_add(self.writers.len().saturating_mul(each_writer))
    }
}
