//! Companions of days that the engine's lifecycle management moves. It knows nothing of them: they take
//! writes for as long as they are there, and go here, once their day is to be gone.

use std::collections::BTreeMap;

use bytes::Bytes;
use elasticsearch::http::Method;
use serde::Deserialize;
use serde::de::IgnoredAny;

use super::super::names::{Kind, Names};
use super::super::store::ElasticsearchStore;
use super::days::{DayKey, Role, role_of};
use super::policy::{Tier, TierPolicy};
use crate::metrics::TierLabels;
use crate::port::StoreError;

#[derive(Deserialize)]
struct Named {
    #[serde(default)]
    aliases: BTreeMap<String, IgnoredAny>,
}

/// The day whose companion an index is. What lifecycle management has shrunk has the name of what it was
/// as an alias.
fn day_of(names: &Names, index: &str, found: &Named) -> Option<DayKey> {
    let called = std::iter::once(index).chain(found.aliases.keys().map(String::as_str));
    called.filter_map(|name| role_of(names, name)).find_map(|(key, role)| match role {
        Role::Late => Some(key),
        Role::Day | Role::Copy(_) | Role::Mount(_) => None,
    })
}

impl ElasticsearchStore {
    /// Removes the companions of days that have passed their retention, where the engine moves the days.
    pub(in crate::elasticsearch) async fn remove_companions(&self) -> Result<(), StoreError> {
        if !self.has_lifecycle {
            return Ok(());
        }
        let gone_after = TierPolicy::gone_after(self.config.retention);
        let now = self.clock.now();
        for (index, found) in self.companions().await? {
            let Some(day) = day_of(&self.names, &index, &found) else { continue };
            if day.age(now) < gone_after {
                continue;
            }
            self.remove_index(&index).await?;
            self.state.forget_indices();
            self.state.forget_entries();
            self.metrics.tier_steps.get_or_create(&TierLabels { tier: Tier::Gone }).inc();
            tracing::info!(index, "a companion went with its day");
        }
        Ok(())
    }

    async fn companions(&self) -> Result<BTreeMap<String, Named>, StoreError> {
        let patterns = [Kind::Spans, Kind::Services].map(|kind| self.names.late_pattern(kind));
        let query = [
            ("ignore_unavailable", "true"),
            ("allow_no_indices", "true"),
            ("expand_wildcards", "open,closed"),
            // What has no alias has settings.
            ("filter_path", "*.aliases,*.settings.index.uuid"),
        ];
        let path = format!("/{}", patterns.join(","));
        self.client.read(Method::Get, &path, &query, Bytes::new()).await?.json()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn companions_are_known_by_their_names_and_by_those_that_they_had() {
        let names = Names::new("eu".to_owned());
        let day = |index: &str, alias: &str| {
            let aliases = BTreeMap::from([(alias.to_owned(), IgnoredAny)]);
            day_of(&names, index, &Named { aliases }).map(|key| key.to_string())
        };
        let (late, read) =
            ("eu.default-jaeger-span-2026-09-21-late", "eu.default-jaeger-span-read");
        let expected = Some("span-2026-09-21@default".to_owned());
        assert_eq!(day(late, read), expected);
        assert_eq!(day(&format!("shrink-x1y2-{late}"), late), expected);
        for index in [
            "eu.default-jaeger-span-2026-09-21",
            "eu.default-jaeger-span-outlying",
            "us.default-jaeger-span-2026-09-21-late",
            "eu-farspan-state",
        ] {
            assert_eq!(day(index, read), None, "{index}");
        }
    }
}
