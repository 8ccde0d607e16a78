//! The consumer groups of a cell: each reads the span log at its own pace, commits its own offsets,
//! and sets aside what no retry will make good. A group never steps over an error that may pass.
#![warn(missing_docs)]

pub mod handler;
pub mod metadata_publisher;

pub use handler::{GroupHandler, HandleError};
