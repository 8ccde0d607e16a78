//! Filters as people write them: `service = web and (duration > 100ms or not status = error)`.
//!
//! ```text
//! filter     = all { "or" all }
//! all        = part { "and" part }
//! part       = "not" part | "(" filter ")" | "exists" "(" field ")" | field op value
//! op         = "=" | "!=" | "<" | "<=" | ">" | ">=" | "=~" | "!~"
//! field      = service | operation | kind | status | status_message | duration
//!            | [ "span." | "resource." | "scope." | "event." | "link." ] key
//! ```
//!
//! A quoted value is a string and nothing else; a bare one finds strings, numbers and booleans that
//! print so. Durations are written with a unit.

use trace_model::Filter;
use trace_model::query::{CompareOp, FILTER_DEPTH_MAX, Field, Literal, Pattern, Place};

use super::params::parse_duration;
use super::reply::ApiError;

/// Longest filter text.
const TEXT_BYTES_MAX: usize = 4 << 10;

/// Reads a filter; says where it cannot be read.
pub(super) fn parse(text: &str) -> Result<Filter, ApiError> {
    if text.len() > TEXT_BYTES_MAX {
        return Err(ApiError::bad_request(format!("q is longer than {TEXT_BYTES_MAX} bytes")));
    }
    let tokens = tokens(text)?;
    let mut parser = Parser { tokens: &tokens, depth: 0 };
    let filter = parser.filter()?;
    if let Some(token) = parser.tokens.first() {
        return Err(unexpected(Some(token), "and, or, or the end"));
    }
    filter.check_size().map_err(|error| ApiError::bad_request(format!("q: {error}")))?;
    Ok(filter)
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Token {
    Word(String),
    Quoted(String),
    Op(&'static str),
    Open,
    Close,
}

const OPS: [&str; 8] = ["!=", "<=", ">=", "=~", "!~", "=", "<", ">"];

fn tokens(text: &str) -> Result<Vec<Token>, ApiError> {
    let mut tokens = Vec::new();
    let mut rest = text.trim_start();
    while let Some(first) = rest.chars().next() {
        let (token, after) = match first {
            '(' => (Token::Open, rest.strip_prefix('(').unwrap_or_default()),
            ')' => (Token::Close, rest.strip_prefix(')').unwrap_or_default()),
            '"' => quoted(rest)?,
            _ => match OPS.iter().find_map(|op| rest.strip_prefix(op).map(|after| (*op, after))) {
                Some((op, after)) => (Token::Op(op), after),
                None => word(rest)?,
            },
        };
        tokens.push(token);
        rest = after.trim_start();
    }
    Ok(tokens)
}

fn word(text: &str) -> Result<(Token, &str), ApiError> {
    let ends = |letter: char| letter.is_whitespace() || "()\"=!<>~".contains(letter);
    let (word, after) =
        text.split_at_checked(text.find(ends).unwrap_or(text.len())).unwrap_or_default();
    if word.is_empty() {
        return Err(ApiError::bad_request(format!("q: cannot read {:?}", text.chars().next())));
    }
    Ok((Token::Word(word.to_owned()), after))
}

/// A string in double quotes, with `\"` and `\\`.
fn quoted(text: &str) -> Result<(Token, &str), ApiError> {
    let mut content = String::new();
    let mut letters = text.char_indices().skip(1);
    while let Some((place, letter)) = letters.next() {
        match letter {
            '"' => {
                let after = text.get(place.saturating_add(1)..).unwrap_or_default();
                return Ok((Token::Quoted(content), after));
            }
            '\\' => content.extend(letters.next().map(|(_, escaped)| escaped)),
            other => content.push(other),
        }
    }
    Err(ApiError::bad_request("q: a quote is not closed"))
}

struct Parser<'a> {
    tokens: &'a [Token],
    depth: usize,
}

impl<'a> Parser<'a> {
    fn next(&mut self) -> Option<&'a Token> {
        let (first, rest) = self.tokens.split_first()?;
        self.tokens = rest;
        Some(first)
    }

    fn take_word(&mut self, word: &str) -> bool {
        let is_next = matches!(
            self.tokens.first(),
            Some(Token::Word(found)) if found.eq_ignore_ascii_case(word)
        );
        if is_next {
            self.next();
        }
        is_next
    }

    fn filter(&mut self) -> Result<Filter, ApiError> {
        self.depth = self.depth.saturating_add(1);
        if self.depth > FILTER_DEPTH_MAX {
            return Err(ApiError::bad_request("q: nested too deeply"));
        }
        let first = self.all()?;
        let mut parts = vec![first];
        while self.take_word("or") {
            parts.push(self.all()?);
        }
        self.depth = self.depth.saturating_sub(1);
        Ok(one_or(parts, Filter::Or))
    }

    fn all(&mut self) -> Result<Filter, ApiError> {
        let mut parts = vec![self.part()?];
        while self.take_word("and") {
            parts.push(self.part()?);
        }
        Ok(one_or(parts, Filter::And))
    }

    fn part(&mut self) -> Result<Filter, ApiError> {
        let mut is_negated = false;
        while self.take_word("not") {
            is_negated = !is_negated;
        }
        let filter = self.positive_part()?;
        Ok(if is_negated { Filter::Not(Box::new(filter)) } else { filter })
    }

    fn positive_part(&mut self) -> Result<Filter, ApiError> {
        match self.next() {
            Some(Token::Open) => {
                let filter = self.filter()?;
                self.close()?;
                Ok(filter)
            }
            Some(Token::Word(word)) if self.tokens.first() == Some(&Token::Open) => {
                if !word.eq_ignore_ascii_case("exists") {
                    return Err(unexpected(self.tokens.first(), "an operator"));
                }
                self.next();
                let field = self.field()?;
                self.close()?;
                Ok(Filter::Exists(field))
            }
            Some(Token::Word(word) | Token::Quoted(word)) => self.comparison(read_field(word)),
            other => Err(unexpected(other, "a field")),
        }
    }

    fn close(&mut self) -> Result<(), ApiError> {
        match self.next() {
            Some(Token::Close) => Ok(()),
            other => Err(unexpected(other, ")")),
        }
    }

    fn field(&mut self) -> Result<Field, ApiError> {
        match self.next() {
            Some(Token::Word(word) | Token::Quoted(word)) => Ok(read_field(word)),
            other => Err(unexpected(other, "a field")),
        }
    }

    fn comparison(&mut self, field: Field) -> Result<Filter, ApiError> {
        let op = match self.next() {
            Some(Token::Op(op)) => *op,
            other => return Err(unexpected(other, "an operator")),
        };
        let (value, is_quoted) = match self.next() {
            Some(Token::Word(value)) => (value, false),
            Some(Token::Quoted(value)) => (value, true),
            other => return Err(unexpected(other, "a value")),
        };
        let compare_op = match op {
            "=~" => return matches(field, value),
            "!~" => return Ok(Filter::Not(Box::new(matches(field, value)?))),
            "!=" => CompareOp::Ne,
            "<" => CompareOp::Lt,
            "<=" => CompareOp::Le,
            ">" => CompareOp::Gt,
            ">=" => CompareOp::Ge,
            _ => CompareOp::Eq,
        };
        let literal = literal(&field, value, is_quoted)?;
        Ok(Filter::Compare { field, op: compare_op, literal })
    }
}

fn one_or(mut parts: Vec<Filter>, join: impl Fn(Vec<Filter>) -> Filter) -> Filter {
    match parts.pop() {
        Some(only) if parts.is_empty() => only,
        Some(last) => {
            parts.push(last);
            join(parts)
        }
        None => Filter::All,
    }
}

fn matches(field: Field, pattern: &str) -> Result<Filter, ApiError> {
    let pattern =
        Pattern::new(pattern).map_err(|error| ApiError::bad_request(format!("q: {error}")))?;
    Ok(Filter::Matches { field, pattern })
}

/// The field that a name means.
pub(super) fn read_field(name: &str) -> Field {
    let attribute = |place, key: &str| Field::Attribute { place, key: key.to_owned() };
    match name {
        "service" | "service.name" => return Field::Service,
        "operation" | "name" => return Field::Operation,
        "kind" | "span.kind" => return Field::Kind,
        "status" => return Field::Status,
        "status_message" => return Field::StatusMessage,
        "duration" => return Field::Duration,
        _ => {}
    }
    for (prefix, place) in [
        ("span.", Place::Span),
        ("resource.", Place::Resource),
        ("scope.", Place::Scope),
        ("event.", Place::Event),
        ("link.", Place::Link),
    ] {
        if let Some(key) = name.strip_prefix(prefix) {
            return attribute(place, key);
        }
    }
    attribute(Place::Any, name)
}

fn literal(field: &Field, value: &str, is_quoted: bool) -> Result<Literal, ApiError> {
    if *field == Field::Duration {
        let duration = parse_duration(value).ok_or_else(|| {
            ApiError::bad_request("q: a duration needs a unit, such as 100ms or 1.5s")
        })?;
        let nanos = i64::try_from(duration.as_nanos()).unwrap_or(i64::MAX);
        return Ok(Literal::Int(nanos));
    }
    Ok(if is_quoted { Literal::Str(value.to_owned()) } else { Literal::Text(value.to_owned()) })
}

fn unexpected(found: Option<&Token>, wanted: &str) -> ApiError {
    let found = match found {
        None => "the end".to_owned(),
        Some(Token::Word(text) | Token::Quoted(text)) => {
            format!("{:?}", text.chars().take(40).collect::<String>())
        }
        Some(Token::Op(op)) => format!("{op:?}"),
        Some(Token::Open) => "\"(\"".to_owned(),
        Some(Token::Close) => "\")\"".to_owned(),
    };
    ApiError::bad_request(format!("q: found {found} where {wanted} was expected"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> String {
        format!("{:?}", parse(text).unwrap())
    }

    #[test]
    fn and_binds_closer_than_or_and_parentheses_closest() {
        assert_eq!(read("a=1 or b=2 and c=3"), read("a=1 or (b=2 and c=3)"));
        assert_ne!(read("a=1 or b=2 and c=3"), read("(a=1 or b=2) and c=3"));
    }

    #[test]
    fn fields_values_and_operators_mean_what_they_say() {
        let filter = parse("duration>=1.5s").unwrap();
        assert!(matches!(
            filter,
            Filter::Compare {
                field: Field::Duration,
                op: CompareOp::Ge,
                literal: Literal::Int(1_500_000_000)
            }
        ));
        let place = |text: &str| {
            let Filter::Exists(Field::Attribute { place, key }) = parse(text).unwrap() else {
                panic!("{text}")
            };
            (place, key)
        };
        assert_eq!(place("exists(resource.k8s.pod)"), (Place::Resource, "k8s.pod".to_owned()));
        assert_eq!(place("exists(http.method)"), (Place::Any, "http.method".to_owned()));
        assert!(read("a=500").contains("Text") && read("a=\"500\"").contains("Str"));
        assert!(matches!(parse("not a =~ \"^x|y$\"").unwrap(), Filter::Not(_)));
        let quoted = parse(r#"a = "say \"hi\"""#).unwrap();
        assert!(matches!(
            quoted,
            Filter::Compare { literal: Literal::Str(text), .. } if text == "say \"hi\""
        ));
    }

    #[test]
    fn what_cannot_be_read_is_refused_and_nesting_is_bounded() {
        for text in [
            "",
            "a",
            "a=",
            "=1",
            "a=1 b=2",
            "(a=1",
            "a=1)",
            "not",
            "exists(a",
            "a=\"x",
            "a=~\"(\"",
            "duration>5",
            "a==1",
            "foo(a)",
        ] {
            assert!(parse(text).is_err(), "{text}");
        }
        let deep = format!("{}a=1{}", "(".repeat(2_000), ")".repeat(2_000));
        assert!(parse(&deep).is_err());
        assert!(parse(&"not ".repeat(900)).is_err());
        assert!(parse(&vec!["a=1"; 300].join(" or ")).is_err());
    }
}
