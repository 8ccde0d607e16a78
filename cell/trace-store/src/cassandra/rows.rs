//! The rows that are written, in the order of their statements.

use std::borrow::Cow;

use scylla::SerializeRow;
use scylla::value::MaybeUnset;

/// The parts of a trace's partition, in their order.
pub(super) const PART_ACCOUNT: i8 = 0;
/// Resources and scopes.
pub(super) const PART_CONTEXT: i8 = 1;
/// Spans.
pub(super) const PART_SPAN: i8 = 2;

/// Receive time, region, collector.
pub(super) type EnvelopeValue<'a> = (i64, &'a str, &'a str);

/// A row of a trace.
#[derive(Debug, SerializeRow)]
#[scylla(flavor = "enforce_order", skip_name_checks)]
pub(super) struct SpanRow<'a> {
    pub(super) ttl: i32,
    pub(super) timestamp: i64,
    pub(super) span: MaybeUnset<&'a [u8]>,
    pub(super) context: MaybeUnset<i64>,
    pub(super) resource: MaybeUnset<&'a [u8]>,
    pub(super) scope: MaybeUnset<&'a [u8]>,
    pub(super) envelopes: MaybeUnset<&'a [EnvelopeValue<'a>]>,
    pub(super) bytes: MaybeUnset<i64>,
    pub(super) tenant: &'a str,
    pub(super) trace_id: &'a [u8],
    pub(super) shard: i32,
    pub(super) part: i8,
    pub(super) span_id: &'a [u8],
    pub(super) kind: i8,
    pub(super) content: i64,
}

impl<'a> SpanRow<'a> {
    /// A row of which only key and lifetime are set.
    pub(super) const fn bare(
        (tenant, trace_id, shard): (&'a str, &'a [u8], i32),
        (part, content): (i8, i64),
        (ttl, timestamp): (i32, i64),
    ) -> Self {
        Self {
            ttl,
            timestamp,
            span: MaybeUnset::Unset,
            context: MaybeUnset::Unset,
            resource: MaybeUnset::Unset,
            scope: MaybeUnset::Unset,
            envelopes: MaybeUnset::Unset,
            bytes: MaybeUnset::Unset,
            tenant,
            trace_id,
            shard,
            part,
            span_id: &[],
            kind: 0,
            content,
        }
    }
}

/// A row of the index.
#[derive(Debug, SerializeRow)]
#[scylla(flavor = "enforce_order", skip_name_checks)]
pub(super) struct IndexRow<'a> {
    pub(super) ttl: i32,
    pub(super) timestamp: i64,
    pub(super) region: &'a str,
    pub(super) entries: Vec<u8>,
    pub(super) tenant: &'a str,
    pub(super) service: Cow<'a, str>,
    pub(super) hour: i32,
    pub(super) hash_bucket: i32,
    pub(super) newest: i64,
    pub(super) trace_id: &'a [u8],
    pub(super) record: i64,
}

impl IndexRow<'_> {
    /// About what it takes in its partition.
    pub(super) fn size(&self) -> u64 {
        (self.entries.len() as u64).saturating_add(80)
    }
}
