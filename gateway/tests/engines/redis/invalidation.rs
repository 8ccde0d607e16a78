//! What Redis says unasked, and what a stock client sees.

use gateway::shared_state::{CacheKey, Quota};

use super::Gateway;
use super::server::Server;
use crate::laws::{address, becomes, key, put, text, ticket};

#[tokio::test]
async fn a_change_by_anyone_reaches_the_local_copy() {
    let server = Server::start("anyone", &[]);
    let gateway = Gateway::connected(server.config()).await.in_front();
    let name = format!("farspan:cache:{{{}}}:v", key("a").as_str());
    for command in [&["del", &name][..], &["flushall"], &["pexpire", &name, "1"]] {
        put(&gateway.cache, &key("a"), "one").await;
        for _ in 0..2 {
            assert_eq!(text(&gateway.cache.read(&key("a")).await).unwrap(), "one");
        }
        server.cli(command);
        becomes(&gateway.cache, &key("a"), None).await;
    }
}

#[tokio::test]
async fn a_local_copy_needs_no_call() {
    let server = Server::start("local", &[]);
    let gateway = Gateway::connected(server.config()).await.in_front();
    put(&gateway.cache, &key("a"), "one").await;
    assert_eq!(text(&gateway.cache.read(&key("a")).await).unwrap(), "one");
    let calls = || -> u64 {
        let stats = server.cli(&["info", "commandstats"]);
        let line = stats.lines().find(|line| line.starts_with("cmdstat_mget:")).unwrap();
        line.split(['=', ',']).nth(1).unwrap().parse().unwrap()
    };
    let before = calls();
    for _ in 0..1_000 {
        assert_eq!(text(&gateway.cache.read(&key("a")).await).unwrap(), "one");
    }
    assert_eq!(calls(), before);
}

#[tokio::test]
async fn reads_are_tracked_one_by_one_and_counters_are_not() {
    let server = Server::start("tracked", &[]);
    let gateway = Gateway::connected(server.config()).await;
    let tracked = || {
        let stats = server.cli(&["info", "stats"]);
        let line = stats.lines().find(|line| line.starts_with("tracking_total_keys:")).unwrap();
        line.trim().rsplit_once(':').unwrap().1.parse::<u64>().unwrap()
    };
    let quota = Quota::new(1, 100);
    for last in 0..20 {
        gateway.counters.take(&address(last), quota, 1).await.unwrap();
    }
    assert_eq!(tracked(), 0);
    drop(ticket(&gateway.cache, &key("a")).await);
    assert_eq!(tracked(), 2, "the value and its eviction, also while there is neither");
}

#[tokio::test]
async fn what_is_no_value_of_ours_is_not_served_and_is_replaced() {
    let server = Server::start("foreign", &[]);
    let gateway = Gateway::connected(server.config()).await.in_front();
    for foreign in ["", "rubbish", "\u{1}\u{1}\u{1}"] {
        let key = key(&format!("written as {foreign:?}"));
        let name = format!("farspan:cache:{{{}}}:v", key.as_str());
        server.cli(&["set", &name, foreign, "px", "60000"]);
        put(&gateway.cache, &key, "ours").await;
        becomes(&gateway.cache, &key, Some("ours")).await;
    }
    // One of ours that nobody gave an end.
    let (ours, endless) = (key("ours"), key("endless"));
    put(&gateway.cache, &ours, "ours").await;
    let name = |key: &CacheKey| format!("farspan:cache:{{{}}}:v", key.as_str());
    server.cli(&["copy", &name(&ours), &name(&endless)]);
    server.cli(&["persist", &name(&endless)]);
    drop(ticket(&gateway.cache, &endless).await);
}

#[tokio::test]
async fn every_key_has_an_end() {
    let server = Server::start("ends", &[]);
    let gateway = Gateway::connected(server.config()).await;
    put(&gateway.cache, &key("a"), "one").await;
    gateway.cache.evict(&key("b")).await.unwrap();
    gateway.counters.take(&address(1), Quota::new(1, 100), 7).await.unwrap();
    let keys = server.cli(&["keys", "*"]);
    assert_eq!(keys.lines().count(), 3, "{keys}");
    for name in keys.lines() {
        assert!(name.starts_with("farspan:"), "{name}");
        let left: i64 = server.cli(&["pttl", name]).parse().unwrap();
        assert!((1..=300_000).contains(&left), "{name} ends in {left} ms");
    }
}
