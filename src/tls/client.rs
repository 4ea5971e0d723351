//! A client's TLS: whom it trusts, what it shows of itself, and the sessions that it resumes.

use std::fmt;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{Resumption, WebPkiServerVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::sign::SingleCertAndKey;
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};

use super::error::{TlsError, TlsErrorKind};
use super::pem::{Identity, Pem};
use super::{ALPN, provider};

/// The TLS of a client whose URL begins with `wss://`, for [`Client::tls`](crate::Client::tls). Without it, a client
/// trusts the system's roots and has no certificate of its own.
///
/// TLS 1.2 and 1.3, by [rustls](https://docs.rs/rustls). The server's name is checked, and sent (SNI). A client that
/// reconnects resumes its session, which saves both ends the expensive part of the handshake.
///
/// The keys of TLS 1.3 are replaced before they are used up. TLS 1.2 cannot do that here: with AES-GCM such a
/// connection ends after 16,777,216 records in one direction, mostly one for each message, and its client has to come
/// back.
///
/// Roots and certificates are read once, and not for each attempt. Clones share them, and sessions too.
///
/// ```no_run
/// use heartwire::{Client, ClientTls};
///
/// # fn main() -> Result<(), heartwire::Error> {
/// let tls = ClientTls::new().ca_file("ca.pem")?.client_certificate_files("device.pem", "device-key.pem")?;
/// Client::new("wss://example.org/")?.tls(tls).run(|conn| loop {
///     println!("{:?}", conn.recv()?);
/// })
/// # }
/// ```
#[derive(Clone)]
pub struct ClientTls {
    shared: Arc<Shared>,
}

struct Shared {
    /// `None`: the application made the configuration.
    source: Option<Source>,
    /// For the server's name, if it is not to be the URL's host.
    server_name: Option<ServerName<'static>>,
    /// Protects the configuration in use, once it was needed. It is held for the moment in which that is read or
    /// replaced.
    current: Mutex<Option<Arc<ClientConfig>>>,
}

/// Where everything comes from.
#[derive(Clone, Debug, Default)]
struct Source {
    cas: Vec<Pem>,
    /// Beside the CAs. Where there are none, the system's roots are trusted anyway.
    adds_system: bool,
    identity: Option<Identity>,
    accepts_invalid: bool,
}

/// One server is connected to. [`Client::prepare`](crate::Client::prepare) may name others.
const SERVERS_REMEMBERED: usize = 16;

impl ClientTls {
    /// Trusts the system's roots, and presents no certificate. They are read when the first connection needs them.
    ///
    /// On Linux these are the files of the package `ca-certificates`, or those that the environment variables
    /// `SSL_CERT_FILE` and `SSL_CERT_DIR` name; on macOS and Windows the stores of the system.
    pub fn new() -> Self {
        Self::with(Source::default(), None)
    }

    /// A configuration of the application's own. It is used as it is: have it offer `http/1.1` if it offers any
    /// protocol (`alpn_protocols`). Its verifiers, resolvers and stores are called in the middle of a connection's
    /// work, and some for several connections in turn: they must not block, nor call heartwire.
    pub fn from_config(config: Arc<ClientConfig>) -> Self {
        let current = Mutex::new(Some(config));
        Self { shared: Arc::new(Shared { source: None, server_name: None, current }) }
    }

    /// Trusts the CAs in this PEM file, **in place of** the system's roots, as curl's `--cacert` does: nobody else can
    /// then vouch for the server. Further calls add to them, and [`system_roots`](Self::system_roots) adds the
    /// system's.
    ///
    /// # Errors
    /// [`TlsErrorKind::Files`] if the file cannot be read, or has no certificate that can be used.
    pub fn ca_file(self, ca: impl AsRef<Path>) -> Result<Self, TlsError> {
        self.trusting(Pem::file(ca))
    }

    /// The same from memory, such as from `include_bytes!`.
    ///
    /// # Errors
    /// [`TlsErrorKind::Files`] if there is no certificate in it that can be used.
    pub fn ca_pem(self, ca: impl AsRef<[u8]>) -> Result<Self, TlsError> {
        self.trusting(Pem::text(ca, "the given CA certificate"))
    }

    /// Trusts the system's roots beside the CAs that were named. Default without any such CA.
    ///
    /// # Errors
    /// [`TlsErrorKind::Files`] for a configuration of the application's own.
    pub fn system_roots(self) -> Result<Self, TlsError> {
        self.changed(|source| source.adds_system = true)
    }

    /// Presents this certificate chain to a server that asks for one (mTLS), and proves that it has the key. Both are
    /// in PEM: the client's own certificate first, then those of intermediate CAs. Default: none.
    ///
    /// # Errors
    /// [`TlsErrorKind::Files`] if they cannot be read, or do not belong together.
    pub fn client_certificate_files(self, chain: impl AsRef<Path>, key: impl AsRef<Path>) -> Result<Self, TlsError> {
        self.identified(Identity::files(chain, key))
    }

    /// The same from memory.
    ///
    /// # Errors
    /// [`TlsErrorKind::Files`] if they are not valid, or do not belong together.
    pub fn client_certificate_pem(self, chain: impl AsRef<[u8]>, key: impl AsRef<[u8]>) -> Result<Self, TlsError> {
        self.identified(Identity::text(chain, key))
    }

    /// Expects a certificate for this DNS name or IP address, and sends it (SNI), whatever host the URL names. Default:
    /// the URL's host. This is for a server that is reached by another address, such as through a tunnel.
    ///
    /// # Errors
    /// [`TlsErrorKind::WrongName`] if it is neither a DNS name nor an IP address.
    pub fn server_name(self, name: &str) -> Result<Self, TlsError> {
        let name = parse_name(name)?;
        let shared = &self.shared;
        let current = Mutex::new(shared.source.is_none().then(|| shared.current()).flatten());
        let source = shared.source.clone();
        Ok(Self { shared: Arc::new(Shared { source, server_name: Some(name), current }) })
    }

    /// **Accepts every certificate, whoever presents it.** Anyone on the way can then read and change everything, and
    /// pose as the server. Only for a try with a server of your own; for a self-signed certificate give
    /// [`ca_file`](Self::ca_file) that certificate instead. Default: certificates are verified.
    ///
    /// # Errors
    /// [`TlsErrorKind::Files`] for a configuration of the application's own.
    pub fn danger_accept_invalid_certs(self) -> Result<Self, TlsError> {
        self.changed(|source| source.accepts_invalid = true)
    }

    /// Reads all files and the system's roots anew, for connections from now on: when a device has renewed its
    /// certificate. Sessions are not resumed across it. It does nothing for a configuration of the application's own.
    ///
    /// # Errors
    /// As where each file was named. What was used before then stays in use.
    pub fn reload(&self) -> Result<(), TlsError> {
        let Some(source) = &self.shared.source else { return Ok(()) };
        loop {
            let before = self.shared.current();
            // Not under the lock: it reads files. If another thread has replaced it meanwhile, it may have read newer
            // ones.
            if self.shared.replace_if_still(before.as_ref(), source.load()?).is_ok() {
                return Ok(());
            }
        }
    }

    /// What the next attempt uses: made by the first that needs it.
    pub(crate) fn config(&self) -> Result<Arc<ClientConfig>, TlsError> {
        match (self.shared.current(), &self.shared.source) {
            (Some(config), _) => Ok(config),
            (None, source) => {
                // Not under the lock: it reads files. What comes first stays, for it may come from a reload.
                let config = source.as_ref().unwrap_or(&Source::default()).load()?;
                Ok(self.shared.replace_if_still(None, Arc::clone(&config)).map_or_else(|newer| newer, |()| config))
            }
        }
    }

    /// The name that the server's certificate has to be for, given the URL's host without brackets.
    pub(crate) fn name_for(&self, host: &str) -> Result<ServerName<'static>, TlsError> {
        match &self.shared.server_name {
            Some(name) => Ok(name.clone()),
            None => parse_name(host),
        }
    }

    fn with(source: Source, server_name: Option<ServerName<'static>>) -> Self {
        Self { shared: Arc::new(Shared { source: Some(source), server_name, current: Mutex::new(None) }) }
    }

    fn trusting(self, ca: Pem) -> Result<Self, TlsError> {
        // So that the error comes here.
        ca.add_roots_to(&mut RootCertStore::empty())?;
        self.changed(|source| source.cas.push(ca))
    }

    fn identified(self, identity: Identity) -> Result<Self, TlsError> {
        identity.load()?;
        self.changed(|source| source.identity = Some(identity))
    }

    /// Made anew, so that earlier clones stay as they are.
    fn changed(&self, change: impl FnOnce(&mut Source)) -> Result<Self, TlsError> {
        let Some(mut source) = self.shared.source.clone() else {
            let text = "a configuration of rustls' own has to be complete: nothing can be added to it";
            return Err(TlsError::new(TlsErrorKind::Files, text));
        };
        change(&mut source);
        Ok(Self::with(source, self.shared.server_name.clone()))
    }
}

impl Default for ClientTls {
    fn default() -> Self {
        Self::new()
    }
}

fn parse_name(name: &str) -> Result<ServerName<'static>, TlsError> {
    ServerName::try_from(name.to_owned()).map_err(|error| {
        let text = format!("{name:?} can be in no certificate: it is neither a DNS name nor an IP address");
        TlsError::new(TlsErrorKind::WrongName, text).because(error)
    })
}

impl Shared {
    fn current(&self) -> Option<Arc<ClientConfig>> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Replaces it if it is still this one, which the caller keeps. Otherwise returns what it is now.
    fn replace_if_still(
        &self,
        before: Option<&Arc<ClientConfig>>,
        by: Arc<ClientConfig>,
    ) -> Result<(), Arc<ClientConfig>> {
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        match &*current {
            Some(newer) if before.is_none_or(|before| !Arc::ptr_eq(before, newer)) => Err(Arc::clone(newer)),
            _ => {
                *current = Some(by);
                Ok(())
            }
        }
    }
}

impl Source {
    fn load(&self) -> Result<Arc<ClientConfig>, TlsError> {
        let builder = ClientConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .map_err(|error| other("the crypto provider cannot be used", error))?;
        let builder = match self.accepts_invalid {
            true => builder.dangerous().with_custom_certificate_verifier(Arc::new(AcceptAll(provider()))),
            false => builder.with_webpki_verifier(self.verifier()?),
        };
        let mut config = match &self.identity {
            None => builder.with_no_client_auth(),
            Some(identity) => {
                let (key, _) = identity.load()?;
                builder.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(key)))
            }
        };
        config.alpn_protocols = vec![ALPN.to_vec()];
        config.resumption = Resumption::in_memory_sessions(SERVERS_REMEMBERED);
        Ok(Arc::new(config))
    }

    fn verifier(&self) -> Result<Arc<WebPkiServerVerifier>, TlsError> {
        let mut roots = RootCertStore::empty();
        if self.adds_system || self.cas.is_empty() {
            add_system_roots_to(&mut roots)?;
        }
        for ca in &self.cas {
            ca.add_roots_to(&mut roots)?;
        }
        WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider())
            .build()
            .map_err(|error| other("certificates cannot be verified", error))
    }
}

/// Some of a system's roots may be of kinds that rustls does not know. That is no error while there are others.
fn add_system_roots_to(roots: &mut RootCertStore) -> Result<(), TlsError> {
    let mut found = rustls_native_certs::load_native_certs();
    let (added, _unknown) = roots.add_parsable_certificates(found.certs);
    if added > 0 {
        return Ok(());
    }
    let text = "this system has no trusted roots: install them (the package ca-certificates on most systems), or name \
                the file of your own CA";
    let error = TlsError::new(TlsErrorKind::NoRoots, text);
    Err(match found.errors.pop() {
        Some(cause) => {
            let text = format!("{error} ({cause})");
            TlsError::new(TlsErrorKind::NoRoots, text).because(cause)
        }
        None => error,
    })
}

fn other(what: &str, error: impl std::error::Error + Send + Sync + 'static) -> TlsError {
    TlsError::new(TlsErrorKind::Other, format!("{what}: {error}")).because(error)
}

impl fmt::Debug for ClientTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Shared { source, server_name, .. } = &*self.shared;
        f.debug_struct("ClientTls").field("source", source).field("server_name", server_name).finish_non_exhaustive()
    }
}

/// Verifies nothing but that the peer has the key of the certificate that it presents.
#[derive(Debug)]
struct AcceptAll(Arc<CryptoProvider>);

impl ServerCertVerifier for AcceptAll {
    fn verify_server_cert(
        &self,
        _certificate: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
