//! The configuration of a cell.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use trace_model::Region;
use trace_model::locality::{IndexMode, Locality, SpanMode};

use super::cold::{ColdConfig, read_cold};
use super::direct::{DirectConfig, read_direct};
use super::engines::{StoresConfig, read_stores};
pub use super::groups::GroupKind;
use super::groups::read_groups;
use super::home::default_data_dir;
use super::listen::{ConnectionLimits, Listeners, TelemetryConfig, read_limits, read_telemetry};
use super::profile_notes::note_profile;
use super::section::Section;
use super::setting::{Bytes, ServiceUrl};

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;
const HOUR: Duration = Duration::from_secs(3_600);
const DAY: Duration = Duration::from_secs(86_400);

/// Default retention where there are objects for old spans.
const COLD_RETENTION: Duration = Duration::from_secs(90 * 86_400);

/// Largest body: twice as much, which is what its batch takes at worst, is what the log takes at
/// once (64 MiB).
const BODY_MAX: Bytes = Bytes(32 * MIB);
/// Largest value: a span of it is well below what readers take in one message (24 MiB).
const VALUE_MAX: Bytes = Bytes(16 * MIB);
/// Deepest value: one level more and decoders of protobuf meet their recursion limit.
const DEPTH_MAX: u32 = 32;

/// A named set of defaults.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Profile {
    /// Durable embedded log and stores, one process.
    Embedded,
    /// 10 K spans/s: no Kafka (the embedded log is the write-ahead buffer), stores on engines.
    Startup,
    /// 100 K spans/s: Kafka and stores on engines, ClickHouse for analytics.
    Growth,
    /// 1 M spans/s.
    Scale,
    /// 10 M spans/s.
    Hyperscale,
}

impl Profile {
    /// Its word.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Embedded => "embedded",
            Self::Startup => "startup",
            Self::Growth => "growth",
            Self::Scale => "scale",
            Self::Hyperscale => "hyperscale",
        }
    }

    /// Default head-sampling rate. `scale` and `hyperscale` sample behind the log.
    const fn head_rate(self) -> f64 {
        match self {
            Self::Embedded | Self::Scale | Self::Hyperscale => 1.0,
            Self::Startup => 0.10,
            Self::Growth => 0.01,
        }
    }

    /// Default retention.
    const fn retention(self) -> Duration {
        match self {
            Self::Embedded => Duration::from_secs(7 * 86_400),
            Self::Startup | Self::Growth | Self::Scale | Self::Hyperscale => {
                Duration::from_secs(30 * 86_400)
            }
        }
    }
}

/// What the log does when it is full.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WhenFull {
    /// Refuse senders, retryably.
    Refuse,
    /// Drop the oldest records, counted, and with a hole in the watermark.
    DropOldest,
}

/// A cell: all that one region needs.
#[derive(Clone, Debug, PartialEq)]
pub struct CellConfig {
    /// The region.
    pub region: Region,
    /// Which defaults.
    pub profile: Profile,
    /// Where everything is kept.
    pub data_dir: PathBuf,
    /// Whether addresses other than loopback may be bound.
    pub is_insecure: bool,
    /// Where the cell listens.
    pub listen: CellListen,
    /// Limits of receiving.
    pub receiver: ReceiverConfig,
    /// Head sampling.
    pub head: HeadConfig,
    /// The span log.
    pub log: LogConfig,
    /// Which log and stores, and where their engines are.
    pub stores: StoresConfig,
    /// What this process is in a cell of several collectors without Kafka; `None`: no such cell.
    pub direct: Option<DirectConfig>,
    /// Where old spans go; `None`: they stay where they are.
    pub cold: Option<ColdConfig>,
    /// How long spans are kept: the one key that drives stores, index and objects.
    pub retention: Duration,
    /// How much disk the stores take before the oldest spans go.
    pub retention_bytes: u64,
    /// What may leave the region.
    pub locality: Locality,
    /// The querier.
    pub querier: QuerierConfig,
    /// The consumer groups that this process takes part in.
    pub groups: Vec<GroupKind>,
    /// The region's replicator, from which the cell learns of calls that enter other regions;
    /// without it such calls are not counted.
    pub replicator: Option<ServiceUrl>,
    /// Time to finish what is under way when the process stops.
    pub drain_timeout: Duration,
    /// Logging.
    pub telemetry: TelemetryConfig,
}

/// Where a cell listens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CellListen {
    /// OTLP over gRPC.
    pub otlp_grpc: SocketAddr,
    /// OTLP over HTTP.
    pub otlp_http: SocketAddr,
    /// Zipkin's `/api/v2/spans`.
    pub zipkin: SocketAddr,
    /// Gateways and replicators: `CellQuery` and `MetadataReplication`.
    pub internal: SocketAddr,
    /// `/livez`, `/readyz`, `/metrics`.
    pub admin: SocketAddr,
}

/// Limits of receiving, checked before anything is allocated.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReceiverConfig {
    /// Largest gRPC message after decompression, in bytes.
    pub grpc_body_bytes_max: u64,
    /// Largest HTTP body after decompression, in bytes.
    pub http_body_bytes_max: u64,
    /// Most spans of a request.
    pub spans_max: u32,
    /// Most attributes of a span, resource, scope, event or link.
    pub attributes_max: u32,
    /// Largest value of an attribute, in bytes.
    pub value_bytes_max: u64,
    /// Deepest value.
    pub depth_max: u32,
    /// Bytes of all requests that are being received at once.
    pub in_flight_bytes_max: u64,
    /// Until a request must be answered.
    pub request_timeout: Duration,
    /// Origins of browser SDKs that may send (CORS): exact, with any port (`…:*`) or any (`*`). None
    /// where it is empty; by default the pages of the same machine.
    pub cors_origins: Vec<String>,
    /// Limits of connections.
    pub connections: ConnectionLimits,
}

/// Head sampling.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct HeadConfig {
    /// Share of traces that are kept, 0 to 1.
    pub rate: f64,
    /// Whether an unsampled W3C flag is honoured.
    pub is_honouring_flags: bool,
}

/// The span log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogConfig {
    /// How long records are kept for replay once every required group has them.
    pub retention: Duration,
    /// How much disk the log may take.
    pub bytes_max: u64,
    /// Size of a segment, in bytes.
    pub segment_bytes: u64,
    /// What to do when it is full.
    pub when_full: WhenFull,
}

/// The querier.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QuerierConfig {
    /// Questions answered at once.
    pub concurrency: u32,
    /// Memory for decoded blocks, in bytes.
    pub cache_bytes: u64,
}

pub(super) fn read(root: &mut Section<'_>) -> Option<CellConfig> {
    let region = root.required::<Region>("region");
    let profile = root.value("profile", Profile::Embedded);
    let name = region.as_ref().map_or("cell", Region::as_str).to_owned();
    let data_dir = root.value("data_dir", default_data_dir(&name));
    let is_insecure = root.value("insecure", false);
    let (listen, is_receiving) = read_listen(root, is_insecure);
    let receiver = read_receiver(root);
    let head = read_head(root, profile);
    let lives = HOUR..=DAY * 3_650;
    let by_profile = (profile.retention(), profile.name());
    let retention = match root.has("cold") {
        true => root.within("retention", COLD_RETENTION, lives),
        false => root.within_by_profile("retention", by_profile, lives),
    };
    let stores = read_stores(root, profile, retention);
    let cold = read_cold(root, stores.as_ref(), retention);
    note_profile(root, profile, stores.as_ref(), cold.as_ref().is_none_or(Option::is_some));
    let retention_bytes =
        root.within("retention_bytes", Bytes(20 * GIB), Bytes(64 * MIB)..=Bytes(1 << 50));
    let log = read_log(root, retention);
    let locality = read_locality(root);
    let querier = read_querier(root);
    let replicator = root.optional::<ServiceUrl>("replicator");
    let is_shared = stores.as_ref().is_none_or(|stores| stores.kafka.is_some());
    let direct = read_direct(root, stores.as_ref(), is_receiving);
    let groups = match &direct {
        Some(direct) => direct.groups(),
        None => read_groups(root, is_shared, replicator.is_some()),
    };
    let drain_timeout = read_drain_timeout(root);
    let telemetry = read_telemetry(root);
    Some(CellConfig {
        region: region?,
        profile,
        data_dir,
        is_insecure,
        listen,
        receiver,
        head,
        log,
        stores: stores?,
        direct,
        cold: cold?,
        retention,
        retention_bytes: retention_bytes.0,
        locality,
        querier,
        groups,
        replicator,
        drain_timeout,
        telemetry,
    })
}

pub(super) fn read_drain_timeout(root: &mut Section<'_>) -> Duration {
    let seconds = Duration::from_secs;
    root.within("drain_timeout", seconds(10), seconds(1)..=seconds(600))
}

/// Where it listens, and whether an address for senders is written.
fn read_listen(root: &mut Section<'_>, is_insecure: bool) -> (CellListen, bool) {
    let mut listeners = Listeners::new(is_insecure);
    let mut section = root.section("listen");
    let is_receiving = ["otlp_grpc", "otlp_http", "zipkin"].iter().any(|key| section.has(key));
    let listen = CellListen {
        otlp_grpc: listeners.read(&mut section, "otlp_grpc", 4_317),
        otlp_http: listeners.read(&mut section, "otlp_http", 4_318),
        zipkin: listeners.read(&mut section, "zipkin", 9_411),
        internal: listeners.read(&mut section, "internal", 17_400),
        admin: listeners.read(&mut section, "admin", 17_480),
    };
    section.finish();
    (listen, is_receiving)
}

fn read_receiver(root: &mut Section<'_>) -> ReceiverConfig {
    let mut section = root.section("receiver");
    let body = Bytes(KIB)..=BODY_MAX;
    let grpc_body = section.within("grpc_body_max", Bytes(16 * MIB), body.clone());
    let http_body = section.within("http_body_max", Bytes(20 * MIB), body);
    let in_flight = section.within("in_flight_max", Bytes(256 * MIB), Bytes(MIB)..=Bytes(1 << 40));
    if in_flight < grpc_body || in_flight < http_body {
        section.refuse("in_flight_max", "is smaller than the largest body: none would fit");
    }
    let value = Bytes(16)..=VALUE_MAX;
    let seconds = Duration::from_secs;
    let receiver = ReceiverConfig {
        grpc_body_bytes_max: grpc_body.0,
        http_body_bytes_max: http_body.0,
        spans_max: section.within("spans_max", 100_000, 1..=10_000_000),
        attributes_max: section.within("attributes_max", 1_024, 1..=65_536),
        value_bytes_max: section.within("value_max", Bytes(MIB), value).0,
        depth_max: section.within("depth_max", 32, 1..=DEPTH_MAX),
        in_flight_bytes_max: in_flight.0,
        request_timeout: section.within("request_timeout", seconds(10), seconds(1)..=seconds(300)),
        cors_origins: section.value("cors_origins", loopback_origins()),
        connections: read_limits(&mut section),
    };
    section.finish();
    receiver
}

/// Pages that are served from the same machine: what a browser SDK needs during development, and
/// nothing that a foreign page could use.
fn loopback_origins() -> Vec<String> {
    ["http://localhost", "http://127.0.0.1", "http://[::1]", "https://localhost"]
        .into_iter()
        .flat_map(|origin| [origin.to_owned(), format!("{origin}:*")])
        .collect()
}

fn read_head(root: &mut Section<'_>, profile: Profile) -> HeadConfig {
    let mut section = root.section("head");
    let rate = (profile.head_rate(), profile.name());
    let head = HeadConfig {
        rate: section.within_by_profile("rate", rate, 0.0..=1.0),
        is_honouring_flags: section.value("honour_flags", false),
    };
    section.finish();
    head
}

fn read_log(root: &mut Section<'_>, store_retention: Duration) -> LogConfig {
    let mut section = root.section("log");
    let minute = Duration::from_secs(60);
    let retention = section.within("retention", (HOUR * 4).min(store_retention), minute..=DAY * 30);
    let segment = section.within("segment", Bytes(128 * MIB), Bytes(MIB)..=Bytes(2 * GIB));
    let bytes_max = section.within("bytes_max", Bytes(8 * GIB), Bytes(4 * MIB)..=Bytes(1 << 50));
    if retention > store_retention {
        section.refuse(
            "retention",
            "is longer than `retention`: a replay would bring back spans \
                                     that the stores have let go",
        );
    }
    if bytes_max.0 / 2 < segment.0 {
        section.refuse("bytes_max", "is smaller than two segments (`log.segment`)");
    }
    let log = LogConfig {
        retention,
        bytes_max: bytes_max.0,
        segment_bytes: segment.0,
        when_full: section.value("when_full", WhenFull::Refuse),
    };
    section.finish();
    log
}

fn read_locality(root: &mut Section<'_>) -> Locality {
    let mut section = root.section("locality");
    let locality = Locality {
        index: section.value("index", IndexMode::Full),
        spans: section.value("spans", SpanMode::Open),
    };
    section.finish();
    locality
}

fn read_querier(root: &mut Section<'_>) -> QuerierConfig {
    let mut section = root.section("querier");
    let cache = section.within("cache", Bytes(64 * MIB), Bytes(0)..=Bytes(1 << 40));
    let querier = QuerierConfig {
        concurrency: section.within("concurrency", 64, 1..=65_536),
        cache_bytes: cache.0,
    };
    section.finish();
    querier
}
