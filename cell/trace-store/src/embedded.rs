//! The embedded adapter: one directory of immutable segments on one machine.
//!
//! Writing: batches wait in memory (`pending`), are sealed into a segment (`seal`,
//! `segment_write`) whose blocks keep spans column by column (`template`, `block_encode`), and
//! the index is gathered on the way (`index_build`, `catalog_build`, `directory`). The manifest names what there
//! is. Reading: a trace by id (`read`), a search (`search`), the catalogue (`catalog`).
//!
//! Where there is a cold tier, segments move to objects as they age (`cold_moves`); their tables and
//! indexes stay, and their blocks are read by ranges (`cold_segment`).
//!
//! Nothing sealed is ever changed in place; what is damaged is said and never passed over. Readers
//! take one short lock to see a consistent set of segments and then no lock at all.

mod block_decode;
mod block_encode;
mod bloom;
mod cache;
mod catalog;
mod catalog_build;
mod catalog_read;
mod cold_moves;
mod cold_segment;
mod column;
mod commit;
mod config;
mod contexts;
mod cursor;
mod directory;
mod earlier_pages;
mod erase;
mod evaluate;
mod expired;
mod found;
mod hash;
mod index_build;
mod index_repair;
mod judged;
mod leaf;
mod maintain;
mod manifest;
mod numbers;
mod open;
mod pending;
mod probe;
mod read;
mod replace;
mod rewrite;
mod scan;
mod seal;
mod sealed_file;
mod search;
mod segment;
mod segment_read;
mod segment_write;
mod state;
mod store;
mod template;
mod texts;
mod tokens;

pub use cold_segment::ColdTier;
pub use config::EmbeddedStoreConfig;
pub use store::EmbeddedStore;
