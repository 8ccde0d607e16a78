//! Tests of the traffic: what a collector receives is what was told, whole and in its region.

use std::collections::BTreeMap;
use std::sync::Mutex;

use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{
    TraceService, TraceServiceServer,
};
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use service_kit::SystemClock;

use super::*;

/// Spans by trace: the region that the resource names, and the span.
type Received =
    Arc<Mutex<BTreeMap<Vec<u8>, Vec<(String, opentelemetry_proto::tonic::trace::v1::Span)>>>>;

struct Collector {
    received: Received,
}

#[tonic::async_trait]
impl TraceService for Collector {
    async fn export(
        &self,
        request: tonic::Request<ExportTraceServiceRequest>,
    ) -> Result<tonic::Response<ExportTraceServiceResponse>, tonic::Status> {
        let mut received = self.received.lock().unwrap();
        for group in request.into_inner().resource_spans {
            let resource = group.resource.unwrap_or_default();
            let region = resource.attributes.iter().find(|pair| pair.key == "cloud.region");
            let region = region.and_then(|pair| pair.value.clone()?.value);
            let Some(Value::StringValue(region)) = region else { panic!("no region") };
            for span in group.scope_spans.into_iter().flat_map(|scope| scope.spans) {
                received.entry(span.trace_id.clone()).or_default().push((region.clone(), span));
            }
        }
        Ok(tonic::Response::new(ExportTraceServiceResponse::default()))
    }
}

async fn collector(received: &Received) -> SocketAddr {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let service = TraceServiceServer::new(Collector { received: Arc::clone(received) });
    let incoming = tokio_stream::wrappers::TcpListenerStream::new(listener);
    let server = tonic::transport::Server::builder().serve_with_incoming(service, incoming);
    drop(tokio_util::task::TaskTracker::new().spawn(server));
    address
}

#[tokio::test(flavor = "multi_thread")]
async fn every_span_that_was_told_arrives_at_the_collector_of_its_region() {
    let names = ["eu-west-1", "us-east-1", "ap-southeast-1"];
    let mut collectors = Vec::new();
    let mut received_by = Vec::new();
    for name in names {
        let received = Received::default();
        collectors.push((Region::new(name).unwrap(), collector(&received).await));
        received_by.push(received);
    }
    let settings = Settings { rate: 400.0, seed: 11 };
    let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
    let mut traffic = Traffic::start(&collectors, settings, clock).unwrap();
    let enough = async {
        while traffic.sent().totals().0 < 400 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), enough).await.unwrap();
    assert_eq!(traffic.stop().await, 0, "spans were lost");
    assert_eq!(traffic.stop().await, 0, "stopping again does nothing");

    let mut spans: BTreeMap<Vec<u8>, usize> = BTreeMap::new();
    let mut links = 0;
    for (name, received) in names.iter().zip(&received_by) {
        for (id, list) in received.lock().unwrap().iter() {
            assert!(list.iter().all(|(region, _)| region == name), "a span in a wrong region");
            links += list.iter().map(|(_, span)| span.links.len()).sum::<usize>();
            *spans.entry(id.clone()).or_default() += list.len();
        }
    }
    let (traces, total) = traffic.sent().totals();
    assert_eq!(spans.len() as u64, traces);
    assert_eq!(spans.values().sum::<usize>() as u64, total);
    for sent in traffic.sent().sample(200) {
        assert_eq!(spans.get(sent.id.as_bytes().as_slice()), Some(&sent.spans), "{sent:?}");
    }
    assert!(links > 0, "messaging spans link");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_collector_that_is_not_there_costs_no_more_than_the_flush_time() {
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let collectors = [(Region::new("eu-west-1").unwrap(), nobody)];
    let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
    let settings = Settings { rate: 100.0, seed: 1 };
    let mut traffic = Traffic::start(&collectors, settings, Arc::clone(&clock)).unwrap();
    let some = async {
        while traffic.sent().totals().0 == 0 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), some).await.unwrap();
    let begun = clock.monotonic();
    assert!(traffic.stop().await > 0, "what nobody took is counted as lost");
    assert!(clock.monotonic() - begun < FLUSH_TIMEOUT * 3);
}
