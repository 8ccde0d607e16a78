//! The engine behind HTTP: requests with a deadline, answers with a limit, failures in our words.
//!
//! The crate's transport does connections, credentials and TLS; bodies are ours. Every request that is
//! made here may be sent again.

use std::path::Path;
use std::time::Duration;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use elasticsearch::auth::{ClientCertificate, Credentials};
use elasticsearch::cert::{Certificate, CertificateValidation};
use elasticsearch::http::headers::{AUTHORIZATION, HeaderMap, HeaderValue};
use elasticsearch::http::transport::{MultiNodeConnectionPool, Transport, TransportBuilder};
use elasticsearch::http::{Method, Url};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use service_kit::tls::{ClientTls, TlsFault, content};

use super::config::{ElasticsearchConfig, EngineCredentials};
use crate::causes::words_of;
use crate::port::StoreError;

/// Largest answer that is read.
const ANSWER_BYTES_MAX: u64 = 128 << 20;
/// Longest part of an engine's reason that goes into an error.
const REASON_BYTES_MAX: usize = 500;

/// Sends requests.
pub(super) struct Client {
    transport: Transport,
    nodes: usize,
    write_timeout: Duration,
    search_timeout: Duration,
}

/// Without the transport, whose own form shows credentials.
impl std::fmt::Debug for Client {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Client").field("nodes", &self.nodes).finish_non_exhaustive()
    }
}

/// What came back, whatever the status.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) body: Bytes,
}

/// An error as the engine tells it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub(super) struct EngineError {
    #[serde(rename = "type", default)]
    pub(super) kind: String,
    #[serde(default)]
    pub(super) reason: Option<String>,
    #[serde(default)]
    pub(super) caused_by: Option<Box<EngineError>>,
}

impl EngineError {
    /// The error and what caused it, bounded.
    pub(super) fn words(&self) -> String {
        let mut words = String::new();
        let mut at = Some(self);
        while let Some(error) = at {
            if !words.is_empty() {
                words.push_str(": ");
            }
            words.push_str(&error.kind);
            if let Some(reason) = &error.reason {
                words.push_str(": ");
                words.push_str(reason);
            }
            at = error.caused_by.as_deref();
        }
        let mut end = words.len().min(REASON_BYTES_MAX);
        while !words.is_char_boundary(end) {
            end -= 1;
        }
        words.truncate(end);
        words
    }
}

impl Answer {
    pub(super) const fn is_success(&self) -> bool {
        self.status >= 200 && self.status < 300
    }

    /// The body of a success.
    pub(super) fn json<T: DeserializeOwned>(&self) -> Result<T, StoreError> {
        if !self.is_success() {
            return Err(self.failure());
        }
        serde_json::from_slice(&self.body)
            .map_err(|error| unavailable(format!("the engine's answer makes no sense: {error}")))
    }

    /// The error in the body, as far as there is one.
    pub(super) fn error(&self) -> EngineError {
        let value: Value = serde_json::from_slice(&self.body).unwrap_or_default();
        let error = value.get("error").cloned().unwrap_or_default();
        if let Value::String(reason) = error {
            return EngineError { reason: Some(reason), ..EngineError::default() };
        }
        serde_json::from_value(error).unwrap_or_default()
    }

    /// Why a request that is not about one record failed.
    pub(super) fn failure(&self) -> StoreError {
        let error = self.error();
        let words = format!("the engine answers {}: {}", self.status, error.words());
        let is_question = self.status == 400 && !error.words().contains("index_closed_exception");
        if is_question { StoreError::Unsupported(words) } else { StoreError::Unavailable(words) }
    }
}

pub(super) fn unavailable(words: impl Into<String>) -> StoreError {
    StoreError::Unavailable(words.into())
}

impl Client {
    /// A client for the nodes; nothing is sent yet.
    pub(super) fn new(config: &ElasticsearchConfig) -> Result<Self, StoreError> {
        let mut urls = Vec::new();
        for text in &config.urls {
            let url = Url::parse(text).map_err(|error| unusable(&format!("{text}: {error}")))?;
            if !url.username().is_empty() || url.password().is_some() {
                return Err(unusable("credentials stand in files, not in a url"));
            }
            urls.push(url);
        }
        let nodes = urls.len();
        let pool = MultiNodeConnectionPool::round_robin(urls, None);
        let mut builder = TransportBuilder::new(pool).disable_proxy().enable_meta_header(false);
        if let Some(value) = authorization(&config.credentials)? {
            builder = builder.header(AUTHORIZATION, value);
        }
        if let Some(tls) = &config.tls {
            builder = encrypted(builder, tls)?;
        }
        let transport = builder.build().map_err(|error| unusable(&error))?;
        let (write_timeout, search_timeout) = (config.write_timeout, config.search_timeout);
        Ok(Self { transport, nodes, write_timeout, search_timeout })
    }

    /// Sends a request that writes.
    pub(super) async fn write(
        &self,
        method: Method,
        path: &str,
        query: &[(&str, &str)],
        body: Bytes,
    ) -> Result<Answer, StoreError> {
        self.send(method, path, query, body, self.write_timeout).await
    }

    /// Sends a request that reads.
    pub(super) async fn read(
        &self,
        method: Method,
        path: &str,
        query: &[(&str, &str)],
        body: Bytes,
    ) -> Result<Answer, StoreError> {
        self.send(method, path, query, body, self.search_timeout).await
    }

    /// Sends a JSON body and takes a JSON answer.
    pub(super) async fn ask<T: DeserializeOwned>(
        &self,
        path: &str,
        query: &[(&str, &str)],
        body: &Value,
    ) -> Result<T, StoreError> {
        self.read(Method::Post, path, query, json(body)).await?.json()
    }

    async fn send(
        &self,
        method: Method,
        path: &str,
        query: &[(&str, &str)],
        body: Bytes,
        timeout: Duration,
    ) -> Result<Answer, StoreError> {
        let mut tries = self.nodes;
        loop {
            tries = tries.saturating_sub(1);
            match self.send_once(method, path, query, body.clone(), timeout).await {
                Ok(answer) => return Ok(answer),
                Err(error) if error.is_timeout() || tries == 0 => {
                    return Err(unavailable(words_of(&error)));
                }
                // Another node may be there.
                Err(error) => tracing::debug!(%error, "a node of the engine is away"),
            }
        }
    }

    async fn send_once(
        &self,
        method: Method,
        path: &str,
        query: &[(&str, &str)],
        body: Bytes,
        timeout: Duration,
    ) -> Result<Answer, elasticsearch::Error> {
        let body = if body.is_empty() { None } else { Some(body) };
        let query = Some(query).filter(|query| !query.is_empty());
        let sent = self.transport.send(method, path, HeaderMap::new(), query, body, Some(timeout));
        let response = sent.await?;
        let status = response.status_code().as_u16();
        if response.content_length().is_some_and(|length| length > ANSWER_BYTES_MAX) {
            let body = Bytes::from_static(br#"{"error":"an answer of too many bytes"}"#);
            return Ok(Answer { status: 502, body });
        }
        Ok(Answer { status, body: response.bytes().await? })
    }
}

/// A JSON value as a body.
pub(super) fn json(value: &Value) -> Bytes {
    value.to_string().into()
}

/// What every request says about us.
fn authorization(credentials: &EngineCredentials) -> Result<Option<HeaderValue>, StoreError> {
    let secret = |file: &Path| {
        let text = content(file).map_err(|fault| unusable(&fault.words()))?;
        let text = String::from_utf8(text).map_err(|_| {
            StoreError::Unsupported(format!("elasticsearch: {} is not UTF-8", file.display()))
        })?;
        Ok::<_, StoreError>(text.trim_end_matches(['\r', '\n']).to_owned())
    };
    let (text, file) = match credentials {
        EngineCredentials::None => return Ok(None),
        EngineCredentials::Basic { user, password_file } => {
            let pair = format!("{user}:{}", secret(password_file)?);
            (format!("Basic {}", BASE64_STANDARD.encode(pair)), password_file)
        }
        EngineCredentials::ApiKey { file } => (format!("ApiKey {}", secret(file)?), file),
    };
    let mut value = HeaderValue::from_str(&text)
        .map_err(|_| unusable(&format!("{} holds no key of one line", file.display())))?;
    value.set_sensitive(true);
    Ok(Some(value))
}

/// TLS by these files. The client's own reading of them says less, so they are looked at first.
fn encrypted(builder: TransportBuilder, tls: &ClientTls) -> Result<TransportBuilder, StoreError> {
    let of_file = |fault: TlsFault| unusable(&fault.words());
    tls.read().map_err(of_file)?;
    let authorities = Certificate::from_pem(&content(&tls.ca_file).map_err(of_file)?);
    let authorities = authorities.map_err(|error| unusable(&error))?;
    let builder = builder.cert_validation(CertificateValidation::Full(authorities));
    let Some(identity) = &tls.identity else { return Ok(builder) };
    let mut pem = content(&identity.key_file).map_err(of_file)?;
    pem.push(b'\n');
    pem.extend(content(&identity.certificate_file).map_err(of_file)?);
    Ok(builder.auth(Credentials::Certificate(ClientCertificate::Pem(pem))))
}

fn unusable(error: &(impl std::fmt::Display + ?Sized)) -> StoreError {
    StoreError::Unsupported(format!("elasticsearch: {error}"))
}
