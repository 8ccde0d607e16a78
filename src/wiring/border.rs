//! Calls that cross regions: joins the entry spans that other regions publish with their parents,
//! where this region holds them, and hands the pairs to the metrics aggregator, which counts each
//! once.
