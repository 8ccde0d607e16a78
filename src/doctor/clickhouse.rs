//! ClickHouse's figures against its limits.

use std::time::Duration;

use trace_store::clickhouse::{ClickhouseFigures, DiskFigures, Latency};

use super::engines::known;
use super::finding::{Finding, Reading, float};
use super::limits::{
    CLICKHOUSE_CPU, CLICKHOUSE_DISK, INSERT_P99, Limit, MUTATIONS, PARTS, QUERY_P99,
    READ_ONLY_REPLICAS, REPLICA_DELAY,
};

pub(super) fn judge(figures: &ClickhouseFigures) -> Vec<Finding> {
    let replicas = figures.replicas.as_ref();
    let mut findings = vec![
        disk(figures),
        of(&CLICKHOUSE_CPU, figures.cpu_used.as_ref(), |used| {
            known(&CLICKHOUSE_CPU, *used, "not told", |used| Finding::of(&CLICKHOUSE_CPU, used))
        }),
        of(&INSERT_P99, figures.inserts.as_ref(), |one| latency(&INSERT_P99, *one)),
        of(&QUERY_P99, figures.selects.as_ref(), |one| latency(&QUERY_P99, *one)),
        of(&PARTS, figures.parts_max.as_ref(), |parts| Finding::count(&PARTS, *parts)),
        of(&READ_ONLY_REPLICAS, replicas, |found| {
            let note = format!("of {}", found.count);
            Finding::count(&READ_ONLY_REPLICAS, found.read_only).noting(note)
        }),
    ];
    if replicas.is_ok_and(|found| found.count > 0) {
        findings.push(of(&REPLICA_DELAY, replicas, |found| {
            Finding::time(&REPLICA_DELAY, Duration::from_secs(found.delay_seconds))
        }));
    }
    findings.push(of(&MUTATIONS, figures.mutations.as_ref(), |found| {
        Finding::count(&MUTATIONS, found.stuck).noting(format!("of {} under way", found.running))
    }));
    findings
}

/// A table that an installation does not keep is never told; the engine's word says which.
fn of<T>(
    limit: &'static Limit,
    known: Result<&T, &String>,
    found: impl FnOnce(&T) -> Finding,
) -> Finding {
    match known {
        Ok(figure) => found(figure),
        Err(why) if why.contains("keeps no system.") => {
            Finding::reading(limit, Reading::Untold(why.clone()))
        }
        Err(why) => Finding::reading(limit, Reading::Unknown(why.clone())),
    }
}

fn latency(limit: &'static Limit, latency: Latency) -> Finding {
    let p99 = Duration::try_from_secs_f64(latency.p99_millis / 1_000.0).ok();
    known(limit, p99.filter(|_| latency.count > 0), "none in the last hour", |p99| {
        Finding::time(limit, p99).noting(format!("{} in the last hour", latency.count))
    })
}

fn disk(figures: &ClickhouseFigures) -> Finding {
    of(&CLICKHOUSE_DISK, figures.disks.as_ref(), |disks| {
        let used =
            |disk: &DiskFigures| 1.0 - float(disk.free_bytes) / float(disk.total_bytes.max(1));
        let fullest = disks.iter().max_by(|one, other| used(one).total_cmp(&used(other)));
        known(&CLICKHOUSE_DISK, fullest, "buckets alone", |disk| {
            let name = format!("{} {}", disk.host, disk.name);
            Finding::of(&CLICKHOUSE_DISK, used(disk)).about(name)
        })
    })
}

#[cfg(test)]
pub(super) mod tests {
    use trace_store::clickhouse::{MutationFigures, ReplicaFigures};

    use super::super::finding::Verdict;
    use super::*;

    fn disk_of(name: &str, free: u64) -> DiskFigures {
        let (host, name) = ("h".to_owned(), name.to_owned());
        DiskFigures { host, name, total_bytes: 100, free_bytes: free }
    }

    fn well() -> ClickhouseFigures {
        ClickhouseFigures {
            disks: Ok(vec![disk_of("default", 60), disk_of("warm", 30)]),
            cpu_used: Ok(Some(0.2)),
            parts_max: Ok(1_000),
            inserts: Ok(Latency { count: 3, p99_millis: 100.0 }),
            selects: Ok(Latency { count: 0, p99_millis: f64::NAN }),
            replicas: Ok(ReplicaFigures::default()),
            mutations: Ok(MutationFigures { running: 1, stuck: 0 }),
        }
    }

    /// What it says where all of it is known.
    pub(in crate::doctor) fn all() -> ClickhouseFigures {
        ClickhouseFigures {
            selects: Ok(Latency { count: 1, p99_millis: 1.0 }),
            replicas: Ok(ReplicaFigures { count: 1, read_only: 0, delay_seconds: 0 }),
            ..well()
        }
    }

    fn verdicts(figures: &ClickhouseFigures) -> Vec<(&'static str, Verdict)> {
        judge(figures).iter().map(|finding| (finding.check, finding.verdict())).collect()
    }

    #[test]
    fn on_the_edge_is_worth_a_look_and_beyond_it_is_to_be_acted_on() {
        let on = verdicts(&well());
        assert_eq!(
            on,
            [
                ("disk", Verdict::Warn),
                ("cpu", Verdict::Ok),
                ("insert P99", Verdict::Warn),
                ("query P99", Verdict::Ok),
                ("parts of a partition", Verdict::Warn),
                ("read-only replicas", Verdict::Ok),
                ("stuck mutations", Verdict::Ok),
            ]
        );
        let beyond = ClickhouseFigures {
            disks: Ok(vec![disk_of("warm", 29)]),
            inserts: Ok(Latency { count: 3, p99_millis: 100.1 }),
            selects: Ok(Latency { count: 3, p99_millis: 5_001.0 }),
            parts_max: Ok(1_001),
            replicas: Ok(ReplicaFigures { count: 2, read_only: 1, delay_seconds: 301 }),
            ..well()
        };
        let acted = verdicts(&beyond).into_iter().filter(|one| one.1 == Verdict::Act);
        assert_eq!(acted.count(), 5);
        assert!(verdicts(&beyond).contains(&("replica delay", Verdict::Warn)));
        assert_eq!(judge(&beyond)[0].subject, "h warm");
    }

    #[test]
    fn a_table_that_is_missing_is_no_failure_and_one_that_cannot_be_read_is() {
        let figures = ClickhouseFigures {
            inserts: Err("this engine keeps no system.query_log".to_owned()),
            selects: Err("no answer within 3 s".to_owned()),
            ..well()
        };
        let found = judge(&figures);
        assert!(!found[2].is_trouble() && found[3].is_trouble());
        assert_eq!(found[3].advice(), "no answer within 3 s");
    }
}
