//! Where segments of the embedded store go when they are no longer hot.

use std::sync::Arc;
use std::time::Duration;

use service_kit::config::CellConfig;
use service_kit::config::cold::ColdConfig;
use trace_model::Clock;
use trace_store::embedded::{ColdTier, EmbeddedStore};
use trace_store::port::StoreError;

use super::Opening;
use crate::wiring::house::{Chore, WhenStopped, chore};

/// A start waits for so long to learn whose the objects are.
const CLAIM_TIMEOUT: Duration = Duration::from_secs(5);

/// The tier that the configuration names. Nothing is asked for yet.
#[cfg(feature = "object-storage")]
pub(super) fn tier(
    config: &CellConfig,
    cold: &ColdConfig,
    clock: &Arc<dyn Clock>,
) -> anyhow::Result<ColdTier> {
    use metadata_replicator::Entropy;
    use trace_store::object_storage::{ColdCredentials, ColdLimits, ObjectStorage};

    let credentials = match (&cold.access_key_id, &cold.secret_access_key_file) {
        (Some(key), Some(file)) => ColdCredentials::Keys {
            access_key_id: key.clone(),
            secret_access_key_file: file.clone(),
        },
        _ => match (&cold.service_account_file, &cold.account) {
            (Some(file), _) => ColdCredentials::ServiceAccount(file.clone()),
            (None, Some(name)) => ColdCredentials::Account {
                name: name.clone(),
                key_file: cold.account_key_file.clone(),
            },
            (None, None) => ColdCredentials::Machine,
        },
    };
    let settings = trace_store::object_storage::ColdConfig {
        url: cold.url.clone(),
        region: config.region.to_string(),
        endpoint: cold.endpoint.as_ref().map(|url| url.as_str().to_owned()),
        bucket_region: cold.bucket_region.clone(),
        credentials,
        ca_file: cold.ca_file.clone(),
        is_http_allowed: cold.is_http_allowed,
        limits: ColdLimits {
            read_timeout: cold.read_timeout,
            requests_max: cold.requests_max as usize,
            ..ColdLimits::default()
        },
    };
    let objects = Arc::new(ObjectStorage::connect(&settings, Arc::clone(clock))?);
    Ok(ColdTier::new(objects, cold.after, cold.cache_bytes, Entropy::from_system().next()))
}

#[cfg(not(feature = "object-storage"))]
pub(super) fn tier(_: &CellConfig, _: &ColdConfig, _: &Arc<dyn Clock>) -> anyhow::Result<ColdTier> {
    Err(crate::wiring::engines::lacking("cold", "object-storage"))
}

/// Asks whose the prefix is, and keeps moving what has been hot for long enough. Objects that are away
/// hold up no start: what is in them is then named as lacking, and nothing moves.
pub(super) async fn keep(
    opening: &mut Opening<'_>,
    cold: &ColdConfig,
    store: &Arc<EmbeddedStore>,
) -> anyhow::Result<()> {
    store.metrics().cold.register(opening.registry);
    let away = match tokio::time::timeout(CLAIM_TIMEOUT, store.claim_cold()).await {
        Ok(Ok(())) => None,
        Ok(Err(StoreError::Unavailable(reason))) => Some(reason),
        Ok(Err(error)) => return Err(anyhow::Error::new(error).context("`cold`")),
        Err(_) => Some("no answer in time".to_owned()),
    };
    if let Some(reason) = away {
        tracing::warn!(reason, "objects are away: cold spans cannot be read or moved for now");
    }
    let kept = Arc::clone(store);
    let moving = chore("moving cold spans", cold.every, move || {
        let store = Arc::clone(&kept);
        async move {
            let moved = store.move_cold().await?;
            if moved > 0 {
                tracing::info!(segments = moved, "cold spans were moved to objects");
            }
            Ok(())
        }
    });
    // A round may be long; each of its moves is whole.
    opening.chores.push(Chore { when_stopped: WhenStopped::Leave, ..moving });
    Ok(())
}
