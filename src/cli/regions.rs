//! `farspan regions`: how each region is, as this gateway sees it.

use serde::Deserialize;

use super::answer::{number, optional};
use super::failure::{Failure, Outcome};
use super::gateway_client::GatewayClient;
use super::output::Output;
use super::table::{clean, duration, long_time, moment, table};

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct RegionsAnswer {
    gateway_region: String,
    regions: Vec<RegionState>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[expect(clippy::struct_excessive_bools, reason = "the fields of a JSON object")]
struct RegionState {
    region: String,
    is_healthy: bool,
    reason: Option<String>,
    #[serde(deserialize_with = "optional")]
    watermark_unix_nano: Option<u64>,
    has_hole: bool,
    #[serde(deserialize_with = "optional")]
    index_lag_millis: Option<u64>,
    is_index_connected: bool,
    is_index_refused: bool,
    #[serde(deserialize_with = "optional")]
    watermark_age_millis: Option<u64>,
    #[serde(deserialize_with = "optional")]
    index_retention_millis: Option<u64>,
    #[serde(deserialize_with = "optional")]
    index_kept_millis: Option<u64>,
    #[serde(deserialize_with = "optional")]
    index_expired_until_unix_nano: Option<u64>,
    #[serde(deserialize_with = "optional")]
    index_evicted_until_unix_nano: Option<u64>,
    groups: Vec<GroupState>,
    away_collectors: Vec<u32>,
    retired_collectors: Vec<u32>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct GroupState {
    group: String,
    #[serde(deserialize_with = "number")]
    lag_records: u64,
    #[serde(deserialize_with = "number")]
    lag_millis: u64,
    #[serde(deserialize_with = "number")]
    dead_letters: u64,
    #[serde(deserialize_with = "number")]
    failing_millis: u64,
}

/// A group that fails for longer is named.
const FAILING_IS_SHOWN_MILLIS: u64 = 60_000;

/// Shows the regions.
pub(super) async fn run(client: &GatewayClient, output: &mut Output) -> Result<Outcome, Failure> {
    let answer = client.ask_ok("/api/farspan/v1/regions").await?;
    if output.is_json {
        answer.print(output)?;
        return Ok(Outcome::Done);
    }
    let regions: RegionsAnswer = answer.read()?;
    let rows: Vec<Vec<String>> =
        regions.regions.iter().map(|region| row(region, &regions.gateway_region)).collect();
    let head = ["REGION", "HEALTH", "INDEX", "INDEX LAG", "WATERMARK", "INDEX KEEPS", "LOG LAG"];
    let paint = output.paint();
    for (index, line) in table(&head, &rows, output.cut_at).into_iter().enumerate() {
        let state = index.checked_sub(1).and_then(|index| regions.regions.get(index));
        let is_bad = state.is_some_and(|state| !state.is_healthy || state.is_index_refused);
        output.line(&if is_bad { paint.bad(&line) } else { line })?;
    }
    Ok(Outcome::Done)
}

fn row(region: &RegionState, own: &str) -> Vec<String> {
    let here = if region.region == own { " (own)" } else { "" };
    let millis = |millis: u64| duration(millis.saturating_mul(1_000_000));
    let group = |group: &GroupState| {
        let dead = match group.dead_letters {
            0 => String::new(),
            letters => format!(", {letters} dead letters"),
        };
        // What passes by itself is no news.
        let failing = match group.failing_millis {
            0..FAILING_IS_SHOWN_MILLIS => String::new(),
            failing => format!(", failing for {}", long_time(failing)),
        };
        let lag = millis(group.lag_millis);
        format!("{} {} ({lag}{dead}{failing})", group.group, group.lag_records)
    };
    let lags: Vec<String> = region.groups.iter().map(group).collect();
    let reason = region.reason.as_deref().unwrap_or("does not answer");
    vec![
        clean(&format!("{}{here}", region.region)),
        if region.is_healthy { health(region) } else { clean(reason) },
        stream(region).to_owned(),
        region.index_lag_millis.map_or_else(|| "-".to_owned(), millis),
        watermark(region),
        keeps(region),
        clean(&lags.join(", ")),
    ]
}

/// A region that answers, and which of its collectors do not.
fn health(region: &RegionState) -> String {
    let away = region.away_collectors.iter().map(|one| format!(", collector {one} away"));
    let retired = region.retired_collectors.iter().map(|one| format!(", collector {one} retired"));
    std::iter::once("ok".to_owned()).chain(away).chain(retired).collect()
}

/// How the stream of the region's index is. One that is refused comes up again and again, to be
/// refused again: that it is up at the moment says nothing.
const fn stream(region: &RegionState) -> &'static str {
    match (region.is_index_refused, region.is_index_connected) {
        (true, _) => "refused",
        (false, true) => "connected",
        (false, false) => "cut off",
    }
}

/// Its age tells what no lag does: a sender that says nothing is behind by nothing. Where a gateway
/// does not tell the age, its time.
fn watermark(region: &RegionState) -> String {
    let Some(watermark) = region.watermark_unix_nano else { return "none".to_owned() };
    let age = region.watermark_age_millis.map(|age| format!("{} ago", long_time(age)));
    let hole = if region.has_hole { ", with a hole" } else { "" };
    format!("{}{hole}", age.unwrap_or_else(|| moment(watermark)))
}

/// How long rows of the region are kept here, of how long the region itself keeps them, and up to
/// when they may be gone.
fn keeps(region: &RegionState) -> String {
    let Some(kept) = region.index_kept_millis else { return "-".to_owned() };
    let own = region.index_retention_millis.filter(|own| *own != kept);
    let own = own.map(|own| format!(" of {}", long_time(own))).unwrap_or_default();
    let gone = region.index_expired_until_unix_nano.max(region.index_evicted_until_unix_nano);
    let gone = gone.map(|until| format!(", gone to {}", moment(until))).unwrap_or_default();
    format!("{}{own}{gone}", long_time(kept))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_region_that_says_little_is_still_shown() {
        let json = r#"{"gatewayRegion":"a","regions":[{"region":"a","isHealthy":true,
            "indexLagMillis":"12","isIndexConnected":true,"later":1,"groups":[
            {"group":"storage-writer","lagRecords":3,"lagMillis":40,
            "deadLetters":2}]},
            {"region":"b","reason":"connection refused"}]}"#;
        let answer: RegionsAnswer = serde_json::from_str(json).unwrap();
        let rows: Vec<_> = answer.regions.iter().map(|region| row(region, "a")).collect();
        assert_eq!(rows[0][..4], ["a (own)", "ok", "connected", "12.0 ms"]);
        assert_eq!(rows[0][6], "storage-writer 3 (40.0 ms, 2 dead letters)");
        assert_eq!(rows[1][..6], ["b", "connection refused", "cut off", "-", "none", "-"]);
    }

    #[test]
    fn a_group_that_keeps_failing_is_named() {
        let json = r#"{"region":"a","groups":[
            {"group":"g","lagRecords":3,"lagMillis":40,"failingMillis":59999},
            {"group":"h","lagRecords":3,"lagMillis":40,"failingMillis":180000}]}"#;
        let region: RegionState = serde_json::from_str(json).unwrap();
        assert_eq!(row(&region, "b")[6], "g 3 (40.0 ms), h 3 (40.0 ms, failing for 3 min)");
    }

    #[test]
    fn a_refused_stream_an_old_watermark_and_what_is_gone_are_shown() {
        let json = r#"{"region":"a","isHealthy":true,"isIndexConnected":true,"isIndexRefused":true,
            "watermarkUnixNano":"1790000000000000000","watermarkAgeMillis":300000,"hasHole":true,
            "indexRetentionMillis":2592000000,"indexKeptMillis":604800000,
            "indexEvictedUntilUnixNano":"1789000000000000000"}"#;
        let region: RegionState = serde_json::from_str(json).unwrap();
        let row = row(&region, "b");
        assert_eq!(row[2], "refused");
        assert_eq!(row[4], "5 min ago, with a hole");
        assert_eq!(row[5], "7 d of 30 d, gone to 2026-09-10T00:26:40.000Z");
    }
}
