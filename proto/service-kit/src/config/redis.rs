//! Where the gateways of a region share what they share.

use std::time::Duration;

use super::credentials::{Credentials, Encryption, read_credentials};
use super::section::Section;
use super::setting::EngineUrl;

/// Redis.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RedisConfig {
    /// Its host.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// Who we are; with `tls`, that is spoken.
    pub credentials: Credentials,
    /// Put before every key.
    pub prefix: String,
    /// Until a call must be answered.
    pub timeout: Duration,
    /// Until a connection must stand.
    pub connect_timeout: Duration,
}

/// The section `redis`: `Some(None)` where it is not written, `None` where it has faults.
pub(super) fn read_redis(root: &mut Section<'_>) -> Option<Option<RedisConfig>> {
    if !root.has("redis") {
        // So that the key is known.
        root.section("redis").finish();
        return Some(None);
    }
    let mut section = root.section("redis");
    let url = section.required::<EngineUrl>("url");
    let address = url.and_then(|url| match address(url.as_str()) {
        Ok(address) => Some(address),
        Err(fault) => {
            section.refuse("url", &fault);
            None
        }
    });
    let (millis, seconds) = (Duration::from_millis, Duration::from_secs);
    let encryption = Encryption {
        is_on: address.as_ref().is_none_or(|(_, _, is_tls)| *is_tls),
        words: "`rediss://`",
        needs_authority: address.is_some(),
    };
    let credentials = read_credentials(&mut section, &encryption);
    let prefix = section.value("prefix", "farspan".to_owned());
    let timeout = section.within("timeout", millis(100), millis(5)..=seconds(2));
    let connect_timeout = section.within("connect_timeout", seconds(1), millis(10)..=seconds(30));
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.:".contains(&byte);
    if !prefix.bytes().all(is_plain) || !(1..=60).contains(&prefix.len()) {
        section.refuse("prefix", "is 1 to 60 letters, digits, dashes, underscores, dots, colons");
    }
    section.finish();
    let (host, port, _) = address?;
    let config = RedisConfig { host, port, credentials, prefix, timeout, connect_timeout };
    Some(Some(config))
}

/// Host, port, and whether TLS is spoken.
fn address(url: &str) -> Result<(String, u16, bool), String> {
    let wrong = || format!("`{url}` is not redis://host:port or rediss://host:port");
    let (scheme, authority) = url.split_once("://").ok_or_else(wrong)?;
    let is_tls = match scheme {
        "redis" => false,
        "rediss" => true,
        _ => return Err(wrong()),
    };
    if authority.contains('/') {
        return Err(format!("`{url}` names a path: databases by number are not served"));
    }
    let (host, port) = authority.rsplit_once(':').ok_or_else(wrong)?;
    let port = port.parse::<u16>().ok().filter(|port| *port > 0).ok_or_else(wrong)?;
    let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    let host = bare.unwrap_or(host);
    if host.is_empty()
        || host.contains(['[', ']', '?', '#'])
        || (bare.is_none() && host.contains(':'))
    {
        return Err(wrong());
    }
    Ok((host.to_owned(), port, is_tls))
}

#[cfg(test)]
mod tests {
    use super::super::{Config, GatewayConfig, parse};
    use super::*;

    const GATEWAY: &str = "kind: gateway
region: eu
replicator: h:1
cells: [{region: eu, address: h:2}]
";

    fn gateway(text: &str) -> GatewayConfig {
        let Config::Gateway(config) = parse("g.yaml", &format!("{GATEWAY}{text}")).unwrap().config
        else {
            panic!("not a gateway")
        };
        *config
    }

    fn faults(text: &str) -> Vec<(u64, String)> {
        let faults = parse("g.yaml", &format!("{GATEWAY}{text}")).unwrap_err();
        faults.list().iter().map(|fault| (fault.line, fault.to_string())).collect()
    }

    #[test]
    fn without_the_section_nothing_is_shared() {
        let config = gateway("");
        assert_eq!((config.redis, config.rate_limit.gateways), (None, 1));
    }

    #[test]
    fn an_address_and_the_number_of_gateways_are_enough() {
        let text = "redis: {url: 'redis://[::1]:6379/'}\nrate_limit: {gateways: 1}\n";
        let redis = gateway(text).redis.unwrap();
        assert_eq!((redis.host.as_str(), redis.port), ("::1", 6_379));
        assert_eq!((redis.prefix.as_str(), redis.timeout.as_millis()), ("farspan", 100));
        assert_eq!(redis.credentials, Credentials::default());
    }

    #[test]
    fn everything_can_be_said() {
        let config = gateway(
            "redis:
  url: rediss://cache.internal:6380
  ca_file: ca.pem
  user: default
  password_file: password
  prefix: tracing:eu
  timeout: 20ms
  connect_timeout: 2s
rate_limit: {gateways: 3}
",
        );
        let redis = config.redis.unwrap();
        assert_eq!((redis.host.as_str(), redis.port), ("cache.internal", 6_380));
        assert_eq!(redis.credentials.tls.unwrap().ca_file.to_str(), Some("ca.pem"));
        assert_eq!(redis.credentials.user.as_deref(), Some("default"));
        assert_eq!(redis.timeout, Duration::from_millis(20));
        assert_eq!(config.rate_limit.gateways, 3);
    }

    #[test]
    fn every_fault_is_told_with_its_line() {
        let found = faults(
            "redis:
  url: http://h:1
  ca_file: ca.pem
  user: me
  prefix: 'a b'
  timeout: 1ms
  lists: 3
",
        );
        let has = |line: u64, text: &str| {
            found.iter().any(|(found, fault)| *found == line && fault.contains(text))
        };
        assert!(has(6, "redis.url: `http://h:1` is not redis://host:port"), "{found:?}");
        assert!(has(6, "password_file: goes with `user`"), "{found:?}");
        assert!(has(9, "redis.prefix"), "{found:?}");
        assert!(has(10, "redis.timeout: 1ms is not within 5ms to 2s"), "{found:?}");
        assert!(has(11, "redis.lists: is not known"), "{found:?}");
        let shared = |text: &str| faults(&format!("{text}rate_limit: {{gateways: 2}}\n"));
        let one = |text: &str| {
            let found = shared(text);
            assert_eq!(found.len(), 1, "{found:?}");
            found[0].1.clone()
        };
        assert!(one("redis: {url: 'rediss://h:1'}\n").contains("redis.ca_file: is missing"));
        let plain = one("redis: {url: 'redis://h:1', ca_file: x}\n");
        assert!(plain.contains("redis.ca_file: has no effect"), "{plain}");
        assert!(one("redis: {url: 'redis://me:secret@h:1'}\n").contains("credentials"));
        assert!(one("redis: {url: 'redis://h:1/3'}\n").contains("databases by number"));
        assert!(one("redis: {url: 'redis://h'}\n").contains("is not redis://host:port"));
        assert!(one("redis: {}\n").contains("redis.url: is missing"));
    }

    #[test]
    fn gateways_that_share_a_redis_say_how_many_they_are_and_one_alone_does_not() {
        for more in ["", "rate_limit: {per_second: 10}\n"] {
            let found = faults(&format!("redis: {{url: 'redis://h:1'}}\n{more}"));
            assert_eq!(found.len(), 1, "{found:?}");
            let (line, words) = &found[0];
            assert_eq!(*line, 5, "{words}");
            assert!(
                words.contains("redis: needs `rate_limit.gateways`: how many gateways"),
                "{words}"
            );
        }
        let alone = faults("rate_limit: {gateways: 3}\n").pop().unwrap().1;
        assert!(alone.contains("rate_limit.gateways: has no effect without `redis`"), "{alone}");
    }
}
