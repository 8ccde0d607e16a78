//! Locks that processes share: a document each in the state index, with an end, taken by
//! compare-and-set. Who holds one and dies is waited for until its end.

use std::time::Duration;

use bytes::Bytes;
use elasticsearch::http::Method;
use serde::Deserialize;
use serde_json::{Value, json};

use super::super::client::{json as body, unavailable};
use super::super::store::ElasticsearchStore;
use crate::port::StoreError;

/// A lock that is not renewed ends after so long: longer than a few writes of the longest wait, since
/// its holder changes things in the belief that it has it.
pub(super) const HOLD: Duration = Duration::from_secs(600);
/// Longest wait for a lock that another process has for a moment.
const WAIT: Duration = Duration::from_secs(30);
/// Between two tries.
const TRY_AGAIN: Duration = Duration::from_millis(100);

/// A lock that is held. Dropping it lets it run to its end.
#[derive(Debug)]
pub(in crate::elasticsearch) struct Lock<'a> {
    store: &'a ElasticsearchStore,
    id: String,
    version: Version,
}

#[derive(Clone, Copy, Debug, Deserialize)]
struct Version {
    #[serde(rename = "_seq_no", default)]
    sequence: u64,
    #[serde(rename = "_primary_term", default)]
    term: u64,
}

#[derive(Deserialize)]
struct Held {
    #[serde(default)]
    found: bool,
    #[serde(flatten)]
    version: Version,
    #[serde(rename = "_source", default)]
    source: Value,
}

impl ElasticsearchStore {
    /// Takes a lock; `None` where another process has it.
    pub(super) async fn try_lock(&self, name: &str) -> Result<Option<Lock<'_>>, StoreError> {
        let id = format!("lock-{name}");
        let path = self.lock_path(&id);
        let answer = self.client.read(Method::Get, &path, &[], Bytes::new()).await?;
        let held: Option<Held> = match answer.status {
            404 if answer.error().kind.is_empty() => None,
            _ => Some(answer.json::<Held>()?).filter(|held| held.found),
        };
        let Some(held) = held else {
            return self.put_lock(id, &[("op_type", "create")]).await;
        };
        let until = held.source.get("until").and_then(Value::as_u64).unwrap_or(0);
        if until > self.clock.now().0 {
            return Ok(None);
        }
        tracing::warn!(lock = name, "a lock was not given back: its holder is taken for dead");
        self.replace_lock(id, held.version).await
    }

    /// Takes a lock that is held for moments alone.
    pub(in crate::elasticsearch) async fn lock_soon(
        &self,
        name: &str,
    ) -> Result<Lock<'_>, StoreError> {
        let deadline = tokio::time::Instant::now() + WAIT;
        loop {
            if let Some(lock) = self.try_lock(name).await? {
                return Ok(lock);
            }
            if tokio::time::Instant::now() >= deadline {
                return Err(unavailable(format!(
                    "another process is at work on {name}: again later"
                )));
            }
            tokio::time::sleep(TRY_AGAIN).await;
        }
    }

    fn lock_path(&self, id: &str) -> String {
        format!("/{}/_doc/{id}", self.names.state())
    }

    async fn replace_lock(&self, id: String, at: Version) -> Result<Option<Lock<'_>>, StoreError> {
        let (sequence, term) = (at.sequence.to_string(), at.term.to_string());
        self.put_lock(id, &[("if_seq_no", &sequence), ("if_primary_term", &term)]).await
    }

    /// `None` where somebody was faster.
    async fn put_lock(
        &self,
        id: String,
        condition: &[(&str, &str)],
    ) -> Result<Option<Lock<'_>>, StoreError> {
        let hold = u64::try_from(HOLD.as_nanos()).unwrap_or(u64::MAX);
        let document = json!({ "what": "lock", "until": self.clock.now().plus(hold).0 });
        let path = self.lock_path(&id);
        let answer = self.client.write(Method::Put, &path, condition, body(&document)).await?;
        if answer.status == 409 {
            return Ok(None);
        }
        Ok(Some(Lock { store: self, id, version: answer.json()? }))
    }
}

impl Lock<'_> {
    /// Holds it from now on; an error where it was lost.
    pub(in crate::elasticsearch) async fn renew(&mut self) -> Result<(), StoreError> {
        match self.store.replace_lock(self.id.clone(), self.version).await? {
            Some(lock) => self.version = lock.version,
            None => {
                let words =
                    "the lock was held for too long and another process has it: again later";
                return Err(unavailable(words));
            }
        }
        Ok(())
    }

    /// Gives it back; where that fails it ends by itself.
    pub(in crate::elasticsearch) async fn release(self) {
        let (sequence, term) = (self.version.sequence.to_string(), self.version.term.to_string());
        let condition = [("if_seq_no", sequence.as_str()), ("if_primary_term", term.as_str())];
        let path = self.store.lock_path(&self.id);
        let gone = self.store.client.write(Method::Delete, &path, &condition, Bytes::new()).await;
        if let Err(error) = gone {
            tracing::warn!(%error, lock = self.id, "a lock was not given back and runs to its end");
        }
    }
}
