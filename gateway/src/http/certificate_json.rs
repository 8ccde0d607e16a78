//! The completeness certificate in JSON. 64-bit numbers are strings, as in OTLP/JSON.

use serde::Serialize;
use trace_model::{Certificate, Coverage, RegionReport, Verdict};

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct CertificateJson<'a> {
    verdict: &'static str,
    text: String,
    regions: Vec<ReportJson<'a>>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
#[expect(clippy::struct_excessive_bools, reason = "the fields of a JSON object")]
struct ReportJson<'a> {
    region: &'a str,
    outcome: &'static str,
    is_whole: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    watermark_unix_nano: Option<String>,
    /// Of a search, or an answer from the index: up to when nothing that was appended is missing.
    #[serde(skip_serializing_if = "Option::is_none")]
    as_of_unix_nano: Option<String>,
    /// Of a search: records of the published log that were not searched.
    #[serde(skip_serializing_if = "Option::is_none")]
    records_behind: Option<u64>,
    is_not_provable: bool,
    /// On a region that was left out: its watermark has a hole, or there is none.
    has_hole: bool,
    is_damaged: bool,
    /// Its trace store did not answer: its spans are those of its live tail alone.
    lacks_store: bool,
    /// Names lie beyond a limit of it.
    is_cut: bool,
    /// Records were gone from its log before the group read them that fills what was asked.
    is_missed: bool,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    promised: Vec<PromiseJson>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    covered: Vec<PromiseJson>,
    spans: u64,
    elapsed_millis: u64,
}

/// A position: everything below `offset` of the partition.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct PromiseJson {
    incarnation: String,
    partition: u32,
    offset: String,
}

impl<'a> CertificateJson<'a> {
    pub(super) fn new(certificate: &'a Certificate) -> Self {
        Self {
            verdict: match certificate.verdict() {
                Verdict::Complete => "complete",
                Verdict::Partial => "partial",
            },
            text: certificate.to_string(),
            regions: certificate.regions.values().map(report).collect(),
        }
    }
}

fn report(report: &RegionReport) -> ReportJson<'_> {
    let promised = report.promised.iter().map(|promise| PromiseJson {
        incarnation: promise.writer.incarnation.to_string(),
        partition: promise.writer.partition,
        offset: promise.version.to_string(),
    });
    let promised: Vec<PromiseJson> = promised.collect();
    ReportJson {
        region: report.region.as_str(),
        outcome: report.outcome.word(),
        is_whole: report.is_whole(),
        reason: report.reason.as_deref(),
        watermark_unix_nano: report.watermark.map(|watermark| watermark.0.to_string()),
        as_of_unix_nano: report.as_of.map(|as_of| as_of.0.to_string()),
        records_behind: report.as_of.and(report.records_behind()).filter(|records| *records > 0),
        is_not_provable: report.is_not_provable,
        has_hole: report.has_hole,
        is_damaged: report.is_damaged,
        lacks_store: report.lacks_store,
        is_cut: report.is_cut,
        is_missed: report.is_missed,
        covered: covered(report.covered.as_ref(), &promised),
        promised,
        spans: report.spans,
        elapsed_millis: report.elapsed_millis,
    }
}

/// The cover of the partitions in which something was promised: a log has more of them than anyone
/// wants to read.
fn covered(coverage: Option<&Coverage>, promised: &[PromiseJson]) -> Vec<PromiseJson> {
    let Some(coverage) = coverage else { return Vec::new() };
    let is_promised =
        |partition: &u32| promised.iter().any(|promise| promise.partition == *partition);
    let now = coverage.next.iter().filter(|(partition, _)| is_promised(partition));
    let now = now.map(|(partition, offset)| (coverage.incarnation, *partition, *offset));
    let earlier = coverage.earlier.iter().flat_map(|(incarnation, next)| {
        next.iter().map(|(partition, offset)| (*incarnation, *partition, *offset))
    });
    let is_of_one = |(incarnation, partition, _): &(u64, u32, u64)| {
        let incarnation = incarnation.to_string();
        let mut promised = promised.iter();
        promised.any(|one| one.incarnation == incarnation && one.partition == *partition)
    };
    now.chain(earlier.filter(is_of_one))
        .map(|(incarnation, partition, offset)| PromiseJson {
            incarnation: incarnation.to_string(),
            partition,
            offset: offset.to_string(),
        })
        .collect()
}
