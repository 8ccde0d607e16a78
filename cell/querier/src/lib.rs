//! One cell's answers, and the enforcement of its locality policy.
