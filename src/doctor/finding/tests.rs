use super::super::limits::{
    CASSANDRA_DISK, CASSANDRA_UP, CELL_LAG, CLICKHOUSE_DISK, HOST_DISK, OFFLINE, SHARD_LARGE,
    SHARD_SMALL, WRITE_P99,
};
use super::*;

fn verdict(limit: &'static Limit, value: f64) -> Verdict {
    Finding::of(limit, value).verdict()
}

#[test]
fn on_an_edge_is_within_it_and_beyond_it_is_not() {
    use Verdict::{Act, Ok, Warn};
    for (limit, value, expected) in [
        (&CASSANDRA_DISK, 0.53, Ok),
        (&CASSANDRA_DISK, 0.59, Warn),
        (&CASSANDRA_DISK, 0.60, Warn),
        (&CASSANDRA_DISK, 0.601, Act),
        (&CLICKHOUSE_DISK, 0.60, Ok),
        (&CLICKHOUSE_DISK, 0.70, Warn),
        (&CLICKHOUSE_DISK, 0.71, Act),
        (&HOST_DISK, 0.59, Ok),
        (&HOST_DISK, 0.61, Warn),
        (&HOST_DISK, 0.71, Act),
        (&WRITE_P99, 0.044, Ok),
        (&WRITE_P99, 0.050, Warn),
        (&WRITE_P99, 0.0501, Act),
        (&OFFLINE, 0.0, Ok),
        (&OFFLINE, 1.0, Act),
        (&CASSANDRA_UP, 1.0, Ok),
        (&CASSANDRA_UP, 0.0, Act),
        (&SHARD_SMALL, 30.0 * 1_073_741_824.0, Ok),
        (&SHARD_SMALL, 29.0 * 1_073_741_824.0, Warn),
        (&SHARD_LARGE, 50.1 * 1_073_741_824.0, Act),
    ] {
        assert_eq!(verdict(limit, value), expected, "{} {value}", limit.check);
    }
}

#[test]
fn what_is_not_a_number_passes_no_edge() {
    assert_eq!(verdict(&CASSANDRA_DISK, f64::NAN), Verdict::Ok);
}

#[test]
fn an_edge_of_the_file_moves_the_one_to_look_at_along() {
    let lag = |seconds: f64| Finding::of(&CELL_LAG, seconds).with_edge(100.0);
    assert_eq!(lag(80.0).verdict(), Verdict::Ok);
    assert_eq!(lag(95.0).verdict(), Verdict::Warn);
    assert_eq!(lag(101.0).verdict(), Verdict::Act);
    assert_eq!(lag(1.0).threshold(), "≤ 100 s");
}

#[test]
fn figures_are_written_as_people_say_them() {
    for (value, unit, text) in [
        (0.593, Unit::Ratio, "59.3 %"),
        (0.6, Unit::Ratio, "60 %"),
        (0.05, Unit::Seconds, "50.0 ms"),
        (900.0, Unit::Seconds, "15 min"),
        (53_687_091_200.0, Unit::Bytes, "50.0 GiB"),
        (10_000.0, Unit::Count, "10000"),
        (2.25, Unit::Count, "2.2"),
    ] {
        assert_eq!(words(value, unit), text);
    }
}

#[test]
fn what_is_well_needs_no_advice_and_what_is_not_known_says_why() {
    assert_eq!(Finding::of(&CASSANDRA_DISK, 0.1).advice(), "");
    assert_eq!(Finding::of(&CASSANDRA_DISK, 0.9).advice(), "add nodes");
    let unknown = Finding::reading(&CASSANDRA_DISK, Reading::Unknown("because".to_owned()));
    assert_eq!((unknown.value().as_str(), unknown.advice().as_str()), ("?", "because"));
    assert!(unknown.is_trouble());
    let untold = Finding::reading(&CASSANDRA_DISK, Reading::Untold("df".to_owned()));
    assert_eq!((untold.verdict(), untold.is_trouble()), (Verdict::Unknown, false));
}
