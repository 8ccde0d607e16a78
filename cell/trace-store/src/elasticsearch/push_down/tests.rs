use serde_json::Value;
use trace_model::query::Place;

use super::*;

fn compare(field: Field, op: CompareOp, literal: Literal) -> Filter {
    Filter::Compare { field, op, literal }
}

fn attribute(place: Place, key: &str) -> Field {
    Field::Attribute { place, key: key.to_owned() }
}

fn text(text: &str) -> Literal {
    Literal::Text(text.to_owned())
}

fn ours(filter: &Filter) -> Pushed {
    push_down(filter, Shape::Ours)
}

fn asks_for(pushed: &Pushed, needle: &str) -> bool {
    pushed.query.clone().into_json().to_string().contains(needle)
}

#[test]
fn equality_existence_and_their_negations_are_left_to_the_engine() {
    let tag = || attribute(Place::Any, "http.route");
    for filter in [
        compare(Field::Service, CompareOp::Eq, text("web")),
        compare(tag(), CompareOp::Eq, text("/cart")),
        compare(tag(), CompareOp::Ne, Literal::Str("/cart".to_owned())),
        compare(tag(), CompareOp::Ge, Literal::Int(500)),
        compare(Field::Duration, CompareOp::Gt, Literal::Double(0.5)),
        Filter::Exists(tag()),
        Filter::Matches { field: Field::Kind, pattern: Pattern::new("^s").unwrap() },
    ] {
        let pushed = ours(&filter);
        assert!(pushed.is_exact && pushed.query != Query::All, "{filter:?}");
        let negated = ours(&Filter::Not(Box::new(filter.clone())));
        assert!(negated.is_exact && negated.query != Query::All, "{filter:?}");
    }
}

#[test]
fn what_the_engine_cannot_decide_finds_more_and_says_so() {
    let long = "x".repeat(300);
    let tag = || attribute(Place::Span, "k");
    for filter in [
        Filter::Matches { field: Field::Operation, pattern: Pattern::new("a+").unwrap() },
        Filter::Matches { field: tag(), pattern: Pattern::new("a+").unwrap() },
        compare(tag(), CompareOp::Lt, text("5")),
        compare(tag(), CompareOp::Eq, text(&long)),
        compare(tag(), CompareOp::Eq, Literal::Int(i64::MAX)),
        compare(Field::Service, CompareOp::Eq, text(&long)),
    ] {
        assert!(!ours(&filter).is_exact, "{filter:?}");
        let negated = ours(&Filter::Not(Box::new(filter)));
        assert_eq!(negated, Pushed { query: Query::All, is_exact: false });
    }
}

#[test]
fn an_inexact_part_leaves_the_others_of_a_conjunction_and_takes_those_of_a_disjunction() {
    let exact = || compare(Field::Service, CompareOp::Eq, text("web"));
    let inexact =
        || Filter::Matches { field: Field::Operation, pattern: Pattern::new("a").unwrap() };
    let both = ours(&Filter::And(vec![exact(), inexact()]));
    assert!(!both.is_exact && asks_for(&both, "web"));
    let either = ours(&Filter::Or(vec![exact(), inexact()]));
    assert_eq!(either, Pushed { query: Query::All, is_exact: false });
    let neither = ours(&Filter::Not(Box::new(Filter::Or(vec![exact(), inexact()]))));
    assert!(!neither.is_exact && asks_for(&neither, "must_not"));
}

#[test]
fn what_can_never_hold_is_not_asked() {
    for filter in [
        compare(Field::Service, CompareOp::Ne, Literal::Int(1)),
        compare(Field::Duration, CompareOp::Eq, Literal::Double(0.5)),
        compare(attribute(Place::Span, "k"), CompareOp::Eq, Literal::Double(f64::NAN)),
        Filter::Exists(attribute(Place::Any, &"k".repeat(300))),
        Filter::Or(vec![]),
        Filter::Not(Box::new(Filter::And(vec![]))),
    ] {
        assert_eq!(ours(&filter), Pushed { query: Query::None, is_exact: true }, "{filter:?}");
    }
}

#[test]
fn the_widest_filter_stays_within_the_engines_clauses() {
    let leaf = |at: usize| Filter::Exists(attribute(Place::Any, &format!("k{at}")));
    let wide = Filter::And((0..255).map(leaf).collect());
    let pushed = ours(&wide);
    assert!(!pushed.is_exact);
    let terms = pushed.query.into_json().to_string().matches("\"term\"").count();
    assert!((100..1_000).contains(&terms), "{terms}");
}

#[test]
fn jaegers_documents_are_always_looked_at() {
    let filter = compare(attribute(Place::Any, "k"), CompareOp::Eq, text("v"));
    let unknown = push_down(&filter, Shape::Jaegers { tags_are_nested: false });
    assert_eq!(unknown, Pushed { query: Query::All, is_exact: false });
    let nested = push_down(&filter, Shape::Jaegers { tags_are_nested: true });
    assert!(!nested.is_exact && asks_for(&nested, "process.tags.value"));
    let service = compare(Field::Service, CompareOp::Eq, text("web"));
    let pushed = push_down(&service, Shape::Jaegers { tags_are_nested: false });
    assert!(!pushed.is_exact && asks_for(&pushed, "process.serviceName"));
    // Go prints it as 1e+21.
    let large = compare(attribute(Place::Span, "k"), CompareOp::Eq, text("1000000000000000000000"));
    let pushed = push_down(&large, Shape::Jaegers { tags_are_nested: true });
    assert!(!asks_for(&pushed, "tags.value"));
}

#[test]
fn one_zero_is_asked_for() {
    let filter = compare(attribute(Place::Span, "k"), CompareOp::Ge, Literal::Double(-0.0));
    let Query::Some(query) = ours(&filter).query else { panic!("a question") };
    let bound = query.pointer("/nested/query/bool/filter/1/range/tags.number/gte");
    assert_eq!(bound.and_then(Value::as_f64).map(f64::to_bits), Some(0));
}
