//! The global question: route, fan out, merge, assemble, certify.
//!
//! A gateway is stateless. It reads the index replica of its own region, asks exactly the cells
//! that may hold what is wanted, and gives back one answer with a completeness certificate. It must
//! never call an answer complete that lacks a region's part, never let one region's failure take
//! the others' answers down, and never reach into a cell except over the wire.
#![warn(missing_docs)]

mod ask_all;
mod assembled;
mod catalog;
mod certify;
mod config;
mod cursor;
mod dependencies;
mod error;
mod examples;
mod fan_out;
mod gateway;
pub mod grpc;
pub mod http;
mod metrics;
mod miss_rounds;
mod pages;
pub mod port;
mod red;
mod region_read;
mod room;
mod route;
mod search;
pub mod shared_state;

#[cfg(test)]
mod deadline_tests;
#[cfg(test)]
mod fakes;
#[cfg(test)]
mod find_trace_tests;
#[cfg(test)]
mod oracle_tests;
#[cfg(test)]
mod room_tests;

pub use assembled::{Standing, TraceAnswer};
pub use catalog::{CatalogAnswer, RegionHealth, SummaryAnswer};
pub use certify::certify;
pub use config::{
    CellEndpoint, CollectorEndpoint, Freshness, GatewayConfig, Patience, QueryContext,
};
pub use cursor::SearchCursor;
pub use dependencies::DependencyLink;
pub use error::GatewayError;
pub use fan_out::RegionAsk;
pub use gateway::Gateway;
pub use red::{EdgeTrace, EdgeTraceAnswer, RedAnswer, RedPoint, RedRequest, RedSeries};
pub use region_read::{RegionAnswer, RegionTrace};
pub use room::{AnswerRoom, Held, NoRoom, Share};
pub use route::{Asked, Footing, Plan, route};
pub use search::{SearchPage, SearchRequest};
