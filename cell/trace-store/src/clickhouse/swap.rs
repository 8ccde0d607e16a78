//! A database that was filled anew takes the place of another.

use super::client::Engine;
use super::config::ClickhouseConfig;
use crate::port::StoreError;

/// Refuses in one database what was erased in another of the same engine. To be called before anybody
/// writes to it. Repeating it is harmless.
///
/// # Errors
/// [`StoreError::Unavailable`] while the engine is away.
pub async fn copy_erasures(
    from: &ClickhouseConfig,
    to: &ClickhouseConfig,
) -> Result<(), StoreError> {
    let engine = Engine::open(to.clone())?;
    let (from, to) = (&from.database, &to.database);
    let columns = "tenant, trace_id, at";
    let copy = format!(
        "INSERT INTO {to}.erased_traces ({columns}) SELECT {columns} FROM {from}.erased_traces"
    );
    engine.define(&copy).await
}
