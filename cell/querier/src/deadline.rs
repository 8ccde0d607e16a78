//! The time that a caller allows, from the header `grpc-timeout` (gRPC over HTTP/2: at most eight
//! digits and one of the units `H M S m u n`).

use std::time::Duration;

use tonic::metadata::MetadataMap;

/// The time that this query may take: the caller's, at most `time_max`. A header that is not one
/// counts as none.
pub(crate) fn allowed_time(metadata: &MetadataMap, time_max: Duration) -> Duration {
    let header = metadata.get("grpc-timeout").and_then(|value| value.to_str().ok());
    header.and_then(parse).map_or(time_max, |asked| asked.min(time_max))
}

fn parse(header: &str) -> Option<Duration> {
    let unit = header.bytes().last()?;
    let digits = header.strip_suffix(char::from(unit))?;
    if digits.is_empty() || digits.len() > 8 || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let count: u64 = digits.parse().ok()?;
    match unit {
        b'H' => Some(Duration::from_secs(count.saturating_mul(3_600))),
        b'M' => Some(Duration::from_secs(count.saturating_mul(60))),
        b'S' => Some(Duration::from_secs(count)),
        b'm' => Some(Duration::from_millis(count)),
        b'u' => Some(Duration::from_micros(count)),
        b'n' => Some(Duration::from_nanos(count)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_callers_deadline_shortens_ours_and_never_stretches_it() {
        let longest = Duration::from_secs(60);
        for (header, expected) in [
            ("250m", Duration::from_millis(250)),
            ("2S", Duration::from_secs(2)),
            ("99999999H", longest),
            ("7M", longest),
            ("1M", longest),
            ("5u", Duration::from_micros(5)),
            ("5n", Duration::from_nanos(5)),
            ("", longest),
            ("m", longest),
            ("-5S", longest),
            ("123456789S", longest),
            ("5x", longest),
        ] {
            let mut metadata = MetadataMap::new();
            metadata.insert("grpc-timeout", header.parse().unwrap());
            assert_eq!(allowed_time(&metadata, longest), expected, "{header}");
        }
        assert_eq!(allowed_time(&MetadataMap::new(), longest), longest);
    }
}
