//! What a gateway asks: the index replica of its region, and each region's cell. Adapters over gRPC
//! are in [`crate::grpc`]; tests put faults behind the same traits.

mod cell;
mod index;

pub use cell::{Caller, CellClient, CellError, EdgeTraceAsk, FrameStream, RedAsk, TraceAsk};
pub use index::{IndexError, IndexRegions, LookUp, MetadataIndex, SummaryPage};
