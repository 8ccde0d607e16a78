//! Filter trees from and to the wire. Depth and size are checked while a tree is read, before a
//! pattern is compiled for a part that lies beyond the limits.

use trace_model::query::{
    CompareOp, FILTER_DEPTH_MAX, FILTER_NODES_MAX, Field, Filter, InvalidQuery, Literal, Pattern,
    Place,
};

use super::InvalidMessage;
use crate::v1;
use crate::v1::filter::Node;

impl v1::Filter {
    /// The tree as it is sent; [`Filter::All`] is no filter at all at the top.
    #[must_use]
    pub fn from_model(filter: &Filter) -> Option<Self> {
        match filter {
            Filter::All => None,
            Filter::And(_)
            | Filter::Or(_)
            | Filter::Not(_)
            | Filter::Compare { .. }
            | Filter::Matches { .. }
            | Filter::Exists(_) => Some(write(filter)),
        }
    }

    /// The tree as it was received; absent means every span. Too deep or too wide is refused.
    pub fn to_model(message: Option<Self>) -> Result<Filter, InvalidMessage> {
        match message {
            None => Ok(Filter::All),
            Some(message) => read(message, 0, &mut 0),
        }
    }
}

fn write(filter: &Filter) -> v1::Filter {
    let list = |parts: &[Filter]| v1::FilterList { parts: parts.iter().map(write).collect() };
    let node = match filter {
        // "All of nothing" holds for every span: the wire has no word of its own for it.
        Filter::All => Node::And(v1::FilterList::default()),
        Filter::And(parts) => Node::And(list(parts)),
        Filter::Or(parts) => Node::Or(list(parts)),
        Filter::Not(part) => Node::Not(Box::new(write(part))),
        Filter::Compare { field, op, literal } => Node::Compare(v1::Compare {
            field: Some(write_field(field)),
            op: write_op(*op).into(),
            literal: Some(write_literal(literal)),
        }),
        Filter::Matches { field, pattern } => Node::Matches(v1::Matches {
            field: Some(write_field(field)),
            pattern: pattern.as_str().to_owned(),
        }),
        Filter::Exists(field) => Node::Exists(write_field(field)),
    };
    v1::Filter { node: Some(node) }
}

fn write_field(field: &Field) -> v1::Field {
    use v1::field::Name;
    let plain = |name: Name| v1::Field { name: name.into(), ..v1::Field::default() };
    match field {
        Field::Service => plain(Name::Service),
        Field::Operation => plain(Name::Operation),
        Field::Kind => plain(Name::Kind),
        Field::Status => plain(Name::Status),
        Field::StatusMessage => plain(Name::StatusMessage),
        Field::Duration => plain(Name::Duration),
        Field::Attribute { place, key } => v1::Field {
            name: Name::Attribute.into(),
            place: write_place(*place).into(),
            key: key.clone(),
        },
    }
}

const fn write_place(place: Place) -> v1::field::Place {
    match place {
        Place::Any => v1::field::Place::Any,
        Place::Span => v1::field::Place::Span,
        Place::Resource => v1::field::Place::Resource,
        Place::Scope => v1::field::Place::Scope,
        Place::Event => v1::field::Place::Event,
        Place::Link => v1::field::Place::Link,
    }
}

const fn write_op(op: CompareOp) -> v1::compare::Op {
    match op {
        CompareOp::Eq => v1::compare::Op::Eq,
        CompareOp::Ne => v1::compare::Op::Ne,
        CompareOp::Lt => v1::compare::Op::Lt,
        CompareOp::Le => v1::compare::Op::Le,
        CompareOp::Gt => v1::compare::Op::Gt,
        CompareOp::Ge => v1::compare::Op::Ge,
    }
}

fn write_literal(literal: &Literal) -> v1::compare::Literal {
    match literal {
        Literal::Text(text) => v1::compare::Literal::Text(text.clone()),
        Literal::Str(text) => v1::compare::Literal::Str(text.clone()),
        Literal::Int(value) => v1::compare::Literal::Int(*value),
        Literal::Double(value) => v1::compare::Literal::Double(*value),
        Literal::Bool(value) => v1::compare::Literal::Bool(*value),
    }
}

fn read(message: v1::Filter, depth: usize, nodes: &mut usize) -> Result<Filter, InvalidMessage> {
    *nodes += 1;
    if depth > FILTER_DEPTH_MAX || *nodes > FILTER_NODES_MAX {
        return Err(InvalidQuery::TooLarge(FILTER_NODES_MAX, FILTER_DEPTH_MAX).into());
    }
    match message.node.ok_or(InvalidMessage::Missing("filter.node"))? {
        Node::And(list) => Ok(Filter::And(read_list(list, depth, nodes)?)),
        Node::Or(list) => Ok(Filter::Or(read_list(list, depth, nodes)?)),
        Node::Not(part) => Ok(Filter::Not(Box::new(read(*part, depth + 1, nodes)?))),
        Node::Compare(compare) => Ok(Filter::Compare {
            op: read_op(compare.op())?,
            field: read_field(compare.field)?,
            literal: read_literal(compare.literal)?,
        }),
        Node::Matches(matches) => Ok(Filter::Matches {
            field: read_field(matches.field)?,
            pattern: Pattern::new(&matches.pattern)?,
        }),
        Node::Exists(field) => Ok(Filter::Exists(read_field(Some(field))?)),
    }
}

fn read_list(
    list: v1::FilterList,
    depth: usize,
    nodes: &mut usize,
) -> Result<Vec<Filter>, InvalidMessage> {
    let mut parts = Vec::with_capacity(list.parts.len().min(FILTER_NODES_MAX));
    for part in list.parts {
        parts.push(read(part, depth + 1, nodes)?);
    }
    Ok(parts)
}

fn read_field(message: Option<v1::Field>) -> Result<Field, InvalidMessage> {
    use v1::field::Name;
    let message = message.ok_or(InvalidMessage::Missing("field"))?;
    match message.name() {
        Name::Unspecified => Err(InvalidMessage::Unknown("field.name")),
        Name::Service => Ok(Field::Service),
        Name::Operation => Ok(Field::Operation),
        Name::Kind => Ok(Field::Kind),
        Name::Status => Ok(Field::Status),
        Name::StatusMessage => Ok(Field::StatusMessage),
        Name::Duration => Ok(Field::Duration),
        Name::Attribute => {
            Ok(Field::Attribute { place: read_place(message.place)?, key: message.key })
        }
    }
}

/// A place of a newer release is refused: taken for "any" it would answer another question.
fn read_place(number: i32) -> Result<Place, InvalidMessage> {
    match v1::field::Place::try_from(number) {
        Ok(v1::field::Place::Any) => Ok(Place::Any),
        Ok(v1::field::Place::Span) => Ok(Place::Span),
        Ok(v1::field::Place::Resource) => Ok(Place::Resource),
        Ok(v1::field::Place::Scope) => Ok(Place::Scope),
        Ok(v1::field::Place::Event) => Ok(Place::Event),
        Ok(v1::field::Place::Link) => Ok(Place::Link),
        Err(_) => Err(InvalidMessage::Unknown("field.place")),
    }
}

const fn read_op(op: v1::compare::Op) -> Result<CompareOp, InvalidMessage> {
    match op {
        v1::compare::Op::Unspecified => Err(InvalidMessage::Unknown("compare.op")),
        v1::compare::Op::Eq => Ok(CompareOp::Eq),
        v1::compare::Op::Ne => Ok(CompareOp::Ne),
        v1::compare::Op::Lt => Ok(CompareOp::Lt),
        v1::compare::Op::Le => Ok(CompareOp::Le),
        v1::compare::Op::Gt => Ok(CompareOp::Gt),
        v1::compare::Op::Ge => Ok(CompareOp::Ge),
    }
}

fn read_literal(message: Option<v1::compare::Literal>) -> Result<Literal, InvalidMessage> {
    match message.ok_or(InvalidMessage::Missing("compare.literal"))? {
        v1::compare::Literal::Text(text) => Ok(Literal::Text(text)),
        v1::compare::Literal::Str(text) => Ok(Literal::Str(text)),
        v1::compare::Literal::Int(value) => Ok(Literal::Int(value)),
        v1::compare::Literal::Double(value) => Ok(Literal::Double(value)),
        v1::compare::Literal::Bool(value) => Ok(Literal::Bool(value)),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn field() -> impl Strategy<Value = Field> {
        let place = prop_oneof![
            Just(Place::Any),
            Just(Place::Span),
            Just(Place::Resource),
            Just(Place::Scope),
            Just(Place::Event),
            Just(Place::Link)
        ];
        prop_oneof![
            Just(Field::Service),
            Just(Field::Operation),
            Just(Field::Kind),
            Just(Field::Status),
            Just(Field::StatusMessage),
            Just(Field::Duration),
            (place, "[a-z.]{0,8}").prop_map(|(place, key)| Field::Attribute { place, key }),
        ]
    }

    fn literal() -> impl Strategy<Value = Literal> {
        prop_oneof![
            any::<String>().prop_map(Literal::Text),
            any::<String>().prop_map(Literal::Str),
            any::<i64>().prop_map(Literal::Int),
            (-1e9..1e9).prop_map(Literal::Double),
            any::<bool>().prop_map(Literal::Bool),
        ]
    }

    fn tree() -> impl Strategy<Value = Filter> {
        let op = prop_oneof![
            Just(CompareOp::Eq),
            Just(CompareOp::Ne),
            Just(CompareOp::Lt),
            Just(CompareOp::Le),
            Just(CompareOp::Gt),
            Just(CompareOp::Ge)
        ];
        let leaf = prop_oneof![
            (field(), op, literal()).prop_map(|(field, op, literal)| Filter::Compare {
                field,
                op,
                literal
            }),
            (field(), "[a-z]{0,5}").prop_map(|(field, pattern)| Filter::Matches {
                field,
                pattern: Pattern::new(&pattern).unwrap()
            }),
            field().prop_map(Filter::Exists),
        ];
        leaf.prop_recursive(5, 40, 4, |inner| {
            let list = proptest::collection::vec(inner.clone(), 0..4);
            prop_oneof![
                list.clone().prop_map(Filter::And),
                list.prop_map(Filter::Or),
                inner.prop_map(|part| Filter::Not(Box::new(part))),
            ]
        })
    }

    proptest! {
        #[test]
        fn a_filter_crosses_the_wire_unchanged(filter in tree()) {
            let read = v1::Filter::to_model(v1::Filter::from_model(&filter)).unwrap();
            prop_assert_eq!(format!("{read:?}"), format!("{filter:?}"));
        }
    }

    #[test]
    fn trees_too_deep_or_too_wide_are_refused() {
        let mut deep = Filter::All;
        for _ in 0..=FILTER_DEPTH_MAX {
            deep = Filter::Not(Box::new(deep));
        }
        assert!(v1::Filter::to_model(v1::Filter::from_model(&deep)).is_err());
        let wide = Filter::Or(vec![Filter::Exists(Field::Service); FILTER_NODES_MAX]);
        assert!(v1::Filter::to_model(v1::Filter::from_model(&wide)).is_err());
    }

    #[test]
    fn numbers_that_name_nothing_are_refused_and_not_guessed() {
        let field = v1::Field { name: 7, place: 99, key: "k".to_owned() };
        let message = v1::Filter { node: Some(Node::Exists(field)) };
        let refused = v1::Filter::to_model(Some(message));
        assert_eq!(refused.unwrap_err(), InvalidMessage::Unknown("field.place"));
        assert!(v1::Filter::to_model(Some(v1::Filter { node: None })).is_err());
    }
}
