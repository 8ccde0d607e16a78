//! One cell's answers, and the enforcement of its locality policy.
//!
//! A querier answers the gRPC service `farspan.v1.CellQuery` out of ports: the stores of its cell
//! and the live tail of its log. The cell that owns the data decides here, answer by answer, what
//! a caller of another region may see. It must never forward a question to another cell, never
//! depend on the span log, and never answer short without saying so.
#![warn(missing_docs)]

mod answers;
mod caller;
mod config;
mod counts;
mod cuts;
mod deadline;
mod find_trace;
mod lists;
mod losses;
mod metrics;
mod port;
mod querier;
mod rpc;
mod search;
mod status;
mod stream;

pub use config::QuerierConfig;
pub use port::{
    CellStatus, GroupLag, LiveTail, LogEnd, LogStatus, Lost, PortError, QuerierPorts, TailRead,
};
pub use querier::{Querier, server};
pub use status::QuerierError;

#[cfg(test)]
mod tests;
