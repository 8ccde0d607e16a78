//! Tenants by number, so that the key of an open trace is small.

use std::collections::HashSet;

use hashbrown::HashMap;
use rustc_hash::FxBuildHasher;
use trace_model::TenantId;

/// Below so many none is forgotten.
const KEPT_MIN: usize = 1_024;

/// Tenants that have open traces, and some that had. A number is given once.
#[derive(Debug, Default)]
pub(super) struct Tenants {
    numbers: HashMap<TenantId, u32, FxBuildHasher>,
    next: u32,
}

impl Tenants {
    /// The number of a tenant, given now where it has none.
    pub(super) fn number(&mut self, tenant: &TenantId) -> u32 {
        *self.numbers.entry_ref(tenant).or_insert_with(|| {
            let number = self.next;
            self.next = number.wrapping_add(1);
            number
        })
    }

    /// Forgets those that are not in use, where most are not: tenants are what senders say.
    pub(super) fn keep(&mut self, in_use: impl Iterator<Item = u32>) {
        if self.numbers.len() < KEPT_MIN {
            return;
        }
        let in_use: HashSet<u32, FxBuildHasher> = in_use.collect();
        if self.numbers.len() > in_use.len().saturating_mul(2) {
            self.numbers.retain(|_, number| in_use.contains(number));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tenants_without_open_traces_go_and_no_number_is_given_twice() {
        let mut tenants = Tenants::default();
        let name = |number: u32| TenantId::new(&format!("team-{number}")).unwrap();
        for number in 0..3_000 {
            assert_eq!(tenants.number(&name(number)), number);
        }
        tenants.keep(0..2_000);
        assert_eq!(tenants.numbers.len(), 3_000, "most are in use");
        tenants.keep([7, 9].into_iter());
        assert_eq!(tenants.numbers.len(), 2);
        assert_eq!((tenants.number(&name(7)), tenants.number(&name(8))), (7, 3_000));
    }
}
