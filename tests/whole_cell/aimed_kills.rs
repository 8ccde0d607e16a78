//! The cell dies between a store's write and the commit of what was written, again and again: what a
//! store holds and Kafka has not committed is watched, and the moment is taken. In the middle a second
//! ingester shares the work, dies with it, and leaves. In the end the whole log is replayed.

use std::time::Duration;

use crate::beside::{Beside, assigned, figure};
use crate::counts::{
    DISTINCT, Names, all_counts, assert_no_record_was_inserted_twice, cassandra, clickhouse,
    committed, elasticsearch, until_each_holds_after_kills,
};
use crate::federation::{Federation, PATIENCE};
use crate::fixture::{encode, now_nanos, random_trace_id, request, span};
use crate::http::eventually;
use crate::ledger::Ledger;
use crate::replay::replay_of;
use crate::running_engines::{Engine, Engines, share_engines};
use crate::whole_cell::{REGION, SERVICE, set_up, until_all_is_read_back, yaml};

/// Kills that strike between write and commit; `FARSPAN_TEST_KILLS` says another number.
const KILLS: usize = 20;
/// Of these, in the middle, as many as one in so many strike two processes that share the work.
const SHARED_ONE_IN: usize = 5;
/// Traces that are sent before each.
const BURST: usize = 6;
/// Spans of a trace, of which the last is a call to another service.
const SPANS: [u64; 3] = [1, 2, 3];
const PARTITIONS: u32 = 4;
/// Between bursts while partitions change hands.
const PAUSE: Duration = Duration::from_millis(250);

/// Whose moment is taken. The last three are read by one process at a time, which is followed only when
/// its session has ended: theirs comes less often.
const AIMS: [&str; 8] = [
    "storage-writer",
    "search-indexer",
    "storage-writer",
    "metadata-publisher",
    "search-indexer",
    "metrics-aggregator",
    "search-indexer",
    "analytics-writer",
];
/// Whose partitions two processes share.
const SHARED: [&str; 2] = ["storage-writer", "search-indexer"];

fn kills() -> usize {
    std::env::var("FARSPAN_TEST_KILLS").map_or(KILLS, |kills| kills.parse().unwrap())
}

/// The cell, with what it was sent.
struct Cell<'a> {
    engines: &'a Engines,
    names: Names,
    federation: Federation,
    beside: Beside,
    ledger: Ledger,
}

impl Cell<'_> {
    fn spans(&self) -> u64 {
        (self.ledger.len() * SPANS.len()) as u64
    }

    /// Spans in the store of a group, each once. So many traces were published `before`.
    async fn stored(&self, group: &str, before: u64) -> Result<u64, String> {
        let Names { name } = &self.names;
        let distinct = format!("SELECT {DISTINCT} FROM {name}.otel_traces");
        let seen = format!("SELECT sum(seen) FROM {name}.red_services");
        let rows = format!("SELECT count(*) FROM {name}.spans WHERE part = 2 ALLOW FILTERING");
        match group {
            "storage-writer" => cassandra(&self.engines.address(Engine::Cassandra), &rows).await,
            "search-indexer" => elasticsearch(self.engines, name).await,
            "metrics-aggregator" => clickhouse(self.engines, &seen).await,
            "analytics-writer" => clickhouse(self.engines, &distinct).await,
            "metadata-publisher" => Ok((before + self.rows().await?) * SPANS.len() as u64),
            other => panic!("{other} has no store"),
        }
    }

    /// Traces in the index, as the region's replicator has heard.
    async fn indexed(&self) -> Result<u64, String> {
        let admin = self.federation.regions[0].ports.replicator_admin;
        let traces = figure(admin, "farspan_replicator_index_traces ").await?;
        traces.ok_or_else(|| "the replicator names no traces".to_owned())
    }

    /// Rows that the cell's process has made durable in its origin log: one for each of these traces.
    async fn rows(&self) -> Result<u64, String> {
        let admin = self.federation.regions[0].ports.cell_admin;
        let rows = figure(admin, "farspan_publisher_contributions_published_total ").await?;
        rows.ok_or_else(|| "the cell names no rows".to_owned())
    }

    /// Traces that were published before those that the process counts, once all are that were sent.
    async fn published_before(&self) -> u64 {
        let sent = self.ledger.len() as u64;
        let rows = eventually("all is published", PATIENCE, || async {
            let found = self.indexed().await?;
            if found == sent { self.rows().await } else { Err(format!("{found} of {sent}")) }
        })
        .await;
        sent.checked_sub(rows).unwrap()
    }

    /// Spans whose records a group has committed.
    async fn committed(&self, group: &str) -> Result<u64, String> {
        let of_group = format!("{}.{group}", self.names.name);
        let broker = self.engines.address(Engine::Kafka);
        let records = committed(&broker, (&of_group, &self.names.topic()), PARTITIONS).await?;
        Ok(records * SPANS.len() as u64)
    }

    async fn send_burst(&self) {
        for _ in 0..BURST {
            let trace = random_trace_id();
            let [first, second, called] = SPANS;
            let own = vec![span(trace, first, 0, "work"), span(trace, second, first, "call")];
            let mut body = request(SERVICE, own);
            let called = request("called", vec![span(trace, called, second, "serve")]);
            body.resource_spans.extend(called.resource_spans);
            let body = encode(&body);
            eventually("a trace is acknowledged", PATIENCE, || {
                self.federation.export(0, body.clone())
            })
            .await;
            self.ledger.note(trace, &SPANS);
        }
    }

    /// Kills the cell in the moment of a group, and who shares its work; says whether it was in time.
    async fn strike(&mut self, group: &str) -> bool {
        let cell: &Self = self;
        let before = match group {
            "metadata-publisher" => cell.published_before().await,
            _ => 0,
        };
        cell.send_burst().await;
        let stored = eventually("a store holds what is not committed", PATIENCE, || async {
            // In this order: a commit that comes meanwhile hides a moment and makes none.
            let stored = cell.stored(group, before).await?;
            if cell.committed(group).await? < stored {
                return Ok(stored);
            }
            if stored == cell.spans() {
                // Too late for this burst: the next one is looked at.
                cell.send_burst().await;
            }
            Err(format!("{group} holds {stored}\n{}", cell.federation.last_words()))
        })
        .await;
        let is_shared = self.beside.is_running();
        self.federation.kill_cell(0);
        self.beside.kill();
        // A commit may have been on its way.
        let committed =
            eventually("the commits are read", PATIENCE, || self.committed(group)).await;
        let has_struck = committed < stored;
        self.federation.start_cell(0);
        if is_shared {
            self.beside.start();
            self.beside.wait_ready().await;
        }
        self.federation.wait_ready(0).await;
        has_struck
    }

    /// Strikes until so many kills were in time.
    async fn strike_until(&mut self, tally: &mut Tally, kills: usize, aims: &[&str]) {
        while tally.struck < kills {
            let group = aims[tally.struck % aims.len()];
            let begun = std::time::Instant::now();
            match self.strike(group).await {
                true => tally.struck += 1,
                false => tally.missed += 1,
            }
            let Tally { struck, missed } = *tally;
            println!("{group}: {struck} kills, {missed} too late; {:?}", begun.elapsed());
            assert!(missed <= 10 + self::kills() / 2, "{missed} kills came too late");
        }
    }

    /// Sends until the cell and the ingester beside it read so many partitions of what they share.
    async fn send_until_read_by(&self, wanted: (u64, u64)) {
        let admin = self.federation.regions[0].ports.cell_admin;
        let begun = std::time::Instant::now();
        eventually("partitions change hands", PATIENCE, || async {
            self.send_burst().await;
            tokio::time::sleep(PAUSE).await;
            for group in SHARED {
                let beside = match self.beside.is_running() {
                    true => self.beside.assigned(group).await?,
                    false => 0,
                };
                let found = (assigned(admin, group).await?, beside);
                if found != wanted {
                    return Err(format!("{group}: {found:?}\n{}", self.beside.last_words()));
                }
            }
            Ok(())
        })
        .await;
        println!("partitions are at {wanted:?} after {:?}", begun.elapsed());
    }

    /// An ingester joins and leaves while spans arrive; both are killed while they share the work.
    async fn rebalance(&mut self, tally: &mut Tally) {
        self.beside.start();
        for _ in 0..kills() / SHARED_ONE_IN {
            self.send_until_read_by((2, 2)).await;
            self.strike_until(tally, tally.struck + 1, &SHARED).await;
        }
        self.send_until_read_by((2, 2)).await;
        let leaving = self.beside.leave();
        tokio::join!(leaving, self.send_until_read_by((PARTITIONS.into(), 0)));
    }

    /// Every store holds each span once, and each is counted once.
    async fn until_all_is_there_once(&self, since: u64) {
        until_each_holds_after_kills(self.engines, &self.names, self.spans()).await;
        until_all_is_read_back(&self.federation, &self.ledger, since).await;
        let traces = self.ledger.len() as u64;
        let edges = format!("SELECT sum(seen) FROM {}.edges", self.names.name);
        eventually("every call is counted once", PATIENCE, || async {
            let found = clickhouse(self.engines, &edges).await?;
            if found == traces { Ok(()) } else { Err(format!("{found} of {traces}")) }
        })
        .await;
        eventually("every trace is published", PATIENCE, || async {
            let found = self.indexed().await?;
            if found == traces { Ok(()) } else { Err(format!("{found} of {traces}")) }
        })
        .await;
        assert_no_record_was_inserted_twice(self.engines, &self.names).await;
    }

    /// The whole log again, into the stores beside which the cell runs, and into views of its counts.
    async fn replay(&self) {
        let Names { name } = &self.names;
        let file = self.federation.file(0, "cell").display().to_string();
        for group in ["storage-writer", "search-indexer"] {
            let summary = replay_of(&file, &[group, "--from", "earliest"]).await;
            assert!(summary["spans"].as_u64() >= Some(self.spans()), "{summary}");
        }
        let (counts, raw) = (format!("{name}_counts"), format!("{name}_raw"));
        for (group, view) in [("metrics-aggregator", &counts), ("analytics-writer", &raw)] {
            replay_of(&file, &[group, "--from", "earliest", "--into", view]).await;
        }
        let url = format!("http://{}", self.engines.address(Engine::Clickhouse));
        assert_eq!(all_counts(&url, &counts).await, all_counts(&url, name).await);
        let distinct = format!("SELECT {DISTINCT} FROM {raw}.otel_traces");
        assert_eq!(clickhouse(self.engines, &distinct).await, Ok(self.spans()));
    }
}

/// Kills so far.
#[derive(Debug, Default)]
struct Tally {
    struck: usize,
    missed: usize,
}

#[tokio::test(flavor = "multi_thread")]
async fn kills_between_a_stores_write_and_the_commit_count_every_span_and_every_call_once() {
    let turn = share_engines().await;
    let names = Names::new("aimed");
    let since = now_nanos();
    let stores = yaml(&turn.engines, &names);
    // A process that is started again has its partitions at once, or after the shortest session.
    let section = "  partitions: 4\n  member: one\n";
    let extra = stores.replace("  partitions: 4\n", section);
    set_up(&extra).await;
    let federation = Federation::start(&[REGION], &[(REGION, &extra)]).await;
    let (beside, ledger) = (Beside::of(&stores), Ledger::default());
    let mut cell = Cell { engines: &turn.engines, names, federation, beside, ledger };
    let mut tally = Tally::default();
    cell.strike_until(&mut tally, kills() / 2, &AIMS).await;
    cell.rebalance(&mut tally).await;
    cell.strike_until(&mut tally, kills(), &AIMS).await;
    println!("{} traces", cell.ledger.len());
    cell.until_all_is_there_once(since).await;
    cell.replay().await;
    cell.until_all_is_there_once(since).await;
}
