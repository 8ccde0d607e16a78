//! Batches to append, and what to expect back.

use std::sync::Arc;

use proto::wire::put_bytes_field;
use proto::{BatchSource, SpanBatch, SpanBatchBuilder};
use span_log::{SpanLog, TailAnswer};
use trace_model::sampling_threshold::Threshold;
use trace_model::{Region, TenantId, TraceId, UnixNanos};

pub(crate) const PARTITION: u32 = 0;

/// The n-th trace id of these tests.
pub(crate) fn trace(number: u64) -> TraceId {
    let mut bytes = [7; 16];
    bytes[8..].copy_from_slice(&number.to_be_bytes());
    TraceId::from_bytes(bytes).unwrap()
}

pub(crate) fn tenant(name: &str) -> TenantId {
    TenantId::new(name).unwrap()
}

/// One span a trace, with a name of so many bytes that hardly compresses.
pub(crate) fn batch_of(tenant_name: &str, traces: &[u64], name_bytes: usize) -> Arc<SpanBatch> {
    let spans: Vec<Vec<u8>> = traces.iter().map(|number| span(*number, name_bytes)).collect();
    let mut builder = SpanBatchBuilder::new();
    let resource = builder.add_resource(Vec::new());
    let scope = builder.add_scope(resource, Vec::new());
    for (number, span) in traces.iter().zip(&spans) {
        builder.add_span(trace(*number), Threshold::KEEP_ALL, scope, span);
    }
    let source = BatchSource {
        tenant: tenant(tenant_name),
        region: Region::new("eu-west-1").unwrap(),
        collector: "collector-1".into(),
        receive_time: UnixNanos(5),
        digest: traces.first().copied().unwrap_or(0),
    };
    Arc::new(builder.finish(source).unwrap())
}

pub(crate) fn batch(traces: &[u64]) -> Arc<SpanBatch> {
    batch_of("default", traces, 40)
}

fn span(number: u64, name_bytes: usize) -> Vec<u8> {
    let mut state = number.wrapping_add(1);
    let name: Vec<u8> = (0..name_bytes)
        .map(|_| {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            b'a' + u8::try_from((state >> 33) % 26).unwrap()
        })
        .collect();
    let mut bytes = Vec::new();
    put_bytes_field(&mut bytes, 1, trace(number).as_bytes());
    put_bytes_field(&mut bytes, 2, &(number + 1).to_be_bytes());
    put_bytes_field(&mut bytes, 5, &name);
    bytes
}

/// A record as it was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Record {
    pub(crate) offset: u64,
    pub(crate) trace_id: TraceId,
    pub(crate) append_time: UnixNanos,
    /// The bytes of the batch that the record came in.
    pub(crate) encoded: Vec<u8>,
}

/// All records from an offset on, read in pieces of so many bytes. Panics at damage.
pub(crate) async fn read_all(log: &dyn SpanLog, from: u64, bytes_max: usize) -> Vec<Record> {
    let mut records = Vec::new();
    let mut at = from;
    loop {
        let batches = log.read(PARTITION, at, bytes_max).await.unwrap();
        let Some(last) = batches.last() else { return records };
        let next = last.range.next;
        for logged in &batches {
            assert_eq!(logged.incarnation, log.identity().incarnation);
            let offsets = logged.range.first..logged.range.next;
            assert_eq!(offsets.clone().count(), logged.batch.traces().len());
            for (offset, trace) in offsets.zip(logged.batch.traces()) {
                if offset >= at {
                    records.push(Record {
                        offset,
                        trace_id: trace.trace_id,
                        append_time: logged.append_time,
                        encoded: logged.batch.encoded().to_vec(),
                    });
                }
            }
        }
        at = next;
    }
}

/// The traces of records, in their order.
pub(crate) fn traces_of(records: &[Record]) -> Vec<TraceId> {
    records.iter().map(|record| record.trace_id).collect()
}

/// Waits for a condition, at most ten seconds.
pub(crate) async fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = tokio::time::timeout(std::time::Duration::from_secs(10), async {
        while !holds() {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    });
    assert!(deadline.await.is_ok(), "never came true: {what}");
}

/// Whether the log says that spans of any trace may be missing: lost for good, or not readable now.
pub(crate) fn says_damage(log: &dyn SpanLog, answer: &TailAnswer) -> bool {
    answer.is_damaged || !log.lost().runs.is_empty()
}
