//! How brokers are spoken to: TLS, and who we are. In the words of librdkafka's properties, which
//! nobody else sets.

use std::fs;
use std::path::{Path, PathBuf};

use rdkafka::config::ClientConfig;

use super::error::KafkaOpenError;

/// How brokers are spoken to. By default plainly, and they ask nobody.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KafkaSecurity {
    /// TLS; `None` speaks plainly.
    pub tls: Option<KafkaTls>,
    /// Who we are; `None` where brokers do not ask.
    pub login: Option<KafkaLogin>,
}

/// TLS to brokers, whose certificates must name their hosts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KafkaTls {
    /// Certificates (PEM) of the authorities that are believed, and no others; `None`: those of the
    /// machine.
    pub ca_file: Option<PathBuf>,
    /// Certificate and key (PEM) that are shown to brokers.
    pub identity: Option<(PathBuf, PathBuf)>,
}

/// Who we are to brokers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KafkaLogin {
    /// How they are told.
    pub mechanism: SaslMechanism,
    /// The user.
    pub user: String,
    /// A file with the password alone, read when a client is made.
    pub password_file: PathBuf,
}

/// How brokers are told who we are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SaslMechanism {
    /// User and password as they are.
    Plain,
    /// A proof of the password, by SHA-256.
    ScramSha256,
    /// A proof of the password, by SHA-512.
    ScramSha512,
}

impl SaslMechanism {
    const fn name(self) -> &'static str {
        match self {
            Self::Plain => "PLAIN",
            Self::ScramSha256 => "SCRAM-SHA-256",
            Self::ScramSha512 => "SCRAM-SHA-512",
        }
    }
}

/// Properties that are set here alone, besides what the log's guarantees rest on.
pub(super) const PROPERTIES: [&str; 8] = [
    "security.protocol",
    "sasl.mechanism",
    "sasl.mechanisms",
    "sasl.username",
    "sasl.password",
    "ssl.ca.location",
    "ssl.certificate.location",
    "ssl.key.location",
];

impl KafkaSecurity {
    /// Refuses what this build's client cannot do.
    pub(super) fn check(&self) -> Result<(), KafkaOpenError> {
        self.check_client(is_openssl_built_in())
    }

    fn check_client(&self, has_openssl: bool) -> Result<(), KafkaOpenError> {
        let reason = "needs OpenSSL, and this build was made without the cargo feature `kafka-tls`";
        let is_scram =
            self.login.as_ref().is_some_and(|login| login.mechanism != SaslMechanism::Plain);
        match (has_openssl, self.tls.is_some(), is_scram) {
            (false, true, _) => Err(KafkaOpenError::Config { key: "tls", reason }),
            (false, false, true) => Err(KafkaOpenError::Config { key: "sasl_mechanism", reason }),
            (false, false, false) | (true, ..) => Ok(()),
        }
    }

    /// Sets a client's properties.
    pub(super) fn set(&self, client: &mut ClientConfig) -> Result<(), KafkaOpenError> {
        let protocol = match (self.tls.is_some(), self.login.is_some()) {
            (false, false) => "plaintext",
            (true, false) => "ssl",
            (false, true) => "sasl_plaintext",
            (true, true) => "sasl_ssl",
        };
        client.set("security.protocol", protocol);
        if let Some(tls) = &self.tls {
            tls.set(client)?;
        }
        let Some(login) = &self.login else { return Ok(()) };
        client.set("sasl.mechanisms", login.mechanism.name());
        client.set("sasl.username", &login.user);
        let password = read("sasl.password", &login.password_file)?;
        client.set("sasl.password", password.trim_end_matches(['\r', '\n']));
        Ok(())
    }
}

impl KafkaTls {
    fn set(&self, client: &mut ClientConfig) -> Result<(), KafkaOpenError> {
        let (certificate, key) = self.identity.as_ref().map(|(one, two)| (one, two)).unzip();
        let files = [
            ("ssl.ca.location", self.ca_file.as_ref()),
            ("ssl.certificate.location", certificate),
            ("ssl.key.location", key),
        ];
        for (property, path) in files {
            let Some(path) = path else { continue };
            // librdkafka's own words for a missing file name no file.
            drop(read(property, path)?);
            client.set(property, path.to_string_lossy());
        }
        Ok(())
    }
}

fn read(property: &str, path: &Path) -> Result<String, KafkaOpenError> {
    fs::read_to_string(path).map_err(|source| KafkaOpenError::Secret {
        property: property.to_owned(),
        path: path.to_owned(),
        source,
    })
}

/// Whether librdkafka was built with OpenSSL: it says so itself.
fn is_openssl_built_in() -> bool {
    let native = ClientConfig::new().create_native_config();
    let built_in = native.and_then(|native| native.get("builtin.features"));
    built_in.is_ok_and(|features| features.split(',').any(|feature| feature.trim() == "ssl"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn login(mechanism: SaslMechanism) -> KafkaSecurity {
        let login =
            KafkaLogin { mechanism, user: "me".to_owned(), password_file: "no/such/file".into() };
        KafkaSecurity { login: Some(login), ..KafkaSecurity::default() }
    }

    #[test]
    fn what_the_build_cannot_do_is_refused_and_named() {
        let encrypted =
            KafkaSecurity { tls: Some(KafkaTls::default()), ..KafkaSecurity::default() };
        for (security, key) in [
            (&encrypted, "tls"),
            (&login(SaslMechanism::ScramSha256), "sasl_mechanism"),
            (&login(SaslMechanism::ScramSha512), "sasl_mechanism"),
        ] {
            assert!(security.check_client(true).is_ok());
            let fault = security.check_client(false).unwrap_err();
            assert!(!fault.is_retryable());
            let words = fault.to_string();
            assert!(words.starts_with(key) && words.contains("feature `kafka-tls`"), "{words}");
        }
        for security in [KafkaSecurity::default(), login(SaslMechanism::Plain)] {
            assert!(security.check_client(false).is_ok());
        }
        assert_eq!(is_openssl_built_in(), cfg!(feature = "kafka-tls"));
    }

    #[test]
    fn properties_follow_and_a_file_that_is_not_there_is_named() {
        let of = |security: &KafkaSecurity| {
            let mut client = ClientConfig::new();
            security.set(&mut client).map(|()| client)
        };
        let plain = of(&KafkaSecurity::default()).unwrap();
        assert_eq!(plain.get("security.protocol"), Some("plaintext"));
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("file");
        fs::write(&file, "s3cret \r\n").unwrap();
        let mut whole = login(SaslMechanism::ScramSha512);
        let identity = Some((file.clone(), file.clone()));
        whole.tls = Some(KafkaTls { ca_file: Some(file.clone()), identity });
        let missing = of(&whole).unwrap_err().to_string();
        assert!(missing.contains("no/such/file with sasl.password"), "{missing}");
        whole.login.as_mut().unwrap().password_file = file;
        let client = of(&whole).unwrap();
        for (property, value) in [
            ("security.protocol", "sasl_ssl"),
            ("sasl.mechanisms", "SCRAM-SHA-512"),
            ("sasl.username", "me"),
            ("sasl.password", "s3cret "),
        ] {
            assert_eq!(client.get(property), Some(value));
        }
        assert!(client.get("ssl.key.location").is_some());
        assert!(!format!("{whole:?}").contains("s3cret"));
    }
}
