//! Service names by id: what one epoch of an origin log has named so far.

use std::sync::Arc;

use rustc_hash::FxHashMap;

use super::{InvalidIndexMessage, NAME_BYTES_MAX, within};
use crate::v1;

/// Most services that one epoch names.
const SERVICES_MAX: usize = 1 << 20;
/// Services that get an id of their own in an epoch: names are the senders', who may put an id into
/// each. A company has thousands.
const SERVICES_GIVEN_MAX: usize = 50_000;
/// Bytes of their names together.
const TEXT_BYTES_GIVEN_MAX: usize = 8 << 20;
/// The name under which the index knows the services beyond.
pub const OTHER_SERVICE: &str = "__other__";

/// Ids of services, valid within one epoch of one origin log, given densely from 0.
#[derive(Clone, Debug, Default)]
pub struct ServiceDictionary {
    names: Vec<Arc<str>>,
    ids: FxHashMap<Arc<str>, u32>,
    text_bytes: usize,
}

impl ServiceDictionary {
    /// The id of a service, given now where it has none. The flag says whether it is new: its
    /// [`v1::ServiceName`] must then precede what uses it. Where there is no room for another, it
    /// is the id of [`OTHER_SERVICE`].
    pub fn intern(&mut self, name: &Arc<str>) -> (u32, bool) {
        if let Some(id) = self.ids.get(name) {
            return (*id, false);
        }
        let is_full = self.names.len() >= SERVICES_GIVEN_MAX
            || self.text_bytes.saturating_add(name.len()) > TEXT_BYTES_GIVEN_MAX;
        if is_full && &**name != OTHER_SERVICE {
            return self.intern(&OTHER_SERVICE.into());
        }
        self.text_bytes = self.text_bytes.saturating_add(name.len());
        let id = u32::try_from(self.names.len()).unwrap_or(u32::MAX);
        self.names.push(Arc::clone(name));
        self.ids.insert(Arc::clone(name), id);
        (id, true)
    }

    /// Takes a name as another process gave it. Says whether it was new. Ids come in order; the
    /// same again changes nothing.
    pub fn define(&mut self, id: u32, name: &str) -> Result<bool, InvalidIndexMessage> {
        within("service_name.name", name.len(), NAME_BYTES_MAX)?;
        let place = id as usize;
        if let Some(held) = self.names.get(place) {
            return if &**held == name {
                Ok(false)
            } else {
                Err(InvalidIndexMessage::Redefined(id))
            };
        }
        if place != self.names.len() || place >= SERVICES_MAX {
            let value = u64::from(id);
            return Err(InvalidIndexMessage::Value { field: "service_name.id", value });
        }
        let name: Arc<str> = name.into();
        self.text_bytes = self.text_bytes.saturating_add(name.len());
        self.names.push(Arc::clone(&name));
        self.ids.entry(name).or_insert(id);
        Ok(true)
    }

    /// The service of an id.
    pub fn name_of(&self, id: u32) -> Result<Arc<str>, InvalidIndexMessage> {
        self.names.get(id as usize).cloned().ok_or(InvalidIndexMessage::UnknownService(id))
    }

    /// Whether every service that a row names has an id here: else it cannot be read.
    #[must_use]
    pub fn knows(&self, row: &v1::Contribution) -> bool {
        let Some(detail) = &row.detail else { return true };
        let services = detail.services.iter().map(|count| count.service);
        let entries = detail.entries.iter().map(|entry| entry.service);
        let mut named = services.chain(entries).chain(detail.root.iter().map(|root| root.service));
        named.all(|id| (id as usize) < self.names.len())
    }

    /// How many services have an id.
    #[must_use]
    pub fn len(&self) -> usize {
        self.names.len()
    }

    /// Whether no service has one.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.names.is_empty()
    }

    /// The names from an id on, as records.
    pub fn names_from(&self, id: u32) -> impl Iterator<Item = v1::ServiceName> {
        let numbered = (0_u32..).zip(&self.names).skip(id as usize);
        numbered.map(|(id, name)| v1::ServiceName { id, name: name.as_ref().to_owned() })
    }
}
