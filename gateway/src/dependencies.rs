//! Which services call which: the edges that every cell has counted, added up.

use std::collections::BTreeMap;
use std::time::Duration;

use proto::DurationSketch;
use proto::v1;
use trace_model::TimeRange;

use crate::ask_all::{Part, SKETCH_FACTOR, check, decoded_bytes};
use crate::catalog::CatalogAnswer;
use crate::config::QueryContext;
use crate::error::GatewayError;
use crate::gateway::Gateway;
use crate::pages::{Page, all_pages, check_page};
use crate::port::{Caller, CellError};
use crate::red::uncounted;
use crate::region_read::SharedClient;

/// Calls from one service to another.
#[derive(Clone, Debug, Default)]
pub struct DependencyLink {
    /// The calling service.
    pub caller: String,
    /// The service called.
    pub callee: String,
    /// Calls seen.
    pub calls: u64,
    /// Those that failed.
    pub errors: u64,
    /// Calls estimated from head sampling.
    pub calls_estimated: f64,
    /// Durations, merged over regions.
    pub durations: DurationSketch,
}

impl Gateway {
    /// Which services call which, over all regions.
    pub async fn dependencies(
        &self,
        context: &QueryContext,
        range: TimeRange,
    ) -> Result<CatalogAnswer<DependencyLink>, GatewayError> {
        let (caller, room) = (self.caller(context), &self.config.answer_room);
        let ask = |client: SharedClient, time: Duration| {
            let caller = caller.clone();
            async move {
                let page = |after, time| ask_page(&client, &caller, range, after, time);
                all_pages(room, (time, context.left().total), page).await
            }
        };
        let mut gathered = self.ask_all_within(context, |patience| patience.total, ask).await?;
        gathered.say_of_cut(&uncounted());
        let links = join_links(gathered.take_items());
        CatalogAnswer::new(links, gathered)
    }
}

/// A page of edges, checked.
async fn ask_page(
    client: &SharedClient,
    caller: &Caller,
    range: TimeRange,
    after: Option<v1::EdgePlace>,
    time: Duration,
) -> Result<Page<DependencyLink, v1::EdgePlace>, CellError> {
    let answer = client.edges(caller, range, after.clone(), time).await?;
    let places = answer.edges.iter().map(v1::EdgePlace::from);
    check_page(places, after.as_ref(), answer.next.as_ref())?;
    let outcome = check(client.region(), &answer.region, answer.outcome())?;
    let bytes = decoded_bytes(&answer, SKETCH_FACTOR);
    let items = answer.edges.into_iter().map(read_edge).collect::<Result<_, _>>()?;
    let part = Part::new(outcome, items, answer.reach, bytes);
    Ok(Page { part, next: answer.next })
}

fn read_edge(edge: v1::Edge) -> Result<DependencyLink, CellError> {
    let sketch = edge.durations.map(|sketch| DurationSketch::from_bytes(&sketch.ddsketch));
    let durations = sketch.transpose().map_err(|error| CellError::Invalid(error.to_string()))?;
    Ok(DependencyLink {
        caller: edge.caller,
        callee: edge.callee,
        calls: edge.calls,
        errors: edge.errors,
        calls_estimated: edge.calls_estimated,
        durations: durations.unwrap_or_default(),
    })
}

fn join_links(links: impl Iterator<Item = DependencyLink>) -> Vec<DependencyLink> {
    let mut joined: BTreeMap<(String, String), DependencyLink> = BTreeMap::new();
    for link in links {
        let key = (link.caller.clone(), link.callee.clone());
        let slot = joined.entry(key).or_insert_with(|| DependencyLink {
            caller: link.caller.clone(),
            callee: link.callee.clone(),
            ..DependencyLink::default()
        });
        slot.calls = slot.calls.saturating_add(link.calls);
        slot.errors = slot.errors.saturating_add(link.errors);
        slot.calls_estimated += link.calls_estimated;
        slot.durations.merge(&link.durations);
    }
    joined.into_values().collect()
}
