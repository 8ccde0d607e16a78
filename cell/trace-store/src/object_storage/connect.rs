//! From a configuration to a client: scheme, place, credentials, certificates.

use std::fs;
use std::path::Path as FilePath;
use std::sync::Arc;
use std::time::Duration;

use object_store::aws::AmazonS3Builder;
use object_store::azure::MicrosoftAzureBuilder;
use object_store::client::{HttpClient, HttpConnector};
use object_store::gcp::GoogleCloudStorageBuilder;
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use object_store::{BackoffConfig, ClientOptions, ObjectStore, RetryConfig};
use service_kit::tls::ClientTls;

use super::config::{ColdConfig, ColdCredentials};
use crate::StoreError;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Connections that are not used are closed after so long.
const IDLE_MAX: Duration = Duration::from_secs(60);

/// A client, and the prefix of the cell's objects.
pub(super) fn connect(config: &ColdConfig) -> Result<(Arc<dyn ObjectStore>, Path), StoreError> {
    let (scheme, rest) = config.url.split_once("://").ok_or_else(|| unfit("url", "no scheme"))?;
    if scheme == "file" {
        let (store, prefix) = (directory(FilePath::new(rest))?, Path::default());
        return Ok((store, prefix.join(config.region.as_str())));
    }
    let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
    let prefix = Path::parse(prefix).map_err(|error| unfit("url", &error))?;
    let store: Arc<dyn ObjectStore> = match scheme {
        "s3" => s3(config, bucket)?,
        "gs" => gcs(config, bucket)?,
        "az" => azure(config, bucket)?,
        _ => return Err(unfit("url", "not s3://, gs://, az:// or file://")),
    };
    Ok((store, prefix.join(config.region.as_str())))
}

fn unfit(key: &str, why: &(impl std::fmt::Display + ?Sized)) -> StoreError {
    StoreError::Unsupported(format!("cold.{key}: {why}"))
}

/// A directory, made where there is none. Its files are durable when they have their names.
fn directory(path: &FilePath) -> Result<Arc<dyn ObjectStore>, StoreError> {
    fs::create_dir_all(path).map_err(|error| unfit("url", &error))?;
    let store = LocalFileSystem::new_with_prefix(path).map_err(|error| unfit("url", &error))?;
    Ok(Arc::new(store.with_fsync(true)))
}

fn s3(config: &ColdConfig, bucket: &str) -> Result<Arc<dyn ObjectStore>, StoreError> {
    let mut builder = AmazonS3Builder::new()
        .with_bucket_name(bucket)
        .with_client_options(options(config))
        .with_retry(retries())
        .with_http_connector(Connector::new(config)?);
    if let Some(region) = &config.bucket_region {
        builder = builder.with_region(region);
    }
    if let Some(endpoint) = &config.endpoint {
        builder = builder.with_endpoint(endpoint);
    }
    if let ColdCredentials::Keys { access_key_id, secret_access_key_file } = &config.credentials {
        let secret = secret("secret_access_key_file", secret_access_key_file)?;
        builder = builder.with_access_key_id(access_key_id).with_secret_access_key(secret);
    }
    Ok(Arc::new(builder.build().map_err(|error| unfit("url", &error))?))
}

fn gcs(config: &ColdConfig, bucket: &str) -> Result<Arc<dyn ObjectStore>, StoreError> {
    let mut builder = GoogleCloudStorageBuilder::new()
        .with_bucket_name(bucket)
        .with_client_options(options(config))
        .with_retry(retries())
        .with_http_connector(Connector::new(config)?);
    if let Some(endpoint) = &config.endpoint {
        builder = builder.with_base_url(endpoint);
    }
    if let ColdCredentials::ServiceAccount(file) = &config.credentials {
        let account = secret("service_account_file", file)?;
        builder = builder.with_service_account_key(account);
    }
    Ok(Arc::new(builder.build().map_err(|error| unfit("url", &error))?))
}

fn azure(config: &ColdConfig, container: &str) -> Result<Arc<dyn ObjectStore>, StoreError> {
    let mut builder = MicrosoftAzureBuilder::new()
        .with_container_name(container)
        .with_client_options(options(config))
        .with_retry(retries())
        .with_http_connector(Connector::new(config)?);
    if let Some(endpoint) = &config.endpoint {
        builder = builder.with_endpoint(endpoint.clone());
    }
    if let ColdCredentials::Account { name, key_file } = &config.credentials {
        builder = builder.with_account(name);
        if let Some(file) = key_file {
            builder = builder.with_access_key(secret("access_key_file", file)?);
        }
    }
    Ok(Arc::new(builder.build().map_err(|error| unfit("url", &error))?))
}

/// What the builders look at themselves; the rest is the connector's.
fn options(config: &ColdConfig) -> ClientOptions {
    ClientOptions::new().with_allow_http(config.is_http_allowed)
}

/// Few and quick: whoever waits has a deadline, and a move that fails is made again.
fn retries() -> RetryConfig {
    RetryConfig {
        backoff: BackoffConfig {
            init_backoff: Duration::from_millis(50),
            max_backoff: Duration::from_secs(2),
            base: 2.0,
        },
        max_retries: 3,
        retry_timeout: Duration::from_secs(30),
    }
}

/// The content of a file that holds a secret alone.
fn secret(key: &str, file: &FilePath) -> Result<String, StoreError> {
    let text = fs::read_to_string(file);
    let text = text.map_err(|error| unfit(key, &format!("{}: {error}", file.display())))?;
    Ok(text.trim().to_owned())
}

/// Makes the HTTP client: TLS by rustls with ring, which the crate's own way leaves to chance where a
/// build has two providers. No proxy out of the environment.
#[derive(Debug)]
struct Connector {
    client: reqwest::Client,
}

impl Connector {
    fn new(config: &ColdConfig) -> Result<Self, StoreError> {
        let builder = reqwest::Client::builder()
            .no_proxy()
            .http1_only()
            .https_only(!config.is_http_allowed)
            .redirect(reqwest::redirect::Policy::none())
            .connect_timeout(CONNECT_TIMEOUT)
            .pool_idle_timeout(IDLE_MAX);
        let builder = match &config.ca_file {
            Some(file) => {
                let tls = ClientTls::believing(file).read();
                let tls = tls.map_err(|fault| unfit("ca_file", &fault.words()))?;
                builder.tls_backend_preconfigured(tls)
            }
            None => {
                // The machine's authorities. A provider that is there already is as good.
                drop(rustls::crypto::ring::default_provider().install_default());
                builder
            }
        };
        let client = builder.build().map_err(|error| unfit("url", &error))?;
        Ok(Self { client })
    }
}

impl HttpConnector for Connector {
    fn connect(&self, _: &ClientOptions) -> object_store::Result<HttpClient> {
        Ok(HttpClient::new(self.client.clone()))
    }
}
