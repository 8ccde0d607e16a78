//! A cell on real engines whose parts are processes of their own. `tests/engines/all.sh` starts the
//! engines and says where they are; a missing address fails the test.
use std::time::Duration;

use serde_json::Value;

use crate::http::{eventually, get};
use crate::parts::Parts;

const MINUTE: Duration = Duration::from_secs(60);

/// Every trace is found by id, and every span counted once.
async fn check(parts: &Parts) {
    let sent = parts.sent();
    eventually("everything is counted", 2 * MINUTE, || async {
        match parts.counted().await? {
            counted if counted == sent => Ok(()),
            counted => Err(format!("{counted} of {sent}")),
        }
    })
    .await;
    eventually("every raw span is there once", MINUTE, || async {
        match parts.raw_rows().await? {
            rows if rows == sent => Ok(()),
            rows => Err(format!("{rows} of {sent}")),
        }
    })
    .await;
    for id in parts.trace_ids() {
        let url = format!("http://{}/api/traces/{id}", parts.gateway);
        eventually("a trace is found by id", MINUTE, || async {
            let answer = get(&url).await?;
            let spans = answer.json()["data"][0]["spans"].as_array().map_or(0, Vec::len);
            (answer.status == 200 && spans == 1)
                .then_some(())
                .ok_or_else(|| format!("{}: {spans} spans of {id}", answer.status))
        })
        .await;
    }
}

/// Every engine answers the doctor, whose lags are those of groups that have taken all.
async fn see_the_doctor(parts: &Parts) {
    eventually("the doctor finds everything well", MINUTE, || async {
        let found = parts.doctor().await;
        let checks = found["checks"].as_array().unwrap();
        let is_ok = |part: &str, check: &str| {
            let is_it = |one: &&Value| one["part"] == part && one["check"] == check;
            checks.iter().find(is_it).is_some_and(|one| one["verdict"] == "ok")
        };
        let engines = ["kafka", "cassandra", "elasticsearch", "clickhouse"];
        let answer = engines.iter().all(|engine| is_ok(engine, "answers"));
        let mut lags = checks.iter().filter(|one| one["check"] == "lag");
        let are_low = lags.clone().count() >= 4
            && lags.all(|lag| lag["value"].as_f64().is_some_and(|lag| lag < 900.0));
        let is_well = answer && are_low && is_ok("cell", "ready");
        if is_well { Ok(()) } else { Err(found.to_string()) }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn parts_of_a_cell_run_apart_and_whichever_ingester_dies_nothing_is_lost_or_counted_twice() {
    let mut parts = Parts::start().await;
    parts.send(40).await;
    // An acknowledged span is answered by a process that shares nothing with the one that took it.
    let url = format!("http://{}/api/traces/{}", parts.gateway, parts.trace_ids().last().unwrap());
    eventually("an acknowledged span is answered", MINUTE, || async {
        let status = get(&url).await?.status;
        assert_ne!(status, 404, "it is there");
        if status == 200 { Ok(()) } else { Err(status.to_string()) }
    })
    .await;
    eventually("two share the partitions", 2 * MINUTE, || async {
        let held = [
            parts.assigned(0, "storage-writer").await?,
            parts.assigned(1, "storage-writer").await?,
        ];
        (held == [4, 4]).then_some(()).ok_or_else(|| format!("{held:?}"))
    })
    .await;
    let counting = parts.who_counts().await;
    parts.send(20).await;
    parts.kill(counting);
    parts.send(40).await;
    let other = 1 - counting;
    eventually("the other has taken over", 2 * MINUTE, || async {
        for group in
            ["storage-writer", "search-indexer", "metrics-aggregator", "metadata-publisher"]
        {
            let held = parts.assigned(other, group).await?;
            if held != 8 {
                return Err(format!("{held} partitions of {group}"));
            }
        }
        Ok(())
    })
    .await;
    parts.start_again(counting);
    parts.send(40).await;
    check(&parts).await;
    see_the_doctor(&parts).await;
    parts.end();
    let sent = parts.sent();
    assert_eq!(parts.counted().await.unwrap(), sent, "nothing was in anybody's hands");
    assert_eq!(parts.raw_rows().await.unwrap(), sent, "and nothing was inserted again");
}
