//! What a profile stands for, and the build does not serve yet or the file does not name. Notes of
//! `farspan config check`, never faults: every choice of a profile may be another one.

use super::cell::Profile;
use super::engines::StoresConfig;
use super::section::Section;

/// Adds the notes of a cell's profile. `stores` are `None` where they have faults.
pub(super) fn note_profile(
    root: &Section<'_>,
    profile: Profile,
    stores: Option<&StoresConfig>,
    has_objects: bool,
) {
    let name = profile.name();
    for unserved in sampling(profile) {
        root.note(format!(
            "profile {name}: {unserved} is not served yet; every trace that passes the head is kept"
        ));
    }
    let Some(stores) = stores else { return };
    let notes = match profile {
        Profile::Embedded | Profile::Startup | Profile::Growth => return,
        Profile::Scale => vec![cluster(stores)],
        Profile::Hyperscale => vec![
            cluster(stores),
            data_centers(stores),
            repository(stores),
            objects(stores, has_objects),
        ],
    };
    for note in notes.into_iter().flatten() {
        root.note(format!("profile {name}: {note}"));
    }
}

/// Sampling behind the log, which no release has yet.
const fn sampling(profile: Profile) -> &'static [&'static str] {
    match profile {
        Profile::Embedded | Profile::Startup | Profile::Growth => &[],
        Profile::Scale => &["tail sampling"],
        Profile::Hyperscale => &["tail sampling", "adaptive sampling with a budget"],
    }
}

fn cluster(stores: &StoresConfig) -> Option<&'static str> {
    let is_one_node = stores.clickhouse.as_ref().is_some_and(|engine| engine.cluster.is_none());
    is_one_node.then_some(
        "stands for a ClickHouse cluster, and `clickhouse.cluster` is not written: counts and raw spans \
         lie on one node, without copies",
    )
}

fn data_centers(stores: &StoresConfig) -> Option<&'static str> {
    let is_one = stores.cassandra.as_ref().is_some_and(|engine| engine.replication.0.len() < 2);
    is_one.then_some(
        "stands for Cassandra or Scylla in several data centers, and `cassandra.replication` names one",
    )
}

fn repository(stores: &StoresConfig) -> Option<&'static str> {
    let has_none =
        stores.elasticsearch.as_ref().is_some_and(|engine| engine.tiers.repository.is_none());
    has_none.then_some(
        "stands for a frozen tier of searches, and `elasticsearch.tiers.repository` names no snapshot \
         repository: days stay cold until `retention`",
    )
}

fn objects(stores: &StoresConfig, has_objects: bool) -> Option<&'static str> {
    match (stores.cassandra.is_some(), has_objects) {
        (true, _) => Some(
            "cold spans in object storage are not served with `stores.traces: cassandra`: spans stay in \
             Cassandra until `retention`",
        ),
        (false, false) => {
            Some("stands for cold spans in object storage, and there is no section `cold`")
        }
        (false, true) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::super::parse;

    const ENGINES: &str = "kind: cell
region: a
kafka: {brokers: ['k1:9092']}
";

    fn notes(text: &str) -> Vec<String> {
        parse("c.yaml", &format!("{ENGINES}{text}")).unwrap().effective.notes().to_vec()
    }

    fn stores(cassandra: &str, elasticsearch: &str, clickhouse: &str) -> String {
        format!(
            "cassandra: {{nodes: ['c1:9042'], datacenter: a{cassandra}}}\nelasticsearch: {{urls: \
             ['http://e:9200']{elasticsearch}}}\nclickhouse: {{url: 'http://h:8123'{clickhouse}}}\n"
        )
    }

    #[test]
    fn a_large_profile_on_small_engines_says_what_it_stands_for() {
        let small = stores("", "", "");
        assert_eq!(notes(&format!("profile: growth\n{small}")), [""; 0]);
        let scale = notes(&format!("profile: scale\n{small}"));
        assert_eq!(scale.len(), 2, "{scale:?}");
        assert!(
            scale[0].starts_with("profile scale: tail sampling is not served yet"),
            "{scale:?}"
        );
        assert!(scale[1].contains("`clickhouse.cluster` is not written"), "{scale:?}");
        let hyperscale = notes(&format!("profile: hyperscale\n{small}"));
        assert_eq!(hyperscale.len(), 6, "{hyperscale:?}");
        for (note, words) in hyperscale.iter().skip(1).zip([
            "adaptive sampling with a budget is not served yet",
            "`clickhouse.cluster` is not written",
            "`cassandra.replication` names one",
            "names no snapshot repository",
            "not served with `stores.traces: cassandra`",
        ]) {
            assert!(note.starts_with("profile hyperscale: ") && note.contains(words), "{note}");
        }
    }

    #[test]
    fn what_the_file_names_is_not_noted() {
        let whole = stores(
            ", replication: {a: 3, b: 3}",
            ", tiers: {repository: r, frozen_after: 20d}",
            ", cluster: main",
        );
        assert_eq!(notes(&format!("profile: scale\n{whole}")).len(), 1);
        let left = notes(&format!("profile: hyperscale\n{whole}"));
        assert_eq!(left.len(), 3, "two kinds of sampling, and objects: {left:?}");
        let own = "profile: hyperscale\nstores: {traces: embedded, search: embedded, metrics: \
                   embedded}\n";
        assert!(notes(own).last().unwrap().contains("there is no section `cold`"));
        let cold = notes(&format!("{own}cold: {{url: 'file:///cold'}}\n"));
        assert_eq!(cold.len(), 2, "{cold:?}");
    }
}
