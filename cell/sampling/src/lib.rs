//! Sampling decisions, pure.
