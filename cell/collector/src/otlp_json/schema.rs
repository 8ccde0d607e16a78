//! The fields of OTLP's trace messages by their JSON names.
//!
//! Source: `opentelemetry/proto/{collector/trace,trace,common,resource}/v1/*.proto` and proto3 JSON
//! (lowerCamelCase; the names of the `.proto` files are taken too).

/// A message.
#[derive(Debug)]
pub(super) struct Message {
    /// Its fields.
    pub fields: &'static [Field],
}

/// A field.
#[derive(Debug)]
pub(super) struct Field {
    /// Its name in JSON.
    pub json: &'static str,
    /// Its name in the `.proto` file.
    pub proto: &'static str,
    /// Its number.
    pub number: u32,
    /// What it holds.
    pub kind: Kind,
    /// Whether it is a list.
    pub is_repeated: bool,
}

/// What a field holds.
#[derive(Clone, Copy, Debug)]
pub(super) enum Kind {
    /// A message.
    Message(&'static Message),
    /// `string`.
    Text,
    /// `bytes`, in hex: OTLP writes ids so, against proto3 JSON.
    Hex,
    /// `bytes`, in base64.
    Base64,
    /// `bool`.
    Bool,
    /// `double`.
    Double,
    /// `int64`.
    Int64,
    /// `uint32`.
    Uint32,
    /// `fixed32`.
    Fixed32,
    /// `fixed64`.
    Fixed64,
    /// An enumeration, with its names.
    Enum(&'static [(&'static str, i32)]),
}

impl Field {
    /// What it takes, or one element of it, for who sent something else.
    pub(super) const fn takes(&self, is_element: bool) -> &'static str {
        if self.is_repeated && !is_element {
            return "a list";
        }
        match self.kind {
            Kind::Message(_) => "an object",
            Kind::Text => "a text",
            Kind::Hex => "hex digits, two for each byte",
            Kind::Base64 => "base64",
            Kind::Bool => "true or false",
            Kind::Double => "a number",
            Kind::Int64 => "an integer of 64 bits",
            Kind::Uint32 | Kind::Fixed32 => "an integer of 32 bits, not below 0",
            Kind::Fixed64 => "an integer of 64 bits, not below 0",
            Kind::Enum(_) => "one of its numbers or names",
        }
    }
}

impl Message {
    /// Whether this is `AnyValue`, the one message that can hold itself.
    pub(super) fn is_any_value(&self) -> bool {
        std::ptr::eq(self, &raw const ANY_VALUE)
    }

    /// The field of a name.
    pub(super) fn field(&self, name: &str) -> Option<&'static Field> {
        self.fields.iter().find(|field| field.json == name || field.proto == name)
    }
}

const fn one(json: &'static str, proto: &'static str, number: u32, kind: Kind) -> Field {
    Field { json, proto, number, kind, is_repeated: false }
}

const fn many(json: &'static str, proto: &'static str, number: u32, kind: Kind) -> Field {
    Field { json, proto, number, kind, is_repeated: true }
}

/// `ExportTraceServiceRequest`.
pub(super) static REQUEST: Message = Message {
    fields: &[many("resourceSpans", "resource_spans", 1, Kind::Message(&RESOURCE_SPANS))],
};

static RESOURCE_SPANS: Message = Message {
    fields: &[
        one("resource", "resource", 1, Kind::Message(&RESOURCE)),
        many("scopeSpans", "scope_spans", 2, Kind::Message(&SCOPE_SPANS)),
        one("schemaUrl", "schema_url", 3, Kind::Text),
    ],
};

static RESOURCE: Message = Message {
    fields: &[
        many("attributes", "attributes", 1, Kind::Message(&KEY_VALUE)),
        one("droppedAttributesCount", "dropped_attributes_count", 2, Kind::Uint32),
        many("entityRefs", "entity_refs", 3, Kind::Message(&ENTITY_REF)),
    ],
};

static ENTITY_REF: Message = Message {
    fields: &[
        one("schemaUrl", "schema_url", 1, Kind::Text),
        one("type", "type", 2, Kind::Text),
        many("idKeys", "id_keys", 3, Kind::Text),
        many("descriptionKeys", "description_keys", 4, Kind::Text),
    ],
};

static SCOPE_SPANS: Message = Message {
    fields: &[
        one("scope", "scope", 1, Kind::Message(&SCOPE)),
        many("spans", "spans", 2, Kind::Message(&SPAN)),
        one("schemaUrl", "schema_url", 3, Kind::Text),
    ],
};

static SCOPE: Message = Message {
    fields: &[
        one("name", "name", 1, Kind::Text),
        one("version", "version", 2, Kind::Text),
        many("attributes", "attributes", 3, Kind::Message(&KEY_VALUE)),
        one("droppedAttributesCount", "dropped_attributes_count", 4, Kind::Uint32),
    ],
};

static SPAN: Message = Message {
    fields: &[
        one("traceId", "trace_id", 1, Kind::Hex),
        one("spanId", "span_id", 2, Kind::Hex),
        one("traceState", "trace_state", 3, Kind::Text),
        one("parentSpanId", "parent_span_id", 4, Kind::Hex),
        one("name", "name", 5, Kind::Text),
        one("kind", "kind", 6, Kind::Enum(SPAN_KINDS)),
        one("startTimeUnixNano", "start_time_unix_nano", 7, Kind::Fixed64),
        one("endTimeUnixNano", "end_time_unix_nano", 8, Kind::Fixed64),
        many("attributes", "attributes", 9, Kind::Message(&KEY_VALUE)),
        one("droppedAttributesCount", "dropped_attributes_count", 10, Kind::Uint32),
        many("events", "events", 11, Kind::Message(&EVENT)),
        one("droppedEventsCount", "dropped_events_count", 12, Kind::Uint32),
        many("links", "links", 13, Kind::Message(&LINK)),
        one("droppedLinksCount", "dropped_links_count", 14, Kind::Uint32),
        one("status", "status", 15, Kind::Message(&STATUS)),
        one("flags", "flags", 16, Kind::Fixed32),
    ],
};

static SPAN_KINDS: &[(&str, i32)] = &[
    ("SPAN_KIND_UNSPECIFIED", 0),
    ("SPAN_KIND_INTERNAL", 1),
    ("SPAN_KIND_SERVER", 2),
    ("SPAN_KIND_CLIENT", 3),
    ("SPAN_KIND_PRODUCER", 4),
    ("SPAN_KIND_CONSUMER", 5),
];

static EVENT: Message = Message {
    fields: &[
        one("timeUnixNano", "time_unix_nano", 1, Kind::Fixed64),
        one("name", "name", 2, Kind::Text),
        many("attributes", "attributes", 3, Kind::Message(&KEY_VALUE)),
        one("droppedAttributesCount", "dropped_attributes_count", 4, Kind::Uint32),
    ],
};

static LINK: Message = Message {
    fields: &[
        one("traceId", "trace_id", 1, Kind::Hex),
        one("spanId", "span_id", 2, Kind::Hex),
        one("traceState", "trace_state", 3, Kind::Text),
        many("attributes", "attributes", 4, Kind::Message(&KEY_VALUE)),
        one("droppedAttributesCount", "dropped_attributes_count", 5, Kind::Uint32),
        one("flags", "flags", 6, Kind::Fixed32),
    ],
};

static STATUS: Message = Message {
    fields: &[
        one("message", "message", 2, Kind::Text),
        one("code", "code", 3, Kind::Enum(STATUS_CODES)),
    ],
};

static STATUS_CODES: &[(&str, i32)] =
    &[("STATUS_CODE_UNSET", 0), ("STATUS_CODE_OK", 1), ("STATUS_CODE_ERROR", 2)];

static KEY_VALUE: Message = Message {
    fields: &[
        one("key", "key", 1, Kind::Text),
        one("value", "value", 2, Kind::Message(&ANY_VALUE)),
    ],
};

static ANY_VALUE: Message = Message {
    fields: &[
        one("stringValue", "string_value", 1, Kind::Text),
        one("boolValue", "bool_value", 2, Kind::Bool),
        one("intValue", "int_value", 3, Kind::Int64),
        one("doubleValue", "double_value", 4, Kind::Double),
        one("arrayValue", "array_value", 5, Kind::Message(&ARRAY_VALUE)),
        one("kvlistValue", "kvlist_value", 6, Kind::Message(&KEY_VALUE_LIST)),
        one("bytesValue", "bytes_value", 7, Kind::Base64),
    ],
};

static ARRAY_VALUE: Message =
    Message { fields: &[many("values", "values", 1, Kind::Message(&ANY_VALUE))] };

static KEY_VALUE_LIST: Message =
    Message { fields: &[many("values", "values", 1, Kind::Message(&KEY_VALUE))] };
