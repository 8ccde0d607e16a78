//! What each origin will have written in the end: drawn from the seed, the same after every restart.

use std::collections::BTreeMap;

use metadata_replicator::index::hot::HotIndex;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use trace_model::location::{Detail, Keep, ServiceCount};
use trace_model::{Contribution, Region, TenantId, TraceId, UnixNanos, Watermark, WriterId};

/// The regions of the federation.
pub(crate) const REGIONS: [&str; 3] = ["eu", "us", "ap"];

/// Steps of a plan, and most rows in one.
const STEPS: u64 = 60;
const ROWS_MAX: usize = 6;

/// Rows by step; the watermark behind a step says how many steps are done.
pub(crate) struct Plan {
    region: Region,
    steps: Vec<Vec<Contribution>>,
}

impl Plan {
    pub(crate) fn of(seed: u64, name: &str) -> Self {
        let region = Region::new(name).unwrap();
        let salt = name.bytes().fold(seed, |salt, byte| salt * 31 + u64::from(byte));
        let mut random = SmallRng::seed_from_u64(salt);
        let steps = (0..STEPS).map(|step| {
            let rows = random.random_range(1..=ROWS_MAX);
            let rows = (0..rows).map(|_| row(&region, step, &mut random));
            // A writer says one thing about a trace at one version.
            let rows: BTreeMap<_, _> = rows.map(|row| (row.trace_id, row)).collect();
            rows.into_values().collect()
        });
        Self { steps: steps.collect(), region }
    }

    /// The last row of each trace among those of the first steps.
    pub(crate) fn rows_before(&self, steps: u64) -> Vec<Contribution> {
        let steps = self.steps.iter().take(usize::try_from(steps).unwrap()).flatten();
        let rows: BTreeMap<_, _> = steps.map(|row| (row.trace_id, row.clone())).collect();
        rows.into_values().collect()
    }

    /// The step after what is published.
    pub(crate) fn step_after(
        &self,
        published: Option<&Watermark>,
    ) -> Option<(Vec<Contribution>, Watermark)> {
        let done = published.map_or(0, |mark| mark.next[&0]);
        let rows = self.steps.get(usize::try_from(done).unwrap())?.clone();
        let watermark = Watermark {
            region: self.region.clone(),
            incarnation: 1,
            as_of: UnixNanos(done + 1),
            next: BTreeMap::from([(0, done + 1)]),
            holes: Vec::new(),
        };
        Some((rows, watermark))
    }
}

fn row(region: &Region, step: u64, random: &mut SmallRng) -> Contribution {
    let services = ["web", "cart", "payment", "fraud", "inventory"];
    let service = services[random.random_range(0..services.len())];
    let start = UnixNanos(1_790_000_000_000_000_000 + step * 1_000_000_000);
    Contribution {
        version: step + 1,
        tenant: TenantId::default(),
        trace_id: TraceId::from_bytes([random.random_range(1..40); 16]).unwrap(),
        writer: WriterId { region: region.clone(), incarnation: 1, partition: 0 },
        last_append: start,
        keep: Keep::Keep,
        is_erased: random.random_ratio(1, 30),
        detail: Some(Detail {
            min_start: start,
            max_end: start.plus(random.random_range(0..1_000_000)),
            span_count: random.random_range(1..100),
            services: vec![ServiceCount { service: service.into(), spans: 1, errors: 0 }],
            ..Detail::default()
        }),
    }
}

/// The digest of the index that every replica must end with.
pub(crate) fn expected_digest(seed: u64) -> u128 {
    let mut index = HotIndex::new(1 << 20);
    for name in REGIONS {
        for row in Plan::of(seed, name).steps.iter().flatten() {
            index.join(row);
        }
    }
    index.digest()
}
