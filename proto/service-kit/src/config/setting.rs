//! The types that a value can have: how each is read from a node and written back.

mod words;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use trace_model::Region;

use super::tree::Node;

/// A type of value.
pub(super) trait Setting: Sized {
    /// What is wanted, as the end of "is missing: …".
    const WANTED: &'static str;

    /// Reads it; the error says what is wrong and what would be right.
    fn read(node: &Node) -> Result<Self, String>;

    /// As it would be written.
    fn show(&self) -> String;
}

/// Bytes, written as `64MiB`, `20 GiB` or a number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Bytes(pub(super) u64);

/// Where another process of ours listens: `http://host:port`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceUrl(String);

impl ServiceUrl {
    /// Checks a text. `host:port` alone is taken for `http`.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn new(text: &str) -> Result<Self, String> {
        let wrong = || format!("`{text}` is not an address; write {}", Self::WANTED);
        if text.starts_with("https://") {
            return Err("https between processes is not served yet; use http://".to_owned());
        }
        let authority = text.strip_prefix("http://").unwrap_or(text).trim_end_matches('/');
        let (host, port) = authority.rsplit_once(':').ok_or_else(wrong)?;
        let is_host = !host.is_empty() && host.bytes().all(|byte| byte.is_ascii_graphic());
        let is_plain = is_host && !host.contains(['/', '@', '?', '#']);
        let port = port.parse::<u16>().map_err(|_| wrong())?;
        if !is_plain || port == 0 {
            return Err(wrong());
        }
        Ok(Self(format!("http://{authority}")))
    }

    /// `http://host:port`.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Where an engine answers over HTTP or its own protocol: `http://host:port`, `https://…`,
/// `redis://…`. Credentials do not stand in it: they are in files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EngineUrl(String);

/// Schemes of engines' addresses.
const ENGINE_SCHEMES: [&str; 4] = ["http://", "https://", "redis://", "rediss://"];

impl EngineUrl {
    /// Checks a text.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn new(text: &str) -> Result<Self, String> {
        let rest = ENGINE_SCHEMES.iter().find_map(|scheme| text.strip_prefix(scheme));
        let authority = rest.and_then(|rest| rest.split('/').next()).unwrap_or_default();
        if authority.contains('@') {
            return Err("has credentials in an address: use `user` and `password_file`".to_owned());
        }
        let is_whole =
            !authority.is_empty() && authority.bytes().all(|byte| byte.is_ascii_graphic());
        if !is_whole {
            return Err(format!("`{text}` is not {}", Self::WANTED));
        }
        Ok(Self(text.trim_end_matches('/').to_owned()))
    }

    /// As written, without slashes at its end.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether it is spoken to over HTTP within TLS.
    #[must_use]
    pub fn is_https(&self) -> bool {
        self.0.starts_with("https://")
    }
}

/// Keys and texts that are handed through as they are, such as properties of a client library.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Properties(pub Vec<(String, String)>);

fn needs(wanted: &str, node: &Node) -> String {
    format!("needs {wanted}, and has {}", node.kind())
}

fn text_of<'a>(node: &'a Node, wanted: &str) -> Result<&'a str, String> {
    let Node::Text(text) = node else { return Err(needs(wanted, node)) };
    Ok(text)
}

/// A number with a unit behind, as `1.5h`; `units` are (suffix, factor).
fn with_unit(text: &str, units: &[(&str, f64)]) -> Option<f64> {
    let text = text.trim();
    let end = text.find(|character: char| !character.is_ascii_digit() && character != '.')?;
    let (number, unit) = text.split_at_checked(end)?;
    let factor = units.iter().find(|(suffix, _)| suffix.eq_ignore_ascii_case(unit.trim()))?.1;
    Some(number.parse::<f64>().ok()? * factor)
}

const DURATION_UNITS: [(&str, f64); 5] =
    [("ms", 0.001), ("s", 1.0), ("m", 60.0), ("h", 3_600.0), ("d", 86_400.0)];

impl Setting for Duration {
    const WANTED: &'static str = "a duration such as 500ms, 5s, 10m, 4h or 7d";

    fn read(node: &Node) -> Result<Self, String> {
        if let Node::Int(_) | Node::Float(_) = node {
            return Err(format!("needs a unit: {}", Self::WANTED));
        }
        let text = text_of(node, Self::WANTED)?;
        let seconds = with_unit(text, &DURATION_UNITS);
        seconds
            .and_then(|seconds| Self::try_from_secs_f64(seconds).ok())
            .ok_or_else(|| format!("`{text}` is not {}", Self::WANTED))
    }

    fn show(&self) -> String {
        let millis = self.as_millis();
        for (unit, factor) in [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1_000)] {
            if millis >= factor && millis.is_multiple_of(factor) {
                return format!("{}{unit}", millis / factor);
            }
        }
        format!("{millis}ms")
    }
}

const BYTE_UNITS: [(&str, f64); 8] = [
    ("B", 1.0),
    ("KB", 1e3),
    ("MB", 1e6),
    ("GB", 1e9),
    ("KiB", 1_024.0),
    ("MiB", 1_048_576.0),
    ("GiB", 1_073_741_824.0),
    ("TiB", 1_099_511_627_776.0),
];

impl Setting for Bytes {
    const WANTED: &'static str = "a size such as 512KiB, 64MiB or 20GiB";

    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a float-to-int cast saturates, and sizes beyond 2^53 bytes are refused by ranges"
    )]
    fn read(node: &Node) -> Result<Self, String> {
        if let Node::Int(number) = node {
            let bytes = u64::try_from(*number);
            return bytes.map(Self).map_err(|_| format!("{number} is not {}", Self::WANTED));
        }
        let text = text_of(node, Self::WANTED)?;
        let bytes = with_unit(text, &BYTE_UNITS);
        bytes
            .map(|bytes| Self(bytes as u64))
            .ok_or_else(|| format!("`{text}` is not {}", Self::WANTED))
    }

    fn show(&self) -> String {
        for (unit, shift) in [("TiB", 40_u32), ("GiB", 30), ("MiB", 20), ("KiB", 10)] {
            if self.0 > 0 && self.0.trailing_zeros() >= shift {
                return format!("{}{unit}", self.0 >> shift);
            }
        }
        self.0.to_string()
    }
}

impl Setting for bool {
    const WANTED: &'static str = "true or false";

    fn read(node: &Node) -> Result<Self, String> {
        let Node::Bool(value) = node else { return Err(needs(Self::WANTED, node)) };
        Ok(*value)
    }

    fn show(&self) -> String {
        self.to_string()
    }
}

impl Setting for u64 {
    const WANTED: &'static str = "a whole number";

    fn read(node: &Node) -> Result<Self, String> {
        let Node::Int(number) = node else { return Err(needs(Self::WANTED, node)) };
        Self::try_from(*number).map_err(|_| format!("{number} is not a whole number from 0 on"))
    }

    fn show(&self) -> String {
        self.to_string()
    }
}

impl Setting for u32 {
    const WANTED: &'static str = "a whole number";

    fn read(node: &Node) -> Result<Self, String> {
        let number = u64::read(node)?;
        Self::try_from(number).map_err(|_| format!("{number} is too large"))
    }

    fn show(&self) -> String {
        self.to_string()
    }
}

impl Setting for f64 {
    const WANTED: &'static str = "a number";

    fn read(node: &Node) -> Result<Self, String> {
        if let Node::Int(number) = node {
            return Ok(f64::from(i32::try_from(*number).unwrap_or(i32::MAX)));
        }
        let Node::Float(number) = node else { return Err(needs(Self::WANTED, node)) };
        Ok(*number)
    }

    fn show(&self) -> String {
        self.to_string()
    }
}

impl Setting for String {
    const WANTED: &'static str = "a text";

    fn read(node: &Node) -> Result<Self, String> {
        text_of(node, Self::WANTED).map(ToOwned::to_owned)
    }

    fn show(&self) -> String {
        self.clone()
    }
}

impl Setting for Vec<String> {
    const WANTED: &'static str = "a list of texts";

    fn read(node: &Node) -> Result<Self, String> {
        let Node::List(items) = node else {
            return Err(needs(Self::WANTED, node));
        };
        items.iter().map(|item| String::read(&item.value)).collect()
    }

    fn show(&self) -> String {
        format!("[{}]", self.join(", "))
    }
}

impl Setting for EngineUrl {
    const WANTED: &'static str = "an address such as http://127.0.0.1:9200";

    fn read(node: &Node) -> Result<Self, String> {
        Self::new(text_of(node, Self::WANTED)?)
    }

    fn show(&self) -> String {
        self.0.clone()
    }
}

impl Setting for Vec<EngineUrl> {
    const WANTED: &'static str = "a list of addresses such as http://127.0.0.1:9200";

    fn read(node: &Node) -> Result<Self, String> {
        let Node::List(items) = node else {
            return Err(needs(Self::WANTED, node));
        };
        items.iter().map(|item| EngineUrl::read(&item.value)).collect()
    }

    fn show(&self) -> String {
        let urls: Vec<_> = self.iter().map(EngineUrl::as_str).collect();
        format!("[{}]", urls.join(", "))
    }
}

impl Setting for Properties {
    const WANTED: &'static str = "keys with texts";

    fn read(node: &Node) -> Result<Self, String> {
        let Node::Map(entries) = node else { return Err(needs(Self::WANTED, node)) };
        let read = |(key, value): &(serde_saphyr::Spanned<String>, serde_saphyr::Spanned<Node>)| {
            let text = match &value.value {
                Node::Text(text) => text.clone(),
                Node::Int(number) => number.to_string(),
                Node::Bool(value) => value.to_string(),
                Node::Null | Node::Float(_) | Node::List(_) | Node::Map(_) => {
                    return Err(format!("{}: {}", key.value, needs("a text", &value.value)));
                }
            };
            Ok((key.value.clone(), text))
        };
        let mut lines = std::collections::BTreeMap::new();
        for (key, _) in entries {
            let line = key.referenced.line();
            if let Some(first) = lines.insert(key.value.as_str(), line) {
                return Err(format!("has `{}` twice, in lines {first} and {line}", key.value));
            }
        }
        entries.iter().map(read).collect::<Result<_, _>>().map(Self)
    }

    /// Names alone: a value may be a secret.
    fn show(&self) -> String {
        let keys: Vec<_> = self.0.iter().map(|(key, _)| key.as_str()).collect();
        format!("{{{}}}", keys.join(", "))
    }
}

impl Setting for Vec<Region> {
    const WANTED: &'static str = "a list of regions";

    fn read(node: &Node) -> Result<Self, String> {
        let Node::List(items) = node else {
            return Err(needs(Self::WANTED, node));
        };
        items.iter().map(|item| Region::read(&item.value)).collect()
    }

    fn show(&self) -> String {
        let names: Vec<_> = self.iter().map(Region::as_str).collect();
        format!("[{}]", names.join(", "))
    }
}

impl Setting for SocketAddr {
    const WANTED: &'static str = "an address to listen on, such as 127.0.0.1:4317";

    fn read(node: &Node) -> Result<Self, String> {
        let text = text_of(node, Self::WANTED)?;
        text.parse().map_err(|_| format!("`{text}` is not {}", Self::WANTED))
    }

    fn show(&self) -> String {
        self.to_string()
    }
}

impl Setting for PathBuf {
    const WANTED: &'static str = "a path";

    fn read(node: &Node) -> Result<Self, String> {
        let text = text_of(node, Self::WANTED)?;
        if text.is_empty() { Err("an empty path".to_owned()) } else { Ok(text.into()) }
    }

    fn show(&self) -> String {
        self.display().to_string()
    }
}

impl Setting for Region {
    const WANTED: &'static str = "a region such as eu-west-1";

    fn read(node: &Node) -> Result<Self, String> {
        let text = text_of(node, Self::WANTED)?;
        Self::new(text).map_err(|error| format!("`{text}` is {error}"))
    }

    fn show(&self) -> String {
        self.to_string()
    }
}

impl Setting for ServiceUrl {
    const WANTED: &'static str = "an address such as http://127.0.0.1:17400";

    fn read(node: &Node) -> Result<Self, String> {
        Self::new(text_of(node, Self::WANTED)?)
    }

    fn show(&self) -> String {
        self.0.clone()
    }
}
