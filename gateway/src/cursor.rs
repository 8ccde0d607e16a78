//! The cursor of a search: where the next page starts, valid across regions.
//!
//! A region pages by the newest match that *it* holds. A trace of several regions would come again
//! on a later page, by the older match of another region; so the cursor remembers the traces of
//! more than one region that were already given, as 48-bit fingerprints, the last
//! [`REMEMBERED_MAX`] of them. It also carries the time range (the default one is relative to the
//! first page's now) and a hash of tenant and filter: a cursor of another search is refused.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use trace_model::{Filter, TenantId, TimeRange, TraceId, UnixNanos};
use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

use crate::error::GatewayError;

/// Most traces that a cursor remembers: 3 KiB of it.
pub(crate) const REMEMBERED_MAX: usize = 512;
const FINGERPRINT_BYTES: usize = 6;
const VERSION: u8 = 1;
/// version, search hash, range start and end, newest match, trace id.
const FIXED_BYTES: usize = 1 + 8 + 8 + 8 + 8 + 16;

/// Where a page of a search ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SearchCursor {
    /// Which search.
    search: u64,
    /// The time range of all its pages.
    pub range: TimeRange,
    /// The last match of the page before.
    pub before: (UnixNanos, TraceId),
    given: Vec<[u8; FINGERPRINT_BYTES]>,
}

impl SearchCursor {
    /// A cursor behind this match.
    #[must_use]
    pub fn new(search: u64, range: TimeRange, before: (UnixNanos, TraceId)) -> Self {
        Self { search, range, before, given: Vec::new() }
    }

    /// Which search: tenant and filter.
    #[must_use]
    pub fn search_hash(tenant: &TenantId, filter: &Filter) -> u64 {
        let filter = proto::v1::Filter::from_model(filter);
        let bytes = filter.map(|filter| prost::Message::encode_to_vec(&filter));
        xxh3_64_with_seed(&bytes.unwrap_or_default(), xxh3_64(tenant.as_str().as_bytes()))
    }

    /// Remembers traces that were given, behind those of earlier pages; the oldest are forgotten.
    #[must_use]
    pub fn remembering(
        mut self,
        earlier: Option<&Self>,
        given: impl Iterator<Item = TraceId>,
    ) -> Self {
        let mut all: Vec<_> = earlier.map(|cursor| cursor.given.clone()).unwrap_or_default();
        all.extend(given.map(fingerprint));
        let forgotten = all.len().saturating_sub(REMEMBERED_MAX);
        self.given = all.split_off(forgotten);
        self
    }

    /// Whether an earlier page gave the trace.
    #[must_use]
    pub fn has_given(&self, trace_id: TraceId) -> bool {
        self.given.contains(&fingerprint(trace_id))
    }

    /// As text, safe in URLs.
    #[must_use]
    pub fn encode(&self) -> String {
        let mut bytes = vec![VERSION];
        for number in [self.search, self.range.start.0, self.range.end.0, self.before.0.0] {
            bytes.extend_from_slice(&number.to_le_bytes());
        }
        bytes.extend_from_slice(self.before.1.as_bytes());
        bytes.extend(self.given.iter().flatten());
        URL_SAFE_NO_PAD.encode(bytes)
    }

    /// Reads a cursor of this search; any other text is refused.
    pub fn decode(text: &str, search: u64) -> Result<Self, GatewayError> {
        Self::read(text, search).ok_or(GatewayError::Cursor)
    }

    fn read(text: &str, search: u64) -> Option<Self> {
        let bytes = URL_SAFE_NO_PAD.decode(text).ok()?;
        let (fixed, given) = bytes.split_at_checked(FIXED_BYTES)?;
        let (version, rest) = fixed.split_first()?;
        let (numbers, id) = rest.split_at_checked(32)?;
        let mut numbers = numbers
            .chunks_exact(8)
            .map(|chunk| <[u8; 8]>::try_from(chunk).map(u64::from_le_bytes).unwrap_or_default());
        let (found, start, end, newest) =
            (numbers.next()?, numbers.next()?, numbers.next()?, numbers.next()?);
        let given = given.chunks(FINGERPRINT_BYTES);
        let given: Option<Vec<_>> = given.map(|chunk| chunk.try_into().ok()).collect();
        let given = given.filter(|given| given.len() <= REMEMBERED_MAX)?;
        if *version != VERSION || found != search || start >= end {
            return None;
        }
        let before = (UnixNanos(newest), TraceId::try_from(id).ok()?);
        let range = TimeRange { start: UnixNanos(start), end: UnixNanos(end) };
        Some(Self { search, range, before, given })
    }
}

fn fingerprint(trace_id: TraceId) -> [u8; FINGERPRINT_BYTES] {
    let [a, b, c, d, e, f, _, _] = xxh3_64(trace_id.as_bytes()).to_le_bytes();
    [a, b, c, d, e, f]
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn id(number: u16) -> TraceId {
        let mut bytes = [7; 16];
        bytes[..2].copy_from_slice(&number.to_be_bytes());
        TraceId::from_bytes(bytes).unwrap()
    }

    fn cursor(search: u64) -> SearchCursor {
        let range = TimeRange { start: UnixNanos(5), end: UnixNanos(900) };
        SearchCursor::new(search, range, (UnixNanos(33), id(1)))
    }

    #[test]
    fn a_cursor_reads_back_and_remembers_what_was_given() {
        let first = cursor(9).remembering(None, [id(1), id(2)].into_iter());
        let second = cursor(9).remembering(Some(&first), std::iter::once(id(3)));
        let read = SearchCursor::decode(&second.encode(), 9).unwrap();
        assert_eq!(read, second);
        assert!((1..=3).all(|number| read.has_given(id(number))));
        assert!(!read.has_given(id(4)));
    }

    #[test]
    fn a_cursor_stays_small_and_forgets_the_oldest() {
        let cursor = cursor(9).remembering(None, (0..2_000).map(id));
        assert!(cursor.encode().len() < 4_400);
        assert!(cursor.has_given(id(1_999)) && !cursor.has_given(id(0)));
    }

    #[test]
    fn a_cursor_of_another_tenant_or_filter_is_refused() {
        let filter = Filter::Exists(trace_model::query::Field::Service);
        let own = SearchCursor::search_hash(&TenantId::default(), &filter);
        let text = cursor(own).encode();
        assert!(SearchCursor::decode(&text, own).is_ok());
        let other = TenantId::new("other").unwrap();
        for hash in [
            SearchCursor::search_hash(&other, &filter),
            SearchCursor::search_hash(&TenantId::default(), &Filter::All),
        ] {
            assert!(matches!(SearchCursor::decode(&text, hash), Err(GatewayError::Cursor)));
        }
    }

    proptest! {
        #[test]
        fn any_text_is_a_cursor_or_an_error(text in ".{0,200}", flip in any::<(usize, u8)>()) {
            drop(SearchCursor::decode(&text, 9));
            let mut bytes = cursor(9).encode().into_bytes();
            let place = flip.0 % bytes.len();
            bytes[place] = flip.1;
            if let Ok(text) = String::from_utf8(bytes) {
                drop(SearchCursor::decode(&text, 9));
            }
        }
    }
}
