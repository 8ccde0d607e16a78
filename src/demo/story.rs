//! A request told as a tree of timed spans, before anything is sent. Pure and repeatable: times are
//! offsets from the request's begin, chance comes from a seeded generator.

use std::time::Duration;

use opentelemetry::KeyValue;
use opentelemetry::trace::SpanKind;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

/// A service in a region, by its place in the list of regions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Place {
    /// Service name.
    pub(crate) service: &'static str,
    /// Place of the region.
    pub(crate) region: usize,
}

/// A span that will be sent, with all that it caused.
#[derive(Clone, Debug)]
pub(crate) struct Told {
    /// Who does it.
    pub(crate) place: Place,
    /// Operation.
    pub(crate) name: String,
    /// Kind.
    pub(crate) kind: SpanKind,
    /// Begin, from the request's begin.
    pub(crate) begin: Duration,
    /// End, from the request's begin.
    pub(crate) end: Duration,
    /// Attributes.
    pub(crate) attributes: Vec<KeyValue>,
    /// What went wrong.
    pub(crate) error: Option<&'static str>,
    /// Things that happened: when and what.
    pub(crate) events: Vec<(Duration, &'static str)>,
    /// What it caused, in order.
    pub(crate) children: Vec<Told>,
}

impl Told {
    /// Spans in the tree.
    pub(crate) fn spans(&self) -> usize {
        1 + self.children.iter().map(Self::spans).sum::<usize>()
    }

    /// Places of the regions in the tree, each once.
    pub(crate) fn regions(&self) -> std::collections::BTreeSet<usize> {
        let mut regions: std::collections::BTreeSet<usize> =
            self.children.iter().flat_map(Self::regions).collect();
        regions.insert(self.place.region);
        regions
    }
}

/// The world of a story: chance and distance.
#[derive(Debug)]
pub(crate) struct World {
    /// Chance.
    pub(crate) rng: SmallRng,
    /// One-way delays between regions, by their places.
    one_way: Vec<Vec<Duration>>,
}

impl World {
    /// Regions with these one-way delays, a square table.
    pub(crate) fn new(seed: u64, one_way: Vec<Vec<Duration>>) -> Self {
        Self { rng: SmallRng::seed_from_u64(seed), one_way }
    }

    /// Number of regions.
    pub(crate) fn regions(&self) -> usize {
        self.one_way.len().max(1)
    }

    /// Whether something of this probability happens.
    pub(crate) fn happens(&mut self, probability: f64) -> bool {
        self.rng.random_bool(probability)
    }

    /// A time between the two, in microseconds.
    pub(crate) fn micros(&mut self, from: u64, to: u64) -> Duration {
        Duration::from_micros(self.rng.random_range(from..=to))
    }

    fn delay(&self, from: usize, to: usize) -> Duration {
        let row = self.one_way.get(from);
        let delay = row.and_then(|row| row.get(to)).copied().unwrap_or_default();
        // Also within a region a call takes a while on the wire.
        delay.max(Duration::from_micros(150))
    }
}

/// A span that is being told: work and calls move its clock on.
#[derive(Debug)]
pub(crate) struct Draft {
    told: Told,
    now: Duration,
}

impl Draft {
    /// Begins a span.
    pub(crate) fn begin(
        place: Place,
        name: impl Into<String>,
        kind: SpanKind,
        at: Duration,
    ) -> Self {
        let told = Told {
            place,
            name: name.into(),
            kind,
            begin: at,
            end: at,
            attributes: Vec::new(),
            error: None,
            events: Vec::new(),
            children: Vec::new(),
        };
        Self { told, now: at }
    }

    /// Time passes.
    pub(crate) fn work(&mut self, time: Duration) -> &mut Self {
        self.now += time;
        self
    }

    /// Adds an attribute.
    pub(crate) fn with(&mut self, attribute: KeyValue) -> &mut Self {
        self.told.attributes.push(attribute);
        self
    }

    /// Something happens now.
    pub(crate) fn event(&mut self, name: &'static str) -> &mut Self {
        self.told.events.push((self.now, name));
        self
    }

    /// It goes wrong.
    pub(crate) fn fail(&mut self, error: &'static str) -> &mut Self {
        self.told.error = Some(error);
        self
    }

    /// Whether it went wrong.
    pub(crate) const fn is_failed(&self) -> bool {
        self.told.error.is_some()
    }

    /// A step of its own within the service.
    pub(crate) fn step(&mut self, name: &str, time: Duration) -> &mut Self {
        let mut step = Self::begin(self.told.place, name, SpanKind::Internal, self.now);
        step.work(time);
        self.adopt(step)
    }

    /// A query to a database: a client span without a server of ours behind it.
    pub(crate) fn query(
        &mut self,
        system: &'static str,
        statement: &str,
        time: Duration,
    ) -> &mut Self {
        let operation = statement.split(' ').next().unwrap_or(statement);
        let name = format!("{operation} {system}");
        let mut query = Self::begin(self.told.place, name, SpanKind::Client, self.now);
        query.with(KeyValue::new("db.system.name", system));
        query.with(KeyValue::new("db.query.text", statement.to_owned()));
        query.work(time);
        self.adopt(query)
    }

    /// A call to another service: a client span here, a server span there, the way between them.
    /// Gives whether it succeeded.
    pub(crate) fn call(
        &mut self,
        world: &mut World,
        callee: Place,
        name: &str,
        serve: impl FnOnce(&mut Self, &mut World),
    ) -> bool {
        let mut client = Self::begin(self.told.place, name, SpanKind::Client, self.now);
        client.with(KeyValue::new("server.address", callee.service));
        client.with(KeyValue::new("rpc.system", "grpc"));
        let delay = world.delay(self.told.place.region, callee.region);
        client.work(delay);
        let mut server = Self::begin(callee, name, SpanKind::Server, client.now);
        server.with(KeyValue::new("rpc.method", name.to_owned()));
        serve(&mut server, world);
        let error = server.told.error;
        client.adopt(server).work(delay);
        client.told.error = error;
        self.adopt(client);
        error.is_none()
    }

    /// Takes a finished part in and goes on when it has ended.
    pub(crate) fn adopt(&mut self, child: Self) -> &mut Self {
        let child = child.end();
        self.now = self.now.max(child.end);
        self.told.children.push(child);
        self
    }

    /// Takes in parts that ran at the same time.
    pub(crate) fn adopt_all(&mut self, children: Vec<Self>) -> &mut Self {
        for child in children {
            self.adopt(child);
        }
        self
    }

    /// The time by this span's clock.
    pub(crate) const fn now(&self) -> Duration {
        self.now
    }

    /// Where it happens.
    pub(crate) const fn place(&self) -> Place {
        self.told.place
    }

    /// Ends it.
    pub(crate) fn end(mut self) -> Told {
        self.told.end = self.now.max(self.told.begin);
        self.told
    }
}
