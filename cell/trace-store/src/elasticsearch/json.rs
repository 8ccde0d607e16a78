//! JSON written by hand where every document passes: no tree, no second pass. Numbers are written
//! as the filter prints them, so that the engine's terms are its texts.

use std::fmt::Display;
use std::io::Write as _;

/// Appends a string.
pub(super) fn string(out: &mut Vec<u8>, text: &str) {
    out.push(b'"');
    let mut plain = text.as_bytes();
    while let Some(at) = plain.iter().position(|byte| *byte < 0x20 || matches!(byte, b'"' | b'\\'))
    {
        let (before, rest) = plain.split_at(at);
        out.extend_from_slice(before);
        let Some((special, after)) = rest.split_first() else { break };
        escape(out, *special);
        plain = after;
    }
    out.extend_from_slice(plain);
    out.push(b'"');
}

fn escape(out: &mut Vec<u8>, byte: u8) {
    match byte {
        b'"' => out.extend_from_slice(br#"\""#),
        b'\\' => out.extend_from_slice(br"\\"),
        b'\n' => out.extend_from_slice(br"\n"),
        b'\r' => out.extend_from_slice(br"\r"),
        b'\t' => out.extend_from_slice(br"\t"),
        other => out.extend_from_slice(format!("\\u{other:04x}").as_bytes()),
    }
}

/// Appends a number.
pub(super) fn number(out: &mut Vec<u8>, number: impl Display) {
    let _infallible = write!(out, "{number}");
}

/// Appends what stands between two parts, but not before the first.
pub(super) fn comma(out: &mut Vec<u8>) {
    if !matches!(out.last(), None | Some(b'[' | b'{' | b':')) {
        out.push(b',');
    }
}

/// Appends `"key":`, which needs no escape.
pub(super) fn key(out: &mut Vec<u8>, key: &str) {
    comma(out);
    out.push(b'"');
    out.extend_from_slice(key.as_bytes());
    out.extend_from_slice(b"\":");
}

/// Appends `"key":"text"`.
pub(super) fn text_field(out: &mut Vec<u8>, name: &str, text: &str) {
    key(out, name);
    string(out, text);
}

/// Appends `"key":number`.
pub(super) fn number_field(out: &mut Vec<u8>, name: &str, value: impl Display) {
    key(out, name);
    number(out, value);
}

/// Bytes in lower-case hex.
pub(super) fn hex(bytes: &[u8]) -> String {
    const DIGITS: [char; 16] =
        ['0', '1', '2', '3', '4', '5', '6', '7', '8', '9', 'a', 'b', 'c', 'd', 'e', 'f'];
    let digit = |nibble: u8| DIGITS.get(usize::from(nibble)).copied().unwrap_or('0');
    bytes.iter().flat_map(|byte| [digit(byte >> 4), digit(byte & 15)]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_text_comes_back() {
        let all: String = (0..0x2000).filter_map(char::from_u32).collect();
        for text in ["", "plain", "\"", "a\\", "\u{0}\u{1f}", "\n\r\t", "ü😀", &all] {
            let mut out = Vec::new();
            string(&mut out, text);
            assert_eq!(serde_json::from_slice::<String>(&out).unwrap(), text);
        }
    }

    #[test]
    fn commas_stand_between_parts_alone() {
        let mut out = b"{".to_vec();
        text_field(&mut out, "a", "x");
        number_field(&mut out, "b", -7);
        assert_eq!(out, br#"{"a":"x","b":-7"#);
        assert_eq!(hex(&[0, 255, 16]), "00ff10");
    }
}
