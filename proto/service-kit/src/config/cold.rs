//! Where spans go when they are no longer hot.
//!
//! `retention` of the cell is the one key that says how long spans are kept, wherever they are; here
//! stands only when they leave the disk.

use std::path::PathBuf;
use std::time::Duration;

use super::engines::StoresConfig;
use super::section::Section;
use super::setting::{Bytes, EngineUrl};

const MIB: u64 = 1 << 20;
const DAY: Duration = Duration::from_secs(86_400);

/// Objects for cold spans.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ColdConfig {
    /// `s3://bucket/prefix`, `gs://bucket/prefix`, `az://container/prefix` or `file:///directory`.
    pub url: String,
    /// Segments move when the last of their spans arrived so long ago.
    pub after: Duration,
    /// How often segments are moved and objects deleted.
    pub every: Duration,
    /// Where the keeper of the objects answers, unless where its scheme says.
    pub endpoint: Option<EngineUrl>,
    /// S3: the region of the bucket.
    pub bucket_region: Option<String>,
    /// S3: the key; without one the machine's own identity.
    pub access_key_id: Option<String>,
    /// S3: a file with the key's secret alone.
    pub secret_access_key_file: Option<PathBuf>,
    /// GCS: a file with a service account; without one the machine's own identity.
    pub service_account_file: Option<PathBuf>,
    /// Azure: the storage account.
    pub account: Option<String>,
    /// Azure: a file with the account's key alone; without one the machine's own identity.
    pub account_key_file: Option<PathBuf>,
    /// A PEM file with the private authority that signed the keeper's certificate.
    pub ca_file: Option<PathBuf>,
    /// Whether to speak without TLS.
    pub is_http_allowed: bool,
    /// Until a read must be answered.
    pub read_timeout: Duration,
    /// Requests at once.
    pub requests_max: u32,
    /// Memory for blocks that were read, in bytes.
    pub cache_bytes: u64,
}

/// The section `cold`: `Some(None)` where it is not written, `None` where it has faults.
pub(super) fn read_cold(
    root: &mut Section<'_>,
    stores: Option<&StoresConfig>,
    retention: Duration,
) -> Option<Option<ColdConfig>> {
    if !root.has("cold") {
        // So that the key is known.
        root.section("cold").finish();
        return Some(None);
    }
    let mut section = root.section("cold");
    let config = read(&mut section, retention);
    if stores.is_some_and(|stores| stores.cassandra.is_some()) {
        section.refuse(
            "url",
            "cold spans need `stores.traces: embedded`: the segments of that store are what moves to \
             objects, and spans in Cassandra are not made into segments yet",
        );
    }
    section.finish();
    config.map(Some)
}

fn read(section: &mut Section<'_>, retention: Duration) -> Option<ColdConfig> {
    let url = section.required::<String>("url");
    let (millis, seconds) = (Duration::from_millis, Duration::from_secs);
    let config = ColdConfig {
        url: String::new(),
        after: section.within("after", DAY * 2, seconds(1)..=DAY * 3_650),
        every: section.within("every", seconds(600), seconds(1)..=DAY),
        endpoint: section.optional("endpoint"),
        bucket_region: section.optional("region"),
        access_key_id: section.optional("access_key_id"),
        secret_access_key_file: section.optional("secret_access_key_file"),
        service_account_file: section.optional("service_account_file"),
        account: section.optional("account"),
        account_key_file: section.optional("account_key_file"),
        ca_file: section.optional("ca_file"),
        is_http_allowed: section.value("allow_http", false),
        read_timeout: section.within("read_timeout", seconds(1), millis(20)..=seconds(60)),
        requests_max: section.within("requests_max", 16, 1..=1_024),
        cache_bytes: section.within("cache", Bytes(64 * MIB), Bytes(0)..=Bytes(1 << 40)).0,
    };
    if section.has("retention") {
        let _: Option<Duration> = section.optional("retention");
        section.refuse(
            "retention",
            "is no key of its own: the cell's `retention` drives stores, index and objects; write it \
             there (90d unless it is written)",
        );
    }
    if config.after >= retention {
        section.refuse("after", "is not shorter than `retention`: nothing would become cold");
    }
    check_keys(section, &config, url.as_deref().and_then(scheme_of));
    check_endpoint(section, &config);
    Some(ColdConfig { url: checked(section, url?)?, ..config })
}

fn scheme_of(url: &str) -> Option<&str> {
    url.split_once("://").map(|(scheme, _)| scheme)
}

/// The address, if it names a place that is served.
fn checked(section: &Section<'_>, url: String) -> Option<String> {
    let place = url.split_once("://").map_or("", |(_, place)| place);
    let fault = match scheme_of(&url) {
        Some("file") if !place.starts_with('/') => "names no absolute path: file:///directory",
        Some("file") => return Some(url),
        Some("s3" | "gs" | "az") if place.contains('@') => {
            "has credentials in an address: they are in files"
        }
        Some("s3" | "gs" | "az") if place.is_empty() || place.starts_with('/') => {
            "names no bucket: s3://bucket/prefix"
        }
        Some("s3" | "gs" | "az") => return Some(url),
        _ => {
            "is not s3://bucket/prefix, gs://bucket/prefix, az://container/prefix or \
              file:///directory"
        }
    };
    section.refuse("url", fault);
    None
}

/// Keys that belong to another keeper of objects are faults: they would be believed.
fn check_keys(section: &Section<'_>, config: &ColdConfig, scheme: Option<&str>) {
    let keys = [
        ("region", "s3", config.bucket_region.is_some()),
        ("access_key_id", "s3", config.access_key_id.is_some()),
        ("secret_access_key_file", "s3", config.secret_access_key_file.is_some()),
        ("service_account_file", "gs", config.service_account_file.is_some()),
        ("account", "az", config.account.is_some()),
        ("account_key_file", "az", config.account_key_file.is_some()),
    ];
    for (key, of, is_written) in keys {
        if is_written && scheme.is_some_and(|scheme| scheme != of) {
            section.refuse(key, &format!("has no effect: it goes with {of}://"));
        }
    }
    if config.access_key_id.is_some() != config.secret_access_key_file.is_some() {
        section.refuse("secret_access_key_file", "goes with `access_key_id`: write both or none");
    }
    if scheme == Some("az") && config.account.is_none() {
        section.refuse("account", "is missing: the storage account of the container");
    }
    let is_local = scheme == Some("file");
    let of_network = [
        ("endpoint", config.endpoint.is_some()),
        ("ca_file", config.ca_file.is_some()),
        ("allow_http", config.is_http_allowed),
    ];
    for (key, _) in of_network.into_iter().filter(|(_, is_written)| is_local && *is_written) {
        section.refuse(key, "has no effect on a directory");
    }
}

fn check_endpoint(section: &Section<'_>, config: &ColdConfig) {
    let Some(endpoint) = &config.endpoint else { return };
    let is_plain = endpoint.as_str().starts_with("http://");
    if !is_plain && !endpoint.as_str().starts_with("https://") {
        section.refuse("endpoint", "is not http://host:port or https://host:port");
    }
    if is_plain && !config.is_http_allowed {
        section.refuse("endpoint", "is without TLS: say `allow_http: true` if that is meant");
    }
}

#[cfg(test)]
mod tests {
    use super::super::{CellConfig, Config, parse};
    use super::*;

    fn parsed(text: &str) -> Result<CellConfig, Vec<(u64, String)>> {
        match parse("c.yaml", &format!("kind: cell\nregion: eu\n{text}")) {
            Ok(parsed) => {
                let Config::Cell(config) = parsed.config else { panic!("not a cell") };
                Ok(*config)
            }
            Err(faults) => {
                Err(faults.list().iter().map(|fault| (fault.line, fault.to_string())).collect())
            }
        }
    }

    fn fault(text: &str) -> String {
        let faults = parsed(text).unwrap_err();
        assert_eq!(faults.len(), 1, "{faults:?}");
        faults.into_iter().next().unwrap().1
    }

    #[test]
    fn without_the_section_spans_stay_where_they_are() {
        let config = parsed("").unwrap();
        assert_eq!((config.cold, config.retention), (None, DAY * 7));
    }

    #[test]
    fn an_address_is_enough_and_retention_is_longer_then() {
        let config = parsed("cold: {url: 's3://spans/farspan'}\n").unwrap();
        assert_eq!(config.retention, DAY * 90);
        let cold = config.cold.unwrap();
        assert_eq!((cold.url.as_str(), cold.after), ("s3://spans/farspan", DAY * 2));
        assert_eq!((cold.access_key_id, cold.is_http_allowed), (None, false));
        let config = parsed("retention: 30d\ncold: {url: 'file:///var/cold'}\n").unwrap();
        assert_eq!(config.retention, DAY * 30);
    }

    #[test]
    fn everything_can_be_said_and_no_secret_is_shown() {
        let text = "cold:
  url: s3://spans
  after: 1d
  every: 10m
  endpoint: http://127.0.0.1:9000
  allow_http: true
  region: eu-west-1
  access_key_id: me
  secret_access_key_file: secret
  ca_file: ca.pem
  read_timeout: 500ms
  requests_max: 4
  cache: 1GiB
";
        let cold = parsed(text).unwrap().cold.unwrap();
        assert_eq!((cold.after, cold.every), (DAY, Duration::from_secs(600)));
        assert_eq!(cold.endpoint.unwrap().as_str(), "http://127.0.0.1:9000");
        assert_eq!(cold.secret_access_key_file, Some("secret".into()));
        assert_eq!((cold.cache_bytes, cold.requests_max), (1 << 30, 4));
        let shown = parse("c.yaml", &format!("kind: cell\nregion: eu\n{text}")).unwrap();
        let shown = shown.effective.to_string();
        assert!(shown.contains("cold.secret_access_key_file: secret"), "{shown}");
    }

    #[test]
    fn every_fault_is_told_with_its_line() {
        let found = parsed(
            "cold:
  url: gs://spans
  region: eu-west-1
  access_key_id: me
  after: 91d
  retention: 90d
  endpoint: http://h:1
  bucket: x
",
        );
        let found = found.unwrap_err();
        let has = |line: u64, text: &str| {
            found.iter().any(|(found, fault)| *found == line && fault.contains(text))
        };
        assert!(has(5, "cold.region: has no effect: it goes with s3://"), "{found:?}");
        assert!(has(6, "cold.access_key_id: has no effect"), "{found:?}");
        assert!(has(4, "cold.secret_access_key_file: goes with"), "{found:?}");
        assert!(has(7, "cold.after: is not shorter than `retention`"), "{found:?}");
        assert!(has(8, "cold.retention: is no key of its own"), "{found:?}");
        assert!(has(9, "cold.endpoint: is without TLS"), "{found:?}");
        assert!(has(10, "cold.bucket: is not known"), "{found:?}");
        assert!(fault("cold: {}\n").contains("cold.url: is missing"));
        assert!(fault("cold: {url: 'ftp://h/x'}\n").contains("is not s3://bucket/prefix"));
        assert!(fault("cold: {url: 's3://'}\n").contains("names no bucket"));
        assert!(fault("cold: {url: 'file://x'}\n").contains("absolute path"));
        assert!(fault("cold: {url: 's3://me:x@b'}\n").contains("credentials"));
        assert!(fault("cold: {url: 'az://c'}\n").contains("cold.account: is missing"));
        let plain = fault("cold: {url: 'file:///x', ca_file: y}\n");
        assert!(plain.contains("cold.ca_file: has no effect on a directory"), "{plain}");
        let cassandra = fault(
            "stores: {traces: cassandra, search: elasticsearch}
cassandra: {nodes: ['h:1'], datacenter: d}
elasticsearch: {urls: ['http://h:1']}
cold: {url: 's3://b'}
",
        );
        assert!(cassandra.contains("need `stores.traces: embedded`"), "{cassandra}");
    }
}
