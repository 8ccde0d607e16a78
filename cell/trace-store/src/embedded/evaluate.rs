//! Which rows of a block match a filter: column by column, each distinct value judged once.
//!
//! The verdict is exactly that of [`Filter::matches`] on the decoded span. Rows that columns cannot
//! judge (spans kept whole; events and links, where the filter looks at them) are decoded.

use opentelemetry_proto::tonic::common::v1::AnyValue as OtlpValue;
use opentelemetry_proto::tonic::trace::v1::Status;
use prost::Message;
use rustc_hash::FxHashMap;
use trace_model::query::{Field, Filter, Place};
use trace_model::{AnyValue, Attribute, SpanKind, StatusCode, UnixNanos};

use super::block_decode::Block;
use super::column::number_value;
use super::contexts::ReadContext;
use super::cursor::Corrupt;
use super::leaf::{Test, leaf_of, looks_at_events};
use super::template::Code;

/// Judges the rows of a block.
pub(crate) fn matching_rows(
    block: &mut Block,
    contexts: &[ReadContext],
    filter: &Filter,
) -> Result<Vec<bool>, Corrupt> {
    let mut evaluation = Evaluation { block, contexts };
    let mut rows = if evaluation.block.is_unreadable {
        vec![false; evaluation.block.rows()]
    } else {
        evaluation.judge(filter)?
    };
    evaluation.judge_decoded(filter, &mut rows)?;
    let block = evaluation.block;
    for (row, context) in rows.iter_mut().zip(&block.contexts) {
        let context = contexts.get(*context as usize).ok_or(Corrupt("an unknown context"))?;
        *row &= context.decoded.is_some();
    }
    Ok(rows)
}

struct Evaluation<'a> {
    block: &'a mut Block,
    contexts: &'a [ReadContext],
}

impl Evaluation<'_> {
    fn judge(&mut self, filter: &Filter) -> Result<Vec<bool>, Corrupt> {
        let count = self.block.rows();
        match filter {
            Filter::All => Ok(vec![true; count]),
            Filter::And(parts) => {
                let mut rows = vec![true; count];
                for part in parts {
                    if !rows.contains(&true) {
                        break;
                    }
                    let others = self.judge(part)?;
                    rows.iter_mut().zip(others).for_each(|(row, other)| *row &= other);
                }
                Ok(rows)
            }
            Filter::Or(parts) => {
                let mut rows = vec![false; count];
                for part in parts {
                    let others = self.judge(part)?;
                    rows.iter_mut().zip(others).for_each(|(row, other)| *row |= other);
                }
                Ok(rows)
            }
            Filter::Not(part) => Ok(self.judge(part)?.into_iter().map(|row| !row).collect()),
            Filter::Compare { .. } | Filter::Matches { .. } | Filter::Exists(_) => {
                let leaf = leaf_of(filter).ok_or(Corrupt("a leaf that is none"))?;
                self.judge_leaf(leaf.0, leaf.1)
            }
        }
    }

    fn judge_leaf(&mut self, field: &Field, test: Test<'_>) -> Result<Vec<bool>, Corrupt> {
        match field {
            Field::Service => self.by_context(|context| test.text(&context.context.service)),
            Field::Operation => self.by_name(test),
            Field::Kind => Ok(self.by_template(
                |code, argument| {
                    let number = (code == Code::Kind).then_some(argument)?;
                    let kind = SpanKind::from_number(i32::from(number));
                    Some(test.word(kind as i64, kind.word()))
                },
                test.word(0, SpanKind::Unspecified.word()),
            )),
            Field::Status => self.by_status(test),
            Field::StatusMessage => self.by_texts(
                |code, _| code == Code::Status,
                |payload| {
                    Status::decode(payload).is_ok_and(|status| {
                        !status.message.is_empty() && test.text(&status.message)
                    })
                },
            ),
            Field::Duration => Ok(self.by_duration(test)),
            Field::Attribute { place, key } => self.by_attribute(*place, key, test),
        }
    }

    fn by_context(&self, holds: impl Fn(&ReadContext) -> bool) -> Result<Vec<bool>, Corrupt> {
        let mut verdicts: FxHashMap<u32, bool> = FxHashMap::default();
        let mut rows = Vec::with_capacity(self.block.rows());
        for place in &self.block.contexts {
            let verdict = match verdicts.get(place) {
                Some(verdict) => *verdict,
                None => {
                    let context = self.contexts.get(*place as usize);
                    let verdict = holds(context.ok_or(Corrupt("an unknown context"))?);
                    verdicts.insert(*place, verdict);
                    verdict
                }
            };
            rows.push(verdict);
        }
        Ok(rows)
    }

    /// Judges rows by a part of their template that has no value; `otherwise` where none decides.
    fn by_template(&self, judge: impl Fn(Code, u8) -> Option<bool>, otherwise: bool) -> Vec<bool> {
        let verdict = |template: &Vec<usize>| {
            let tags = template.iter().filter_map(|column| self.block.columns.get(*column));
            let mut verdicts =
                tags.filter_map(|column| judge(column.token.tag.code, column.token.tag.argument));
            verdicts.next().unwrap_or(otherwise)
        };
        let verdicts: Vec<bool> = self.block.templates.iter().map(verdict).collect();
        let rows = self.block.row_templates.iter();
        rows.map(|template| verdicts.get(*template).copied().unwrap_or(false)).collect()
    }

    fn by_name(&mut self, test: Test<'_>) -> Result<Vec<bool>, Corrupt> {
        let holds = |name: &[u8]| std::str::from_utf8(name).is_ok_and(|name| test.text(name));
        let mut rows = self.by_texts(|code, _| code == Code::Name, holds)?;
        if test.text("") {
            let nameless = self.by_template(|code, _| (code == Code::Name).then_some(false), true);
            rows.iter_mut().zip(nameless).for_each(|(row, other)| *row |= other);
        }
        Ok(rows)
    }

    fn by_status(&mut self, test: Test<'_>) -> Result<Vec<bool>, Corrupt> {
        let holds = |code: i32| {
            let status = StatusCode::from_number(code);
            test.word(status as i64, status.word())
        };
        let mut rows = self.by_template(
            |code, argument| {
                let alone = code == Code::StatusAlone;
                let verdict = alone && holds(i32::from(argument.saturating_sub(1)));
                (alone || code == Code::Status).then_some(verdict)
            },
            holds(0),
        );
        let others = self.by_texts(
            |code, _| code == Code::Status,
            |payload| Status::decode(payload).is_ok_and(|status| holds(status.code)),
        )?;
        rows.iter_mut().zip(others).for_each(|(row, other)| *row |= other);
        Ok(rows)
    }

    fn by_duration(&self, test: Test<'_>) -> Vec<bool> {
        let times = self.block.starts.iter().zip(&self.block.ends);
        times
            .map(|(start, end)| {
                let nanos = UnixNanos(*end).since(UnixNanos(*start));
                test.value(&AnyValue::Int(i64::try_from(nanos).unwrap_or(i64::MAX)))
            })
            .collect()
    }

    fn by_attribute(
        &mut self,
        place: Place,
        key: &str,
        test: Test<'_>,
    ) -> Result<Vec<bool>, Corrupt> {
        let any = place == Place::Any;
        let in_list = |list: &[Attribute]| {
            list.iter().any(|attribute| attribute.key == key && test.value(&attribute.value))
        };
        let mut rows = vec![false; self.block.rows()];
        if any || place == Place::Resource || place == Place::Scope {
            rows = self.by_context(|context| {
                context.decoded.as_ref().is_some_and(|decoded| {
                    (place != Place::Scope && in_list(&decoded.resource.attributes))
                        || (place != Place::Resource && in_list(&decoded.scope.attributes))
                })
            })?;
        }
        if any || place == Place::Span {
            let others = self.by_span_attribute(key, test)?;
            rows.iter_mut().zip(others).for_each(|(row, other)| *row |= other);
        }
        Ok(rows)
    }

    fn by_span_attribute(&mut self, key: &str, test: Test<'_>) -> Result<Vec<bool>, Corrupt> {
        let of_key = |wanted: Code| {
            move |code: Code, found: &[u8]| code == wanted && found == key.as_bytes()
        };
        let mut rows = self.by_texts(of_key(Code::Text), |text| {
            std::str::from_utf8(text).is_ok_and(|text| test.text(text))
        })?;
        let others = self.by_texts(of_key(Code::Other), |payload| {
            OtlpValue::decode(payload)
                .is_ok_and(|value| test.value(&proto::decode::any_value(value.value)))
        })?;
        rows.iter_mut().zip(others).for_each(|(row, other)| *row |= other);
        for code in [Code::Int, Code::Double, Code::Bool] {
            self.by_numbers(of_key(code), test, &mut rows)?;
        }
        Ok(rows)
    }

    /// Judges rows by the columns of texts that are meant, each distinct text once.
    fn by_texts(
        &mut self,
        is_meant: impl Fn(Code, &[u8]) -> bool,
        holds: impl Fn(&[u8]) -> bool,
    ) -> Result<Vec<bool>, Corrupt> {
        let mut rows = vec![false; self.block.rows()];
        for column in self.columns(is_meant) {
            self.block.load_column(column)?;
            let texts = self.block.column(column)?.texts()?;
            let count = u32::try_from(texts.distinct_count()).unwrap_or(u32::MAX);
            let verdicts: Vec<bool> =
                (0..count).map(|place| holds(texts.distinct(place))).collect();
            if !verdicts.contains(&true) {
                continue;
            }
            let places = &texts.places;
            let at = |position: usize| {
                let place = places.get(position).ok_or(Corrupt("a column too short"))?;
                Ok(verdicts.get(*place as usize).copied().unwrap_or(false))
            };
            spread(self.block, column, at, &mut rows)?;
        }
        Ok(rows)
    }

    fn by_numbers(
        &mut self,
        is_meant: impl Fn(Code, &[u8]) -> bool,
        test: Test<'_>,
        rows: &mut [bool],
    ) -> Result<(), Corrupt> {
        for column in self.columns(is_meant) {
            self.block.load_column(column)?;
            let loaded = self.block.column(column)?;
            let code = loaded.token.tag.code;
            let mut verdicts: FxHashMap<u64, bool> = FxHashMap::default();
            let judged: Vec<bool> = loaded
                .numbers()?
                .iter()
                .map(|number| {
                    *verdicts
                        .entry(*number)
                        .or_insert_with(|| test.value(&number_value(code, *number)))
                })
                .collect();
            let at = |position: usize| {
                judged.get(position).copied().ok_or(Corrupt("a column too short"))
            };
            spread(self.block, column, at, rows)?;
        }
        Ok(())
    }

    fn columns(&self, is_meant: impl Fn(Code, &[u8]) -> bool) -> Vec<usize> {
        let columns = self.block.columns.iter().enumerate();
        columns
            .filter(|(_, column)| is_meant(column.token.tag.code, &column.token.key))
            .map(|(place, _)| place)
            .collect()
    }

    /// Decodes and judges the rows that columns cannot.
    fn judge_decoded(&mut self, filter: &Filter, rows: &mut [bool]) -> Result<(), Corrupt> {
        let events = looks_at_events(filter);
        let all = self.block.is_unreadable;
        let needs = self.by_template(
            |code, _| (code == Code::Whole || (events && code.is_event_or_link())).then_some(true),
            all,
        );
        if !needs.contains(&true) {
            return Ok(());
        }
        for run in self.block.traces.clone() {
            let range = run.first..run.first + run.rows;
            let needed = needs.get(range.clone()).unwrap_or(&[]);
            if !needed.contains(&true) {
                continue;
            }
            let rebuilt = self.block.rebuild(&run, range.clone())?;
            let verdicts = rows.get_mut(range).unwrap_or(&mut []);
            for ((row, needed), verdict) in rebuilt.iter().zip(needed).zip(verdicts) {
                if *needed {
                    *verdict = self.matches(filter, row.context, &row.bytes);
                }
            }
        }
        Ok(())
    }

    /// Whether the span matches; one that cannot be read does not.
    fn matches(&self, filter: &Filter, context: u32, bytes: &[u8]) -> bool {
        let context = self.contexts.get(context as usize);
        let decoded = context.and_then(|context| context.decoded.as_ref());
        let span = decoded.and_then(|context| proto::decode::read_span(bytes, context).ok());
        span.is_some_and(|span| filter.matches(&span))
    }
}

/// Gives the verdicts on a column's values to the rows that they belong to.
fn spread(
    block: &Block,
    column: usize,
    verdict: impl Fn(usize) -> Result<bool, Corrupt>,
    rows: &mut [bool],
) -> Result<(), Corrupt> {
    let occurrences: Vec<usize> = block
        .templates
        .iter()
        .map(|template| template.iter().filter(|other| **other == column).count())
        .collect();
    let mut position = 0;
    for (row, template) in rows.iter_mut().zip(&block.row_templates) {
        for _ in 0..occurrences.get(*template).copied().unwrap_or(0) {
            *row |= verdict(position)?;
            position += 1;
        }
    }
    Ok(())
}
