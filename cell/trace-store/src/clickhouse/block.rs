//! An insert that is stored once.
//!
//! A block holds rows of one table and one partition, few enough for one part: the engine takes it
//! whole or not at all. What is in doubt is looked for by the block's number, which its rows carry;
//! the engine's memory of tokens keeps a first try that still runs from counting as well. That
//! memory alone would not do: a table without replication writes it beside the part, and a crash
//! between the two leaves one without the other.

use bytes::Bytes;
use clickhouse::query::Query;
use trace_model::UnixNanos;

use super::client::Engine;
use super::table::Table;
use crate::port::StoreError;

const SECOND_NANOS: u64 = 1_000_000_000;
const DAY_SECONDS: u32 = 86_400;
/// A time so much before its arrival is outlying …
const BEHIND_NANOS_MAX: u64 = 32 * 86_400 * SECOND_NANOS;
/// … or so much after it.
const AHEAD_NANOS_MAX: u64 = 2 * 86_400 * SECOND_NANOS;

/// The partition of a row: a day of its own time, or the day of its arrival where its own time is
/// too far from that.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Day {
    pub(super) is_outlying: bool,
    /// Days since the epoch.
    pub(super) day: u32,
}

impl Day {
    /// The partition of a row of this time that arrived then.
    pub(super) fn of(time: UnixNanos, arrived: UnixNanos) -> Self {
        let is_outlying =
            arrived.since(time) > BEHIND_NANOS_MAX || time.since(arrived) > AHEAD_NANOS_MAX;
        let time = if is_outlying { arrived } else { time };
        Self { is_outlying, day: seconds(time) / DAY_SECONDS }
    }
}

/// Whole seconds since the epoch, as the engine's 32-bit times hold them.
pub(super) fn seconds(time: UnixNanos) -> u32 {
    u32::try_from(time.0 / SECOND_NANOS).unwrap_or(u32::MAX)
}

/// Rows that are stored together.
#[derive(Clone, Debug)]
pub(super) struct Block {
    pub(super) table: &'static Table,
    /// Its number: in its table and day one content alone is stored under it.
    pub(super) number: u64,
    pub(super) day: Day,
    /// The rows, as [`super::row_binary`] writes them.
    pub(super) body: Bytes,
}

impl Block {
    fn token(&self) -> String {
        let Day { is_outlying, day } = self.day;
        format!(
            "{}-{:x}-{}{day}",
            self.table.name,
            self.number,
            if is_outlying { "o" } else { "d" }
        )
    }

    /// Stores the block. `is_in_doubt`: an earlier try, of this process or another, may have.
    pub(super) async fn land(&self, engine: &Engine, is_in_doubt: bool) -> Result<(), StoreError> {
        let token = self.token();
        if !is_in_doubt || engine.is_replicated() {
            return engine.insert(self.table, &self.body, Some(&token)).await;
        }
        if self.is_landed(engine).await? {
            return Ok(());
        }
        engine.insert(self.table, &self.body, Some(&token)).await?;
        if self.is_landed(engine).await? {
            return Ok(());
        }
        let other = format!("{token}-again");
        engine.insert(self.table, &self.body, Some(&other)).await?;
        if self.is_landed(engine).await? {
            return Ok(());
        }
        let name = self.table.name;
        Err(StoreError::Unavailable(format!(
            "clickhouse: a block of {name} is not there after all"
        )))
    }

    /// Whether the table holds the block.
    async fn is_landed(&self, engine: &Engine) -> Result<bool, StoreError> {
        let Some(placing) = self.table.placing else { return Ok(false) };
        let sql = format!(
            "SELECT 1 FROM {} WHERE {} = {{block:UInt64}} AND {} LIMIT 1",
            self.table.name,
            placing.block,
            self.day_condition(),
        );
        let query = bind_day(engine.books(&sql), self.day).param("block", self.number);
        let found: Vec<u8> = engine.rows(query).await?;
        Ok(!found.is_empty())
    }

    /// What is true of the rows of its partition.
    pub(super) fn day_condition(&self) -> String {
        let Some(placing) = self.table.placing else { return "1".to_owned() };
        let is_outlying = placing.is_outlying;
        let (not, time) =
            if self.day.is_outlying { ("", placing.arrived) } else { ("NOT ", placing.time) };
        format!(
            "{not}{is_outlying} AND {time} >= toDateTime64({{from:Int64}}, 0, 'UTC') \
             AND {time} < toDateTime64({{to:Int64}}, 0, 'UTC')"
        )
    }
}

/// Binds what [`Block::day_condition`] names.
pub(super) fn bind_day(query: Query, day: Day) -> Query {
    let from = i64::from(day.day).saturating_mul(i64::from(DAY_SECONDS));
    query.param("from", from).param("to", from.saturating_add(i64::from(DAY_SECONDS)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn days(days: u64) -> UnixNanos {
        UnixNanos(days * 86_400 * SECOND_NANOS)
    }

    #[test]
    fn a_time_near_its_arrival_makes_a_day_of_its_own_and_another_one_of_its_arrivals() {
        let arrived = days(20_000).plus(7);
        for (time, is_outlying, day) in [
            (days(20_000), false, 20_000),
            (days(19_969), false, 19_969),
            (days(19_967), true, 20_000),
            (days(20_002), false, 20_002),
            (days(20_003), true, 20_000),
            (UnixNanos(0), true, 20_000),
            (UnixNanos::MAX, true, 20_000),
        ] {
            assert_eq!(Day::of(time, arrived), Day { is_outlying, day });
        }
    }
}
