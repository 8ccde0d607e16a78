//! Names, keys and values that mean harm, for every engine alike.

use std::collections::BTreeSet;

/// Longer than a key may be in any of the engines (65,535 bytes in Cassandra, 32,766 in Lucene).
pub(crate) const LONG: usize = 70 << 10;
/// As long as a sender may well make it.
pub(crate) const HUGE: usize = 1 << 20;

/// Each once, none empty. Those at the end are long, and alike but for their last character.
pub(crate) fn texts() -> Vec<String> {
    let mut texts: Vec<String> = [
        "'",
        "''",
        "\"",
        "`",
        "\\",
        "\\'",
        "\\\\",
        "\\0",
        "\0",
        "a\0b",
        "\u{1}",
        "\u{1}more",
        "\u{1}00000000000000000000000000000000",
        "\u{7f}\u{1b}[2J\u{85}",
        "\r\n\t",
        " ",
        // What a reader of other encodings may take for something else.
        "\u{feff}bom",
        "\u{fffd}",
        "\u{fffe}\u{ffff}",
        "\u{d7ff}\u{e000}\u{10ffff}",
        "Ã(",
        "À¯",
        "\u{202e}live\u{202c}",
        "e\u{301}",
        "é",
        "🦀👩\u{200d}🚀",
        "日本語",
        "'; DROP TABLE otel_traces; --",
        "'; DROP TABLE spans; --",
        "\\\\'; DROP DATABASE system; --",
        "x' OR '1'='1",
        "' ALLOW FILTERING; TRUNCATE farspan.spans; --",
        "$$ ; APPLY BATCH; $$",
        "/* */",
        "{tenant:String}",
        "{}",
        "??",
        ":name",
        "%s%n%00",
        "NULL",
        "\\N",
        "[1,2]",
        "FORMAT CSV",
        "../../etc/passwd",
        "_id",
        "*",
        "a.b__c.*",
        "}\n{\"delete\":{\"_index\":\"*\"}}\n",
        r#"","_id":"x"}}"#,
    ]
    .map(str::to_owned)
    .to_vec();
    for (unit, length) in [("x", LONG), ("'\\", LONG), ("🦀", LONG), ("y", HUGE)] {
        let long = unit.repeat(length / unit.len());
        texts.extend([format!("{long}1"), format!("{long}2")]);
    }
    assert_eq!(texts.iter().collect::<BTreeSet<_>>().len(), texts.len());
    texts
}

/// Bytes of a span's attribute whose key is no UTF-8. A collector refuses such a span, which checks every
/// text; a batch that was built by others may have it, for its header can be read.
pub(crate) const NO_UTF_8: [u8; 6] = [0x4a, 4, 0x0a, 2, 0xff, 0xfe];
