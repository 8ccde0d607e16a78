//! Attributes as OTLP defines them (`common.proto`, `KeyValue` and `AnyValue`).

/// A value of an attribute.
#[derive(Clone, Debug, PartialEq)]
pub enum AnyValue {
    /// A value that was sent without any content.
    Empty,
    /// Text.
    Str(String),
    /// True or false.
    Bool(bool),
    /// A signed 64-bit number.
    Int(i64),
    /// A double.
    Double(f64),
    /// Bytes.
    Bytes(Vec<u8>),
    /// A list of values.
    Array(Vec<AnyValue>),
    /// A list of named values.
    KvList(Vec<Attribute>),
}

/// A named value.
#[derive(Clone, Debug, PartialEq)]
pub struct Attribute {
    /// The name.
    pub key: String,
    /// The value.
    pub value: AnyValue,
}

impl AnyValue {
    /// The value as the text that a person would type to find it: strings as they are, numbers and
    /// booleans printed, bytes, lists and maps not at all.
    #[must_use]
    pub fn as_search_text(&self) -> Option<std::borrow::Cow<'_, str>> {
        match self {
            Self::Str(text) => Some(text.as_str().into()),
            Self::Bool(value) => Some(if *value { "true" } else { "false" }.into()),
            Self::Int(value) => Some(value.to_string().into()),
            Self::Double(value) => Some(value.to_string().into()),
            Self::Empty | Self::Bytes(_) | Self::Array(_) | Self::KvList(_) => None,
        }
    }
}
