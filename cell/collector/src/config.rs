//! What a collector is told. Every limit has a default; nothing here reads a file or the
//! environment.

use std::time::Duration;

use trace_model::Region;

/// A collector's configuration.
#[derive(Clone, Debug)]
pub struct CollectorConfig {
    /// The region it stands in.
    pub region: Region,
    /// Its name, kept beside every span that it receives.
    pub name: String,
    /// Limits of what a request may hold.
    pub limits: SpanLimits,
    /// Largest body over gRPC, after decompression.
    pub grpc_body_bytes_max: usize,
    /// Largest body over HTTP, after decompression.
    pub http_body_bytes_max: usize,
    /// How much may be in flight.
    pub admission: AdmissionLimits,
    /// Limits of listeners and connections.
    pub connections: ConnectionLimits,
    /// How long a request's body may take to arrive.
    pub body_timeout: Duration,
    /// How long the log may take to acknowledge; then the sender is asked to repeat.
    pub acknowledge_timeout: Duration,
    /// How long requests in flight may take after the listeners were told to stop.
    pub drain_timeout: Duration,
    /// Origins of web pages whose browser may send spans: exact (`https://shop.example`), any port
    /// (`http://localhost:*`) or any (`*`). By default none.
    pub cors_origins: Vec<String>,
}

impl CollectorConfig {
    /// The defaults, for this region and name.
    #[must_use]
    pub fn new(region: Region, name: &str) -> Self {
        Self {
            region,
            name: name.into(),
            limits: SpanLimits::default(),
            grpc_body_bytes_max: 16 << 20,
            http_body_bytes_max: 20 << 20,
            admission: AdmissionLimits::default(),
            connections: ConnectionLimits::default(),
            body_timeout: Duration::from_secs(30),
            acknowledge_timeout: Duration::from_secs(30),
            drain_timeout: Duration::from_secs(5),
            cors_origins: Vec::new(),
        }
    }
}

/// What a request and its spans may hold. All are checked before anything is allocated for them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SpanLimits {
    /// Spans of one request; also its resources, and its scopes.
    pub spans_max: usize,
    /// Attributes of one span, event, link, resource or scope.
    pub attributes_max: usize,
    /// Bytes of one text or attribute value.
    pub value_bytes_max: usize,
    /// Depth of an attribute value's lists and maps; a plain value has depth 1. Above 32 readers
    /// would meet the recursion limit of protobuf decoders.
    pub depth_max: usize,
    /// Events, links, attributes and nested values of one span together: what a reader has to
    /// allocate for it.
    pub parts_max: usize,
    /// Bytes of one span with its resource and its scope. Readers get them in one message, of at
    /// most 24 MiB.
    pub span_bytes_max: usize,
}

impl Default for SpanLimits {
    fn default() -> Self {
        Self {
            spans_max: 100_000,
            attributes_max: 1_024,
            value_bytes_max: 1 << 20,
            depth_max: 32,
            parts_max: 65_536,
            span_bytes_max: 20 << 20,
        }
    }
}

/// How much may be received and not acknowledged. Beyond it requests are refused, retryably.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AdmissionLimits {
    /// Bytes of bodies, compressed and decompressed, and of batches on their way to the log.
    pub in_flight_bytes_max: usize,
    /// Requests.
    pub in_flight_requests_max: usize,
}

impl Default for AdmissionLimits {
    fn default() -> Self {
        Self { in_flight_bytes_max: 64 << 20, in_flight_requests_max: 4_096 }
    }
}

/// Limits of a listener.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConnectionLimits {
    /// Open connections; further ones wait in the kernel's queue.
    pub connections_max: usize,
    /// Bytes of a request's head.
    pub head_bytes_max: u32,
    /// How long a request's head may take; also how long an HTTP/1 connection may stay unused.
    pub head_timeout: Duration,
    /// How long a connection may stay without a request in flight.
    pub idle_timeout: Duration,
    /// Requests at a time on one HTTP/2 connection.
    pub streams_max: u32,
}

impl Default for ConnectionLimits {
    fn default() -> Self {
        Self {
            connections_max: 4_096,
            head_bytes_max: 32 << 10,
            head_timeout: Duration::from_secs(30),
            idle_timeout: Duration::from_secs(300),
            streams_max: 256,
        }
    }
}
