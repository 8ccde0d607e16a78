//! A gateway, asked over HTTP: bounded answers, bounded waiting.

use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Empty, Limited};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;

use super::failure::Failure;
use super::output::Output;

/// Largest answer that is taken.
const ANSWER_BYTES_MAX: usize = 512 << 20;
/// Until an answer must be whole.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);
/// Until a connection must stand.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Most text of a refusal that is shown.
const MESSAGE_CHARACTERS_MAX: usize = 500;

/// A gateway.
#[derive(Clone, Debug)]
pub(crate) struct GatewayClient {
    base: String,
    tenant: Option<String>,
    client: Client<HttpConnector, Empty<Bytes>>,
}

/// What a gateway answered.
#[derive(Clone, Debug)]
pub(crate) struct GatewayAnswer {
    /// HTTP status.
    pub(crate) status: u16,
    /// The body, read as text.
    pub(crate) body: String,
}

impl GatewayClient {
    /// Of a gateway at `http://host:port`.
    pub(crate) fn new(url: &str, tenant: Option<&str>) -> Result<Self, Failure> {
        let base = url.trim_end_matches('/').to_owned();
        let wrong = |why: &str| Failure::Usage(format!("--gateway {url}: {why}"));
        let uri: http::Uri = base.parse().map_err(|_| wrong("not a URL"))?;
        match uri.scheme_str() {
            Some("http") if uri.authority().is_some() => {}
            Some("https") => return Err(wrong("https is not served yet; use http://")),
            _ => return Err(wrong("write it as http://host:port")),
        }
        if let Some(tenant) = tenant {
            trace_model::TenantId::new(tenant)
                .map_err(|error| Failure::Usage(format!("--tenant {tenant}: {error}")))?;
        }
        let mut connector = HttpConnector::new();
        connector.set_connect_timeout(Some(CONNECT_TIMEOUT));
        connector.set_nodelay(true);
        let client = Client::builder(TokioExecutor::new()).build(connector);
        Ok(Self { base, tenant: tenant.map(ToOwned::to_owned), client })
    }

    /// Asks for a path; any status is an answer.
    pub(crate) async fn ask(&self, path: &str) -> Result<GatewayAnswer, Failure> {
        match tokio::time::timeout(ANSWER_TIMEOUT, self.ask_untimed(path)).await {
            Ok(answer) => answer,
            Err(_) => Err(self.unreachable("it did not answer within a minute")),
        }
    }

    async fn ask_untimed(&self, path: &str) -> Result<GatewayAnswer, Failure> {
        let mut request = http::Request::get(format!("{}{path}", self.base))
            .header(http::header::ACCEPT, "application/json");
        if let Some(tenant) = &self.tenant {
            request = request.header("x-scope-orgid", tenant);
        }
        let request = request
            .body(Empty::new())
            .map_err(|error| Failure::Usage(format!("not a request: {error}")))?;
        let response = self.client.request(request).await;
        let response = response.map_err(|error| self.unreachable(&reasons(&error)))?;
        let status = response.status().as_u16();
        let body = Limited::new(response.into_body(), ANSWER_BYTES_MAX).collect().await;
        let body = body.map_err(|error| Failure::Unreadable(error.to_string()))?.to_bytes();
        Ok(GatewayAnswer { status, body: String::from_utf8_lossy(&body).into_owned() })
    }

    /// Asks for a path; all but 200 is a failure.
    pub(crate) async fn ask_ok(&self, path: &str) -> Result<GatewayAnswer, Failure> {
        self.ask(path).await?.ok()
    }

    fn unreachable(&self, why: &str) -> Failure {
        Failure::Unreachable { url: self.base.clone(), why: why.to_owned() }
    }
}

impl GatewayAnswer {
    /// All but 200 is a failure.
    pub(crate) fn ok(self) -> Result<Self, Failure> {
        match self.status {
            200 => Ok(self),
            400 => Err(Failure::Usage(self.message())),
            503 => Err(Failure::Unproven(self.message())),
            status => Err(Failure::Refused { status, message: self.message() }),
        }
    }

    /// The body's own words, short and fit for a terminal.
    pub(crate) fn message(&self) -> String {
        let value: Option<serde_json::Value> = serde_json::from_str(&self.body).ok();
        let words = value.as_ref().and_then(|value| {
            ["/message", "/error/message", "/error", "/errors/0/msg", "/completeness/text"]
                .iter()
                .find_map(|place| value.pointer(place)?.as_str())
        });
        let words = super::table::clean(words.unwrap_or(&self.body).trim());
        words.chars().take(MESSAGE_CHARACTERS_MAX).collect()
    }

    /// Reads the body.
    pub(crate) fn read<T: serde::de::DeserializeOwned>(&self) -> Result<T, Failure> {
        serde_json::from_str(&self.body).map_err(|error| Failure::Unreadable(error.to_string()))
    }

    /// Writes the body as it came.
    pub(crate) fn print(&self, output: &mut Output) -> Result<(), Failure> {
        Ok(output.line(self.body.trim_end())?)
    }
}

/// An error and its causes in one line.
fn reasons(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

/// Percent-encodes a value for a query or a path segment (RFC 3986, unreserved characters stay).
pub(crate) fn encode(value: &str) -> String {
    let mut text = String::with_capacity(value.len());
    for byte in value.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            text.push(char::from(byte));
        } else {
            text.push_str(&format!("%{byte:02X}"));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gateway_is_an_http_url() {
        assert!(GatewayClient::new("http://127.0.0.1:16686/", None).is_ok());
        for bad in ["", "127.0.0.1:16686", "https://h:1", "ftp://h", "http://"] {
            assert!(matches!(GatewayClient::new(bad, None), Err(Failure::Usage(_))), "{bad}");
        }
        assert!(matches!(GatewayClient::new("http://h:1", Some("a/b")), Err(Failure::Usage(_))));
    }

    #[tokio::test]
    async fn where_nobody_listens_the_error_says_what_to_try() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        drop(listener);
        let client = GatewayClient::new(&format!("http://{address}"), None).unwrap();
        let text = client.ask("/").await.unwrap_err().to_string();
        assert!(text.contains("no gateway answers") && text.contains("--gateway"), "{text}");
    }

    #[test]
    fn a_refusal_shows_the_gateways_words_and_no_control_characters() {
        let body = "{\"error\":{\"message\":\"too\\u0007many\"}}".to_owned();
        assert_eq!(GatewayAnswer { status: 429, body }.message(), "too\u{fffd}many");
    }

    #[test]
    fn values_are_percent_encoded() {
        assert_eq!(encode("a b/ü&"), "a%20b%2F%C3%BC%26");
    }
}
