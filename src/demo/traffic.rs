//! The shop's stories, sent as any application sends them: with the OpenTelemetry SDK over OTLP to
//! the collector of each span's own region, the context propagated in W3C headers.
//!
//! One tracer provider for each service in each region. Must never send faster than asked, and
//! must remember what it sent, so that it can be read back.

use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, UNIX_EPOCH};

use anyhow::Context as _;
use opentelemetry::propagation::TextMapPropagator;
use opentelemetry::trace::{
    Event, Link, SpanContext, SpanKind, Status, TraceContextExt, Tracer, TracerProvider,
};
use opentelemetry::{Context, KeyValue};
use opentelemetry_otlp::{SpanExporter, WithExportConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::propagation::TraceContextPropagator;
use opentelemetry_sdk::trace::{
    BatchConfigBuilder, BatchSpanProcessor, SdkTracer, SdkTracerProvider, SpanData,
    SpanExporter as ExportsSpans,
};
use service_kit::{Drain, Stage};
use trace_model::{Clock, Region, TraceId};

use super::sent::{SentTrace, SentTraces};
use super::shop::{self, ORDER_MESSAGE, SERVICES, Story};
use super::story::{Place, Told, World};
use super::wan::WanMode;

/// How long the SDK gathers spans before it sends them.
const EXPORT_DELAY: Duration = Duration::from_millis(200);
/// Spans of one export.
const EXPORT_SPANS: usize = 512;
/// Smallest and largest queue of a provider. The SDK drops what does not fit, when a collector is
/// slow for a while.
const QUEUE_SPANS: (usize, usize) = (2_048, 32_768);
/// Room beside it where a wide trace ends its 1,100 spans of one service at once.
const QUEUE_SPANS_WIDE: usize = 8_192;
/// How often stories are told; several at once where the rate is higher.
const TICK: Duration = Duration::from_millis(20);
/// Messages that a later story may link to.
const MESSAGES_MAX: usize = 64;
/// Until the SDK must have sent what it holds.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(4);

/// What the shop does.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Settings {
    /// Traces a second.
    pub(crate) rate: f64,
    /// Chooses the stories.
    pub(crate) seed: u64,
}

/// The shop, open.
#[derive(Debug)]
pub(crate) struct Traffic {
    drain: Drain,
    sent: Arc<SentTraces>,
    shops: Arc<Shops>,
}

/// The services of all regions.
#[derive(Debug)]
struct Shops {
    services: HashMap<Place, Service>,
    exported: Arc<ExportCounts>,
}

#[derive(Debug)]
struct Service {
    tracer: SdkTracer,
    provider: SdkTracerProvider,
}

/// Spans that exporters sent or gave up.
#[derive(Debug, Default)]
struct ExportCounts {
    sent: AtomicU64,
    failed: AtomicU64,
}

impl Traffic {
    /// Opens the shop. Collectors are connected to when the first spans are sent.
    pub(crate) fn start(
        collectors: &[(Region, SocketAddr)],
        settings: Settings,
        clock: Arc<dyn Clock>,
    ) -> anyhow::Result<Self> {
        let shops = Arc::new(Shops::open(collectors, settings.rate)?);
        let sent = Arc::new(SentTraces::default());
        let drain = Drain::default();
        let stage = drain.stage("shop");
        let teller = Teller {
            world: World::new(settings.seed, one_way(collectors)),
            shops: Arc::clone(&shops),
            sent: Arc::clone(&sent),
            messages: VecDeque::new(),
            clock,
        };
        stage.spawn(teller.tell(settings.rate, stage.clone()));
        Ok(Self { drain, sent, shops })
    }

    /// What was sent.
    pub(crate) fn sent(&self) -> &SentTraces {
        &self.sent
    }

    /// Closes the shop and sends what the SDK still holds; gives the spans that the SDK lost.
    /// Doing it again does nothing.
    pub(crate) async fn stop(&mut self) -> u64 {
        // The one task of the shop ends between two stories.
        drop(self.drain.drain(FLUSH_TIMEOUT).await);
        let shops = Arc::clone(&self.shops);
        // Flushing blocks its thread until the collector has answered.
        let flushed = tokio::task::spawn_blocking(move || shops.close());
        drop(tokio::time::timeout(FLUSH_TIMEOUT, flushed).await);
        let (_, spans) = self.sent.totals();
        spans.saturating_sub(self.shops.exported.sent.load(Ordering::Relaxed))
    }
}

fn one_way(collectors: &[(Region, SocketAddr)]) -> Vec<Vec<Duration>> {
    let row = |(one, _): &(Region, SocketAddr)| {
        let delay = |(other, _): &(Region, SocketAddr)| WanMode::Real.round_trip(one, other) / 2;
        collectors.iter().map(delay).collect()
    };
    collectors.iter().map(row).collect()
}

impl Shops {
    fn open(collectors: &[(Region, SocketAddr)], rate: f64) -> anyhow::Result<Self> {
        let exported = Arc::new(ExportCounts::default());
        let mut services = HashMap::new();
        for (index, (region, address)) in collectors.iter().enumerate() {
            for service in SERVICES {
                let opened = Service::open(service, region, *address, rate, &exported)
                    .with_context(|| format!("the exporter of {service} in {region}"))?;
                services.insert(Place { service, region: index }, opened);
            }
        }
        Ok(Self { services, exported })
    }

    /// Sends what is left and ends the SDK's threads. Together, not one after another.
    fn close(&self) {
        std::thread::scope(|scope| {
            for service in self.services.values() {
                scope.spawn(|| drop(service.provider.shutdown_with_timeout(FLUSH_TIMEOUT)));
            }
        });
    }
}

impl Service {
    fn open(
        name: &'static str,
        region: &Region,
        address: SocketAddr,
        rate: f64,
        counts: &Arc<ExportCounts>,
    ) -> anyhow::Result<Self> {
        let exporter = SpanExporter::builder()
            .with_tonic()
            .with_endpoint(format!("http://{address}"))
            .with_timeout(Duration::from_secs(10))
            .build()?;
        let exporter = Counting { exporter, counts: Arc::clone(counts) };
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a rate of at most 10,000, and a float-to-int cast saturates"
        )]
        let queue = ((rate * 10.0) as usize).clamp(QUEUE_SPANS.0, QUEUE_SPANS.1);
        let queue = if name == shop::WIDE_SERVICE { queue + QUEUE_SPANS_WIDE } else { queue };
        let config = BatchConfigBuilder::default()
            .with_max_queue_size(queue)
            .with_max_export_batch_size(EXPORT_SPANS)
            .with_scheduled_delay(EXPORT_DELAY)
            .build();
        let processor = BatchSpanProcessor::builder(exporter).with_batch_config(config).build();
        let resource = Resource::builder()
            .with_service_name(name)
            .with_attributes([
                KeyValue::new("cloud.region", region.as_str().to_owned()),
                KeyValue::new("service.version", env!("CARGO_PKG_VERSION")),
                KeyValue::new("deployment.environment.name", "demo"),
            ])
            .build();
        let provider = SdkTracerProvider::builder()
            .with_span_processor(processor)
            .with_resource(resource)
            .build();
        Ok(Self { tracer: provider.tracer("farspan-demo"), provider })
    }
}

/// An exporter that counts what went through.
#[derive(Debug)]
struct Counting {
    exporter: SpanExporter,
    counts: Arc<ExportCounts>,
}

impl ExportsSpans for Counting {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        let spans = u64::try_from(batch.len()).unwrap_or(0);
        let result = self.exporter.export(batch).await;
        match &result {
            Ok(()) => self.counts.sent.fetch_add(spans, Ordering::Relaxed),
            Err(error) => {
                tracing::warn!(%error, spans, "an export failed");
                self.counts.failed.fetch_add(spans, Ordering::Relaxed)
            }
        };
        result
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.exporter.shutdown_with_timeout(timeout)
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.exporter.force_flush()
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.exporter.set_resource(resource);
    }
}

/// Tells one story after another.
#[derive(Debug)]
struct Teller {
    world: World,
    shops: Arc<Shops>,
    sent: Arc<SentTraces>,
    messages: VecDeque<SpanContext>,
    clock: Arc<dyn Clock>,
}

impl Teller {
    async fn tell(mut self, rate: f64, stage: Stage) {
        let mut ticks = tokio::time::interval(TICK);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut due = 0.0;
        let mut last = self.clock.monotonic();
        loop {
            tokio::select! {
                () = stage.stopping.cancelled() => return,
                _ = ticks.tick() => {}
            }
            let now = self.clock.monotonic();
            due += rate * now.saturating_sub(last).as_secs_f64();
            last = now;
            // After a pause the rest is left out: a burst would only fill queues.
            due = due.min(rate.max(1.0));
            while due >= 1.0 {
                due -= 1.0;
                let story = shop::next(&mut self.world);
                self.send(&story);
                tokio::task::yield_now().await;
            }
        }
    }

    /// Sends a story whose end is now.
    fn send(&mut self, story: &Story) {
        let end = Duration::from_nanos(self.clock.now().0);
        let begin = end.saturating_sub(story.root.end);
        let read = self.messages.len().min(story.reads_messages);
        let links: Vec<SpanContext> = self.messages.drain(..read).collect();
        let mut sender = Sender { shops: &self.shops, begin, sent_messages: Vec::new() };
        let Some(root) = sender.send(&story.root, &Context::new(), &links) else { return };
        for message in sender.sent_messages {
            if self.messages.len() == MESSAGES_MAX {
                self.messages.pop_front();
            }
            self.messages.push_back(message);
        }
        let Ok(id) = TraceId::from_bytes(root.trace_id().to_bytes()) else { return };
        let at_millis = u64::try_from(self.clock.monotonic().as_millis()).unwrap_or(u64::MAX);
        self.sent.add(SentTrace {
            id,
            spans: story.root.spans(),
            regions: story.root.regions().len(),
            at_millis,
        });
    }
}

/// Sends the spans of one story.
struct Sender<'a> {
    shops: &'a Shops,
    /// The story's begin, since the epoch.
    begin: Duration,
    sent_messages: Vec<SpanContext>,
}

impl Sender<'_> {
    /// Sends a span and all that it caused; gives its context.
    fn send(
        &mut self,
        told: &Told,
        parent: &Context,
        links: &[SpanContext],
    ) -> Option<SpanContext> {
        let service = self.shops.services.get(&told.place)?;
        let tracer = &service.tracer;
        let at = |offset: Duration| UNIX_EPOCH + self.begin + offset;
        let event =
            |(when, name): &(Duration, &'static str)| Event::new(*name, at(*when), Vec::new(), 0);
        let link = |context: &SpanContext| Link::new(context.clone(), Vec::new(), 0);
        let span = tracer
            .span_builder(told.name.clone())
            .with_kind(told.kind.clone())
            .with_start_time(at(told.begin))
            .with_attributes(told.attributes.iter().cloned())
            .with_events(told.events.iter().map(event).collect())
            .with_links(links.iter().map(link).collect())
            .start_with_context(tracer, parent);
        let end = at(told.end);
        let context = parent.with_span(span);
        for child in &told.children {
            self.send(child, &propagated(&context, told, child), &[]);
        }
        let span = context.span();
        if let Some(error) = told.error {
            span.set_status(Status::error(error));
        }
        if told.kind == SpanKind::Producer && told.name == ORDER_MESSAGE {
            self.sent_messages.push(span.span_context().clone());
        }
        span.end_with_timestamp(end);
        Some(span.span_context().clone())
    }
}

/// The context as the child gets it: over the wire, in W3C headers, where it is another service.
fn propagated(context: &Context, parent: &Told, child: &Told) -> Context {
    if parent.place == child.place {
        return context.clone();
    }
    let propagator = TraceContextPropagator::new();
    let mut headers: HashMap<String, String> = HashMap::new();
    propagator.inject_context(context, &mut headers);
    propagator.extract(&headers)
}

#[cfg(test)]
mod tests;
