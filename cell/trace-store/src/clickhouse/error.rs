//! What the engine says, in the store's words.
//!
//! Whatever does not say that a question or a record is at fault may pass: it is told as not
//! available, so that nothing is thrown away because of an engine's state.

use clickhouse::error::Error;

use crate::causes::words_of;
use crate::port::StoreError;

/// Codes (ClickHouse `ErrorCodes.cpp`) that say that there is no room.
const FULL: [u32; 1] = [
    243, // NOT_ENOUGH_SPACE
];
/// … that an answer would be too large or take too long for the limits of a question.
const TOO_MUCH: [u32; 4] = [
    158, // TOO_MANY_ROWS
    241, // MEMORY_LIMIT_EXCEEDED
    307, // TOO_MANY_BYTES
    396, // TOO_MANY_ROWS_OR_BYTES
];
/// … that the engine answers as many as it can.
const BUSY: [u32; 1] = [
    202, // TOO_MANY_SIMULTANEOUS_QUERIES
];
/// … that something that is stored cannot be read.
const DAMAGED: [u32; 3] = [
    40,  // CHECKSUM_DOESNT_MATCH
    246, // CORRUPTED_DATA
    228, // UNEXPECTED_FILE_IN_DATA_PART
];

/// … that the engine does not know who asks, or does not let them.
const LOGIN: [u32; 6] = [
    192, // UNKNOWN_USER
    193, // WRONG_PASSWORD
    194, // REQUIRED_PASSWORD
    195, // IP_ADDRESS_NOT_ALLOWED
    497, // ACCESS_DENIED
    516, // AUTHENTICATION_FAILED
];

/// What the first word to an engine failed with: a person must mend a login that is refused. Later
/// it may pass, since the engine's users change.
pub(super) fn of_greeting(error: &Error) -> StoreError {
    match code_of(error) {
        Some(code) if LOGIN.contains(&code) => StoreError::Unsupported(text_of(error)),
        Some(_) | None => of_statement(error),
    }
}

/// What a question was refused or failed with.
pub(super) fn of_question(error: &Error) -> StoreError {
    // "Memory limit (total)" is the engine's own, which others have used up.
    let is_own_limit = || !error.to_string().contains("(total)");
    match code_of(error) {
        Some(code) if TOO_MUCH.contains(&code) && is_own_limit() => {
            StoreError::Unsupported(text_of(error))
        }
        Some(_) | None => of_statement(error),
    }
}

/// What an insert or a definition failed with.
pub(super) fn of_statement(error: &Error) -> StoreError {
    match code_of(error) {
        Some(code) if FULL.contains(&code) => StoreError::Full,
        Some(code) if BUSY.contains(&code) => StoreError::Busy,
        Some(code) if DAMAGED.contains(&code) => StoreError::Damaged(text_of(error)),
        Some(_) | None => StoreError::Unavailable(text_of(error)),
    }
}

/// The engine's code for what went wrong, if it was the engine that said so.
fn code_of(error: &Error) -> Option<u32> {
    let Error::BadResponse(text) = error else { return None };
    let (_, rest) = text.split_once("Code: ")?;
    let digits = rest.split(|character: char| !character.is_ascii_digit()).next()?;
    digits.parse().ok()
}

/// The error with its causes, short: an engine may repeat a whole statement in it.
fn text_of(error: &Error) -> String {
    const LENGTH_MAX: usize = 400;
    let mut text = format!("clickhouse: {}", words_of(error));
    if text.len() > LENGTH_MAX {
        text = text.chars().take(LENGTH_MAX).chain("…".chars()).collect();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(code: u32) -> Error {
        Error::BadResponse(format!("Code: {code}. DB::Exception: words (NAME) (version 26.9)"))
    }

    #[test]
    fn an_engines_code_decides_and_what_is_unknown_may_pass() {
        let is = |error: &StoreError, wanted: &str| format!("{error:?}").starts_with(wanted);
        for (code, question, statement) in [
            (396, "Unsupported", "Unavailable"),
            (241, "Unsupported", "Unavailable"),
            (243, "Full", "Full"),
            (202, "Busy", "Busy"),
            (246, "Damaged", "Damaged"),
            (159, "Unavailable", "Unavailable"),
            (60, "Unavailable", "Unavailable"),
            (9_999, "Unavailable", "Unavailable"),
        ] {
            assert!(is(&of_question(&said(code)), question), "{code}");
            assert!(is(&of_statement(&said(code)), statement), "{code}");
        }
        for code in LOGIN {
            assert!(!of_greeting(&said(code)).is_retryable(), "{code}");
            assert!(of_statement(&said(code)).is_retryable(), "{code}");
        }
        assert!(
            of_greeting(&said(999)).is_retryable() && of_greeting(&Error::TimedOut).is_retryable()
        );
        let total = "Code: 241. DB::Exception: Memory limit (total) exceeded";
        assert!(of_question(&Error::BadResponse(total.to_owned())).is_retryable());
        assert!(of_question(&Error::TimedOut).is_retryable());
        let long = of_statement(&Error::BadResponse("x".repeat(10_000)));
        assert!(long.to_string().len() < 600);
    }
}
