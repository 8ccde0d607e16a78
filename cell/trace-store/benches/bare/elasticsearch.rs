//! What a program sends to Elasticsearch that knows nothing but the client: the side that the store is
//! measured against.

use bytes::Bytes;
use elasticsearch::http::Method;
use elasticsearch::http::headers::HeaderMap;
use elasticsearch::http::transport::Transport;
use futures_util::stream::{FuturesUnordered, StreamExt as _};
use serde_json::{Value, json};

/// Documents of a page, when what was written is read back for the bare side.
const PAGE: usize = 5_000;

/// A program that knows nothing but the client.
#[derive(Debug)]
pub(crate) struct Bare {
    transport: Transport,
    in_flight: usize,
}

impl Bare {
    /// A client of the node at this address, with so many requests on their way at once.
    pub(crate) fn new(address: &str, in_flight: usize) -> Self {
        Self { transport: Transport::single_node(address).expect("a transport"), in_flight }
    }

    async fn send(&self, method: Method, path: &str, body: Bytes) -> Bytes {
        let kind: Option<&[(&str, &str)]> = None;
        let mut headers = HeaderMap::new();
        let words =
            if path.contains("_bulk") { "application/x-ndjson" } else { "application/json" };
        headers.insert("content-type", words.parse().expect("a header"));
        let body = Some(body).filter(|body| !body.is_empty());
        let sent = self.transport.send(method, path, headers, kind, body, None).await;
        let answer = sent.expect("an answer");
        let status = answer.status_code();
        let body = answer.bytes().await.expect("a body");
        assert!(status.is_success() || status.as_u16() == 404, "{path}: {status} {body:?}");
        body
    }

    async fn ask(&self, method: Method, path: &str, body: &Value) -> Value {
        let body = if body.is_null() { String::new() } else { body.to_string() };
        let answer = self.send(method, path, Bytes::from(body)).await;
        serde_json::from_slice(&answer).expect("JSON")
    }

    /// Sends the bodies and looks at nothing but whether an item failed.
    pub(crate) async fn write(&self, bodies: Vec<Bytes>) {
        let mut running = FuturesUnordered::new();
        let is_good = |answer: Bytes| assert_eq!(&answer[..], br#"{"errors":false}"#, "all taken");
        for body in bodies {
            if running.len() >= self.in_flight {
                running.next().await.map(is_good);
            }
            running.push(self.send(Method::Post, "/_bulk?filter_path=errors", body));
        }
        while let Some(answer) = running.next().await {
            is_good(answer);
        }
    }

    /// The documents that were written since `after` under `prefix`, as bodies for another prefix.
    pub(crate) async fn bodies(
        &self,
        prefixes: (&str, &str),
        bytes_max: usize,
    ) -> (Vec<Bytes>, usize) {
        let indices = format!("/{}.*-jaeger-span-*", prefixes.0);
        self.ask(Method::Post, &format!("{indices}/_refresh"), &Value::Null).await;
        let (mut bodies, mut body, mut documents) = (Vec::new(), Vec::<u8>::new(), 0);
        let path = format!("{indices}/_search?scroll=5m");
        let question = json!({ "size": PAGE, "sort": ["_doc"] });
        let mut page = self.ask(Method::Post, &path, &question).await;
        loop {
            let hits = page["hits"]["hits"].as_array().expect("hits");
            if hits.is_empty() {
                break;
            }
            for hit in hits {
                let index = hit["_index"].as_str().expect("a name");
                let index = index.replacen(prefixes.0, prefixes.1, 1);
                let action = json!({ "create": { "_index": index, "_id": hit["_id"] } });
                body.extend(format!("{action}\n{}\n", hit["_source"]).into_bytes());
                documents += 1;
                if body.len() >= bytes_max {
                    bodies.push(Bytes::from(std::mem::take(&mut body)));
                }
            }
            let more = json!({ "scroll": "5m", "scroll_id": page["_scroll_id"] });
            page = self.ask(Method::Post, "/_search/scroll", &more).await;
        }
        let done = json!({ "scroll_id": page["_scroll_id"] });
        self.ask(Method::Delete, "/_search/scroll", &done).await;
        if !body.is_empty() {
            bodies.push(Bytes::from(body));
        }
        (bodies, documents)
    }

    pub(crate) async fn remove(&self, prefix: &str) {
        let path = format!("/{prefix}*?expand_wildcards=all");
        let names = self.ask(Method::Get, &path, &Value::Null).await;
        for name in names.as_object().into_iter().flat_map(serde_json::Map::keys) {
            self.ask(Method::Delete, &format!("/{name}"), &Value::Null).await;
        }
    }
}
