//! Questions about the counts that are answered page by page.
//!
//! The engine is first asked where a page ends, which it tells from the keys alone (of all that is left),
//! and then for the rows up to there: it sums no more than a page and the rest of its last minute, however
//! many there are. Behind a name too long to be asked for whole it gives as many rows as a question may
//! have.

use clickhouse::Row;
use clickhouse::query::Query;
use serde::Deserialize;
use trace_model::{TenantId, TimeRange};

use super::encode::time_of;
use super::question::{
    ask_edges, ask_red, edge_condition, edge_rows, red_condition, red_rows, red_sql, table_of,
};
use crate::clickhouse::client::{Engine, is_parameter, longest_parameter};
use crate::port::{
    EdgeKey, EdgePlace, EdgeRow, Page, RedKey, RedQuery, RedRow, StoreError, first_edges,
};

/// Where a page begins, as a condition on rows.
struct Behind {
    condition: &'static str,
    /// Rows before the page may fulfil it as well: a name in it is too long to be asked for whole.
    is_rough: bool,
}

const EVERYTHING: Behind = Behind { condition: "", is_rough: false };

/// How many rows of the engine are a page.
fn limit(engine: &Engine, rows_max: usize, behind: &Behind) -> u64 {
    let most = engine.config.query_rows_max.max(1);
    // Of those that come before the page nobody knows how many there are.
    if behind.is_rough { most } else { u64::try_from(rows_max).unwrap_or(most).clamp(1, most) }
}

fn behind_series(query: &RedQuery, after: Option<&RedKey>) -> Behind {
    let Some(after) = after else { return EVERYTHING };
    let has_service = is_parameter(&after.service);
    let has_operation = after.operation.as_deref().is_none_or(is_parameter);
    let condition = match (has_service, has_operation) {
        (false, _) => {
            "AND (minute, service) >= (toDateTime64({after:Int64}, 0, 'UTC'), {after_service:String})"
        }
        (true, false) => {
            "AND (minute, service, operation) >= (toDateTime64({after:Int64}, 0, 'UTC'), \
             {after_service:String}, {after_operation:String})"
        }
        (true, true) if query.by_operation => {
            "AND (minute, service, operation, toInt8(kind), toInt8(status)) \
             > (toDateTime64({after:Int64}, 0, 'UTC'), {after_service:String}, \
             {after_operation:String}, {after_kind:Int8}, {after_status:Int8})"
        }
        (true, true) => {
            "AND (minute, service, toInt8(kind), toInt8(status)) \
             > (toDateTime64({after:Int64}, 0, 'UTC'), {after_service:String}, \
             {after_kind:Int8}, {after_status:Int8})"
        }
    };
    Behind { condition, is_rough: !(has_service && has_operation) }
}

fn bind_after(question: Query, after: Option<&RedKey>) -> Query {
    let Some(after) = after else { return question };
    let operation = after.operation.as_deref().unwrap_or_default();
    question
        .param("after", time_of(after.minute))
        .param("after_service", longest_parameter(&after.service))
        .param("after_operation", longest_parameter(operation))
        .param("after_kind", after.kind as i8)
        .param("after_status", after.status as i8)
}

#[derive(Debug, Deserialize, Row)]
struct End {
    minute: i64,
}

/// A page of the series of the minutes that touch the range.
pub(super) async fn red_page(
    engine: &Engine,
    query: &RedQuery,
    after: Option<&RedKey>,
    rows_max: usize,
) -> Result<Page<(RedKey, RedRow)>, StoreError> {
    let behind = behind_series(query, after);
    let limit = limit(engine, rows_max, &behind);
    let ask = |sql: &str| ask_red(engine, sql, query).map(|question| bind_after(question, after));
    // Rows that are not merged yet count more than once: a page may be shorter for that.
    let ends = format!(
        "SELECT minute FROM {} WHERE {} {} \
         ORDER BY minute LIMIT 1 OFFSET {limit}",
        table_of(query),
        red_condition(query),
        behind.condition
    );
    let end = engine.rows::<End>(ask(&ends)?).await?.pop();
    let until =
        if end.is_some() { "AND minute <= toDateTime64({until:Int64}, 0, 'UTC')" } else { "" };
    let page = format!(
        "{} ORDER BY minute, service, operation, toInt8(kind), toInt8(status) LIMIT {limit}",
        red_sql(query, &format!("{} {until}", behind.condition))
    );
    let question = ask(&page)?.param("until", end.as_ref().map_or(0, |end| end.minute));
    let mut rows = red_rows(engine, question, query).await?;
    let is_full = rows.len() as u64 >= limit;
    rows.retain(|(key, _)| after.is_none_or(|after| key > after));
    let has_more = end.is_some() || is_full || rows.len() > rows_max;
    rows.truncate(rows_max.max(1));
    Ok(Page { rows, has_more })
}

fn behind_edges(after: Option<&EdgePlace>) -> Behind {
    let Some((caller, callee)) = after else { return EVERYTHING };
    let (has_caller, has_callee) = (is_parameter(caller), is_parameter(callee));
    let condition = match (has_caller, has_callee) {
        (false, _) => "AND caller >= {after_caller:String}",
        (true, false) => "AND (caller, callee) >= ({after_caller:String}, {after_callee:String})",
        (true, true) => "AND (caller, callee) > ({after_caller:String}, {after_callee:String})",
    };
    Behind { condition, is_rough: !(has_caller && has_callee) }
}

#[derive(Debug, Deserialize, Row)]
struct Pair {
    caller: String,
    callee: String,
}

/// A page of the edges of the buckets that touch the range, summed over them.
pub(super) async fn edges_page(
    engine: &Engine,
    (tenant, range): (&TenantId, TimeRange),
    after: Option<&EdgePlace>,
    edges_max: usize,
) -> Result<Page<(EdgeKey, EdgeRow)>, StoreError> {
    let behind = behind_edges(after);
    let limit = limit(engine, edges_max, &behind);
    let bind = |question: Query| match after {
        None => question,
        Some((caller, callee)) => question
            .param("after_caller", longest_parameter(caller))
            .param("after_callee", longest_parameter(callee)),
    };
    let names = format!(
        "SELECT CAST(caller, 'String') AS caller, CAST(callee, 'String') AS callee FROM edges \
         WHERE {} {} GROUP BY caller, callee ORDER BY caller, callee LIMIT {limit}",
        edge_condition(),
        behind.condition
    );
    let names = engine.rows::<Pair>(bind(ask_edges(engine, &names, tenant, range))).await?;
    let is_full = names.len() as u64 >= limit;
    let is_behind = |caller: &str, callee: &str| {
        after.is_none_or(|(left, right)| (caller, callee) > (&**left, &**right))
    };
    // The last that can be asked for: the page ends with it.
    let can_end = |pair: &&Pair| {
        let is_asked = is_parameter(&pair.caller) && is_parameter(&pair.callee);
        is_asked && is_behind(&pair.caller, &pair.callee)
    };
    let end = names.iter().rev().find(can_end).filter(|_| is_full);
    let until = match end {
        Some(_) => "AND (caller, callee) <= ({until_caller:String}, {until_callee:String})",
        None => "",
    };
    let bind = |question: Query| match end {
        None => bind(question),
        Some(Pair { caller, callee }) => {
            bind(question).param("until_caller", caller).param("until_callee", callee)
        }
    };
    let also = format!("{} {until}", behind.condition);
    let rows = edge_rows(engine, (tenant, range), &also, bind).await?;
    let rows = rows.into_iter().filter(|(key, _)| is_behind(&key.caller, &key.callee));
    let mut page = first_edges(rows, edges_max);
    page.has_more |= is_full;
    Ok(page)
}
