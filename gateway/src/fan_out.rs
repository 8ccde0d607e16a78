//! Asking several regions at the same time. One region's lateness or failure is its own: the others
//! are read on, and the whole waits no longer than the longest patience.

use std::collections::BTreeMap;
use std::sync::Arc;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use trace_model::{Clock, Region, TimeRange, TraceId};

use crate::port::{Caller, CellError, TraceAsk};
use crate::region_read::{ReadLimits, RegionAnswer, SharedClient, read_region};

/// What one region is asked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RegionAsk {
    /// The traces.
    pub trace_ids: Vec<TraceId>,
    /// Of each, when the spans were placed that the index promises of the region.
    pub placed: Vec<Option<TimeRange>>,
    /// The index does not know them.
    pub is_miss_round: bool,
}

/// Asks each region its question, all at the same time. There are as many at once as regions, a
/// number that the configuration bounds.
pub(crate) async fn fan_out(
    clients: &BTreeMap<Region, SharedClient>,
    asks: BTreeMap<Region, RegionAsk>,
    caller: &Caller,
    limits: ReadLimits,
    clock: &Arc<dyn Clock>,
) -> BTreeMap<Region, RegionAnswer> {
    let mut running = FuturesUnordered::new();
    for (region, ask) in asks {
        let (client, limits) = (clients.get(&region).cloned(), limits.clone());
        let ask = TraceAsk {
            caller: caller.clone(),
            trace_ids: ask.trace_ids,
            placed: ask.placed,
            is_miss_round: ask.is_miss_round,
            time: limits.patience.total,
            first_frame: limits.patience.first_frame,
        };
        running.push(async move {
            let answer = match client {
                Some(client) => read_region(client.as_ref(), ask, limits, clock.as_ref()).await,
                None => not_configured(),
            };
            (region, answer)
        });
    }
    let mut answers = BTreeMap::new();
    while let Some((region, answer)) = running.next().await {
        answers.insert(region, answer);
    }
    answers
}

fn not_configured() -> RegionAnswer {
    let reason = "not configured in this gateway".to_owned();
    RegionAnswer { failure: Some(CellError::Unavailable(reason)), ..RegionAnswer::default() }
}
