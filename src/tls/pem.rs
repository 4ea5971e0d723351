//! Certificates and keys from PEM (RFC 7468), in files or in memory.

use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use rustls::{Error as Cause, RootCertStore};

use super::certificate::Certificate;
use super::error::{TlsError, TlsErrorKind};
use super::provider;

/// Where PEM comes from.
#[derive(Clone)]
pub(super) enum Pem {
    File(PathBuf),
    /// In memory, and what an error calls it.
    Text(Arc<[u8]>, &'static str),
}

/// A chain of certificates, the end's own first, and the key of that one.
#[derive(Clone, Debug)]
pub(super) struct Identity {
    pub(super) chain: Pem,
    pub(super) key: Pem,
}

/// No file of certificates is larger: a system's whole bundle is a quarter of a megabyte.
const MAX_SIZE: u64 = 8 << 20;

impl Pem {
    pub(super) fn file(path: impl AsRef<Path>) -> Self {
        Self::File(path.as_ref().to_owned())
    }

    pub(super) fn text(pem: impl AsRef<[u8]>, name: &'static str) -> Self {
        Self::Text(Arc::from(pem.as_ref()), name)
    }

    fn read(&self) -> Result<Arc<[u8]>, TlsError> {
        let path = match self {
            Self::File(path) => path,
            Self::Text(text, _) => return Ok(Arc::clone(text)),
        };
        let read = || {
            let mut bytes = Vec::new();
            match File::open(path)?.take(MAX_SIZE + 1).read_to_end(&mut bytes)? {
                read if read as u64 > MAX_SIZE => Err(io::Error::new(io::ErrorKind::FileTooLarge, "it is too large")),
                _ => Ok(bytes.into()),
            }
        };
        read().map_err(|error| unusable(format!("cannot read {self}: {error}")).because(error))
    }

    /// All certificates in it: one at least.
    fn certificates(&self) -> Result<Vec<CertificateDer<'static>>, TlsError> {
        let bytes = self.read()?;
        let found: Result<Vec<_>, pem::Error> = CertificateDer::pem_slice_iter(&bytes).collect();
        let found = found.map_err(|error| unusable(format!("{self} is not valid PEM: {error}")))?;
        match found.is_empty() {
            true => Err(unusable(format!(
                "{self} has no certificate in it: PEM is expected, with a line -----BEGIN CERTIFICATE-----"
            ))),
            false => Ok(found),
        }
    }

    fn key(&self) -> Result<PrivateKeyDer<'static>, TlsError> {
        let bytes = self.read()?;
        PrivateKeyDer::from_pem_slice(&bytes).map_err(|error| match error {
            pem::Error::NoItemsFound if contains(&bytes, b"-----BEGIN ENCRYPTED PRIVATE KEY-----") => {
                unusable(format!(
                    "the key in {self} is encrypted with a passphrase, which cannot be asked for: store it without one \
                 (openssl pkey -in KEY -out NEW-KEY), readable by the server alone"
                ))
            }
            pem::Error::NoItemsFound => unusable(format!(
                "{self} has no private key in it: PEM is expected, with a line such as -----BEGIN PRIVATE KEY-----"
            )),
            // Its text is about lines and characters, and shows no more than a header.
            error => unusable(format!("the key in {self} is not valid PEM: {error}")),
        })
    }

    /// The certificates of CAs in it, as those that are trusted.
    pub(super) fn add_roots_to(&self, roots: &mut RootCertStore) -> Result<(), TlsError> {
        for certificate in self.certificates()? {
            roots.add(certificate).map_err(|error| {
                unusable(format!("a certificate in {self} cannot be trusted as a CA: {error}")).because(error)
            })?;
        }
        Ok(())
    }
}

impl Identity {
    pub(super) fn files(chain: impl AsRef<Path>, key: impl AsRef<Path>) -> Self {
        Self { chain: Pem::file(chain), key: Pem::file(key) }
    }

    pub(super) fn text(chain: impl AsRef<[u8]>, key: impl AsRef<[u8]>) -> Self {
        Self { chain: Pem::text(chain, "the given certificate chain"), key: Pem::text(key, "the given key") }
    }

    /// Both, if they belong together.
    pub(super) fn load(&self) -> Result<(CertifiedKey, Certificate), TlsError> {
        let Self { chain, key } = self;
        let certificates = chain.certificates()?;
        let certificate = Certificate::new(&certificates[0]);
        let both = CertifiedKey::from_der(certificates, key.key()?, &provider()).map_err(|error| {
            let text = match &error {
                Cause::InconsistentKeys(_) => format!(
                    "the key in {key} does not belong to the first certificate in {chain}, which has to be the \
                     server's or client's own: its issuers follow it"
                ),
                error => format!("the certificate in {chain} and the key in {key} cannot be used: {error}"),
            };
            unusable(text).because(error)
        })?;
        Ok((both, certificate))
    }
}

impl fmt::Display for Pem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => path.display().fmt(f),
            Self::Text(_, name) => f.write_str(name),
        }
    }
}

impl fmt::Debug for Pem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

fn unusable(text: String) -> TlsError {
    TlsError::new(TlsErrorKind::Files, text)
}

fn contains(bytes: &[u8], part: &[u8]) -> bool {
    bytes.windows(part.len()).any(|window| window == part)
}
