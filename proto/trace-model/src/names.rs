//! Tenants and regions: names that are part of every key, checked once at the edge.

use std::fmt;
use std::sync::Arc;

/// A tenant, from the header `X-Scope-OrgID`. 1 to 150 characters of `A-Za-z0-9!-_.*'()`, and
/// neither `.` nor `..` (the rules of Mimir, Loki and Tempo).
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TenantId(Arc<str>);

/// A region, for example `eu-west-1`: 1 to 63 of `a-z0-9-`, not at either end a dash.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Region(Arc<str>);

/// Why a text is not a name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidName {
    /// Not a tenant.
    #[error("not a tenant: 1 to 150 characters of A-Z a-z 0-9 ! - _ . * ' ( ), and not . or ..")]
    Tenant,
    /// Not a region.
    #[error("not a region: 1 to 63 characters of a-z 0-9 -, no dash at either end")]
    Region,
}

impl TenantId {
    /// Checks a name.
    pub fn new(name: &str) -> Result<Self, InvalidName> {
        let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"!-_.*'()".contains(&byte);
        let length_fits = (1..=150).contains(&name.len());
        if !length_fits || !name.bytes().all(fits) || name == "." || name == ".." {
            return Err(InvalidName::Tenant);
        }
        Ok(Self(name.into()))
    }

    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Default for TenantId {
    /// `default`: the tenant of requests that name none.
    fn default() -> Self {
        Self("default".into())
    }
}

impl Region {
    /// Checks a name.
    pub fn new(name: &str) -> Result<Self, InvalidName> {
        let fits = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        let edges = name.starts_with('-') || name.ends_with('-');
        if !(1..=63).contains(&name.len()) || edges || !name.bytes().all(fits) {
            return Err(InvalidName::Region);
        }
        Ok(Self(name.into()))
    }

    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for TenantId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

impl fmt::Debug for TenantId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

impl fmt::Display for Region {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

impl fmt::Debug for Region {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_checked_at_the_edge() {
        for good in ["default", "team-a", "a.b", "(x)!"] {
            assert!(TenantId::new(good).is_ok(), "{good}");
        }
        for bad in ["", ".", "..", "a/b", "a b", "ü", &"x".repeat(151)] {
            assert!(TenantId::new(bad).is_err(), "{bad}");
        }
        for good in ["eu-west-1", "a"] {
            assert!(Region::new(good).is_ok(), "{good}");
        }
        for bad in ["", "-a", "a-", "EU", "a_b", &"x".repeat(64)] {
            assert!(Region::new(bad).is_err(), "{bad}");
        }
    }
}
