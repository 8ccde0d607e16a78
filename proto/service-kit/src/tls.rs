//! Whom a client of an engine believes, and what it shows: certificates and keys in PEM files.
//!
//! Authorities that are named are the only ones that are believed, and a server's certificate must
//! name the address that was asked for. There is no switch that turns either off. A private key
//! must never stand in an error or a log.

use std::path::{Path, PathBuf};

/// The files of a client's TLS.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientTls {
    /// Certificates (PEM) of the authorities that are believed.
    pub ca_file: PathBuf,
    /// What is shown to a server that asks who we are.
    pub identity: Option<TlsIdentity>,
}

/// A certificate of ours and its key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsIdentity {
    /// The certificate (PEM), then those that vouch for it.
    pub certificate_file: PathBuf,
    /// Its key (PEM), without a password.
    pub key_file: PathBuf,
}

impl ClientTls {
    /// These authorities, and nothing to show.
    #[must_use]
    pub fn believing(ca_file: impl Into<PathBuf>) -> Self {
        Self { ca_file: ca_file.into(), identity: None }
    }

    /// Reads the files. Blocks for as long as the disk does.
    ///
    /// # Errors
    /// When a file cannot be read or does not hold what it should, with its path.
    #[cfg(feature = "tls")]
    pub fn read(&self) -> Result<rustls::ClientConfig, TlsFault> {
        let mut authorities = rustls::RootCertStore::empty();
        for certificate in certificates(&self.ca_file)? {
            let added = authorities.add(certificate);
            added.map_err(|error| unfit(&self.ca_file, &format!("holds no authority: {error}")))?;
        }
        let provider = std::sync::Arc::new(rustls::crypto::ring::default_provider());
        let config = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| unfit(&self.ca_file, &error.to_string()))?
            .with_root_certificates(authorities);
        let Some(identity) = &self.identity else { return Ok(config.with_no_client_auth()) };
        let key = identity.key()?;
        config
            .with_client_auth_cert(certificates(&identity.certificate_file)?, key)
            .map_err(|error| unfit(&identity.key_file, &format!("does not fit: {error}")))
    }
}

#[cfg(feature = "tls")]
impl TlsIdentity {
    fn key(&self) -> Result<rustls::pki_types::PrivateKeyDer<'static>, TlsFault> {
        use rustls::pki_types::pem::PemObject as _;

        rustls::pki_types::PrivateKeyDer::from_pem_slice(&content(&self.key_file)?)
            .map_err(|_| unfit(&self.key_file, "holds no private key without a password in PEM"))
    }
}

/// Why the files are of no use: a person must act first.
#[derive(Debug, thiserror::Error)]
pub enum TlsFault {
    /// A file cannot be read.
    #[error("cannot read {}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// The system's word.
        #[source]
        source: std::io::Error,
    },
    /// A file is not what it should be.
    #[error("{} {what}", path.display())]
    Unfit {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        what: String,
    },
}

impl TlsFault {
    /// In one line with its cause.
    #[must_use]
    pub fn words(&self) -> String {
        match self {
            Self::Unreadable { source, .. } => format!("{self}: {source}"),
            Self::Unfit { .. } => self.to_string(),
        }
    }
}

#[cfg(feature = "tls")]
fn unfit(path: &Path, what: &str) -> TlsFault {
    TlsFault::Unfit { path: path.to_owned(), what: what.to_owned() }
}

/// The content of a file.
///
/// # Errors
/// When it cannot be read.
pub fn content(path: &Path) -> Result<Vec<u8>, TlsFault> {
    std::fs::read(path).map_err(|source| TlsFault::Unreadable { path: path.to_owned(), source })
}

#[cfg(feature = "tls")]
fn certificates(path: &Path) -> Result<Vec<rustls::pki_types::CertificateDer<'static>>, TlsFault> {
    use rustls::pki_types::pem::PemObject as _;

    let pem = content(path)?;
    let certificates: Result<Vec<_>, _> =
        rustls::pki_types::CertificateDer::pem_slice_iter(&pem).collect();
    let certificates = certificates.map_err(|_| unfit(path, "is not PEM"))?;
    if certificates.is_empty() {
        return Err(unfit(path, "holds no certificate in PEM"));
    }
    Ok(certificates)
}

#[cfg(test)]
#[cfg(feature = "tls")]
mod tests {
    use super::*;

    fn authority(name: &str) -> (String, String) {
        let key = rcgen::KeyPair::generate().unwrap();
        let params = rcgen::CertificateParams::new(vec![name.to_owned()]).unwrap();
        (params.self_signed(&key).unwrap().pem(), key.serialize_pem())
    }

    #[test]
    fn every_file_is_read_and_a_wrong_one_is_named() {
        let directory = tempfile::tempdir().unwrap();
        let file = |name: &str, content: &str| {
            let path = directory.path().join(name);
            std::fs::write(&path, content).unwrap();
            path
        };
        let (certificate, key) = authority("one");
        let (_, other_key) = authority("other");
        let ca_file = file("ca.pem", &certificate);
        let identity =
            TlsIdentity { certificate_file: ca_file.clone(), key_file: file("key.pem", &key) };
        let whole = ClientTls { ca_file: ca_file.clone(), identity: Some(identity.clone()) };
        assert!(whole.read().is_ok());
        assert!(!whole.read().unwrap().client_auth_cert_resolver.only_raw_public_keys());
        assert!(ClientTls::believing(&ca_file).read().is_ok());
        let with = |identity| ClientTls { identity: Some(identity), ..whole.clone() };
        let key_file = |key_file| with(TlsIdentity { key_file, ..identity.clone() });
        for (files, words) in [
            (ClientTls::believing(directory.path().join("no")), "cannot read"),
            (ClientTls::believing(file("empty", "")), "empty holds no certificate"),
            (ClientTls::believing(identity.key_file.clone()), "key.pem holds no certificate"),
            (ClientTls::believing(file("cut", certificate.get(..90).unwrap())), "cut is not PEM"),
            (key_file(ca_file), "ca.pem holds no private key"),
            (key_file(file("other.pem", &other_key)), "other.pem does not fit"),
            (key_file(directory.path().join("no")), "cannot read"),
        ] {
            let fault = files.read().unwrap_err().words();
            assert!(fault.contains(words), "{words} is not in {fault}");
            assert!(!fault.contains("PRIVATE"), "{fault}");
        }
    }
}
