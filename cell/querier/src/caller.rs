//! Who asks, and whether the cell's locality policy lets an answer out to them.

use proto::v1;
use trace_model::locality::SpanMode;
use trace_model::{Region, TenantId};

use crate::config::QuerierConfig;
use crate::status::QuerierError;

/// A caller whose names were checked.
#[derive(Clone, Debug)]
pub(crate) struct Caller {
    /// Whose data is asked for.
    pub(crate) tenant: TenantId,
    /// The region of the gateway that asks.
    pub(crate) region: Region,
}

/// What may leave for a caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Access {
    /// Everything.
    Granted,
    /// The word `forbidden`, and nothing else.
    Forbidden,
}

impl Caller {
    /// Checks the names; a question without a caller is refused, not taken for a friend's.
    pub(crate) fn identify(message: Option<v1::Caller>) -> Result<Self, QuerierError> {
        let message = message.ok_or(QuerierError::NoCaller)?;
        Ok(Self {
            tenant: TenantId::new(&message.tenant).map_err(|_| QuerierError::NoCaller)?,
            region: Region::new(&message.region).map_err(|_| QuerierError::NoCaller)?,
        })
    }

    /// The policy's word on this answer. The region that owns the data sees all of it.
    pub(crate) fn access(&self, config: &QuerierConfig) -> Access {
        if self.region == config.region {
            return Access::Granted;
        }
        match config.locality.spans {
            SpanMode::Open => Access::Granted,
            SpanMode::Closed => Access::Forbidden,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn caller(tenant: &str, region: &str) -> Option<v1::Caller> {
        Some(v1::Caller {
            tenant: tenant.to_owned(),
            region: region.to_owned(),
            ..v1::Caller::default()
        })
    }

    #[test]
    fn a_question_without_a_proper_caller_is_refused() {
        for message in [None, caller("", "eu"), caller("a/b", "eu"), caller("t", "EU")] {
            assert!(matches!(Caller::identify(message), Err(QuerierError::NoCaller)));
        }
    }

    #[test]
    fn a_closed_cell_answers_its_own_region_alone() {
        let mut config = QuerierConfig::new(Region::new("eu").unwrap());
        config.locality.spans = SpanMode::Closed;
        let own = Caller::identify(caller("t", "eu")).unwrap();
        let other = Caller::identify(caller("t", "us")).unwrap();
        assert_eq!(own.access(&config), Access::Granted);
        assert_eq!(other.access(&config), Access::Forbidden);
        config.locality.spans = SpanMode::Open;
        assert_eq!(other.access(&config), Access::Granted);
    }
}
