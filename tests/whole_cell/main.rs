//! Whole cells on Kafka, Cassandra, Elasticsearch and ClickHouse: what an embedded cell promises, a
//! cell on engines keeps while they stop and die. The engines are the tests' own, started by
//! `tests/engines/*.sh` (which must have installed them), so that killing one disturbs nobody; a cell of
//! several processes (`processes`) runs on those that `tests/engines/all.sh` has started.
#![allow(
    clippy::disallowed_methods,
    clippy::print_stdout,
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::excessive_nesting,
    clippy::panic,
    dead_code,
    reason = "a test of processes reads real clocks and says what it does; one that panics has failed; \
              what it shares with other tests is not all used here"
)]

mod aimed_kills;
mod away_at_the_start;
mod beside;
mod clusters;
mod counts;
mod direct;
mod direct_cell;
mod drain;
#[path = "../system/federation.rs"]
mod federation;
#[path = "../system/fixture.rs"]
mod fixture;
mod foreign;
#[path = "../system/http.rs"]
mod http;
mod killed_cell;
#[path = "../system/ledger.rs"]
mod ledger;
mod load;
mod loses_one;
mod outage;
mod parts;
mod poison;
#[path = "../system/process.rs"]
mod process;
mod processes;
mod producer;
mod replay;
mod replay_beside;
mod running_engines;
mod searched_by_tables;
mod set_aside;
mod stock_readers;
mod stopped_engines;
mod stopped_log;
mod stopped_others;
mod too_far_behind;
mod whole_cell;
