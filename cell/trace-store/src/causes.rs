//! What an engine's client says went wrong, whole: many name the cause in the source alone.

use std::error::Error;

/// The error's words and those of its causes, each once.
pub(crate) fn words_of(error: &dyn Error) -> String {
    let mut words = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let more = cause.to_string();
        if !words.contains(&more) {
            words.push_str(": ");
            words.push_str(&more);
        }
        source = cause.source();
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("{words}")]
    struct Link {
        words: &'static str,
        source: Option<Box<Link>>,
    }

    #[test]
    fn each_cause_is_named_once() {
        let link = |words, source: Option<Link>| Link { words, source: source.map(Box::new) };
        let chain =
            link("send", Some(link("connect", Some(link("send", Some(link("refused", None)))))));
        assert_eq!(words_of(&chain), "send: connect: refused");
    }
}
