//! The OpenTelemetry Rust SDK as the client: what it sends comes back span by span.

use std::collections::BTreeMap;

use opentelemetry::trace::{
    Span as _, SpanKind, Status, TraceContextExt as _, Tracer as _, TracerProvider as _,
};
use opentelemetry::{Context, KeyValue};
use opentelemetry_otlp::WithExportConfig as _;
use opentelemetry_proto::tonic::trace::v1::TracesData;
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::SdkTracerProvider;

use crate::federation::{Federation, PATIENCE};
use crate::http::eventually;

fn provider(service: &'static str, port: u16) -> SdkTracerProvider {
    let exporter = opentelemetry_otlp::SpanExporter::builder()
        .with_tonic()
        .with_endpoint(format!("http://127.0.0.1:{port}"))
        .build()
        .unwrap();
    SdkTracerProvider::builder()
        .with_batch_exporter(exporter)
        .with_resource(Resource::builder().with_service_name(service).build())
        .build()
}

fn by_name(answer: &TracesData) -> BTreeMap<String, (String, i32, i32)> {
    let mut spans = BTreeMap::new();
    for resource in &answer.resource_spans {
        for scope in &resource.scope_spans {
            let library = scope.scope.as_ref().map(|scope| scope.name.clone()).unwrap_or_default();
            for span in &scope.spans {
                let status = span.status.as_ref().map_or(0, |status| status.code);
                spans.insert(span.name.clone(), (library.clone(), span.kind, status));
            }
        }
    }
    spans
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_rust_sdk_sends_to_two_regions_comes_back_as_one_trace() {
    let federation = Federation::start(&["eu-west-1", "us-east-1"], &[]).await;
    let web = provider("web", federation.regions[0].ports.otlp_grpc);
    let cart = provider("cart", federation.regions[1].ports.otlp_grpc);
    let root = web
        .tracer("web-lib")
        .span_builder("GET /cart")
        .with_kind(SpanKind::Server)
        .start(&web.tracer("web-lib"));
    let trace_id = root.span_context().trace_id();
    let context = Context::new().with_span(root);
    let tracer = cart.tracer("cart-lib");
    let mut child = tracer
        .span_builder("load cart")
        .with_kind(SpanKind::Server)
        .with_attributes([KeyValue::new("cart.items", 3), KeyValue::new("cart.id", "c-1")])
        .start_with_context(&tracer, &context);
    child.add_event("cache miss", vec![KeyValue::new("cache.key", "c-1")]);
    child.set_status(Status::error("no such cart"));
    child.end();
    context.span().end();
    drop(context);
    for provider in [web, cart] {
        tokio::task::spawn_blocking(move || provider.shutdown().unwrap()).await.unwrap();
    }
    let answer = eventually("both regions' spans", PATIENCE, || async {
        let answer = federation.trace_spans(0, &trace_id.to_bytes()).await?;
        if by_name(&answer).len() == 2 { Ok(answer) } else { Err(format!("{answer:?}")) }
    })
    .await;
    let spans = by_name(&answer);
    assert_eq!(spans["GET /cart"], ("web-lib".to_owned(), 2, 0));
    assert_eq!(spans["load cart"], ("cart-lib".to_owned(), 2, 2));
    let child = answer.resource_spans.iter().flat_map(|resource| &resource.scope_spans);
    let child = child.flat_map(|scope| &scope.spans).find(|span| span.name == "load cart").unwrap();
    assert_eq!(child.events[0].name, "cache miss");
    assert!(child.attributes.iter().any(|attribute| attribute.key == "cart.items"));
}
