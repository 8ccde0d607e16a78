//! Where objects are, and how long they are waited for.

use std::path::PathBuf;
use std::time::Duration;

/// Settings of an [`super::ObjectStorage`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ColdConfig {
    /// `s3://bucket/prefix`, `gs://bucket/prefix`, `az://container/prefix` or `file:///directory`.
    pub url: String,
    /// The cell's region: put behind the prefix, so that cells may share a bucket.
    pub region: String,
    /// Where the keeper of the objects answers, unless where its scheme says.
    pub endpoint: Option<String>,
    /// S3: the region of the bucket.
    pub bucket_region: Option<String>,
    /// Who we are.
    pub credentials: ColdCredentials,
    /// A PEM file with the authority that signed the keeper's certificate, and no other.
    pub ca_file: Option<PathBuf>,
    /// Whether to speak without TLS to an endpoint that begins with `http:`.
    pub is_http_allowed: bool,
    /// Limits of requests.
    pub limits: ColdLimits,
}

/// Who we are to the keeper of objects. Secrets are in files, each alone.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum ColdCredentials {
    /// What the machine is: asked from the metadata service of its cloud.
    #[default]
    Machine,
    /// S3: a key and a file with its secret.
    Keys {
        /// The key.
        access_key_id: String,
        /// A file with its secret.
        secret_access_key_file: PathBuf,
    },
    /// GCS: a file with a service account.
    ServiceAccount(PathBuf),
    /// Azure: an account, and a file with its key unless the machine is known there.
    Account {
        /// Its name.
        name: String,
        /// A file with its key.
        key_file: Option<PathBuf>,
    },
}

/// Limits of requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ColdLimits {
    /// Until a read must be answered; shorter than askers wait.
    pub read_timeout: Duration,
    /// Until a write of one part, a deletion or a list must be answered.
    pub upload_timeout: Duration,
    /// When a read has failed, others are refused for so long.
    pub pause: Duration,
    /// Requests at once.
    pub requests_max: usize,
    /// Size of the parts in which objects are written; smaller ones are written at once. At least
    /// 5 MiB for S3.
    pub part_bytes: usize,
}

impl Default for ColdLimits {
    fn default() -> Self {
        Self {
            read_timeout: Duration::from_secs(1),
            upload_timeout: Duration::from_secs(60),
            pause: Duration::from_secs(2),
            requests_max: 16,
            part_bytes: 8 << 20,
        }
    }
}
