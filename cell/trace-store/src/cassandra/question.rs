//! What a filter asks of the index: a service, perhaps an operation, and what is left. Pure.

use trace_model::Filter;
use trace_model::query::{CompareOp, Field, Literal};

use super::entries::operation_hash;
use crate::port::StoreError;

/// A search as the index can answer it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Question {
    /// The service.
    pub(super) service: String,
    /// The operation, and its hash.
    pub(super) operation: Option<(String, u64)>,
    /// Whether the filter has more parts: traces that the index names are read and verified.
    pub(super) is_partial: bool,
}

impl Question {
    /// Splits a filter.
    ///
    /// # Errors
    ///
    /// [`StoreError::Unsupported`] for a filter that names no service.
    pub(super) fn of(filter: &Filter) -> Result<Self, StoreError> {
        let (mut service, mut operation, mut is_partial) = (None, None, false);
        let mut parts = vec![filter];
        while let Some(part) = parts.pop() {
            match part {
                Filter::All => {}
                Filter::And(more) => parts.extend(more),
                Filter::Compare { field, op: CompareOp::Eq, literal } => {
                    match (field, text_of(literal)) {
                        (Field::Service, Some(text)) if service.is_none() => service = Some(text),
                        (Field::Operation, Some(text)) if operation.is_none() => {
                            operation = Some((text.to_owned(), operation_hash(text)));
                        }
                        _ => is_partial = true,
                    }
                }
                Filter::Or(_)
                | Filter::Not(_)
                | Filter::Compare { .. }
                | Filter::Matches { .. }
                | Filter::Exists(_) => is_partial = true,
            }
        }
        let Some(service) = service else {
            let words = "the trace store finds traces by service (and operation) and time; \
                         searches that name no service go to the search engine";
            return Err(StoreError::Unsupported(words.to_owned()));
        };
        Ok(Self { service: service.to_owned(), operation, is_partial })
    }
}

/// The text that a string must be to equal the literal.
fn text_of(literal: &Literal) -> Option<&str> {
    match literal {
        Literal::Text(text) | Literal::Str(text) => Some(text),
        Literal::Int(_) | Literal::Double(_) | Literal::Bool(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn equals(field: Field, text: &str) -> Filter {
        Filter::Compare { field, op: CompareOp::Eq, literal: Literal::Text(text.to_owned()) }
    }

    #[test]
    fn service_and_operation_are_taken_out_wherever_all_must_hold() {
        let service = || equals(Field::Service, "web");
        let operation = || equals(Field::Operation, "GET /");
        let of = |filter: &Filter| Question::of(filter).map_err(|error| error.to_string());
        let nested = Filter::And(vec![Filter::And(vec![operation()]), Filter::All, service()]);
        let question = of(&nested).unwrap();
        assert_eq!((&*question.service, question.is_partial), ("web", false));
        assert_eq!(question.operation.unwrap().0, "GET /");
        let error = equals(Field::Status, "error");
        assert!(of(&Filter::And(vec![service(), error])).unwrap().is_partial);
        let two = Filter::And(vec![service(), equals(Field::Service, "cart")]);
        assert!(of(&two).unwrap().is_partial);
        let either = Filter::Or(vec![service(), operation()]);
        assert!(of(&Filter::And(vec![service(), either.clone()])).unwrap().is_partial);
        for refused in [Filter::All, operation(), either, Filter::Not(Box::new(service()))] {
            assert!(of(&refused).unwrap_err().contains("name no service"), "{refused:?}");
        }
    }
}
