//! Questions in the engine's language, kept small: what is certain is not asked.

use serde_json::{Value, json};
use trace_model::query::CompareOp;

/// A question.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Query {
    /// Everything.
    All,
    /// Nothing.
    None,
    /// What the engine decides.
    Some(Value),
}

impl Query {
    /// As JSON.
    pub(crate) fn into_json(self) -> Value {
        match self {
            Self::All => json!({ "match_all": {} }),
            Self::None => json!({ "match_none": {} }),
            Self::Some(query) => query,
        }
    }

    /// What is not found.
    pub(crate) fn not(self) -> Self {
        match self {
            Self::All => Self::None,
            Self::None => Self::All,
            Self::Some(query) => Self::Some(json!({ "bool": { "must_not": [query] } })),
        }
    }

    /// What all of them find; everything, where there are none.
    pub(crate) fn all_of(parts: Vec<Self>) -> Self {
        let mut asked = Vec::with_capacity(parts.len());
        for part in parts {
            match part {
                Self::All => {}
                Self::None => return Self::None,
                Self::Some(query) => asked.push(query),
            }
        }
        match asked.len() {
            0 => Self::All,
            1 => asked.pop().map_or(Self::All, Self::Some),
            _ => Self::Some(json!({ "bool": { "filter": asked } })),
        }
    }

    /// What one of them finds; nothing, where there are none.
    pub(crate) fn any_of(parts: Vec<Self>) -> Self {
        let mut asked = Vec::with_capacity(parts.len());
        for part in parts {
            match part {
                Self::All => return Self::All,
                Self::None => {}
                Self::Some(query) => asked.push(query),
            }
        }
        match asked.len() {
            0 => Self::None,
            1 => asked.pop().map_or(Self::None, Self::Some),
            _ => Self::Some(json!({ "bool": { "should": asked, "minimum_should_match": 1 } })),
        }
    }
}

/// The field holds the text.
pub(crate) fn term(field: &str, text: &str) -> Query {
    Query::Some(json!({ "term": { (field): text } }))
}

/// The field is there.
pub(crate) fn exists(field: &str) -> Query {
    Query::Some(json!({ "exists": { "field": field } }))
}

/// The field compares so with the number.
pub(crate) fn range(field: &str, op: CompareOp, number: &Value) -> Query {
    let bounds = match op {
        CompareOp::Eq | CompareOp::Ne => json!({ "gte": number, "lte": number }),
        CompareOp::Lt => json!({ "lt": number }),
        CompareOp::Le => json!({ "lte": number }),
        CompareOp::Gt => json!({ "gt": number }),
        CompareOp::Ge => json!({ "gte": number }),
    };
    let query = Query::Some(json!({ "range": { (field): bounds } }));
    if op == CompareOp::Ne {
        return Query::all_of(vec![exists(field), query.not()]);
    }
    query
}
