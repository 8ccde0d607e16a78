//! Redis killed, stopped, never there: no error, only slower.

use std::time::Duration;

use gateway::shared_state::redis::RedisConfig;
use gateway::shared_state::{Away, FillOutcome, Quota, Reading, SharedStateMetrics};
use prometheus_client::registry::Registry;
use tokio::time::{Instant, timeout};

use super::server::{Server, free_run};
use super::{Gateway, PATIENCE, eventually};
use crate::laws::{address, key, put, text, ticket, value};

const QUOTA: Quota = Quota::new(1, 100);
/// Three hundred calls that do not wait for Redis, on a busy machine. If each did, they would take half a minute or
/// more: the shortest wait is 100 ms.
const AT_ONCE: Duration = Duration::from_secs(15);

async fn is_away(gateway: &Gateway) {
    assert!(matches!(gateway.cache.read(&key("a")).await, Reading::Away));
    assert_eq!(gateway.cache.evict(&key("a")).await, Err(Away), "whoever evicts must know");
    assert_eq!(gateway.counters.take(&address(1), QUOTA, 1).await, Err(Away));
}

#[tokio::test]
async fn one_that_was_never_there_costs_nothing() {
    let config = RedisConfig::at("127.0.0.1", free_run(1));
    let gateway = Gateway::start(config).await.in_front();
    let started = Instant::now();
    for _ in 0..100 {
        is_away(&gateway).await;
    }
    assert!(started.elapsed() < AT_ONCE, "{:?} for 300 calls", started.elapsed());
}

#[tokio::test]
async fn one_that_comes_later_is_used() {
    let server = Server::start("later", &[]);
    server.signal("KILL");
    let gateway = Gateway::start(server.config()).await.in_front();
    is_away(&gateway).await;
    server.start_again();
    gateway.is(true).await;
    put(&gateway.cache, &key("a"), "here").await;
    assert_eq!(text(&gateway.cache.read(&key("a")).await).unwrap(), "here");
}

#[tokio::test]
async fn killed_it_is_missed_by_nobody_and_its_local_copies_go() {
    let server = Server::start("killed", &[]);
    let gateway = Gateway::connected(server.config()).await.in_front();
    put(&gateway.cache, &key("a"), "one").await;
    for _ in 0..2 {
        assert_eq!(text(&gateway.cache.read(&key("a")).await).unwrap(), "one");
    }
    let begun = ticket(&gateway.cache, &key("b")).await;
    server.signal("KILL");
    gateway.is(false).await;
    is_away(&gateway).await;
    assert_eq!(gateway.cache.fill(begun.clone(), value("b"), PATIENCE).await, FillOutcome::Away);
    server.start_again();
    gateway.is(true).await;
    // The new one knows of no eviction that the old one may have known of.
    assert_eq!(gateway.cache.fill(begun, value("b"), PATIENCE).await, FillOutcome::Discarded);
    assert!(matches!(gateway.cache.read(&key("a")).await, Reading::Absent(_)));
    assert_eq!(gateway.counters.take(&address(1), QUOTA, 1).await.unwrap().tokens, 1);
}

#[tokio::test]
async fn stopped_it_makes_one_call_wait_and_no_other() {
    let server = Server::start("stopped", &[]);
    let mut registry = Registry::default();
    let metrics = SharedStateMetrics::register(&mut registry);
    let config = RedisConfig { heartbeat: PATIENCE, ..server.config() };
    let gateway = Gateway::start_counted(config.clone(), metrics).await.in_front();
    gateway.is(true).await;
    put(&gateway.cache, &key("a"), "one").await;
    assert_eq!(text(&gateway.cache.read(&key("a")).await).unwrap(), "one");
    server.signal("STOP");
    let started = Instant::now();
    assert_eq!(gateway.counters.take(&address(1), QUOTA, 1).await, Err(Away));
    let waited = started.elapsed();
    assert!(waited >= config.timeout && waited < AT_ONCE, "{waited:?}");
    // Also what lies here is not served: nobody would say that it changed.
    let started = Instant::now();
    for _ in 0..100 {
        is_away(&gateway).await;
    }
    assert!(started.elapsed() < AT_ONCE, "{:?} for 300 calls", started.elapsed());
    server.signal("CONT");
    gateway.is(true).await;
    let read = gateway.cache.read(&key("a")).await;
    assert_eq!(text(&read).unwrap(), "one", "it kept it");
    let mut shown = String::new();
    prometheus_client::encoding::text::encode(&mut shown, &registry).unwrap();
    for line in [
        "farspan_gateway_shared_state_faults_total{kind=\"TimedOut\"} 1",
        "farspan_gateway_shared_state_connected 1",
    ] {
        assert!(shown.contains(line), "{line} in {shown}");
    }
}

#[tokio::test]
async fn one_that_greets_and_then_hangs_is_tried_less_and_less() {
    let server = Server::start("greets", &[]);
    let mut registry = Registry::default();
    let metrics = SharedStateMetrics::register(&mut registry);
    let timeout = Duration::from_millis(50);
    let config = RedisConfig { timeout, heartbeat: PATIENCE, ..server.config() };
    let gateway = Gateway::start_counted(config, metrics).await;
    gateway.is(true).await;
    // What writes waits; greetings do not.
    server.cli(&["client", "pause", "60000", "write"]);
    let started = Instant::now();
    while started.elapsed() < Duration::from_secs(3) {
        assert_eq!(gateway.counters.take(&address(1), QUOTA, 1).await, Err(Away));
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let mut shown = String::new();
    prometheus_client::encoding::text::encode(&mut shown, &registry).unwrap();
    let hung = shown.lines().find_map(|line| line.split_once("{kind=\"TimedOut\"} "));
    let hung: u32 = hung.unwrap().1.parse().unwrap();
    assert!((1..=15).contains(&hung), "{hung} calls waited");
    server.cli(&["client", "unpause"]);
    eventually("used", async || gateway.counters.take(&address(1), QUOTA, 1).await.is_ok()).await;
}

#[tokio::test]
async fn silence_is_found_out_without_a_call() {
    let server = Server::start("silent", &[]);
    let gateway = Gateway::connected(server.config()).await.in_front();
    put(&gateway.cache, &key("a"), "one").await;
    assert_eq!(text(&gateway.cache.read(&key("a")).await).unwrap(), "one");
    server.signal("STOP");
    // Reads of what lies here ask Redis nothing; the heartbeat does.
    let found_out = async || matches!(gateway.cache.read(&key("a")).await, Reading::Away);
    eventually("found out", found_out).await;
}

#[tokio::test]
async fn a_server_that_refuses_is_no_error_and_keeps_the_connection() {
    let server = Server::start("full", &[]);
    let gateway = Gateway::connected(server.config()).await;
    put(&gateway.cache, &key("a"), "one").await;
    let begun = ticket(&gateway.cache, &key("b")).await;
    server.cli(&["config", "set", "maxmemory-policy", "noeviction"]);
    server.cli(&["config", "set", "maxmemory", "1mb"]);
    assert_eq!(gateway.cache.fill(begun, value("b"), PATIENCE).await, FillOutcome::Away);
    assert_eq!(gateway.counters.take(&address(1), QUOTA, 1).await, Err(Away));
    assert_eq!(text(&gateway.cache.read(&key("a")).await).unwrap(), "one");
    assert!(gateway.state.is_connected());
}

#[tokio::test]
async fn the_rights_that_the_handbook_names_are_enough_and_others_are_not_needed() {
    let server = Server::start("rights", &[]);
    let handbook = include_str!("../../../../docs/OPERATIONS.md");
    let list = handbook.split("Commands that its user needs:").nth(1).unwrap();
    let list = list.split("\n- ").next().unwrap();
    let rights: Vec<String> = list
        .split('`')
        .skip(1)
        .step_by(2)
        .map(|word| format!("+{}", word.to_lowercase()))
        .collect();
    let mut user = vec!["acl", "setuser", "gateway", "on", ">secret", "~farspan:*"];
    user.extend(rights.iter().map(String::as_str));
    assert_eq!(server.cli(&user), "OK", "{rights:?}");
    let directory = tempfile::TempDir::new().unwrap();
    let password_file = directory.path().join("password");
    std::fs::write(&password_file, "secret").unwrap();
    let config = RedisConfig {
        user: Some("gateway".to_owned()),
        password_file: Some(password_file),
        ..server.config()
    };
    let gateway = Gateway::connected(config.clone()).await.in_front();
    put(&gateway.cache, &key("a"), "one").await;
    assert_eq!(text(&gateway.cache.read(&key("a")).await).unwrap(), "one");
    gateway.cache.evict(&key("a")).await.unwrap();
    assert_eq!(gateway.counters.take(&address(1), QUOTA, 1).await.unwrap().tokens, 1);
    // Another prefix is not this user's: refused, and no error.
    let config = RedisConfig { prefix: "other".to_owned(), ..config };
    is_away(&Gateway::connected(config).await).await;
}

#[tokio::test]
async fn stopping_ends_every_task() {
    let server = Server::start("stopping", &[]);
    let gateway = Gateway::connected(server.config()).await;
    let tracker = gateway.tracker.clone();
    drop(gateway);
    tracker.close();
    timeout(PATIENCE, tracker.wait()).await.unwrap();
    let clients = server.cli(&["client", "list", "type", "normal"]);
    assert_eq!(clients.lines().count(), 1, "only the one that asks: {clients}");
}
