//! The section `elasticsearch`: where the engine is, and by which tiers its days grow old.

use std::time::Duration;

use super::credentials::{Encryption, read_credentials};
use super::engines::{ElasticsearchConfig, timeout};
use super::section::Section;
use super::setting::EngineUrl;

const HOUR: Duration = Duration::from_secs(3_600);
const DAY: Duration = Duration::from_secs(86_400);

/// Who moves days from tier to tier.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TierDriver {
    /// The cluster's lifecycle management where it has one, else the cell.
    Auto,
    /// The cluster's lifecycle management.
    Ilm,
    /// The cell.
    Own,
    /// Nobody: days stay where they are for ever.
    Off,
}

/// How the days of the search engine grow old. Ages count from the beginning of a day (UTC); what is
/// older than the cell's `retention` is removed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TiersConfig {
    /// Age from which a day is read-only, merged and shrunk.
    pub warm_after: Duration,
    /// Age from which it lies on nodes for cold data.
    pub cold_after: Duration,
    /// Age from which it is in a snapshot, and searched there where the cluster can.
    pub frozen_after: Duration,
    /// The snapshot repository; without one there is no frozen tier.
    pub repository: Option<String>,
    /// The attribute of nodes whose value is a tier.
    pub allocation_attribute: String,
    /// Primary shards of a day that is read-only.
    pub shrink_to: u32,
    /// Segments of each of its shards.
    pub force_merge_segments: u32,
    /// Who does it.
    pub driver: TierDriver,
}

/// Reads the section.
pub(super) fn read_elasticsearch(
    section: &mut Section<'_>,
    retention: Duration,
) -> Option<ElasticsearchConfig> {
    let urls = section.required::<Vec<EngineUrl>>("urls");
    if urls.as_ref().is_some_and(Vec::is_empty) {
        section.refuse("urls", "names no node");
    }
    let prefix = section.value("prefix", "farspan".to_owned());
    let is_plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    let is_prefix = prefix.bytes().all(is_plain) && !prefix.starts_with('-');
    if !is_prefix || !(1..=60).contains(&prefix.len()) {
        section.refuse("prefix", "is 1 to 60 lower-case letters, digits and dashes, no dash first");
    }
    let shards = section.within("shards", 5, 1..=1_024);
    let encryption = Encryption {
        is_on: urls.iter().flatten().all(EngineUrl::is_https),
        words: "`https://` in each of `urls`",
        needs_authority: false,
    };
    let credentials = read_credentials(section, &encryption);
    let api_key_file = section.optional("api_key_file");
    if api_key_file.is_some() && credentials.user.is_some() {
        section.refuse("api_key_file", "stands for `user` and `password_file`: write one of them");
    }
    let config = ElasticsearchConfig {
        urls: Vec::new(),
        prefix,
        shards,
        replicas: section.optional("replicas"),
        timeout: timeout(section),
        credentials,
        api_key_file,
        is_written_by_others: section.value("written_by_others", false),
        jaeger_tags_are_nested: section.value("jaeger_tags_are_nested", false),
        tiers: read_tiers(&mut section.section("tiers"), shards, retention),
    };
    Some(ElasticsearchConfig { urls: urls?, ..config })
}

fn read_tiers(section: &mut Section<'_>, shards: u32, retention: Duration) -> TiersConfig {
    let age = HOUR..=DAY * 3_650;
    let tiers = TiersConfig {
        warm_after: section.within("warm_after", DAY * 2, DAY..=DAY * 3_650),
        cold_after: section.within("cold_after", DAY * 7, age.clone()),
        frozen_after: section.within("frozen_after", DAY * 30, age),
        repository: section.optional("repository"),
        allocation_attribute: section.value("allocation_attribute", "data".to_owned()),
        shrink_to: section.within("shrink_to", 1, 1..=1_024),
        force_merge_segments: section.within("force_merge_segments", 1, 1..=1_000),
        driver: section.value("driver", TierDriver::Auto),
    };
    check_order(section, &tiers);
    check_words(section, &tiers);
    if tiers.shrink_to > shards || !shards.is_multiple_of(tiers.shrink_to) {
        let message = format!("{shards} shards cannot become {}: no divisor", tiers.shrink_to);
        section.refuse("shrink_to", &message);
    }
    note_what_is_never_reached(section, &tiers, retention);
    section.finish();
    tiers
}

fn check_order(section: &Section<'_>, tiers: &TiersConfig) {
    if tiers.cold_after <= tiers.warm_after {
        section.refuse("cold_after", "does not lie behind `warm_after`");
    }
    // By default there is no such tier without a repository, and its age does not count.
    let is_asked_for = tiers.repository.is_some() || section.has("frozen_after");
    if is_asked_for && tiers.frozen_after <= tiers.cold_after {
        section.refuse("frozen_after", "does not lie behind `cold_after`");
    }
    if section.has("frozen_after") && tiers.repository.is_none() {
        section.refuse("frozen_after", "needs a snapshot repository: name it as `repository`");
    }
}

fn check_words(section: &Section<'_>, tiers: &TiersConfig) {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    let is_name = |name: &str| (1..=200).contains(&name.len()) && name.bytes().all(is_plain);
    if tiers.repository.as_deref().is_some_and(|name| !is_name(name)) {
        section.refuse("repository", "is 1 to 200 letters, digits and - _ .");
    }
    if !is_name(&tiers.allocation_attribute) {
        section.refuse("allocation_attribute", "is 1 to 200 letters, digits and - _ .");
    }
}

fn note_what_is_never_reached(section: &Section<'_>, tiers: &TiersConfig, retention: Duration) {
    let ages = [
        ("warm_after", tiers.warm_after),
        ("cold_after", tiers.cold_after),
        ("frozen_after", tiers.frozen_after),
    ];
    for (key, after) in ages {
        if section.has(key) && after >= retention + DAY {
            section.note(format!(
                "elasticsearch.tiers.{key}: days are removed before that (`retention`), so the tier \
                 is never reached"
            ));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Config, parse};
    use super::*;

    fn text(elasticsearch: &str, more: &str) -> String {
        format!(
            "kind: cell\nregion: a\nprofile: startup\ncassandra: {{nodes: ['c:9042'], datacenter: \
             d}}\nelasticsearch:\n  urls: ['http://e:9200']\n{elasticsearch}{more}"
        )
    }

    fn tiers(section: &str) -> TiersConfig {
        let Config::Cell(config) = parse("c.yaml", &text(section, "")).unwrap().config else {
            panic!("not a cell")
        };
        config.stores.elasticsearch.unwrap().tiers
    }

    fn faults(section: &str) -> Vec<String> {
        let faults = parse("c.yaml", &text(section, "")).unwrap_err();
        faults.list().iter().map(ToString::to_string).collect()
    }

    #[test]
    fn the_defaults_are_the_guides() {
        let found = tiers("");
        let ages = [found.warm_after, found.cold_after, found.frozen_after];
        assert_eq!(ages, [DAY * 2, DAY * 7, DAY * 30]);
        assert_eq!((found.shrink_to, found.force_merge_segments), (1, 1));
        assert_eq!((found.driver, found.repository), (TierDriver::Auto, None));
        assert_eq!(found.allocation_attribute, "data");
        let own = tiers("  tiers: {driver: own, repository: backup, frozen_after: 14d}\n");
        assert_eq!((own.driver, own.frozen_after), (TierDriver::Own, DAY * 14));
    }

    #[test]
    fn tiers_that_do_not_follow_each_other_or_lack_something_are_faults() {
        for (section, key, word) in [
            ("{warm_after: 7d, cold_after: 3d}", "cold_after", "warm_after"),
            ("{frozen_after: 40d}", "frozen_after", "repository"),
            ("{repository: r, frozen_after: 5d}", "frozen_after", "cold_after"),
            ("{repository: r, cold_after: 31d}", "frozen_after", "cold_after"),
            ("{repository: 'a/b'}", "repository", "letters"),
            ("{allocation_attribute: 'a b'}", "allocation_attribute", "letters"),
            ("{warm_after: 1h}", "warm_after", "not within"),
            ("{shrink_to: 2}", "shrink_to", "divisor"),
            ("{driver: both}", "driver", "auto"),
            ("{warm: 2d}", "warm", "not known"),
        ] {
            let found = faults(&format!("  tiers: {section}\n"));
            assert_eq!(found.len(), 1, "{section}: {found:?}");
            let expected = format!("elasticsearch.tiers.{key}");
            assert!(found[0].contains(&expected) && found[0].contains(word), "{found:?}");
        }
    }

    #[test]
    fn a_tier_behind_the_retention_is_a_note_where_somebody_asked_for_it() {
        let notes = |section: &str, more: &str| {
            let loaded = parse("c.yaml", &text(section, more)).unwrap();
            let notes = loaded.effective.notes().iter();
            notes.filter(|note| note.contains("never reached")).count()
        };
        assert_eq!(notes("", "retention: 5d\n"), 0);
        assert_eq!(notes("  tiers: {cold_after: 7d}\n", "retention: 5d\n"), 1);
        assert_eq!(notes("  tiers: {cold_after: 5d}\n", "retention: 5d\n"), 0);
        assert_eq!(notes("  tiers: {repository: r, frozen_after: 30d}\n", "retention: 29d\n"), 1);
    }
}
