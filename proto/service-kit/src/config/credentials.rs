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
