//! What Redis says of itself.

use std::time::Duration;

use gateway::shared_state::redis::{RedisConfig, figures};

use super::shared;

#[tokio::test]
async fn a_redis_tells_its_memory_its_policy_and_how_long_an_answer_takes() {
    let asked = figures(&shared()).await.unwrap();
    assert!(asked.used_bytes > 0 && asked.clients >= 1, "{asked:?}");
    assert!(!asked.version.is_empty() && !asked.policy.is_empty(), "{asked:?}");
    assert!((Duration::from_nanos(1)..Duration::from_secs(5)).contains(&asked.ping), "{asked:?}");
    // Nobody listens on port 1.
    assert!(figures(&RedisConfig::at("127.0.0.1", 1)).await.is_err());
}
