//! Interning of parts' tags and keys (tokens), and of their sequences (templates) in a trie.
//!
//! Spans of one kind follow one another, so each node remembers the child taken last: a span that
//! repeats its predecessor's template costs one comparison a part and no hashing.

use hashbrown::HashTable;
use rustc_hash::FxHashMap;
use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::template::{Code, Part, Tag};

/// Tokens and nodes at which a span is kept whole instead: a bound against senders whose attribute
/// keys never repeat.
const TOKENS_MAX: usize = 2_048;
const NODES_MAX: usize = 65_536;

/// What a token stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Token {
    pub(crate) tag: Tag,
    pub(crate) key: Box<[u8]>,
}

impl Token {
    fn is_of(&self, part: &Part<'_>) -> bool {
        self.tag == part.tag && *self.key == *part.key
    }

    fn hash(tag: Tag, key: &[u8]) -> u64 {
        xxh3_64_with_seed(key, u64::from(tag.code as u8) << 8 | u64::from(tag.argument))
    }
}

#[derive(Clone, Copy, Debug)]
struct Node {
    token: u32,
    parent: u32,
    guess: u32,
}

/// The trie's root: the template of a span without a part.
pub(crate) const ROOT: u32 = 0;

/// Tokens and templates seen so far.
#[derive(Debug)]
pub(crate) struct TokenTable {
    tokens: Vec<Token>,
    by_name: HashTable<u32>,
    nodes: Vec<Node>,
    children: FxHashMap<(u32, u32), u32>,
}

impl TokenTable {
    /// A table that knows the span kept whole: where no new template has room, that one has.
    pub(crate) fn new() -> Self {
        let mut table = Self {
            tokens: Vec::new(),
            by_name: HashTable::new(),
            nodes: vec![Node { token: u32::MAX, parent: ROOT, guess: ROOT }],
            children: FxHashMap::default(),
        };
        let tag = Tag { code: Code::Whole, argument: 0 };
        let whole = table.child(ROOT, &Part { tag, key: &[], text: &[], number: 0 });
        debug_assert!(whole.is_some(), "an empty table has room");
        table
    }

    /// More than half of the room is used: time to begin anew, between two blocks.
    pub(crate) fn is_crowded(&self) -> bool {
        self.tokens.len() > TOKENS_MAX / 2 || self.nodes.len() > NODES_MAX / 2
    }

    pub(crate) fn token(&self, token: u32) -> Option<&Token> {
        self.tokens.get(token as usize)
    }

    /// Finds the template of the parts; writes its tokens. `None` where there is no room for a new
    /// one.
    pub(crate) fn resolve(&mut self, parts: &[Part<'_>], tokens: &mut Vec<u32>) -> Option<u32> {
        tokens.clear();
        let mut node = ROOT;
        for part in parts {
            node = match self.guessed(node, part) {
                Some(child) => child,
                None => self.child(node, part)?,
            };
            tokens.push(self.nodes.get(node as usize)?.token);
        }
        Some(node)
    }

    #[inline]
    fn guessed(&self, node: u32, part: &Part<'_>) -> Option<u32> {
        let guess = self.nodes.get(node as usize)?.guess;
        let token = self.nodes.get(guess as usize)?.token;
        self.tokens.get(token as usize)?.is_of(part).then_some(guess)
    }

    fn child(&mut self, node: u32, part: &Part<'_>) -> Option<u32> {
        let token = self.intern(part)?;
        let next = u32::try_from(self.nodes.len()).ok()?;
        let child = match self.children.get(&(node, token)) {
            Some(child) => *child,
            None if self.nodes.len() >= NODES_MAX => return None,
            None => {
                self.children.insert((node, token), next);
                self.nodes.push(Node { token, parent: node, guess: ROOT });
                next
            }
        };
        self.nodes.get_mut(node as usize)?.guess = child;
        Some(child)
    }

    fn intern(&mut self, part: &Part<'_>) -> Option<u32> {
        let hash = Token::hash(part.tag, part.key);
        let tokens = &self.tokens;
        let same = |token: &u32| tokens.get(*token as usize).is_some_and(|token| token.is_of(part));
        if let Some(token) = self.by_name.find(hash, same) {
            return Some(*token);
        }
        if self.tokens.len() >= TOKENS_MAX {
            return None;
        }
        let token = u32::try_from(self.tokens.len()).ok()?;
        self.tokens.push(Token { tag: part.tag, key: part.key.into() });
        let tokens = &self.tokens;
        self.by_name.insert_unique(hash, token, |token| {
            tokens.get(*token as usize).map_or(0, |token| Token::hash(token.tag, &token.key))
        });
        Some(token)
    }

    /// The tokens of a template, in order.
    pub(crate) fn tokens_of(&self, template: u32) -> Vec<u32> {
        let mut tokens = Vec::new();
        let mut at = template;
        while at != ROOT {
            let Some(node) = self.nodes.get(at as usize) else { break };
            tokens.push(node.token);
            at = node.parent;
        }
        tokens.reverse();
        tokens
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn part<'a>(code: Code, key: &'a [u8]) -> Part<'a> {
        Part { tag: Tag { code, argument: 0 }, key, text: &[], number: 0 }
    }

    #[test]
    fn a_template_is_found_again_and_gives_its_tokens_back() {
        let mut table = TokenTable::new();
        let (mut first, mut again) = (Vec::new(), Vec::new());
        let parts = [part(Code::Name, b""), part(Code::Text, b"a"), part(Code::Text, b"a")];
        let template = table.resolve(&parts, &mut first).unwrap();
        let other = table.resolve(&parts[..2], &mut again).unwrap();
        assert_ne!(template, other);
        assert_eq!(table.resolve(&parts, &mut again), Some(template));
        assert_eq!(first, again);
        assert_eq!(table.tokens_of(template), first);
        assert_eq!(first[1], first[2]);
    }

    #[test]
    fn a_full_table_refuses_new_templates_and_still_takes_a_whole_span() {
        let mut table = TokenTable::new();
        let mut tokens = Vec::new();
        let refused = (0..10_000).find(|number| {
            let key = format!("key.{number}");
            table.resolve(&[part(Code::Text, key.as_bytes())], &mut tokens).is_none()
        });
        assert!(refused.is_some() && table.is_crowded());
        assert!(table.resolve(&[part(Code::Whole, b"")], &mut tokens).is_some());
        assert_eq!(tokens.len(), 1);
    }
}
