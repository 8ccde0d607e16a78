//! The metrics of the store over Cassandra and Scylla.

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Registry, Unit};

/// Counters and histograms of one store.
#[derive(Clone, Debug)]
pub struct CassandraMetrics {
    /// Rows that were written, of any table.
    pub written_rows: Counter,
    /// Bytes in the rows that were written.
    pub written_bytes: Counter,
    /// Requests that the driver repeated.
    pub retries: Counter,
    /// Requests that failed in the end.
    pub failed_requests: Counter,
    /// Spans refused since their trace is erased.
    pub erased_spans: Counter,
    /// Spans not written since retention leaves nothing of them.
    pub expired_spans: Counter,
    /// Spans whose service is one too many for the catalogue of its day: found by trace id alone.
    pub unlisted_spans: Counter,
    /// Rows of spans whose resource and scope are missing.
    pub damaged_rows: Counter,
    /// Shards and buckets that were opened since the one before was full.
    pub overflows: Counter,
    /// How long a batch of rows took to be written.
    pub write_seconds: Histogram,
    /// How long a page of rows took to be read.
    pub read_seconds: Histogram,
}

impl Default for CassandraMetrics {
    fn default() -> Self {
        let seconds = || Histogram::new(exponential_buckets(0.000_5, 2.0, 16));
        Self {
            written_rows: Counter::default(),
            written_bytes: Counter::default(),
            retries: Counter::default(),
            failed_requests: Counter::default(),
            erased_spans: Counter::default(),
            expired_spans: Counter::default(),
            unlisted_spans: Counter::default(),
            damaged_rows: Counter::default(),
            overflows: Counter::default(),
            write_seconds: seconds(),
            read_seconds: seconds(),
        }
    }
}

impl CassandraMetrics {
    /// Registers them all.
    pub fn register(&self, registry: &mut Registry) {
        let counters = [
            ("written_rows", "Rows written", &self.written_rows),
            ("retries", "Requests repeated by the driver", &self.retries),
            ("failed_requests", "Requests that failed in the end", &self.failed_requests),
            ("erased_spans", "Spans refused since their trace is erased", &self.erased_spans),
            ("expired_spans", "Spans of which retention leaves nothing", &self.expired_spans),
            ("unlisted_spans", "Spans of services too many to be listed", &self.unlisted_spans),
            ("damaged_rows", "Spans whose resource is missing", &self.damaged_rows),
            ("overflows", "Shards and buckets opened behind full ones", &self.overflows),
        ];
        for (name, help, counter) in counters {
            registry.register(format!("farspan_cassandra_{name}"), help, counter.clone());
        }
        let bytes = self.written_bytes.clone();
        registry.register_with_unit(
            "farspan_cassandra_written",
            "Bytes written",
            Unit::Bytes,
            bytes,
        );
        let histograms = [
            ("write", "Time to write a batch of rows", &self.write_seconds),
            ("read", "Time to read a page of rows", &self.read_seconds),
        ];
        for (name, help, histogram) in histograms {
            let name = format!("farspan_cassandra_{name}");
            registry.register_with_unit(name, help, Unit::Seconds, histogram.clone());
        }
    }
}
