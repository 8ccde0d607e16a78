//! The resources and scopes of a segment: each once, however many requests sent it.

use std::sync::Arc;

use bytes::Bytes;
use proto::wire::{put_varint, service_name};
use rustc_hash::FxHashMap;
use trace_model::ScopeContext;
use trace_model::merge::context_hash;
use trace_model::span::UNKNOWN_SERVICE;

use super::cursor::{Corrupt, Cursor, put_sized};
use super::index_build::{AttributeEntry, IndexBuilder, attribute_entry};

/// The contexts of a segment being written.
#[derive(Debug, Default)]
pub(crate) struct ContextTable {
    contexts: Vec<Arc<ScopeContext>>,
    places: FxHashMap<Arc<ScopeContext>, u32>,
}

impl ContextTable {
    /// The place of a context; a new one is told to the index.
    pub(crate) fn intern(&mut self, context: &Arc<ScopeContext>, index: &mut IndexBuilder) -> u32 {
        if let Some(place) = self.places.get(context) {
            return *place;
        }
        // The bytes of a batch are cut out of its request: kept here, they would keep all of it.
        let context = Arc::new(ScopeContext {
            resource: Bytes::copy_from_slice(&context.resource),
            scope: Bytes::copy_from_slice(&context.scope),
            service: Arc::clone(&context.service),
        });
        let place = u32::try_from(self.contexts.len()).unwrap_or(u32::MAX);
        index.add_context(&context.service, attributes_of(&context));
        self.contexts.push(Arc::clone(&context));
        self.places.insert(context, place);
        place
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut output = Vec::new();
        put_varint(&mut output, self.contexts.len() as u64);
        for context in &self.contexts {
            put_sized(&mut output, &context.resource);
            put_sized(&mut output, &context.scope);
        }
        output
    }
}

/// Entries of the attributes of resource and scope; none where they cannot be read, since then no
/// span below them can be.
fn attributes_of(context: &ScopeContext) -> Vec<AttributeEntry> {
    let Ok(read) = proto::decode::read_context(context) else { return Vec::new() };
    let attributes = read.resource.attributes.iter().chain(&read.scope.attributes);
    attributes.map(|attribute| attribute_entry(&attribute.key, &attribute.value)).collect()
}

/// A context read back.
#[derive(Clone, Debug)]
pub(crate) struct ReadContext {
    pub(crate) context: Arc<ScopeContext>,
    /// [`context_hash`] of it.
    pub(crate) hash: u64,
    /// Decoded, for filters; `None` where it cannot be read.
    pub(crate) decoded: Option<proto::decode::ReadContext>,
}

/// Reads the contexts of a segment.
pub(crate) fn decode(bytes: Vec<u8>) -> Result<Vec<ReadContext>, Corrupt> {
    let bytes = Bytes::from(bytes);
    let mut cursor = Cursor::new(&bytes);
    let count = cursor.count(2)?;
    let mut contexts = Vec::with_capacity(count);
    for _ in 0..count {
        let resource = bytes.slice_ref(cursor.sized()?);
        let scope = bytes.slice_ref(cursor.sized()?);
        let service = service_name(&resource).ok().flatten().unwrap_or(UNKNOWN_SERVICE).into();
        let hash = context_hash(&resource, &scope);
        let context = ScopeContext { resource, scope, service };
        let decoded = proto::decode::read_context(&context).ok();
        contexts.push(ReadContext { context: Arc::new(context), hash, decoded });
    }
    Ok(contexts)
}
