//! Which web pages may let a browser send spans here.
//!
//! A browser SDK posts to another origin, so its page's origin must be allowed. Nothing can be read
//! here, credentials are not used, and by default only pages of the same machine are allowed: any
//! page on the internet could otherwise write into a developer's traces.

use std::time::Duration;

use http::{HeaderValue, Method};
use tower_http::cors::{AllowHeaders, AllowOrigin, CorsLayer};

/// How long a browser may remember the answer.
const REMEMBERED: Duration = Duration::from_secs(7_200);

/// The layer for these origins: exact, with any port (`…:*`), or any (`*`).
pub(crate) fn layer(origins: &[String]) -> CorsLayer {
    let origins = origins.to_vec();
    CorsLayer::new()
        .allow_origin(AllowOrigin::predicate(move |origin, _head| {
            origins.iter().any(|pattern| is_allowed(pattern, origin))
        }))
        .allow_methods([Method::POST])
        .allow_headers(AllowHeaders::mirror_request())
        .max_age(REMEMBERED)
}

fn is_allowed(pattern: &str, origin: &HeaderValue) -> bool {
    let Ok(origin) = origin.to_str() else { return false };
    if pattern == "*" {
        return true;
    }
    let Some(host) = pattern.strip_suffix(":*") else { return pattern == origin };
    let port = origin.strip_prefix(host).and_then(|rest| rest.strip_prefix(':'));
    port.is_some_and(|port| !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_allows_what_it_says_and_nothing_that_only_starts_like_it() {
        for (pattern, origin, expected) in [
            ("*", "https://any.example", true),
            ("https://a.example", "https://a.example", true),
            ("https://a.example", "https://a.example.evil", false),
            ("http://localhost:*", "http://localhost:3000", true),
            ("http://localhost:*", "http://localhost", false),
            ("http://localhost:*", "http://localhost:", false),
            ("http://localhost:*", "http://localhost:80.evil.example", false),
            ("http://localhost:*", "http://localhost.evil:80", false),
        ] {
            let header = HeaderValue::from_static(origin);
            assert_eq!(is_allowed(pattern, &header), expected, "{pattern} {origin}");
        }
    }
}
