//! Search on Elasticsearch 8 and 9 and on OpenSearch: documents in Jaeger's own shape, found exactly as
//! [`trace_model::Filter::matches`] says, and erased for good (docs/DECISIONS/017).
//!
//! ```text
//! index   encode → chunk → send (429 again, read-only day → its companion, 400 → refused)
//! flush   refresh → progress document
//! search  refresh own → push down → scan newest first → judge → traces
//! erase   tombstone → documents → catalogue → segments
//! tiers   read-only → late documents in, merged, shrunk → cold nodes → snapshot → gone
//! ```
//!
//! **Never**: an answer that is shorter than it should be, a document that grows the mapping, an offset
//! that is indexed before it can be found.

mod bulk;
mod catalog;
mod client;
mod config;
mod document;
mod encode;
mod erase;
mod expunge;
mod figures;
mod hits;
mod identity;
mod indices;
mod json;
mod names;
mod plan;
mod progress;
mod push_down;
mod scan;
mod search;
mod send;
mod source;
mod standing;
mod state;
mod store;
mod templates;
mod tiers;
mod tombstones;
mod upkeep;

pub use config::{ElasticsearchConfig, EngineCredentials};
pub use figures::{ElasticsearchFigures, PoolFigures, SearchNodeFigures, ShardFigures, figures};
pub use store::ElasticsearchStore;
pub use templates::{EngineInfo, InitReport, SCHEMA};
pub use tiers::{DayReport, Tier, TierDriver, TierPolicy, TierReport, TierSteps};
