//! The names of one tenant in a segment, read ([`super::catalog_build`] writes them).

use super::cursor::{Corrupt, Cursor};
use super::index_build::BUCKET_NANOS;
use trace_model::{TimeRange, UnixNanos};

/// When a name occurs.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Times<'a> {
    count: usize,
    cursor: Cursor<'a>,
}

/// A service and what is kept of it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ListedService<'a> {
    pub(crate) name: &'a str,
    pub(crate) times: Times<'a>,
    /// It has more operations than are kept.
    pub(crate) is_cut: bool,
    operations: &'a [u8],
}

/// An operation.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ListedOperation<'a> {
    pub(crate) name: &'a str,
    pub(crate) kind: u8,
    pub(crate) times: Times<'a>,
}

impl<'a> Times<'a> {
    /// Reads over the times of a name.
    fn read(cursor: &mut Cursor<'a>) -> Result<Self, Corrupt> {
        let count = cursor.count(1)?;
        let times = Self { count, cursor: *cursor };
        for _ in 0..count {
            cursor.varint()?;
        }
        Ok(times)
    }

    /// Whether one of the times touches the range.
    pub(crate) fn touch(mut self, range: TimeRange) -> Result<bool, Corrupt> {
        if self.count == 0 {
            return Ok(true);
        }
        let mut bucket = 0_u64;
        for _ in 0..self.count {
            bucket = bucket.wrapping_add(self.cursor.varint()?);
            if is_in_bucket(bucket, range) {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

/// Whether the 10 minutes touch the range.
pub(crate) fn is_in_bucket(bucket: u64, range: TimeRange) -> bool {
    let first = bucket.saturating_mul(BUCKET_NANOS);
    range.overlaps(UnixNanos(first), UnixNanos(first.saturating_add(BUCKET_NANOS - 1)))
}

/// Calls for each service, in order.
pub(crate) fn each_service<'a>(
    bytes: &'a [u8],
    mut see: impl FnMut(ListedService<'a>) -> Result<(), Corrupt>,
) -> Result<(), Corrupt> {
    let mut cursor = Cursor::new(bytes);
    for _ in 0..cursor.count(4)? {
        let name = cursor.text()?;
        let is_cut = cursor.byte()? != 0;
        let times = Times::read(&mut cursor)?;
        see(ListedService { name, times, is_cut, operations: cursor.sized()? })?;
    }
    Ok(())
}

impl<'a> ListedService<'a> {
    /// Calls for each operation, in order.
    pub(crate) fn each_operation(
        &self,
        mut see: impl FnMut(ListedOperation<'a>) -> Result<(), Corrupt>,
    ) -> Result<(), Corrupt> {
        let mut cursor = Cursor::new(self.operations);
        for _ in 0..cursor.count(3)? {
            let kind = cursor.byte()?;
            let name = cursor.text()?;
            see(ListedOperation { name, kind, times: Times::read(&mut cursor)? })?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::embedded::catalog_build::{CatalogBuilder, CatalogLimits, TenantNames};

    /// Services of a segment, each with whether its operations are cut, and its operations.
    fn services_of(names: &TenantNames, range: TimeRange) -> Vec<(String, bool, Vec<String>)> {
        let mut found = Vec::new();
        each_service(&names.bytes, |service| {
            let mut operations = Vec::new();
            service.each_operation(|operation| {
                if operation.times.touch(range)? {
                    operations.push(format!("{}/{}", operation.name, operation.kind));
                }
                Ok(())
            })?;
            if service.times.touch(range)? {
                found.push((service.name.to_owned(), service.is_cut, operations));
            }
            Ok(())
        })
        .unwrap();
        found
    }

    fn names(count: usize) -> Vec<Arc<str>> {
        (0..count).map(|number| format!("s{number}").into()).collect()
    }

    fn row(one: &str, is_cut: bool, operations: &[&str]) -> (String, bool, Vec<String>) {
        (one.to_owned(), is_cut, operations.iter().map(|name| (*name).to_owned()).collect())
    }

    fn at(bucket: u64) -> TimeRange {
        let start = UnixNanos(bucket * BUCKET_NANOS + 5);
        TimeRange { start, end: start.plus(1) }
    }

    #[test]
    fn a_tenant_keeps_its_names_however_many_another_has() {
        let limits = CatalogLimits { services: 3, operations: 3, ..CatalogLimits::default() };
        let mut builder = CatalogBuilder::new(limits);
        let services = names(9);
        builder.begin(0, &services);
        for service in 0..8 {
            builder.note_service(service, 7);
            builder.note_operation(service, 7, b"GET", 2);
        }
        builder.begin(1, &services);
        builder.note_service(8, 7);
        builder.note_operation(8, 7, b"GET", 2);
        builder.note_operation(8, 7, b"GET", 3);
        let [noisy, quiet] = <[_; 2]>::try_from(builder.finish(&services)).unwrap();
        assert!(noisy.is_cut && !quiet.is_cut);
        assert_eq!((noisy.tenant, quiet.tenant), (0, 1));
        assert_eq!(services_of(&noisy, TimeRange::ALL).len(), 3);
        let expected = [row("s8", false, &["GET/2", "GET/3"])];
        assert_eq!(services_of(&quiet, TimeRange::ALL), expected);
    }

    #[test]
    fn a_service_is_listed_also_where_the_operations_of_another_have_taken_all_room() {
        for limits in [
            CatalogLimits { operations_of_service: 2, ..CatalogLimits::default() },
            CatalogLimits { operations: 2, ..CatalogLimits::default() },
            CatalogLimits { name_bytes: 6, ..CatalogLimits::default() },
        ] {
            let mut builder = CatalogBuilder::new(limits);
            let services = names(2);
            builder.begin(0, &services);
            builder.note_service(0, 7);
            for name in [b"op1", b"op2", b"op3"] {
                builder.note_operation(0, 7, name, 1);
            }
            builder.note_service(1, 7);
            let [all] = <[_; 1]>::try_from(builder.finish(&services)).unwrap();
            assert!(!all.is_cut, "its services are whole");
            let expected = [row("s0", true, &["op1/1", "op2/1"]), row("s1", false, &[])];
            assert_eq!(services_of(&all, TimeRange::ALL), expected);
        }
    }

    #[test]
    fn names_are_known_to_their_ten_minutes_and_of_any_time_where_these_are_too_many() {
        let limits = CatalogLimits { more_buckets: 3, ..CatalogLimits::default() };
        let mut builder = CatalogBuilder::new(limits);
        let services = names(2);
        builder.begin(0, &services);
        for bucket in [9, 4, 9] {
            builder.note_service(0, bucket);
        }
        builder.note_operation(0, 9, b"op", 1);
        for bucket in [1, 2, 3, 5] {
            builder.note_service(1, bucket);
        }
        let [all] = <[_; 1]>::try_from(builder.finish(&services)).unwrap();
        assert_eq!(services_of(&all, at(9))[0], row("s0", false, &["op/1"]));
        assert_eq!(services_of(&all, at(4))[0], row("s0", false, &[]));
        let anywhere: Vec<_> = services_of(&all, at(70));
        assert_eq!(anywhere, [row("s1", false, &[])]);
    }

    #[test]
    fn bytes_that_are_cut_anywhere_are_refused() {
        let mut builder = CatalogBuilder::new(CatalogLimits::default());
        let services = names(1);
        builder.begin(0, &services);
        builder.note_service(0, 7);
        builder.note_operation(0, 7, b"op", 1);
        let [all] = <[_; 1]>::try_from(builder.finish(&services)).unwrap();
        for length in 0..all.bytes.len() {
            let read =
                each_service(&all.bytes[..length], |service| service.each_operation(|_| Ok(())));
            assert!(read.is_err(), "{length}");
        }
    }
}
