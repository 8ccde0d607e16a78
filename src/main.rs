//! The one binary, `farspan`.
fn main() {}
