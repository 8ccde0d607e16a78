//! What was acknowledged: the oracle of the crash tests.

use std::collections::BTreeMap;
use std::sync::Mutex;

/// Acknowledged spans by trace.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    acknowledged: Mutex<BTreeMap<[u8; 16], Vec<u64>>>,
}

impl Ledger {
    pub(crate) fn note(&self, trace: [u8; 16], spans: &[u64]) {
        self.acknowledged.lock().unwrap().entry(trace).or_default().extend(spans);
    }

    /// All that was acknowledged so far.
    pub(crate) fn entries(&self) -> Vec<([u8; 16], Vec<u64>)> {
        let held = self.acknowledged.lock().unwrap();
        held.iter().map(|(trace, spans)| (*trace, spans.clone())).collect()
    }

    pub(crate) fn len(&self) -> usize {
        self.acknowledged.lock().unwrap().len()
    }
}
