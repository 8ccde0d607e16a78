//! Elasticsearch's figures against its limits: of each figure the node that is worst.

use std::collections::BTreeMap;
use std::time::Duration;

use trace_store::elasticsearch::{
    ElasticsearchFigures, PoolFigures, SearchNodeFigures, ShardFigures,
};

use super::engines::known;
use super::finding::{Finding, Part, Verdict, float};
use super::limits::{
    BLOCKED, ELASTICSEARCH_CPU, ELASTICSEARCH_DISK, HEAP, Limit, SEARCH_REJECTIONS, SHARD_LARGE,
    SHARD_SMALL, UNASSIGNED, UNASSIGNED_PRIMARIES, WRITE_REJECTIONS,
};
use crate::cli::duration;

/// A day is to be cut into shards of about this: between the guide's 30 and 50 GB.
const SHARD_BYTES: u64 = 40 << 30;

pub(super) fn judge(figures: &ElasticsearchFigures) -> Vec<Finding> {
    let verdict = match figures.status.as_str() {
        "green" => Verdict::Ok,
        "yellow" => Verdict::Warn,
        _ => Verdict::Act,
    };
    let nodes = format!("{} data nodes", figures.data_nodes);
    let status = (figures.status.clone(), verdict);
    let mut findings = vec![
        Finding::fact(Part::Elasticsearch, "health", status, "the lines below say of what")
            .noting(nodes),
        Finding::count(&UNASSIGNED_PRIMARIES, figures.unassigned_primaries),
        Finding::count(&UNASSIGNED, figures.unassigned_shards),
        Finding::count(&BLOCKED, figures.blocked_indices.len() as u64)
            .about(figures.blocked_indices.first().cloned().unwrap_or_default()),
        worst(&ELASTICSEARCH_DISK, figures, |node| node.disk_used),
        worst(&ELASTICSEARCH_CPU, figures, |node| node.cpu_used),
        worst(&HEAP, figures, |node| node.heap_used),
        worst(&WRITE_REJECTIONS, figures, |node| Some(refused(node.write))),
        worst(&SEARCH_REJECTIONS, figures, |node| Some(refused(node.search))),
    ];
    findings.push(largest(&figures.shards));
    findings.push(smallest(&figures.shards));
    findings.push(mean("indexing a document", figures, |node| node.index_mean));
    findings.push(mean("a shard's query", figures, |node| node.query_mean));
    findings
}

/// Share of all that a pool was given.
fn refused(pool: PoolFigures) -> f64 {
    let all = pool.completed.saturating_add(pool.rejected);
    if all == 0 { 0.0 } else { float(pool.rejected) / float(all) }
}

fn worst(
    limit: &'static Limit,
    figures: &ElasticsearchFigures,
    of: fn(&SearchNodeFigures) -> Option<f64>,
) -> Finding {
    let values = figures.nodes.iter().filter_map(|node| Some((node.name.as_str(), of(node)?)));
    let worst = values.max_by(|one, other| one.1.total_cmp(&other.1));
    known(limit, worst, "not told", |(name, value)| Finding::of(limit, value).about(name))
}

/// Means since a node's start say little about now: they are shown and not judged.
fn mean(
    check: &'static str,
    figures: &ElasticsearchFigures,
    of: fn(&SearchNodeFigures) -> Option<Duration>,
) -> Finding {
    let slowest = figures.nodes.iter().filter_map(|node| Some((of(node)?, &node.name))).max();
    let Some((mean, name)) = slowest else {
        return Finding::told(Part::Elasticsearch, check, "none yet");
    };
    let nanos = u64::try_from(mean.as_nanos()).unwrap_or(u64::MAX);
    let note = "mean since the node's start";
    Finding::told(Part::Elasticsearch, check, duration(nanos)).about(name).noting(note)
}

fn largest(shards: &[ShardFigures]) -> Finding {
    let largest = shards.iter().max_by_key(|shard| shard.bytes);
    known(&SHARD_LARGE, largest, "none yet", |shard| {
        let finding = Finding::count(&SHARD_LARGE, shard.bytes).about(&shard.index);
        Finding { own_advice: advice(shards, shard), ..finding }
    })
}

/// Of a day that is over and has several shards: one alone cannot be fewer.
fn smallest(shards: &[ShardFigures]) -> Finding {
    let has_several = |shard: &&ShardFigures| {
        shards.iter().filter(|other| other.index == shard.index).count() > 1
    };
    let full = shards.iter().filter(|shard| !shard.is_growing).filter(has_several);
    let smallest = full.min_by_key(|shard| shard.bytes);
    known(&SHARD_SMALL, smallest, "no day of several shards is over", |shard| {
        let finding = Finding::count(&SHARD_SMALL, shard.bytes).about(&shard.index);
        Finding { own_advice: advice(shards, shard), ..finding }
    })
}

/// How many shards the largest of the days would have needed.
fn advice(shards: &[ShardFigures], of: &ShardFigures) -> Option<String> {
    let mut days: BTreeMap<&str, (u64, u64)> = BTreeMap::new();
    for shard in shards {
        let (bytes, count) = days.entry(&shard.index).or_default();
        *bytes = bytes.saturating_add(shard.bytes);
        *count = count.saturating_add(1);
    }
    let has = days.get(of.index.as_str()).map_or(1, |(_, count)| *count);
    let most = days.values().map(|(bytes, _)| *bytes).max().unwrap_or(0);
    let needed = most.div_ceil(SHARD_BYTES).max(1);
    let is_other = needed != has;
    is_other.then(|| format!("set elasticsearch.shards: {needed}; it counts from the next day on"))
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    const GIB: u64 = 1 << 30;

    /// What a cluster says where all of it is known.
    pub(in crate::doctor) fn all() -> ElasticsearchFigures {
        let node = SearchNodeFigures {
            disk_used: Some(0.1),
            cpu_used: Some(0.1),
            heap_used: Some(0.1),
            ..SearchNodeFigures::default()
        };
        let shards = vec![shard("day", 40, false), shard("day", 40, false)];
        ElasticsearchFigures { nodes: vec![node], shards, ..ElasticsearchFigures::default() }
    }

    fn shard(index: &str, gib: u64, is_growing: bool) -> ShardFigures {
        ShardFigures { index: index.to_owned(), bytes: gib * GIB, is_growing }
    }

    #[test]
    fn shards_are_to_have_30_to_50_gb_once_their_day_is_over() {
        let shards = |sizes: &[u64], is_growing| -> Vec<_> {
            sizes.iter().map(|gib| shard("day", *gib, is_growing)).collect()
        };
        assert_eq!(largest(&shards(&[50, 40], false)).verdict(), Verdict::Warn);
        assert_eq!(largest(&shards(&[51, 40], true)).verdict(), Verdict::Act);
        assert_eq!(smallest(&shards(&[30, 40], false)).verdict(), Verdict::Ok);
        assert_eq!(smallest(&shards(&[29, 40], false)).verdict(), Verdict::Warn);
        assert_eq!(smallest(&shards(&[1, 1], true)).verdict(), Verdict::Ok, "it still grows");
        assert_eq!(smallest(&shards(&[1], false)).verdict(), Verdict::Ok, "it is one alone");
        let many = smallest(&shards(&[2, 2, 2, 2, 2], false));
        assert!(many.advice().starts_with("set elasticsearch.shards: 1;"), "{many:?}");
        let few = largest(&shards(&[90, 90], false));
        assert!(few.advice().starts_with("set elasticsearch.shards: 5;"), "{few:?}");
    }

    #[test]
    fn a_node_that_refuses_now_and_then_is_well() {
        let pool = |completed, rejected| PoolFigures { completed, rejected };
        let of = |pool| {
            let node = SearchNodeFigures { write: pool, ..SearchNodeFigures::default() };
            let figures = ElasticsearchFigures { nodes: vec![node], ..Default::default() };
            let found = judge(&figures);
            found.iter().find(|one| one.check == "refused writes").unwrap().verdict()
        };
        assert_eq!(of(pool(0, 0)), Verdict::Ok);
        assert_eq!(of(pool(9_999, 1)), Verdict::Ok);
        assert_eq!(of(pool(900, 100)), Verdict::Warn);
    }
}
