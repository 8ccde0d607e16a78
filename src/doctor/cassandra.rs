//! Cassandra's figures against its limits: of each figure the node that is worst.

use std::path::Path;
use std::time::Duration;

use trace_store::cassandra::{CassandraFigures, CassandraNodeFigures, LocalFigures};

use super::engines::known;
use super::finding::{Finding, Part, Reading, Verdict, float};
use super::limits::{
    CASSANDRA_DISK, Limit, NODES_DOWN, PARTITION, PENDING, READ_P99, TOMBSTONES, WRITE_P99,
};
use super::machine;
use crate::cli::bytes;

/// `here` are the nodes that are on this machine: their disks can be seen.
pub(super) fn judge(figures: &CassandraFigures, here: &[String]) -> Vec<Finding> {
    let down: Vec<&str> =
        figures.nodes.iter().filter(|node| !node.is_up).map(|node| node.host.as_str()).collect();
    let of = format!("of {}", figures.nodes.len());
    let mut findings = vec![
        Finding::count(&NODES_DOWN, down.len() as u64).about(down.join(" ")).noting(of),
        releases(figures),
        tokens(figures),
    ];
    let local: Vec<(&str, &LocalFigures)> = figures
        .nodes
        .iter()
        .filter_map(|node| Some((node.host.as_str(), node.local.as_ref().ok()?)))
        .collect();
    if local.is_empty() {
        return findings.into_iter().chain(nothing_local(figures)).collect();
    }
    findings.push(latency(&WRITE_P99, &local, |node| node.write_p99));
    findings.push(latency(&READ_P99, &local, |node| node.read_p99));
    findings.push(disk(&local, here));
    let count = |limit, of: fn(&LocalFigures) -> f64| worst(limit, &local, |node| Some(of(node)));
    findings.push(count(&PENDING, |node| float(node.pending_tasks)));
    findings.push(count(&PARTITION, |node| float(node.partition_bytes_max)));
    findings.push(count(&TOMBSTONES, |node| node.tombstones_p99));
    let tasks: u64 = local.iter().map(|(_, node)| node.table_tasks).sum();
    findings.push(Finding::told(Part::Cassandra, "compactions under way", tasks.to_string()));
    let kept: u64 = local.iter().map(|(_, node)| node.keyspace_bytes).sum();
    findings.push(Finding::told(Part::Cassandra, "keyspace, all copies", bytes(kept)));
    findings
}

fn releases(figures: &CassandraFigures) -> Finding {
    let versions = figures.versions();
    let words: Vec<String> =
        versions.iter().map(|(version, nodes)| format!("{version} ({nodes})")).collect();
    let verdict = if versions.len() > 1 { Verdict::Warn } else { Verdict::Ok };
    let advice = "finish the upgrade: no schema changes, no repairs across releases";
    Finding::fact(Part::Cassandra, "releases", (words.join(", "), verdict), advice)
}

/// The guide's.
const TOKENS: usize = 256;

/// A node's number cannot be changed once it holds data: worth a look while nodes are few.
fn tokens(figures: &CassandraFigures) -> Finding {
    let mut tokens: Vec<usize> = figures.nodes.iter().filter_map(|node| node.tokens).collect();
    tokens.sort_unstable();
    tokens.dedup();
    let words: Vec<String> = tokens.iter().map(ToString::to_string).collect();
    let is_other = tokens.iter().any(|count| *count != TOKENS);
    let verdict = if is_other { Verdict::Warn } else { Verdict::Ok };
    let advice = "num_tokens: 256 before a node's first start; later only by a new node in its place \
                  (one node for tests may keep what it has)";
    let said = (words.join(", "), verdict);
    Finding::fact(Part::Cassandra, "vnodes a node", said, advice).noting("the guide plans 256")
}

/// Why no node tells of itself: all of them are down, or Scylla.
fn nothing_local(figures: &CassandraFigures) -> Vec<Finding> {
    let why = |node: &CassandraNodeFigures| node.local.as_ref().err().cloned();
    let why = figures.nodes.iter().filter(|node| node.is_up).find_map(why);
    let reading = match why {
        Some(why) if why.starts_with("Scylla") => Reading::Untold(why),
        Some(why) => Reading::Unknown(why),
        None => Reading::Unknown("no node answers".to_owned()),
    };
    [&WRITE_P99, &READ_P99, &CASSANDRA_DISK]
        .map(|limit| Finding::reading(limit, reading.clone()))
        .into()
}

fn latency(
    limit: &'static Limit,
    nodes: &[(&str, &LocalFigures)],
    of: fn(&LocalFigures) -> Option<Duration>,
) -> Finding {
    worst(limit, nodes, |node| of(node).map(|time| time.as_secs_f64()))
}

fn worst(
    limit: &'static Limit,
    nodes: &[(&str, &LocalFigures)],
    of: impl Fn(&LocalFigures) -> Option<f64>,
) -> Finding {
    let values = nodes.iter().filter_map(|(host, node)| Some((*host, of(node)?)));
    let worst = values.max_by(|one, other| one.1.total_cmp(&other.1));
    known(limit, worst, "none yet", |(host, value)| Finding::of(limit, value).about(host))
}

/// The fullest of the disks that can be seen from here.
fn disk(nodes: &[(&str, &LocalFigures)], here: &[String]) -> Finding {
    let near = nodes.iter().filter(|(host, _)| here.iter().any(|other| other == host));
    let directories =
        near.flat_map(|(host, node)| node.data_directories.iter().map(move |one| (*host, one)));
    let used =
        directories.filter_map(|(host, place)| Some((host, machine::disk_used(Path::new(place))?)));
    let fullest = used.max_by(|one, other| one.1.total_cmp(&other.1));
    if let Some((host, used)) = fullest.filter(|_| here.len() >= nodes.len()) {
        return Finding::of(&CASSANDRA_DISK, used).about(host);
    }
    let place = nodes.iter().find_map(|(_, node)| node.data_directories.first());
    let place = place.map_or("its data directory", String::as_str);
    let why = format!("nodes do not tell their disks: `df {place}` on each of the {}", nodes.len());
    Finding::reading(&CASSANDRA_DISK, Reading::Untold(why))
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// The host of [`all`].
    pub(in crate::doctor) const HERE: &str = "a";

    /// What nodes say where all of it is known.
    pub(in crate::doctor) fn all() -> CassandraFigures {
        let mut node = node(HERE, 1);
        if let Ok(local) = &mut node.local {
            local.read_p99 = local.write_p99;
        }
        CassandraFigures { nodes: vec![node] }
    }

    fn node(host: &str, write_millis: u64) -> CassandraNodeFigures {
        let local = LocalFigures {
            write_p99: Some(Duration::from_millis(write_millis)),
            data_directories: vec!["/".to_owned()],
            ..LocalFigures::default()
        };
        CassandraNodeFigures {
            host: host.to_owned(),
            is_up: true,
            version: Some("5.0.9".to_owned()),
            tokens: Some(256),
            local: Ok(local),
        }
    }

    fn find<'a>(findings: &'a [Finding], check: &str) -> &'a Finding {
        findings.iter().find(|finding| finding.check == check).unwrap()
    }

    #[test]
    fn the_slowest_node_is_named_and_what_was_never_asked_is_no_fault() {
        let figures = CassandraFigures { nodes: vec![node("a", 51), node("b", 50)] };
        let found = judge(&figures, &[]);
        let write = find(&found, "write P99");
        assert_eq!((write.subject.as_str(), write.verdict()), ("a", Verdict::Act));
        let read = find(&found, "read P99");
        assert_eq!((read.value().as_str(), read.verdict()), ("none yet", Verdict::Ok));
        let disk = find(&found, "disk");
        assert!(
            !disk.is_trouble() && disk.advice().contains("`df /` on each of the 2"),
            "{disk:?}"
        );
        let here = ["a".to_owned(), "b".to_owned()];
        assert!(matches!(find(&judge(&figures, &here), "disk").reading, Reading::Number(_)));
    }

    #[test]
    fn a_node_that_is_down_and_releases_that_differ_are_told() {
        let mut figures = CassandraFigures { nodes: vec![node("a", 1), node("b", 1)] };
        figures.nodes[1].version = Some("4.1.0".to_owned());
        assert_eq!(find(&judge(&figures, &[]), "releases").value(), "4.1.0 (1), 5.0.9 (1)");
        figures.nodes[1].is_up = false;
        let found = judge(&figures, &[]);
        let down = find(&found, "nodes down");
        assert_eq!((down.subject.as_str(), down.verdict()), ("b", Verdict::Act));
    }

    #[test]
    fn another_number_of_vnodes_than_the_guides_is_worth_a_look_and_one_not_told_is_not() {
        let verdict = |tokens: &[Option<usize>]| {
            let nodes = tokens
                .iter()
                .map(|tokens| CassandraNodeFigures { tokens: *tokens, ..node("a", 1) });
            let found = judge(&CassandraFigures { nodes: nodes.collect() }, &[]);
            find(&found, "vnodes a node").verdict()
        };
        assert_eq!(verdict(&[Some(256), Some(256)]), Verdict::Ok);
        assert_eq!(verdict(&[Some(256), Some(16)]), Verdict::Warn);
        assert_eq!(verdict(&[Some(16)]), Verdict::Warn);
        assert_eq!(verdict(&[None, Some(256)]), Verdict::Ok);
    }

    #[test]
    fn scylla_tells_nothing_and_that_is_no_failure() {
        let mut scylla = node("a", 1);
        scylla.local = Err("Scylla has no system_views".to_owned());
        let found = judge(&CassandraFigures { nodes: vec![scylla] }, &[]);
        assert_eq!(find(&found, "write P99").verdict(), Verdict::Unknown);
        assert!(found.iter().all(|finding| !finding.is_trouble()), "{found:?}");
    }
}
