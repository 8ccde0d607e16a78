//! Spans, index and catalogue in Cassandra or Scylla, for cells of many machines.
//!
//! **Must never**: read before it writes (but to bound what is heavy), change a row, write text into
//! a statement, let a partition grow without bound, or give a short answer for a failed one. Which
//! row lies where, and why, is told in `docs/DECISIONS/016-cassandra-store.md`.
//!
//! | part | files |
//! |---|---|
//! | schema and connection | `config` `schema` `init` `session` `statements` `engine` `fault` `store` |
//! | writing | `plan` `batches` `rows` `entries` `announce` `overflow` `write` `progress` |
//! | reading | `read` `question` `hours` `gather` `search` `catalog` |
//! | erasing | `erased` `erase` |
//! | operating | `upkeep` |
//! | how the nodes are | `figures` |

mod announce;
mod batches;
mod catalog;
mod config;
mod engine;
mod entries;
mod erase;
mod erased;
mod fault;
mod figures;
mod gather;
mod hours;
mod init;
mod overflow;
mod pieces;
mod places;
mod plan;
mod progress;
mod question;
mod read;
mod recent;
mod rows;
mod schema;
mod search;
mod session;
mod statements;
mod store;
mod upkeep;
mod write;

pub use config::{CassandraConfig, CassandraConsistency, CassandraCredentials};
pub use figures::{CassandraFigures, CassandraNodeFigures, LocalFigures, figures};
pub use read::{TracePage, TracePages};
pub use schema::SCHEMA;
pub use store::CassandraStore;
