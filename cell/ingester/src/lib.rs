//! The consumer groups of a cell.
