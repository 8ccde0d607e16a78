//! Lists of services and operations are by arrival, as retention is: spans of any date are accepted,
//! and what was back-filled today with spans of last year is in the lists today.
//!
//! A store knows when its spans were placed, and keeps what arrived within its retention. So all
//! that it holds is listed, whenever it was placed; that may be more than arrived in the range that
//! was asked for, never less.

use std::sync::Arc;

use trace_model::{TenantId, TimeRange};
use trace_store::port::{NameList, Operation, ServiceCatalog, StoreError};

/// Services of which the store holds a span. Where it cannot look at all times at once, those with
/// a span placed in the range.
pub(crate) async fn services(
    catalog: &dyn ServiceCatalog,
    tenant: &TenantId,
    range: TimeRange,
) -> Result<NameList<Arc<str>>, StoreError> {
    let listed = catalog.services(tenant, TimeRange::ALL).await;
    if let Err(StoreError::Unsupported(_)) = listed {
        return catalog.services(tenant, range).await;
    }
    listed
}

/// The same of a service's operations.
pub(crate) async fn operations(
    catalog: &dyn ServiceCatalog,
    tenant: &TenantId,
    service: &str,
    range: TimeRange,
) -> Result<NameList<Operation>, StoreError> {
    let listed = catalog.operations(tenant, service, TimeRange::ALL).await;
    if let Err(StoreError::Unsupported(_)) = listed {
        return catalog.operations(tenant, service, range).await;
    }
    listed
}

#[cfg(test)]
mod tests {
    use async_trait::async_trait;
    use trace_model::{Coverage, SpanKind, UnixNanos};

    use super::*;

    /// Holds a span of the present and one of long ago; may refuse to look at all times.
    #[derive(Debug)]
    struct Catalog {
        is_bounded: bool,
    }

    impl Catalog {
        fn names(&self, range: TimeRange) -> Result<NameList<Arc<str>>, StoreError> {
            if range == TimeRange::ALL && self.is_bounded {
                return Err(StoreError::Unsupported("too many days".to_owned()));
            }
            let placed = [("old", UnixNanos(5)), ("web", UnixNanos(500))];
            let within = placed.into_iter().filter(|(_, placed)| range.contains(*placed));
            Ok(NameList::whole(within.map(|(name, _)| name.into()).collect()))
        }
    }

    #[async_trait]
    impl ServiceCatalog for Catalog {
        async fn services(
            &self,
            _: &TenantId,
            range: TimeRange,
        ) -> Result<NameList<Arc<str>>, StoreError> {
            self.names(range)
        }

        async fn operations(
            &self,
            _: &TenantId,
            _: &str,
            range: TimeRange,
        ) -> Result<NameList<Operation>, StoreError> {
            let kind = SpanKind::Server;
            let names = self.names(range)?.names.into_iter();
            Ok(NameList::whole(names.map(|name| Operation { name, kind }).collect()))
        }

        async fn listed(&self) -> Result<Coverage, StoreError> {
            Ok(Coverage::none(1))
        }
    }

    #[tokio::test]
    async fn what_was_placed_long_ago_is_listed_unless_the_store_cannot_look_there() {
        let range = TimeRange { start: UnixNanos(100), end: UnixNanos(1_000) };
        let tenant = TenantId::default();
        for (is_bounded, expected) in [(false, vec!["old", "web"]), (true, vec!["web"])] {
            let catalog = Catalog { is_bounded };
            let listed = services(&catalog, &tenant, range).await.unwrap();
            let listed: Vec<_> = listed.iter().map(|name| &**name).collect();
            assert_eq!(listed, expected);
            let listed = operations(&catalog, &tenant, "web", range).await.unwrap();
            let listed: Vec<_> = listed.iter().map(|operation| &*operation.name).collect();
            assert_eq!(listed, expected);
        }
    }
}
