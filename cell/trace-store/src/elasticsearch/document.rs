//! A span as a document in Jaeger's shape, with what Jaeger's shape does not say beside it.
//!
//! Jaeger's fields are as its writer makes them. Ours: the object `farspan`; `farspan` within a tag
//! (`field`: Jaeger makes a tag of a field of the span; `opaque`: a value without a search text);
//! `number` within a tag, for ranges. Doubles are written as text: a JSON reader may round them.
//!
//! The engine takes a bounded number of nested values a document. What is beyond stands in
//! `farspan.more`, which it keeps and does not look into; `farspan.irregular` says that the engine
//! cannot decide about this document.

use proto::decode::ReadContext;
use trace_model::span::{Event, Link, Span, UNKNOWN_SERVICE};
use trace_model::{
    AnyValue, Attribute, Region, SpanKey, SpanKind, StatusCode, TenantId, UnixNanos,
};

use super::json::{comma, hex, key, number, number_field, string, text_field};

/// Longest key or value, in UTF-16 units, that the engine looks for (Jaeger's `ignore_above`).
pub(super) const TERM_UNITS_MAX: usize = 256;
/// A tag has about so many bytes.
const TAG_BYTES: usize = 96;
/// Most nested values of one kind in a document; the engine's limit is 10,000 in all.
const NESTED_MAX: usize = 1_900;

/// Attributes of one kind: what the engine looks into, and what is too many.
#[derive(Debug, Default)]
struct TagList {
    nested: Vec<u8>,
    more: Vec<u8>,
    count: usize,
    is_irregular: bool,
}

impl TagList {
    fn push(&mut self, attribute: &Attribute) {
        self.is_irregular |= !is_term(&attribute.key);
        let list = if self.count < NESTED_MAX { &mut self.nested } else { &mut self.more };
        tag(list, attribute);
        self.count += 1;
    }

    fn field(&mut self, name: &str, value: &str) {
        field_tag(&mut self.nested, name, |out| string(out, value), "string");
        self.count += 1;
    }

    fn is_irregular(&self) -> bool {
        self.is_irregular || !self.more.is_empty()
    }
}

/// Whether the engine looks for a text of this length.
pub(super) fn is_term(text: &str) -> bool {
    text.len() <= TERM_UNITS_MAX || text.encode_utf16().count() <= TERM_UNITS_MAX
}

/// What spans of one resource and scope share, rendered once.
#[derive(Debug)]
pub(super) struct ContextJson {
    process: Vec<u8>,
    more_process: Vec<u8>,
    scope: TagList,
    scope_fields: Vec<u8>,
    is_unnamed: bool,
    is_irregular: bool,
}

impl ContextJson {
    /// Renders a context.
    pub(super) fn of(context: &ReadContext) -> Self {
        let (resource, scope) = (&context.resource, &context.scope);
        let names =
            || resource.attributes.iter().filter(|attribute| attribute.key == "service.name");
        let is_plain = names().count() == 1
            && names().all(|name| name.value == AnyValue::Str(resource.service.to_string()));
        let is_unnamed = names().next().is_none();
        let mut tags = TagList::default();
        for attribute in
            resource.attributes.iter().filter(|found| !is_plain || found.key != "service.name")
        {
            tags.push(attribute);
        }
        let service = if is_unnamed { UNKNOWN_SERVICE } else { &resource.service };
        let mut process = b"{".to_vec();
        text_field(&mut process, "serviceName", service);
        list_field(&mut process, "tags", &tags.nested);
        process.push(b'}');
        let mut scope_tags = TagList::default();
        scope.attributes.iter().for_each(|attribute| scope_tags.push(attribute));
        let mut fields = TagList::default();
        for (name, value) in
            [("otel.scope.name", &scope.name), ("otel.scope.version", &scope.version)]
        {
            if !value.is_empty() {
                fields.field(name, value);
            }
        }
        let is_named_oddly = !is_plain && !is_unnamed;
        Self {
            process,
            is_irregular: is_named_oddly || tags.is_irregular() || scope_tags.is_irregular(),
            more_process: tags.more,
            scope: scope_tags,
            scope_fields: fields.nested,
            is_unnamed,
        }
    }
}

/// What becomes a document.
#[derive(Debug)]
pub(super) struct SpanDocument<'a> {
    pub(super) tenant: &'a TenantId,
    pub(super) region: &'a Region,
    pub(super) received: UnixNanos,
    pub(super) placed: UnixNanos,
    pub(super) key: SpanKey,
    pub(super) span: &'a Span,
    pub(super) context: &'a ContextJson,
}

impl SpanDocument<'_> {
    /// Appends the document, on one line.
    pub(super) fn write(&self, out: &mut Vec<u8>) {
        let start = out.len();
        let span = self.span;
        out.push(b'{');
        text_field(out, "traceID", &span.trace_id.to_string());
        text_field(out, "spanID", &span.span_id.to_string());
        if let Some(parent) = span.parent_span_id {
            text_field(out, "parentSpanID", &parent.to_string());
        }
        if span.flags != 0 {
            number_field(out, "flags", span.flags);
        }
        text_field(out, "operationName", &span.name);
        number_field(out, "startTime", span.start.micros());
        number_field(out, "startTimeMillis", span.start.millis());
        number_field(out, "duration", span.duration_nanos() / 1_000);
        let tags = span_tags(span, self.context);
        list_field(out, "tags", &tags.nested);
        if !self.context.scope.nested.is_empty() {
            list_field(out, "scopeTags", &self.context.scope.nested);
        }
        let events = logs(&span.events);
        list_field(out, "logs", &events.nested);
        let links = references(span);
        list_field(out, "references", &links.nested);
        key(out, "process");
        out.extend_from_slice(&self.context.process);
        self.write_ours(out, start, &[&tags, &events, &links]);
        out.push(b'}');
    }

    fn write_ours(&self, out: &mut Vec<u8>, start: usize, lists: &[&TagList; 3]) {
        let [tags, events, links] = lists;
        let span = self.span;
        key(out, "farspan");
        out.push(b'{');
        text_field(out, "tenant", self.tenant.as_str());
        text_field(out, "region", self.region.as_str());
        number_field(out, "placed", long(self.placed.0));
        number_field(out, "received", long(self.received.0));
        number_field(out, "start", span.start.0);
        number_field(out, "end", span.end.0);
        number_field(out, "duration", long(span.duration_nanos()));
        number_field(out, "kind", span.kind as u8);
        number_field(out, "status", span.status as u8);
        if !span.status_message.is_empty() {
            text_field(out, "message", &span.status_message);
        }
        text_field(out, "key", &key_text(self.key));
        if self.context.is_unnamed {
            number_field(out, "unnamed", true);
        }
        let context = self.context;
        if context.is_irregular || lists.iter().any(|list| list.is_irregular()) {
            number_field(out, "irregular", true);
        }
        let more = [
            ("tags", &tags.more),
            ("process", &context.more_process),
            ("scope", &context.scope.more),
            ("fields", &events.more),
            ("links", &links.more),
        ];
        if more.iter().any(|(_, list)| !list.is_empty()) {
            key(out, "more");
            out.push(b'{');
            for (name, list) in more {
                list_field(out, name, list);
            }
            out.push(b'}');
        }
        let bytes = out.len().saturating_sub(start);
        number_field(out, "bytes", bytes.min(i32::MAX as usize));
        out.push(b'}');
    }
}

/// A span key as text: tells documents of one time and trace apart.
fn key_text(key: SpanKey) -> String {
    format!("{}{}{:016x}", key.span_id, key.kind, key.content)
}

/// The engine's `long` is signed; nothing real lies beyond.
fn long(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

fn list_field(out: &mut Vec<u8>, name: &str, list: &[u8]) {
    key(out, name);
    out.push(b'[');
    out.extend_from_slice(list);
    out.push(b']');
}

fn span_tags(span: &Span, context: &ContextJson) -> TagList {
    let room = span.attributes.len().saturating_add(4).saturating_mul(TAG_BYTES);
    let mut nested = Vec::with_capacity(context.scope_fields.len().saturating_add(room));
    nested.extend_from_slice(&context.scope_fields);
    let mut tags = TagList { nested, ..TagList::default() };
    span.attributes.iter().for_each(|attribute| tags.push(attribute));
    if span.kind != SpanKind::Unspecified {
        tags.field("span.kind", span.kind.word());
    }
    match span.status {
        StatusCode::Unset => {}
        StatusCode::Ok => tags.field("otel.status_code", "OK"),
        StatusCode::Error => {
            field_tag(&mut tags.nested, "error", |out| out.extend_from_slice(b"true"), "bool");
        }
    }
    if !span.status_message.is_empty() {
        tags.field("otel.status_description", &span.status_message);
    }
    if !span.trace_state.is_empty() {
        tags.field("w3c.tracestate", &span.trace_state);
    }
    tags
}

/// Events as Jaeger's logs. Those for which there is no room keep their attributes alone.
fn logs(events: &[Event]) -> TagList {
    let mut logs = TagList::default();
    let mut fields = TagList::default();
    for event in events {
        if fields.count >= NESTED_MAX {
            event.attributes.iter().for_each(|attribute| fields.push(attribute));
            continue;
        }
        fields.nested.clear();
        fields.count += 1;
        if !event.name.is_empty() && event.attributes.iter().all(|found| found.key != "event") {
            fields.field("event", &event.name);
        }
        event.attributes.iter().for_each(|attribute| fields.push(attribute));
        comma(&mut logs.nested);
        logs.nested.push(b'{');
        number_field(&mut logs.nested, "timestamp", event.time.micros());
        list_field(&mut logs.nested, "fields", &fields.nested);
        logs.nested.push(b'}');
    }
    let left_out = events.len() > NESTED_MAX;
    TagList { is_irregular: fields.is_irregular || left_out, more: fields.more, ..logs }
}

/// Parent and links as Jaeger's references. A link to the parent is the parent's reference.
fn references(span: &Span) -> TagList {
    let mut references = TagList::default();
    let mut tags = TagList::default();
    let is_parent =
        |link: &Link| link.trace_id == span.trace_id && Some(link.span_id) == span.parent_span_id;
    if let Some(parent) = span.parent_span_id
        && !span.links.iter().any(is_parent)
    {
        let trace_id = span.trace_id.to_string();
        reference(&mut references.nested, "CHILD_OF", &trace_id, &parent.to_string());
        references.nested.push(b'}');
    }
    for link in &span.links {
        if tags.count >= NESTED_MAX {
            link.attributes.iter().for_each(|attribute| tags.push(attribute));
            continue;
        }
        tags.nested.clear();
        tags.count += 1;
        link.attributes.iter().for_each(|attribute| tags.push(attribute));
        let is_child = link.attributes.iter().any(|found| {
            found.key == "opentracing.ref_type"
                && found.value == AnyValue::Str("child_of".to_owned())
        });
        let kind = if is_child { "CHILD_OF" } else { "FOLLOWS_FROM" };
        let out = &mut references.nested;
        reference(out, kind, &link.trace_id.to_string(), &link.span_id.to_string());
        list_field(out, "tags", &tags.nested);
        out.push(b'}');
    }
    let left_out = span.links.len() > NESTED_MAX;
    TagList { is_irregular: tags.is_irregular || left_out, more: tags.more, ..references }
}

/// Appends a reference but its closing brace.
fn reference(out: &mut Vec<u8>, kind: &str, trace_id: &str, span_id: &str) {
    comma(out);
    out.push(b'{');
    text_field(out, "refType", kind);
    text_field(out, "traceID", trace_id);
    text_field(out, "spanID", span_id);
}

fn field_tag(out: &mut Vec<u8>, name: &str, value: impl FnOnce(&mut Vec<u8>), kind: &str) {
    comma(out);
    out.push(b'{');
    text_field(out, "key", name);
    text_field(out, "type", kind);
    key(out, "value");
    value(out);
    text_field(out, "farspan", "field");
    out.push(b'}');
}

fn tag(out: &mut Vec<u8>, attribute: &Attribute) {
    comma(out);
    out.push(b'{');
    text_field(out, "key", &attribute.key);
    match &attribute.value {
        AnyValue::Str(text) => typed_text(out, "string", text),
        AnyValue::Bool(value) => {
            text_field(out, "type", "bool");
            number_field(out, "value", value);
        }
        AnyValue::Int(value) => {
            text_field(out, "type", "int64");
            number_field(out, "value", value);
            number_field(out, "number", value);
        }
        AnyValue::Double(value) => {
            typed_text(out, "float64", &value.to_string());
            if !value.is_nan() {
                // One zero; the infinities stand at the edges.
                number_field(out, "number", value.clamp(f64::MIN, f64::MAX) + 0.0);
            }
        }
        AnyValue::Bytes(bytes) => opaque(out, "binary", &hex(bytes)),
        AnyValue::Empty => opaque(out, "string", ""),
        AnyValue::Array(_) | AnyValue::KvList(_) => {
            let mut text = Vec::new();
            plain_json(&mut text, &attribute.value);
            opaque(out, "string", &String::from_utf8_lossy(&text));
        }
    }
    out.push(b'}');
}

fn typed_text(out: &mut Vec<u8>, kind: &str, text: &str) {
    text_field(out, "type", kind);
    text_field(out, "value", text);
}

fn opaque(out: &mut Vec<u8>, kind: &str, text: &str) {
    typed_text(out, kind, text);
    text_field(out, "farspan", "opaque");
}

/// A list or map as people read it; nested as deep as it was sent, which the receiver bounds.
fn plain_json(out: &mut Vec<u8>, value: &AnyValue) {
    match value {
        AnyValue::Empty => out.extend_from_slice(b"null"),
        AnyValue::Str(text) => string(out, text),
        AnyValue::Bool(value) => number(out, value),
        AnyValue::Int(value) => number(out, value),
        AnyValue::Double(value) if value.is_finite() => number(out, value),
        AnyValue::Double(value) => string(out, &value.to_string()),
        AnyValue::Bytes(bytes) => string(out, &hex(bytes)),
        AnyValue::Array(values) => {
            out.push(b'[');
            for value in values {
                comma(out);
                plain_json(out, value);
            }
            out.push(b']');
        }
        AnyValue::KvList(pairs) => {
            out.push(b'{');
            for pair in pairs {
                comma(out);
                string(out, &pair.key);
                out.push(b':');
                plain_json(out, &pair.value);
            }
            out.push(b'}');
        }
    }
}
