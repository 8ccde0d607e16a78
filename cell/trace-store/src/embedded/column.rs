//! One token's values within the block that is being written, and what of them is new to the
//! index.

use opentelemetry_proto::tonic::common::v1::AnyValue as OtlpValue;
use opentelemetry_proto::tonic::trace::v1::{Status, span};
use prost::Message;
use rustc_hash::FxHashMap;
use trace_model::AnyValue;

use super::hash::{entry_hash, key_hash, presence_hash, value_hash};
use super::index_build::{IndexBuilder, RowGroup, attribute_entry};
use super::template::{Code, Part, SIGN};
use super::texts::{Pushed, TextColumn};
use super::tokens::Token;

/// The kinds of OTLP.
const KINDS: usize = 6;

/// A column being filled.
#[derive(Debug)]
pub(crate) struct Column {
    code: Code,
    key_hash: u64,
    is_key_readable: bool,
    /// The block in which it was used last.
    pub(crate) block: u32,
    pub(crate) text: TextColumn,
    pub(crate) numbers: Vec<u64>,
    /// Of each distinct text the groups for which the index has it.
    text_groups: Vec<u64>,
    /// Of each distinct name and kind the groups whose catalogue has it.
    operation_groups: Vec<u64>,
    number_groups: FxHashMap<u64, u64>,
}

/// What a row brings to the index beside its parts.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RowIndex {
    pub(crate) group: RowGroup,
    pub(crate) kind: u8,
}

impl Column {
    pub(crate) fn new(token: &Token, operation_key: u64) -> Self {
        let code = token.tag.code;
        Self {
            code,
            key_hash: if code == Code::Name { operation_key } else { key_hash(&token.key) },
            is_key_readable: std::str::from_utf8(&token.key).is_ok(),
            block: 0,
            text: TextColumn::default(),
            numbers: Vec::new(),
            text_groups: Vec::new(),
            operation_groups: Vec::new(),
            number_groups: FxHashMap::default(),
        }
    }

    /// Empties the column for a new block; says whether its key is text.
    pub(crate) fn begin(&mut self, block: u32, index: &mut IndexBuilder) -> bool {
        self.block = block;
        self.text.clear();
        self.numbers.clear();
        self.text_groups.clear();
        self.operation_groups.clear();
        self.number_groups.clear();
        if self.code.is_attribute() {
            index.add_to_block(presence_hash(self.key_hash));
        }
        self.is_key_readable
    }

    /// Adds the part's value; says whether it can be read as what it is said to be.
    pub(crate) fn push(
        &mut self,
        part: &Part<'_>,
        row: &RowIndex,
        index: &mut IndexBuilder,
    ) -> bool {
        if self.code.has_number() {
            self.numbers.push(part.number);
            if self.code.is_attribute() {
                self.index_number(part.number, row.group, index);
            }
        }
        if !self.code.has_text() {
            return true;
        }
        let pushed = self.text.push(part.text);
        if pushed.is_new {
            self.text_groups.push(0);
        }
        let Some(groups) = self.text_groups.get_mut(pushed.place as usize) else { return true };
        let is_new_to_group = *groups & row.group.bit == 0;
        *groups |= row.group.bit;
        if self.code == Code::Name {
            self.index_operation(part.text, pushed.place, row, index);
        }
        if !is_new_to_group {
            return true;
        }
        self.index_text(part.text, pushed, row.group, index)
    }

    fn index_text(
        &self,
        text: &[u8],
        pushed: Pushed,
        group: RowGroup,
        index: &mut IndexBuilder,
    ) -> bool {
        let key = self.key_hash;
        if matches!(self.code, Code::Text | Code::Name) {
            let entry = entry_hash(key, pushed.hash);
            index.add(group.group, key, entry);
            if pushed.is_new {
                index.add_to_block(entry);
            }
            return !pushed.is_new || std::str::from_utf8(text).is_ok();
        }
        if self.code == Code::Other {
            index.add(group.group, key, presence_hash(key));
            return OtlpValue::decode(text).is_ok();
        }
        if matches!(self.code, Code::Event | Code::EventAt) {
            let event = span::Event::decode(text);
            return event.is_ok_and(|event| index_attributes(event.attributes, group, index));
        }
        if self.code == Code::Link {
            let link = span::Link::decode(text);
            return link.is_ok_and(|link| index_attributes(link.attributes, group, index));
        }
        if self.code == Code::Status {
            return Status::decode(text).is_ok();
        }
        self.code != Code::TraceState || std::str::from_utf8(text).is_ok()
    }

    fn index_operation(
        &mut self,
        name: &[u8],
        place: u32,
        row: &RowIndex,
        index: &mut IndexBuilder,
    ) {
        let slot = place as usize * KINDS + usize::from(row.kind);
        if self.operation_groups.len() <= slot {
            self.operation_groups.resize((place as usize + 1) * KINDS, 0);
        }
        let Some(groups) = self.operation_groups.get_mut(slot) else { return };
        if *groups & row.group.bit == 0 {
            *groups |= row.group.bit;
            index.add_operation(row.group, name, row.kind);
        }
    }

    fn index_number(&mut self, number: u64, group: RowGroup, index: &mut IndexBuilder) {
        let (is_new, groups) = match self.number_groups.get_mut(&number) {
            Some(groups) => (false, groups),
            None => (true, self.number_groups.entry(number).or_insert(0)),
        };
        if *groups & group.bit != 0 {
            return;
        }
        *groups |= group.bit;
        let text = number_value(self.code, number);
        let text = text.as_search_text().unwrap_or_default();
        let entry = entry_hash(self.key_hash, value_hash(text.as_bytes()));
        index.add(group.group, self.key_hash, entry);
        if is_new {
            index.add_to_block(entry);
        }
    }
}

fn index_attributes(
    attributes: Vec<opentelemetry_proto::tonic::common::v1::KeyValue>,
    group: RowGroup,
    index: &mut IndexBuilder,
) -> bool {
    for attribute in proto::decode::attributes(attributes) {
        let entry = attribute_entry(&attribute.key, &attribute.value);
        index.add_attribute(group.group, &entry);
    }
    true
}

/// The value that a column of numbers holds so.
pub(crate) fn number_value(code: Code, number: u64) -> AnyValue {
    if code == Code::Double {
        return AnyValue::Double(f64::from_bits(number));
    }
    if code == Code::Bool {
        return AnyValue::Bool(number != 0);
    }
    AnyValue::Int((number ^ SIGN).cast_signed())
}
