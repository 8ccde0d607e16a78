//! Who we are to an engine and whom we believe, in the same words for every engine.

use std::path::PathBuf;

use super::section::Section;
use crate::tls::{ClientTls, TlsIdentity};

/// How a client proves who it is, and whom it believes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Credentials {
    /// The user.
    pub user: Option<String>,
    /// A file with the password alone.
    pub password_file: Option<PathBuf>,
    /// Private authorities, and what is shown to an engine that asks for a certificate. There only
    /// where TLS is spoken.
    pub tls: Option<ClientTls>,
}

/// Whether an engine is spoken to through TLS, and which words of its section say so.
pub(super) struct Encryption {
    pub(super) is_on: bool,
    /// What turns it on.
    pub(super) words: &'static str,
    /// The client believes no authority of its own accord.
    pub(super) needs_authority: bool,
}

/// Reads the keys of credentials. What would be without effect is a fault: it would be believed.
pub(super) fn read_credentials(section: &mut Section<'_>, encryption: &Encryption) -> Credentials {
    let user = section.optional("user");
    let password_file = section.optional("password_file");
    if user.is_some() != password_file.is_some() {
        section.refuse("password_file", "goes with `user`: write both or none");
    }
    Credentials { user, password_file, tls: read_tls(section, encryption) }
}

fn read_tls(section: &mut Section<'_>, encryption: &Encryption) -> Option<ClientTls> {
    let ca_file = section.optional::<PathBuf>("ca_file");
    let certificate_file = section.optional::<PathBuf>("certificate_file");
    let key_file = section.optional::<PathBuf>("key_file");
    let Encryption { is_on, words, needs_authority } = *encryption;
    if !is_on {
        for key in ["ca_file", "certificate_file", "key_file"] {
            if section.has(key) {
                section.refuse(key, &format!("has no effect without {words}"));
            }
        }
        return None;
    }
    if certificate_file.is_some() != key_file.is_some() {
        section.refuse("key_file", "goes with `certificate_file`: write both or none");
    }
    if ca_file.is_none() && !section.has("ca_file") {
        if needs_authority {
            let message = format!("is missing: {words} needs the authorities to believe, in PEM");
            section.refuse("ca_file", &message);
        } else if section.has("certificate_file") {
            section.refuse("certificate_file", "goes with `ca_file`");
        }
    }
    let identity = certificate_file.zip(key_file);
    let identity =
        identity.map(|(certificate_file, key_file)| TlsIdentity { certificate_file, key_file });
    ca_file.map(|ca_file| ClientTls { ca_file, identity })
}

#[cfg(test)]
mod tests {
    use super::super::engines::StoresConfig;
    use super::super::{Config, Faults, parse};

    fn stores(
        cassandra: &str,
        elasticsearch: &str,
        clickhouse: &str,
    ) -> Result<StoresConfig, Faults> {
        let text = format!(
            "kind: cell\nregion: a\nstores: {{traces: cassandra, search: elasticsearch, metrics: \
             clickhouse}}\ncassandra: {{nodes: ['c:1'], datacenter: d, {cassandra}}}\n\
             elasticsearch: {{{elasticsearch}}}\nclickhouse: {{{clickhouse}}}\n"
        );
        let Config::Cell(config) = parse("c.yaml", &text)?.config else { panic!("not a cell") };
        Ok(config.stores)
    }

    const ELASTICSEARCH: &str = "urls: ['https://e:1'], ";
    const CLICKHOUSE: &str = "url: 'https://h:1', ";

    #[test]
    fn every_engine_takes_authorities_and_a_certificate_by_the_same_keys() {
        let keys = "ca_file: ca, certificate_file: cert, key_file: key, ";
        let cassandra = format!("tls: true, user: me, password_file: p, {keys}");
        let (elasticsearch, clickhouse) =
            (ELASTICSEARCH.to_owned() + keys, CLICKHOUSE.to_owned() + keys);
        let stores = stores(&cassandra, &elasticsearch, &clickhouse).unwrap();
        let all = [
            stores.cassandra.unwrap().credentials,
            stores.elasticsearch.unwrap().credentials,
            stores.clickhouse.unwrap().credentials,
        ];
        for credentials in all {
            let tls = credentials.tls.unwrap();
            assert_eq!(tls.ca_file.to_str(), Some("ca"));
            assert_eq!(tls.identity.unwrap().key_file.to_str(), Some("key"));
        }
    }

    #[test]
    fn an_api_key_stands_alone_and_the_webs_authorities_need_no_file() {
        let elasticsearch = format!("{ELASTICSEARCH}api_key_file: k");
        let stores = stores("", &elasticsearch, CLICKHOUSE).unwrap();
        let elasticsearch = stores.elasticsearch.unwrap();
        assert_eq!(elasticsearch.api_key_file, Some("k".into()));
        assert!(elasticsearch.credentials.tls.is_none());
    }

    #[test]
    fn what_would_have_no_effect_or_speak_plainly_is_a_fault() {
        let (es, ch) = ("urls: ['http://e:1'], ", "url: 'http://h:1', ");
        let of = |cassandra: &str, elasticsearch: &str, clickhouse: &str| {
            let found =
                stores(cassandra, &format!("{es}{elasticsearch}"), &format!("{ch}{clickhouse}"));
            let faults = found.unwrap_err();
            assert_eq!(faults.list().len(), 1, "{faults}");
            faults.to_string()
        };
        for (fault, words) in [
            (of("tls: true", "", ""), "cassandra.ca_file: is missing"),
            (of("ca_file: x", "", ""), "cassandra.ca_file: has no effect without `tls: true`"),
            (of("", "ca_file: x", ""), "elasticsearch.ca_file: has no effect without `https://`"),
            (of("", "", "ca_file: x"), "clickhouse.ca_file: has no effect without `https://`"),
            (
                of("", "user: u, password_file: p, api_key_file: k", ""),
                "elasticsearch.api_key_file: stands for `user`",
            ),
        ] {
            assert!(fault.contains(words), "{words} is not in {fault}");
        }
        let mixed = "urls: ['https://e:1', 'http://e:2'], ca_file: x";
        let mixed = stores("", mixed, CLICKHOUSE).unwrap_err().to_string();
        assert!(mixed.contains("in each of `urls`"), "{mixed}");
        let half = stores("tls: true, ca_file: x, certificate_file: c", ELASTICSEARCH, CLICKHOUSE);
        let half = half.unwrap_err().to_string();
        assert!(half.contains("cassandra.key_file: goes with `certificate_file`"), "{half}");
    }
}
