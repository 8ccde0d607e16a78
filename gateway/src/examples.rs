//! The trace that the page shows each tenant as an example: looked for once in some seconds, whoever
//! asks for the page how often, also while the index does not answer.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use trace_model::location::TraceEntry;
use trace_model::{TenantId, TraceId};

/// What is found is shown for so long.
const SHOWN_FOR: Duration = Duration::from_secs(5);
/// Tenants remembered; beyond it the one looked for longest ago is forgotten.
const TENANTS_MAX: usize = 256;

/// A trace, none, or why nobody knows.
pub(crate) type Example = Result<Option<(TraceId, TraceEntry)>, String>;

/// What was found last, by tenant, and when by the monotonic clock.
#[derive(Debug, Default)]
pub(crate) struct Examples(Mutex<BTreeMap<TenantId, (Duration, Example)>>);

impl Examples {
    /// What is still shown.
    pub(crate) fn shown(&self, tenant: &TenantId, now: Duration) -> Option<Example> {
        let held = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (at, example) = held.get(tenant)?;
        (now.saturating_sub(*at) < SHOWN_FOR).then(|| example.clone())
    }

    /// Shows this from now on.
    pub(crate) fn show(&self, tenant: &TenantId, now: Duration, example: Example) {
        let mut held = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if held.len() >= TENANTS_MAX && !held.contains_key(tenant) {
            let oldest = held.iter().min_by_key(|(_, (at, _))| *at);
            if let Some(oldest) = oldest.map(|(tenant, _)| tenant.clone()) {
                held.remove(&oldest);
            }
        }
        held.insert(tenant.clone(), (now, example));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tenant(number: usize) -> TenantId {
        TenantId::new(&format!("t{number}")).unwrap()
    }

    #[test]
    fn an_example_is_shown_to_its_tenant_for_some_seconds_and_tenants_are_bounded() {
        let (examples, second) = (Examples::default(), Duration::from_secs(1));
        let away = || Err("away".to_owned());
        examples.show(&tenant(0), second, away());
        assert_eq!(examples.shown(&tenant(0), 5 * second).unwrap().unwrap_err(), "away");
        assert!(examples.shown(&tenant(1), 5 * second).is_none());
        assert!(examples.shown(&tenant(0), 6 * second).is_none(), "its time is over");
        for number in 1..=TENANTS_MAX {
            examples.show(&tenant(number), 2 * second, away());
        }
        assert!(examples.shown(&tenant(0), 2 * second).is_none(), "the oldest went");
        assert!((1..=TENANTS_MAX).all(|one| examples.shown(&tenant(one), 2 * second).is_some()));
    }
}
