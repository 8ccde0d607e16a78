//! Makes the indices that documents go to, as soon as the first document goes there.

use elasticsearch::http::Method;
use serde_json::{Value, json};

use super::client::{json as body, unavailable};
use super::names::{Shelf, TenantNames};
use super::store::ElasticsearchStore;
use super::templates::is_there_already;
use crate::port::StoreError;

/// Nanoseconds of the engine's unit of time.
const NANOS_PER_MILLI: u64 = 1_000_000;

/// What an index is made with, beside its template. Lifecycle management counts from when an index
/// was made, and a day is as old as its date: one that is made late for spans of long ago as well.
fn index_body(names: &TenantNames, shelf: Shelf, has_lifecycle: bool) -> Value {
    let aliases = json!({ (names.read_alias()): {} });
    let Shelf::Day(day) = shelf else { return json!({ "aliases": aliases }) };
    if !has_lifecycle {
        return json!({ "aliases": aliases });
    }
    let lifecycle = json!({ "origination_date": day.start().0 / NANOS_PER_MILLI });
    json!({ "aliases": aliases, "settings": { "index": { "lifecycle": lifecycle } } })
}

impl ElasticsearchStore {
    /// Makes an index, with the alias by which it is read; one that is there gets the alias.
    pub(super) async fn make_index(
        &self,
        names: &TenantNames,
        shelf: Shelf,
    ) -> Result<(), StoreError> {
        let index = names.index(shelf);
        let now = self.clock.monotonic();
        if self.state.knows_index(&index, now) {
            return Ok(());
        }
        let wanted = index_body(names, shelf, self.has_lifecycle);
        let path = format!("/{index}");
        let answer = self.client.write(Method::Put, &path, &[], body(&wanted)).await?;
        if !answer.is_success() {
            let words = answer.error().words();
            if !is_there_already(&answer) {
                return Err(unavailable(format!("{index} was not made: {words}")));
            }
            // A copy of the day that has its name has all that goes with it.
            if !words.contains("already exists as alias") {
                self.give_alias(&index, &names.read_alias()).await?;
            }
        }
        self.state.know_index(&index, now);
        Ok(())
    }

    async fn give_alias(&self, index: &str, alias: &str) -> Result<(), StoreError> {
        let action = json!({ "actions": [{ "add": { "index": index, "alias": alias } }] });
        let answer = self.client.write(Method::Post, "/_aliases", &[], body(&action)).await?;
        if !answer.is_success() {
            let reason = answer.error().words();
            tracing::warn!(index, reason, "an index has no read alias");
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use trace_model::{TenantId, UnixNanos};

    use super::super::names::{Day, Kind, Names};
    use super::*;

    #[test]
    fn a_day_alone_says_when_it_began_and_only_where_lifecycle_management_reads_it() {
        let names = Names::new("eu".to_owned()).of(&TenantId::default(), Kind::Spans);
        let day = Day::of(UnixNanos(1_790_000_400_000_000_000));
        let bodies = |has_lifecycle: bool| {
            let body = |shelf| index_body(&names, shelf, has_lifecycle);
            json!({
                "day": body(Shelf::Day(day)),
                "late": body(Shelf::Late(day)),
                "outlying": body(Shelf::Outlying),
            })
        };
        let found = json!({ "ilm": bodies(true), "own": bodies(false) });
        let golden = include_str!("../../tests/golden/tiers/indices.json");
        assert_eq!(found, serde_json::from_str::<Value>(golden).unwrap(), "{found:#}");
    }
}
