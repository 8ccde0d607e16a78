//! The gateway's JSON as this binary reads it: tolerant, so that a newer gateway's additions and
//! an older one's lacks do not stop anybody. Numbers may be text (protobuf's JSON of 64 bits).

use serde::{Deserialize, Deserializer};

/// Whether an answer is whole, and what each region had to say.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct CertificateAnswer {
    /// `complete` or `partial`.
    pub(super) verdict: String,
    /// The line for people.
    pub(super) text: String,
    /// Each region's part.
    pub(super) regions: Vec<RegionPart>,
}

/// One region's part in an answer.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct RegionPart {
    /// The region.
    pub(super) region: String,
    /// What it had to say.
    pub(super) outcome: String,
    /// Why it did not answer.
    pub(super) reason: Option<String>,
}

impl CertificateAnswer {
    /// Whether the gateway says that nothing is missing. Silence is no such word.
    pub(super) fn is_complete(&self) -> bool {
        self.verdict == "complete"
    }

    /// The line for people, with the reason of each region that gave one.
    pub(super) fn lines(&self) -> Vec<String> {
        let fallback = || "partial: the gateway sent no certificate".to_owned();
        let text = if self.text.is_empty() { fallback() } else { super::table::clean(&self.text) };
        let reasons = self.regions.iter().filter_map(|part| {
            let reason = part.reason.as_deref().filter(|reason| !reason.is_empty())?;
            Some(format!("  {} {}: {reason}", part.region, part.outcome))
        });
        let reasons = reasons.map(|line| super::table::clean(&line));
        std::iter::once(text).chain(reasons).collect()
    }
}

/// Reads a whole number that may be text, or be absent.
pub(super) fn number<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
    Ok(match serde_json::Value::deserialize(deserializer)? {
        serde_json::Value::Number(number) => number.as_u64().unwrap_or(0),
        serde_json::Value::String(text) => text.parse().unwrap_or(0),
        serde_json::Value::Null
        | serde_json::Value::Bool(_)
        | serde_json::Value::Array(_)
        | serde_json::Value::Object(_) => 0,
    })
}

/// Reads a whole number that may be text, or be absent or `null`.
pub(super) fn optional<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<u64>, D::Error> {
    Ok(match serde_json::Value::deserialize(deserializer)? {
        serde_json::Value::Number(number) => number.as_u64(),
        serde_json::Value::String(text) => text.parse().ok(),
        serde_json::Value::Null
        | serde_json::Value::Bool(_)
        | serde_json::Value::Array(_)
        | serde_json::Value::Object(_) => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_certificate_is_never_complete() {
        let silent: CertificateAnswer = serde_json::from_str("{}").unwrap();
        assert!(!silent.is_complete());
        assert!(silent.lines()[0].starts_with("partial"));
    }

    #[test]
    fn reasons_stand_below_the_line() {
        let json = r#"{"verdict":"partial","text":"partial: 1 of 2 regions; missing b (timed_out)",
            "new":1,"regions":[{"region":"b","outcome":"timed_out","reason":"2 s over"}]}"#;
        let certificate: CertificateAnswer = serde_json::from_str(json).unwrap();
        let lines = certificate.lines();
        assert_eq!(lines.len(), 2);
        assert_eq!(lines[1], "  b timed_out: 2 s over");
    }
}
