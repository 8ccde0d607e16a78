//! The group analytics-writer into ClickHouse, its views behind it; the bare side inserts into a
//! database with the same views.

use std::sync::Arc;

use ingester::AnalyticsWriterMaker;
use trace_store::clickhouse::init;
use trace_store::{ClickhouseConfig, ClickhouseSpans, SpanWriter};

use crate::bare_clickhouse::{client, drop_database, insert, rows_of};
use crate::measure::timed;
use crate::{ROUNDS, Rounds};

fn config(engine: &str, name: &str) -> ClickhouseConfig {
    ClickhouseConfig::new(engine, format!("farspan_groups_{name}_{}", std::process::id()))
}

/// Rounds of both sides, each into its database.
pub(crate) async fn run(engine: &str, mut rounds: Rounds) {
    let (ours, bare) = (config(engine, "ours"), config(engine, "bare"));
    for config in [&ours, &bare] {
        init(config).await.expect("an engine");
    }
    let writer = ClickhouseSpans::connect(ours.clone(), Arc::clone(&rounds.clock)).await;
    let writer: Arc<dyn SpanWriter> = Arc::new(writer.expect("an engine"));
    let bare_client = client(&bare);
    let mut spans = 0;
    for round in 0..=ROUNDS {
        let requests = rounds.requests();
        let topic = rounds.log.fill(&requests).await;
        let rows: Vec<_> = requests.iter().flat_map(rows_of).collect();
        spans += rows.len() as u64;
        let group = topic.taken_by(|incarnation| AnalyticsWriterMaker {
            writer: Arc::clone(&writer),
            incarnation,
        });
        let inserts = timed(rows.len(), insert(&bare_client, &rows, bare.insert_block_rows));
        let (own, other) = if round % 2 == 0 {
            let own = group.await;
            (own, inserts.await)
        } else {
            let other = inserts.await;
            (group.await, other)
        };
        rounds.note(round, own, other);
    }
    rounds.print();
    for config in [ours, bare] {
        let counting = client(&config).query("SELECT count() FROM otel_traces").fetch_one().await;
        let rows: u64 = counting.expect("a count");
        assert_eq!(rows, spans, "each span is a row");
        drop_database(&config).await;
    }
}
