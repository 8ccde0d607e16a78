//! How a store over Cassandra or Scylla is set up.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use scylla::statement::Consistency;
use service_kit::tls::ClientTls;

use crate::port::NAMES_MAX;

/// How many replicas must answer. With each of them what was written before is seen by what reads
/// after, which the store's promises rest on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum CassandraConsistency {
    /// A majority of the replicas in the local data centre.
    #[default]
    LocalQuorum,
    /// A majority of all replicas, whatever their data centre.
    Quorum,
    /// A write needs a majority in every data centre, and so a read one in any: where one is away
    /// the others answer for all that was written, and writes wait.
    EachQuorum,
}

impl CassandraConsistency {
    /// What a read waits for.
    pub(super) const fn of_reads(self) -> Consistency {
        match self {
            Self::LocalQuorum | Self::EachQuorum => Consistency::LocalQuorum,
            Self::Quorum => Consistency::Quorum,
        }
    }

    /// What a write waits for.
    pub(super) const fn of_writes(self) -> Consistency {
        match self {
            Self::LocalQuorum => Consistency::LocalQuorum,
            Self::Quorum => Consistency::Quorum,
            Self::EachQuorum => Consistency::EachQuorum,
        }
    }

    /// Whether nodes of another data centre give the same answers, so that they may be asked where no
    /// local one is there. With `LocalQuorum` they may lack what was just written.
    pub(super) const fn is_same_everywhere(self) -> bool {
        match self {
            Self::LocalQuorum => false,
            Self::Quorum | Self::EachQuorum => true,
        }
    }
}

/// Who connects.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CassandraCredentials {
    /// The role.
    pub user: String,
    /// A file that holds its password and nothing else; blanks and line ends around it are cut.
    pub password_file: PathBuf,
}

/// Settings of a [`super::CassandraStore`]. [`CassandraConfig::at`] gives the defaults.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CassandraConfig {
    /// Nodes that are asked first, `host:port`; the others are learned from them.
    pub contact_points: Vec<String>,
    /// The keyspace: letters, digits and `_`, at most 48.
    pub keyspace: String,
    /// The data centre whose nodes are asked first, and alone unless `consistency` gives the same
    /// answers elsewhere.
    pub local_datacenter: String,
    /// Replicas by data centre, for `init`.
    pub replication: BTreeMap<String, u32>,
    /// Spans go when so much time has passed since they were received.
    pub retention: Duration,
    /// The log whose progress is kept: logs that are written side by side (one for each collector)
    /// have one name each.
    pub log: String,
    /// How many replicas must answer.
    pub consistency: CassandraConsistency,
    /// Requests of one call that are on their way at once.
    pub concurrency: usize,
    /// A request is given up after this time.
    pub request_timeout: Duration,
    /// A connection is given up after this time.
    pub connect_timeout: Duration,
    /// Who connects; `None`: the cluster asks nobody.
    pub credentials: Option<CassandraCredentials>,
    /// Encryption; `None`: none. A node's certificate must name its IP address: addresses come from
    /// the cluster, not from names.
    pub tls: Option<ClientTls>,
    /// Whether frames are compressed (LZ4): saves traffic between zones, costs processor time.
    pub compress_frames: bool,
    /// From so many bytes on a partition is closed and its next shard or bucket opened. Each writer
    /// may add what no account shows yet, up to 4 MiB and a batch: at 24 MiB sixteen writers of one
    /// trace at once stay below 100 MB.
    pub partition_bytes_max: u64,
    /// A piece of a trace has so many bytes, and up to a page (4 MiB) more.
    pub piece_bytes: u64,
    /// A trace whose spans have more bytes than this is not read into memory at once
    /// ([`crate::TraceReader::read_pieces`] reads it piece by piece).
    pub read_bytes_max: u64,
    /// Most index rows that one search looks at.
    pub search_rows_max: u64,
    /// Most traces that one search reads to verify a filter.
    pub search_traces_max: usize,
    /// Most services of a tenant, and most operations of a service, in one list.
    pub names_max: usize,
}

impl CassandraConfig {
    /// The defaults, for this keyspace of the cluster that these nodes belong to, in this data
    /// centre: three replicas in it, 30 days.
    #[must_use]
    pub fn at(
        contact_points: impl IntoIterator<Item = impl Into<String>>,
        keyspace: impl Into<String>,
        local_datacenter: impl Into<String>,
    ) -> Self {
        let local_datacenter = local_datacenter.into();
        Self {
            contact_points: contact_points.into_iter().map(Into::into).collect(),
            keyspace: keyspace.into(),
            replication: BTreeMap::from([(local_datacenter.clone(), 3)]),
            local_datacenter,
            retention: Duration::from_secs(30 * 24 * 3_600),
            log: "span-log".to_owned(),
            consistency: CassandraConsistency::default(),
            concurrency: 64,
            request_timeout: Duration::from_secs(10),
            connect_timeout: Duration::from_secs(5),
            credentials: None,
            tls: None,
            compress_frames: false,
            partition_bytes_max: 24 << 20,
            piece_bytes: 16 << 20,
            read_bytes_max: 512 << 20,
            search_rows_max: 1_000_000,
            search_traces_max: 1_000,
            names_max: NAMES_MAX,
        }
    }
}
