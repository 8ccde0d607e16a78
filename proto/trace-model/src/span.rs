//! A span with its fields read, for assembly, search and display. The bytes that were sent stay
//! beside it in [`crate::merge::StoredSpan`] and are what is given back.

use std::sync::Arc;

use crate::attribute::Attribute;
use crate::ids::{SpanId, TraceId};
use crate::time::UnixNanos;

/// OTLP `Span.SpanKind`, with its numbers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum SpanKind {
    /// Not said.
    #[default]
    Unspecified = 0,
    /// Inside a service.
    Internal = 1,
    /// The serving side of a call.
    Server = 2,
    /// The calling side of a call.
    Client = 3,
    /// Sends a message.
    Producer = 4,
    /// Takes a message.
    Consumer = 5,
}

impl SpanKind {
    /// The kind of an OTLP number; what is unknown is [`Self::Unspecified`], as proto3 asks.
    #[must_use]
    pub const fn from_number(number: i32) -> Self {
        match number {
            1 => Self::Internal,
            2 => Self::Server,
            3 => Self::Client,
            4 => Self::Producer,
            5 => Self::Consumer,
            _ => Self::Unspecified,
        }
    }

    /// The word of Jaeger's `span.kind` tag.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Unspecified => "unspecified",
            Self::Internal => "internal",
            Self::Server => "server",
            Self::Client => "client",
            Self::Producer => "producer",
            Self::Consumer => "consumer",
        }
    }
}

/// OTLP `Status.StatusCode`, with its numbers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum StatusCode {
    /// Not said.
    #[default]
    Unset = 0,
    /// Said to be well.
    Ok = 1,
    /// An error.
    Error = 2,
}

impl StatusCode {
    /// The code of an OTLP number; what is unknown is [`Self::Unset`].
    #[must_use]
    pub const fn from_number(number: i32) -> Self {
        match number {
            1 => Self::Ok,
            2 => Self::Error,
            _ => Self::Unset,
        }
    }

    /// The word used in filters.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Unset => "unset",
            Self::Ok => "ok",
            Self::Error => "error",
        }
    }
}

/// What a span's resource says.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Resource {
    /// `service.name`, or [`UNKNOWN_SERVICE`].
    pub service: Arc<str>,
    /// All attributes, in the order sent.
    pub attributes: Vec<Attribute>,
    /// Attributes that the sender dropped.
    pub dropped_attributes_count: u32,
    /// Schema of the resource.
    pub schema_url: String,
}

/// The service of a resource that names none (OpenTelemetry resource conventions).
pub const UNKNOWN_SERVICE: &str = "unknown_service";

/// The instrumentation scope of a span.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Scope {
    /// Name of the library.
    pub name: String,
    /// Its version.
    pub version: String,
    /// Its attributes.
    pub attributes: Vec<Attribute>,
    /// Attributes that the sender dropped.
    pub dropped_attributes_count: u32,
    /// Schema of the scope's spans.
    pub schema_url: String,
}

/// Something that happened within a span.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Event {
    /// When.
    pub time: UnixNanos,
    /// What.
    pub name: String,
    /// Its attributes.
    pub attributes: Vec<Attribute>,
    /// Attributes that the sender dropped.
    pub dropped_attributes_count: u32,
}

/// A pointer to a span of this or another trace.
#[derive(Clone, Debug, PartialEq)]
pub struct Link {
    /// The trace pointed to.
    pub trace_id: TraceId,
    /// The span pointed to.
    pub span_id: SpanId,
    /// W3C tracestate of the link.
    pub trace_state: String,
    /// Its attributes.
    pub attributes: Vec<Attribute>,
    /// Attributes that the sender dropped.
    pub dropped_attributes_count: u32,
    /// W3C flags.
    pub flags: u32,
}

/// A span, read.
#[derive(Clone, Debug, PartialEq)]
pub struct Span {
    /// Its trace.
    pub trace_id: TraceId,
    /// Its id.
    pub span_id: SpanId,
    /// The span that caused it, if any.
    pub parent_span_id: Option<SpanId>,
    /// W3C tracestate.
    pub trace_state: String,
    /// W3C flags.
    pub flags: u32,
    /// The operation.
    pub name: String,
    /// Its kind.
    pub kind: SpanKind,
    /// Start, as sent.
    pub start: UnixNanos,
    /// End, as sent.
    pub end: UnixNanos,
    /// Attributes in the order sent.
    pub attributes: Vec<Attribute>,
    /// Attributes that the sender dropped.
    pub dropped_attributes_count: u32,
    /// Events.
    pub events: Vec<Event>,
    /// Events that the sender dropped.
    pub dropped_events_count: u32,
    /// Links.
    pub links: Vec<Link>,
    /// Links that the sender dropped.
    pub dropped_links_count: u32,
    /// Status code.
    pub status: StatusCode,
    /// Status message.
    pub status_message: String,
    /// Its resource.
    pub resource: Arc<Resource>,
    /// Its scope.
    pub scope: Arc<Scope>,
}

impl Span {
    /// Nanoseconds from start to end; 0 where the end is before the start.
    #[must_use]
    pub const fn duration_nanos(&self) -> u64 {
        self.end.since(self.start)
    }
}
