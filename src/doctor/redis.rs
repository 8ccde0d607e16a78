//! Redis's figures against what its gateways need of it.

use std::time::Duration;

use gateway::shared_state::redis::RedisFigures;

use super::finding::{Finding, Part, Verdict};
use super::limits::PING;
use crate::cli::bytes;

pub(super) fn judge(figures: &RedisFigures, timeout: Duration) -> Vec<Finding> {
    let told = |check, text: String| Finding::told(Part::Redis, check, text);
    vec![
        Finding::time(&PING, figures.ping).with_edge(timeout.as_secs_f64()),
        memory(figures),
        policy(figures),
        told("evicted keys", figures.evicted_keys.to_string()).noting("since its start"),
        told("clients", figures.clients.to_string()),
        told("release", figures.version.clone()),
    ]
}

/// A cache that is full is well; one without an end takes the machine's memory.
fn memory(figures: &RedisFigures) -> Finding {
    let used = bytes(figures.used_bytes);
    let (words, verdict) = match figures.max_bytes {
        Some(max) => (format!("{used} of {}", bytes(max)), Verdict::Ok),
        None => (format!("{used}, no limit"), Verdict::Warn),
    };
    Finding::fact(Part::Redis, "memory", (words, verdict), "set maxmemory (10 GB hold 20 M traces)")
}

fn policy(figures: &RedisFigures) -> Finding {
    let is_lfu = figures.policy == "allkeys-lfu";
    let verdict = if is_lfu { Verdict::Ok } else { Verdict::Warn };
    let advice = "set maxmemory-policy allkeys-lfu: under others it refuses writes, or keeps what \
                  nobody asks for";
    Finding::fact(Part::Redis, "maxmemory-policy", (figures.policy.clone(), verdict), advice)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_needs_an_end_and_a_policy_and_a_ping_may_take_as_long_as_a_call() {
        let figures = RedisFigures {
            max_bytes: None,
            policy: "noeviction".to_owned(),
            ping: Duration::from_millis(101),
            ..RedisFigures::default()
        };
        let verdicts = |figures: &RedisFigures, millis| -> Vec<_> {
            let found = judge(figures, Duration::from_millis(millis));
            found.iter().take(3).map(Finding::verdict).collect()
        };
        assert_eq!(verdicts(&figures, 100), [Verdict::Act, Verdict::Warn, Verdict::Warn]);
        // A tenth of the patience is where it is looked at.
        assert_eq!(verdicts(&figures, 2_000)[0], Verdict::Ok);
        let well = RedisFigures {
            max_bytes: Some(1),
            policy: "allkeys-lfu".to_owned(),
            ping: Duration::from_micros(90),
            ..figures
        };
        assert_eq!(verdicts(&well, 100), [Verdict::Ok; 3]);
    }
}
