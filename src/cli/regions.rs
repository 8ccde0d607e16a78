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
    own_region: String,
    regions: Vec<RegionState>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct RegionState {
    region: String,
    health: String,
    #[serde(deserialize_with = "optional")]
    watermark_unix_nano: Option<u64>,
    #[serde(deserialize_with = "optional")]
    lag_millis: Option<u64>,
    is_connected: Option<bool>,
    groups: Vec<GroupState>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct GroupState {
    group: String,
    #[serde(deserialize_with = "number")]
    records: u64,
    #[serde(deserialize_with = "number")]
    age_millis: u64,
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
        regions.regions.iter().map(|region| row(region, &regions.own_region)).collect();
    let head = ["REGION", "HEALTH", "INDEX", "INDEX LAG", "WATERMARK", "LOG LAG"];
    let paint = output.paint();
    for (index, line) in table(&head, &rows, output.width).into_iter().enumerate() {
        let state = index.checked_sub(1).and_then(|index| regions.regions.get(index));
        let is_bad = state.is_some_and(|state| !is_well(state));
        output.line(&if is_bad { paint.bad(&line) } else { line })?;
    }
    Ok(Outcome::Done)
}

fn is_well(region: &RegionState) -> bool {
    matches!(region.health.as_str(), "ok" | "up" | "healthy" | "well")
}

fn row(region: &RegionState, own: &str) -> Vec<String> {
    let here = if region.region == own { " (own)" } else { "" };
    let millis = |millis: u64| duration(millis.saturating_mul(1_000_000));
    let group = |group: &GroupState| {
        format!("{} {} ({})", group.group, group.records, millis(group.age_millis))
    };
    let lags: Vec<String> = region.groups.iter().map(group).collect();
    vec![
        clean(&format!("{}{here}", region.region)),
        clean(&region.health),
        match region.is_connected {
            Some(true) => "connected",
            Some(false) => "cut off",
            None => "-",
        }
        .to_owned(),
        region.lag_millis.map_or_else(|| "-".to_owned(), millis),
        region.watermark_unix_nano.map_or_else(|| "none".to_owned(), moment),
        clean(&lags.join(", ")),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_region_that_says_little_is_still_shown() {
        let json = r#"{"ownRegion":"a","regions":[{"region":"a","health":"ok","lagMillis":"12",
            "isConnected":true,"groups":[{"group":"storage-writer","records":3,"ageMillis":40}]},
            {"region":"b","health":"unavailable"}]}"#;
        let answer: RegionsAnswer = serde_json::from_str(json).unwrap();
        let rows: Vec<_> = answer.regions.iter().map(|region| row(region, "a")).collect();
        assert_eq!(rows[0][0], "a (own)");
        assert_eq!(rows[0][3], "12.0 ms");
        assert_eq!(rows[0][5], "storage-writer 3 (40.0 ms)");
        assert_eq!(rows[1][2..5], ["-", "-", "none"]);
        assert!(is_well(&answer.regions[0]) && !is_well(&answer.regions[1]));
    }
}
