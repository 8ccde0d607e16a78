//! Makes the engine rewrite the segments that hold what was deleted. It keeps deleted documents for
//! copies of the shard that may want to catch up, until their retention leases have passed them:
//! half a minute at most where all copies are there.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use elasticsearch::http::Method;
use serde::Deserialize;

use super::client::unavailable;
use super::store::ElasticsearchStore;
use crate::port::StoreError;

/// Between two looks at what the engine still holds.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

impl ElasticsearchStore {
    /// Waits until the engine lets go of the deleted documents, then has their segments rewritten.
    pub(super) async fn expunge(&self, indices: &BTreeMap<String, i64>) -> Result<(), StoreError> {
        for (index, newest) in indices {
            let highest = self.shards(index).await?;
            let ends: Vec<i64> = highest.iter().map(|shard| shard.seq_no.max_seq_no).collect();
            loop {
                let shards = self.shards(index).await?;
                let holds = |(shard, end): (&ShardCopy, &i64)| shard.holds(*newest.min(end));
                if !shards.iter().zip(&ends).any(holds) {
                    break;
                }
                tokio::time::sleep(LOOK_AGAIN).await;
            }
            self.rewrite(std::slice::from_ref(index)).await?;
        }
        Ok(())
    }

    async fn rewrite(&self, indices: &[String]) -> Result<(), StoreError> {
        for index in indices {
            let path = format!("/{index}/_forcemerge");
            let query = [("only_expunge_deletes", "true"), ("flush", "true")];
            let answer = self.client.write(Method::Post, &path, &query, Bytes::new()).await?;
            // What is gone holds nothing.
            if !answer.is_success() && answer.status != 404 {
                return Err(unavailable(answer.failure().to_string()));
            }
        }
        Ok(())
    }

    /// The copies of an index's shards, in a fixed order.
    async fn shards(&self, index: &str) -> Result<Vec<ShardCopy>, StoreError> {
        let path = format!("/{index}/_stats/docs");
        let query = [("level", "shards")];
        let answer = self.client.read(Method::Get, &path, &query, Bytes::new()).await?;
        if answer.status == 404 {
            return Ok(vec![]);
        }
        let stats: IndexStats = answer.json()?;
        let by_number = stats.indices.into_values().flat_map(|index| index.shards.into_values());
        Ok(by_number.flatten().collect())
    }
}

#[derive(Deserialize)]
struct IndexStats {
    indices: BTreeMap<String, ShardStats>,
}

#[derive(Deserialize)]
struct ShardStats {
    shards: BTreeMap<String, Vec<ShardCopy>>,
}

#[derive(Debug, Deserialize)]
struct ShardCopy {
    #[serde(default)]
    seq_no: SequenceStats,
    #[serde(default)]
    retention_leases: Leases,
}

#[derive(Debug, Default, Deserialize)]
struct SequenceStats {
    /// -1 in a shard that holds nothing.
    #[serde(default)]
    max_seq_no: i64,
}

#[derive(Debug, Default, Deserialize)]
struct Leases {
    #[serde(default)]
    leases: Vec<Lease>,
}

#[derive(Debug, Deserialize)]
struct Lease {
    retaining_seq_no: i64,
}

impl ShardCopy {
    /// Whether a lease still keeps what was deleted up to this sequence number.
    fn holds(&self, sequence: i64) -> bool {
        self.retention_leases.leases.iter().any(|lease| lease.retaining_seq_no <= sequence)
    }
}
