//! A certificate authority of a test's own, and what it vouches for, in files.

use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use service_kit::tls::{ClientTls, TlsIdentity};

/// An authority whose files go with the test.
pub(crate) struct Authority {
    pub(crate) issuer: CertifiedIssuer<'static, KeyPair>,
    directory: tempfile::TempDir,
}

impl Authority {
    pub(crate) fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        // Another name each: whose certificate it is, is asked by name first.
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = format!("authority {} of a test", COUNT.fetch_add(1, Ordering::Relaxed));
        params.distinguished_name.push(DnType::CommonName, name);
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        Self { issuer, directory: tempfile::tempdir().unwrap() }
    }

    /// A file beside the authority's.
    pub(crate) fn file(&self, name: &str, content: &str) -> PathBuf {
        let path = self.directory.path().join(name);
        std::fs::write(&path, content).unwrap();
        path
    }

    /// Believes this authority alone.
    pub(crate) fn believed(&self) -> ClientTls {
        ClientTls::believing(self.file("ca.pem", &self.issuer.pem()))
    }

    /// A certificate for these hosts, and its key.
    pub(crate) fn identity(&self, hosts: &[&str]) -> TlsIdentity {
        let hosts: Vec<String> = hosts.iter().map(|host| (*host).to_owned()).collect();
        let name = hosts.join("-");
        let key = KeyPair::generate().unwrap();
        let certificate = CertificateParams::new(hosts).unwrap();
        let certificate = certificate.signed_by(&key, &self.issuer).unwrap();
        TlsIdentity {
            certificate_file: self.file(&format!("{name}.pem"), &certificate.pem()),
            key_file: self.file(&format!("{name}.key"), &key.serialize_pem()),
        }
    }
}
