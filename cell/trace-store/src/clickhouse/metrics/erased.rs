//! Traces that were erased: noted, kept out of what comes, taken out of what is there.

use std::time::Duration;

use clickhouse::Row;
use clickhouse::query::Query;
use serde::Deserialize;
use tokio::time::{sleep, timeout};
use trace_model::{TenantId, TraceId, UnixNanos};

use super::encode::{Edges, Series};
use crate::clickhouse::block::seconds;
use crate::clickhouse::client::Engine;
use crate::clickhouse::row_binary::Rows;
use crate::clickhouse::table::Table;
use crate::clickhouse::tables::{
    EDGE_TRACES, ERASED_TRACES, METRICS_DELTAS, OTEL_TRACES, OTEL_TRACES_TRACE_ID_TS,
    RED_OPERATIONS, RED_SERVICES,
};
use crate::port::StoreError;

/// Replaced parts are looked for this often …
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// … and for this long at most.
const GONE_WITHIN: Duration = Duration::from_secs(600);

/// Traces that were erased. Few: each is an act of a person.
#[derive(Clone, Debug, Default)]
pub(in crate::clickhouse) struct Erased {
    traces: Vec<(TenantId, TraceId)>,
}

#[derive(Debug, Deserialize, Row)]
struct ErasedRow {
    tenant: String,
    trace_id: [u8; 16],
}

impl Erased {
    pub(in crate::clickhouse) async fn read(engine: &Engine) -> Result<Self, StoreError> {
        let rows = engine.books("SELECT DISTINCT tenant, trace_id FROM erased_traces");
        let mut erased = Self::default();
        for row in engine.rows::<ErasedRow>(rows).await? {
            let tenant = TenantId::new(&row.tenant);
            let trace_id = TraceId::from_bytes(row.trace_id);
            let (Ok(tenant), Ok(trace_id)) = (tenant, trace_id) else {
                return Err(StoreError::Damaged("erased_traces".to_owned()));
            };
            erased.traces.push((tenant, trace_id));
        }
        Ok(erased)
    }

    /// Writes one down.
    pub(in crate::clickhouse) async fn note(
        engine: &Engine,
        tenant: &TenantId,
        trace_id: TraceId,
        now: UnixNanos,
    ) -> Result<(), StoreError> {
        let mut rows = Rows::of(ERASED_TRACES.columns);
        rows.text(tenant.as_str());
        rows.raw(trace_id.as_bytes());
        rows.u32(seconds(now));
        engine.insert(&ERASED_TRACES, &rows.finish(), None).await
    }

    pub(in crate::clickhouse) fn add(&mut self, tenant: &TenantId, trace_id: TraceId) {
        if !self.holds(tenant, trace_id) {
            self.traces.push((tenant.clone(), trace_id));
        }
    }

    pub(in crate::clickhouse) fn holds(&self, tenant: &TenantId, trace_id: TraceId) -> bool {
        self.traces.iter().any(|(other, erased)| *erased == trace_id && other == tenant)
    }

    /// Those that an earlier look did not find.
    pub(in crate::clickhouse) fn since(
        &self,
        earlier: &Self,
    ) -> impl Iterator<Item = &(TenantId, TraceId)> {
        self.traces.iter().filter(|(tenant, trace_id)| !earlier.holds(tenant, *trace_id))
    }

    /// Takes them out of a delta.
    pub(super) fn forget_in(&self, red: &mut Series, edges: &mut Edges) {
        for (tenant, trace_id) in &self.traces {
            for (_, row) in red.iter_mut().filter(|(key, _)| key.tenant == *tenant) {
                row.forget(*trace_id);
            }
            for (_, row) in edges.iter_mut().filter(|(key, _)| key.tenant == *tenant) {
                row.forget(*trace_id);
            }
        }
    }
}

/// A trace on its way out of the tables.
#[derive(Debug)]
pub(in crate::clickhouse) struct Scrub<'a> {
    tenant: &'a TenantId,
    trace_id: TraceId,
    /// Deltas up to this one are counted.
    applied: u64,
    steps: &'static [Step],
}

/// What is done with the rows of a table that hold the trace.
#[derive(Debug)]
struct Step {
    table: &'static Table,
    change: &'static str,
    condition: &'static str,
}

/// The trace's id as the tables of counts hold it.
const COUNTS: [Step; 4] = [
    Step { table: &RED_SERVICES, change: FORGET_EXEMPLAR, condition: IS_EXEMPLAR },
    Step { table: &RED_OPERATIONS, change: FORGET_EXEMPLAR, condition: IS_EXEMPLAR },
    Step {
        table: &EDGE_TRACES,
        change: "UPDATE traces = arrayFilter(held -> held != toFixedString(unhex({id:String}), 16), \
                 traces)",
        condition: "tenant = {tenant:String} \
                    AND has(traces, toFixedString(unhex({id:String}), 16))",
    },
    // What is counted is needed no more; what is not is scrubbed by the one that counts it.
    Step {
        table: &METRICS_DELTAS,
        change: "DELETE",
        condition: "part = 'block' AND sequence <= {applied:UInt64} \
                    AND position(body, unhex({id:String})) > 0",
    },
];
const FORGET_EXEMPLAR: &str = "UPDATE exemplar = (0, toFixedString('', 16))";
const IS_EXEMPLAR: &str =
    "tenant = {tenant:String} AND exemplar.2 = toFixedString(unhex({id:String}), 16)";

const SPANS: [Step; 2] = [
    Step { table: &OTEL_TRACES, change: "DELETE", condition: IS_SPAN },
    Step { table: &OTEL_TRACES_TRACE_ID_TS, change: "DELETE", condition: IS_SPAN },
];
const IS_SPAN: &str = "Tenant = {tenant:String} AND TraceId = {id:String}";

/// A table that was changed, and the rows that held the trace.
pub(in crate::clickhouse) type Scrubbed = (&'static Table, u64);

#[derive(Debug, Deserialize, Row, PartialEq, Eq)]
struct PartRow {
    table: String,
    name: String,
}

impl<'a> Scrub<'a> {
    /// Out of the tables of counts.
    pub(in crate::clickhouse) const fn counts(
        tenant: &'a TenantId,
        trace_id: TraceId,
        applied: u64,
    ) -> Self {
        Self { tenant, trace_id, applied, steps: &COUNTS }
    }

    /// Out of the raw spans.
    pub(in crate::clickhouse) const fn spans(tenant: &'a TenantId, trace_id: TraceId) -> Self {
        Self { tenant, trace_id, applied: 0, steps: &SPANS }
    }

    /// Changes the tables that hold the trace, and says which. No question finds it afterwards.
    pub(in crate::clickhouse) async fn run(
        &self,
        engine: &Engine,
    ) -> Result<Vec<Scrubbed>, StoreError> {
        let mut scrubbed = Vec::new();
        for Step { table, change, condition } in self.steps {
            let count = format!("SELECT count() FROM {} WHERE {condition}", table.name);
            let count: Vec<u64> = engine.rows(self.bind(engine.books(&count))).await?;
            let rows = count.into_iter().sum();
            if rows == 0 {
                continue;
            }
            let local = table.local(&engine.config);
            let on_cluster = crate::clickhouse::table::on_cluster(&engine.config);
            let change = format!("ALTER TABLE {local}{on_cluster} {change} WHERE {condition}");
            let change = self.bind(engine.books(&change)).with_setting("mutations_sync", "2");
            engine.execute(change).await?;
            scrubbed.push((*table, rows));
        }
        Ok(scrubbed)
    }

    fn bind(&self, query: Query) -> Query {
        query
            .param("tenant", self.tenant.as_str())
            .param("id", self.trace_id.to_string())
            .param("applied", self.applied)
    }

    /// Waits until the engine has removed the parts that were replaced, and says how many.
    pub(in crate::clickhouse) async fn wait_until_gone(
        engine: &Engine,
        scrubbed: &[Scrubbed],
    ) -> Result<u64, StoreError> {
        if scrubbed.is_empty() {
            return Ok(0);
        }
        let names: Vec<String> =
            scrubbed.iter().map(|(table, _)| table.local(&engine.config)).collect();
        let replaced = replaced_parts(engine, &names).await?;
        let gone = timeout(GONE_WITHIN, async {
            loop {
                let still = replaced_parts(engine, &names).await?;
                if !still.iter().any(|part| replaced.contains(part)) {
                    return Ok(());
                }
                sleep(LOOK_EVERY).await;
            }
        });
        let late = |_| {
            let what = "clickhouse has not removed the parts with an erased trace yet";
            StoreError::Unavailable(what.to_owned())
        };
        gone.await.map_err(late)??;
        Ok(u64::try_from(replaced.len()).unwrap_or(u64::MAX))
    }
}

async fn replaced_parts(engine: &Engine, tables: &[String]) -> Result<Vec<PartRow>, StoreError> {
    let parts = engine.books(
        "SELECT table, name FROM system.parts \
         WHERE database = {database:String} AND NOT active AND table IN {tables:Array(String)}",
    );
    let parts = parts.param("database", &engine.config.database).param("tables", tables);
    engine.rows(parts).await
}
