//! Which crate does what: the one place that names adapters and strings the roles together.
//!
//! Each role is started from its configuration alone. Stages are added in the order in which they
//! must stop: receivers first, the log last.

mod border;
mod cell;
mod claim;
mod engines;
mod feed;
pub(crate) mod figures;
mod foreign;
mod gateway;
mod groups;
mod house;
mod keepers;
mod log_to_come;
mod opening;
mod operator;
mod ports;
mod replay;
mod replicator;
mod serve;
mod standing;
mod tiers;

pub(crate) use cell::{start_cell, start_receiver};
pub(crate) use engines::{SetUp, set_up};
pub(crate) use gateway::start_gateway;
pub(crate) use replay::{PreparedReplay, is_swap_begun, prepare_replay, swap};
pub(crate) use replicator::start_replicator;
pub(crate) use standing::{Migrated, Standing, look, migrate};
#[cfg(test)]
pub(crate) use tiers::DayShown;
pub(crate) use tiers::{Moves, TiersShown, store_tiers};
