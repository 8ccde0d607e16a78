//! Questions: which rows are asked for, and where they are looked for.

use std::collections::BTreeMap;

use trace_model::{SpanKind, StatusCode, TenantId, TimeRange, UnixNanos};

use super::Shared;
use super::codec::{Record, SeriesKey, Unfit};
use super::sealed::{BlockEntry, SealedFile};
use super::state::View;
use super::table::Table;
use crate::memory_metrics::{MINUTE_NANOS, asks_for, touching};
use crate::port::{EdgeKey, RedKey, RedQuery, RedRow, StoreError};
use crate::questions::GoOn;

pub(super) type Rows<K> = BTreeMap<K, <K as Record>::Row>;

fn in_memory(error: Unfit) -> StoreError {
    StoreError::Damaged(format!("a row in memory: {error}"))
}

/// Which rows are asked for.
struct Question<'a, K> {
    /// No row before this one is asked for.
    first: K,
    /// Whether no row from this one on is asked for.
    is_past: &'a dyn Fn(&K) -> bool,
    range: TimeRange,
    wants: &'a dyn Fn(&K) -> bool,
    go_on: GoOn<'a>,
    rows: fn(&View) -> &Table<K>,
    blocks: fn(&SealedFile) -> &[BlockEntry<K>],
}

impl<K: Record> Question<'_, K> {
    fn table<'v>(&self, view: &'v View) -> &'v Table<K> {
        (self.rows)(view)
    }

    /// Adds the rows of a sealed file: of the blocks that may hold some.
    fn add_sealed(&self, file: &SealedFile, rows: &mut Rows<K>) -> Result<(), StoreError> {
        let mut add = |key: K, row: &[u8]| {
            if (self.wants)(&key) {
                K::merge(rows.entry(key).or_default(), &K::read_row(row)?);
            }
            Ok(())
        };
        for block in (self.blocks)(file) {
            let is_outside = block.last < self.first || (self.is_past)(&block.first);
            if !is_outside && block.overlaps(self.range) {
                (self.go_on)()?;
                file.visit(block, &mut add)?;
            }
        }
        Ok(())
    }
}

/// The least series that a query may ask for.
fn first_series(query: &RedQuery) -> SeriesKey {
    let minute = if query.service.is_some() { query.range.start } else { UnixNanos(0) };
    SeriesKey {
        is_operation: query.by_operation,
        tenant: query.tenant.clone(),
        service: query.service.clone().unwrap_or_else(|| "".into()),
        minute,
        operation: "".into(),
        kind: SpanKind::Unspecified,
        status: StatusCode::Unset,
    }
}

/// Whether the series lies behind all that a query may ask for.
fn is_past_series(query: &RedQuery, key: &SeriesKey) -> bool {
    let (asked, found) = ((query.by_operation, &query.tenant), (key.is_operation, &key.tenant));
    let Some(service) = &query.service else { return found > asked };
    (found, &key.service) > (asked, service)
        || ((found, &key.service) == (asked, service) && key.minute >= query.range.end)
}

/// The least edge of a range.
fn first_edge(tenant: &TenantId, range: TimeRange) -> EdgeKey {
    let (caller, callee) = ("".into(), "".into());
    let (tenant, bucket) = (tenant.clone(), range.start);
    EdgeKey { tenant, bucket, caller, callee, is_error: false }
}

impl Shared {
    /// Sums the rows of a range of keys: sealed files first, oldest first, then what is in memory.
    fn collect<K: Record>(&self, question: &Question<'_, K>) -> Result<Rows<K>, StoreError> {
        let view = self.view();
        if let Some(file) = view.damaged.first() {
            return Err(StoreError::Damaged(file.clone()));
        }
        let sealed = view.sealed.clone();
        let mut recent: Rows<K> = BTreeMap::new();
        for (key, pieces) in question.table(&view).from(&question.first) {
            if (question.is_past)(key) {
                break;
            }
            if (question.wants)(key) {
                let row = pieces.read::<K>().map_err(in_memory)?;
                recent.insert(key.clone(), row);
            }
        }
        drop(view);
        let mut rows: Rows<K> = BTreeMap::new();
        for file in &sealed {
            question.add_sealed(file, &mut rows)?;
        }
        for (key, row) in recent {
            K::merge(rows.entry(key).or_default(), &row);
        }
        Ok(rows)
    }

    pub(super) fn red(
        &self,
        query: &RedQuery,
        go_on: GoOn<'_>,
    ) -> Result<Vec<(RedKey, RedRow)>, StoreError> {
        let query = &RedQuery { range: touching(query.range, MINUTE_NANOS), ..query.clone() };
        let wants = |key: &SeriesKey| asks_for(query, &key.clone().into());
        let rows = self.collect(&Question {
            first: first_series(query),
            is_past: &|key| is_past_series(query, key),
            range: query.range,
            wants: &wants,
            go_on,
            rows: |view| &view.series,
            blocks: |file| &file.series,
        })?;
        let rows: BTreeMap<RedKey, RedRow> =
            rows.into_iter().map(|(key, row)| (key.into(), row)).collect();
        Ok(rows.into_iter().collect())
    }

    pub(super) fn edge_rows(
        &self,
        tenant: &TenantId,
        range: TimeRange,
        wants: &dyn Fn(&EdgeKey) -> bool,
        go_on: GoOn<'_>,
    ) -> Result<Rows<EdgeKey>, StoreError> {
        self.collect(&Question {
            first: first_edge(tenant, range),
            is_past: &|key| (&key.tenant, key.bucket) >= (tenant, range.end),
            range,
            wants,
            go_on,
            rows: |view| &view.edges,
            blocks: |file| &file.edges,
        })
    }
}
