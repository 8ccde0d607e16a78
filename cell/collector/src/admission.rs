//! How much may be received and not acknowledged: bounded bytes and requests. Beyond the bound a
//! request is refused at once, before its body is read where its length is known.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use prometheus_client::metrics::gauge::Gauge;

use crate::config::AdmissionLimits;
use crate::error::ExportError;

/// The shared account of what is in flight.
#[derive(Debug)]
pub(crate) struct Admission {
    limits: AdmissionLimits,
    bytes: AtomicUsize,
    requests: AtomicUsize,
    shown: Gauge,
}

impl Admission {
    /// An empty account, whose bytes this gauge shows.
    #[must_use]
    pub(crate) const fn new(limits: AdmissionLimits, shown: Gauge) -> Self {
        Self { limits, bytes: AtomicUsize::new(0), requests: AtomicUsize::new(0), shown }
    }

    /// Bytes in flight.
    #[must_use]
    pub(crate) fn bytes_in_flight(&self) -> usize {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Lets a request in, and refuses it where `announced` bytes would not fit.
    pub(crate) fn admit(self: &Arc<Self>, announced: usize) -> Result<Admitted, ExportError> {
        if self.bytes_in_flight().saturating_add(announced) > self.limits.in_flight_bytes_max {
            return Err(ExportError::Overloaded);
        }
        let before = self.requests.fetch_add(1, Ordering::Relaxed);
        // The guard gives back what was taken also when the request is refused here.
        let admitted = Admitted { admission: Arc::clone(self), bytes: 0 };
        if before >= self.limits.in_flight_requests_max {
            return Err(ExportError::Overloaded);
        }
        Ok(admitted)
    }

    /// Adds to the account; gives what was there before.
    fn add(&self, bytes: usize) -> usize {
        self.shown.inc_by(i64::try_from(bytes).unwrap_or(i64::MAX));
        self.bytes.fetch_add(bytes, Ordering::Relaxed)
    }

    fn give_back(&self, bytes: usize) {
        self.shown.dec_by(i64::try_from(bytes).unwrap_or(i64::MAX));
        self.bytes.fetch_sub(bytes, Ordering::Relaxed);
    }
}

/// A request's part of the account; given back when it is dropped.
#[derive(Debug)]
pub struct Admitted {
    admission: Arc<Admission>,
    bytes: usize,
}

impl Admitted {
    /// Takes room for so many more bytes before they are kept.
    pub fn take(&mut self, bytes: usize) -> Result<(), ExportError> {
        let before = self.admission.add(bytes);
        self.bytes = self.bytes.saturating_add(bytes);
        if before.saturating_add(bytes) > self.admission.limits.in_flight_bytes_max {
            return Err(ExportError::Overloaded);
        }
        Ok(())
    }

    /// Sets the account to what is held now: a body gave way to its batch. Never refuses: the
    /// memory is there already, and later requests feel it.
    pub fn set(&mut self, bytes: usize) {
        self.admission.add(bytes);
        self.admission.give_back(self.bytes);
        self.bytes = bytes;
    }
}

impl Drop for Admitted {
    fn drop(&mut self) {
        self.admission.give_back(self.bytes);
        self.admission.requests.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn admission(bytes: usize, requests: usize) -> Arc<Admission> {
        let limits =
            AdmissionLimits { in_flight_bytes_max: bytes, in_flight_requests_max: requests };
        Arc::new(Admission::new(limits, Gauge::default()))
    }

    #[test]
    fn what_a_request_took_is_given_back_whatever_became_of_it() {
        let admission = admission(100, 2);
        let mut first = admission.admit(0).unwrap();
        first.take(60).unwrap();
        assert!(first.take(60).is_err());
        assert!(admission.admit(1).is_err());
        drop(first);
        assert_eq!(admission.bytes_in_flight(), 0);
        let mut second = admission.admit(100).unwrap();
        second.take(100).unwrap();
        second.set(30);
        assert_eq!(admission.bytes_in_flight(), 30);
    }

    #[test]
    fn requests_are_bounded_also_without_bytes() {
        let admission = admission(100, 2);
        let first = admission.admit(0).unwrap();
        let second = admission.admit(0).unwrap();
        assert!(admission.admit(0).is_err());
        drop((first, second));
        assert!(admission.admit(0).is_ok());
    }
}
