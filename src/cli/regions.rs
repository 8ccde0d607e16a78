//! `farspan regions`: how each region is, as this gateway sees it.

use serde::Deserialize;

use super::answer::{number, optional};
use super::failure::{Failure, Outcome};
use super::gateway_client::GatewayClient;
use super::output::Output;
use super::table::{clean, duration, moment, table};

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct RegionsAnswer {
    gateway_region: String,
    regions: Vec<RegionState>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
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
    groups: Vec<GroupState>,
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
}

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
    let head = ["REGION", "HEALTH", "INDEX", "INDEX LAG", "WATERMARK", "LOG LAG"];
    let paint = output.paint();
    for (index, line) in table(&head, &rows, output.width).into_iter().enumerate() {
        let state = index.checked_sub(1).and_then(|index| regions.regions.get(index));
        let is_bad = state.is_some_and(|state| !state.is_healthy);
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
        let lag = millis(group.lag_millis);
        format!("{} {} ({lag}{dead})", group.group, group.lag_records)
    };
    let lags: Vec<String> = region.groups.iter().map(group).collect();
    let reason = region.reason.as_deref().unwrap_or("does not answer");
    let watermark = region.watermark_unix_nano.map_or_else(|| "none".to_owned(), moment);
    let watermark = if region.has_hole { format!("{watermark} with a hole") } else { watermark };
    vec![
        clean(&format!("{}{here}", region.region)),
        if region.is_healthy { "ok".to_owned() } else { clean(reason) },
        if region.is_index_connected { "connected" } else { "cut off" }.to_owned(),
        region.index_lag_millis.map_or_else(|| "-".to_owned(), millis),
        watermark,
        clean(&lags.join(", ")),
    ]
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
        assert_eq!(rows[0][5], "storage-writer 3 (40.0 ms, 2 dead letters)");
        assert_eq!(rows[1][..5], ["b", "connection refused", "cut off", "-", "none"]);
    }
}
