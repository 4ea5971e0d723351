//! A server's TLS: certificates chosen by name, client certificates, and their replacement while the server runs.

use std::fmt;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use rustls::crypto::ring::Ticketer;
use rustls::server::{ClientHello, NoServerSessionStorage, ProducesTickets, ResolvesServerCert, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;
use rustls::{RootCertStore, ServerConfig};

use super::certificate::Certificate;
use super::error::{TlsError, TlsErrorKind};
use super::pem::{Identity, Pem};
use super::{ALPN, provider};

/// The TLS of a server, for [`Server::tls`](crate::Server::tls): its certificates, and whether clients need one too.
///
/// TLS 1.2 and 1.3, by [rustls](https://docs.rs/rustls). Sessions are resumed by tickets, so the server keeps nothing
/// for them; early data (0-RTT), which can be replayed, is off. A client that offers protocols (ALPN) has to offer
/// `http/1.1`, with which WebSocket begins.
///
/// The keys of TLS 1.3 are replaced before they are used up. TLS 1.2 cannot do that here: with AES-GCM such a
/// connection ends after 16,777,216 records in one direction, mostly one for each message, and its client has to come
/// back.
///
/// Clones share what they serve: [`reload`](Self::reload) on one is seen by all, and by the server.
///
/// ```no_run
/// use heartwire::{Server, ServerTls};
///
/// # fn main() -> Result<(), heartwire::Error> {
/// let tls = ServerTls::from_pem_files("chain.pem", "key.pem")?.require_client_certificates("devices-ca.pem")?;
/// let reloading = tls.clone(); // later: reloading.reload()?
/// Server::bind("0.0.0.0:9001")?.tls(tls).serve(|conn| loop {
///     let message = conn.recv()?;
///     conn.send(message)?;
/// })
/// # }
/// ```
#[derive(Clone)]
pub struct ServerTls {
    shared: Arc<Shared>,
}

struct Shared {
    /// What is read anew. `None`: the application makes the configurations.
    source: Option<Source>,
    /// Protects which configuration is in use, and is held for the moment in which that is read or replaced.
    current: Mutex<Current>,
}

/// Where everything comes from.
#[derive(Clone, Debug)]
struct Source {
    identities: Vec<Identity>,
    clients: Option<ClientCertificates>,
}

#[derive(Clone, Debug)]
struct ClientCertificates {
    ca: Pem,
    are_required: bool,
}

#[derive(Clone)]
struct Current {
    config: Arc<ServerConfig>,
    /// The server's own, one for each key.
    certificates: Arc<[Certificate]>,
    /// The CAs whose client certificates are accepted. Tickets stand for certificates that they vouch for.
    client_roots: Arc<RootCertStore>,
}

impl ServerTls {
    /// A certificate chain and its key, in PEM files. The server's own certificate comes first in the chain; those of
    /// intermediate CAs follow, without the root. The key is in PKCS#8, SEC1 or PKCS#1, without a passphrase.
    ///
    /// # Errors
    /// [`TlsErrorKind::Files`] if they cannot be read, or do not belong together.
    pub fn from_pem_files(chain: impl AsRef<Path>, key: impl AsRef<Path>) -> Result<Self, TlsError> {
        Self::load(Source { identities: vec![Identity::files(chain, key)], clients: None })
    }

    /// The same from memory. [`reload`](Self::reload) then has nothing to read anew.
    ///
    /// # Errors
    /// [`TlsErrorKind::Files`] if they are not valid, or do not belong together.
    pub fn from_pem(chain: impl AsRef<[u8]>, key: impl AsRef<[u8]>) -> Result<Self, TlsError> {
        Self::load(Source { identities: vec![Identity::text(chain, key)], clients: None })
    }

    /// A configuration of the application's own. It is used as it is: have it offer `http/1.1` if it offers any
    /// protocol (`alpn_protocols`). Its verifiers, resolvers and stores are called in the middle of a connection's
    /// work, and some for several connections in turn: they must not block, nor call heartwire.
    pub fn from_config(config: Arc<ServerConfig>) -> Self {
        Self { shared: Arc::new(Shared { source: None, current: Mutex::new(Current::of_application(config)) }) }
    }

    /// One more certificate chain and its key. A client gets the first certificate for the name that it asks for (SNI)
    /// and with a kind of key that it knows; if there is none, or it names none, it gets the first of all.
    ///
    /// # Errors
    /// As [`from_pem_files`](Self::from_pem_files).
    pub fn add_pem_files(self, chain: impl AsRef<Path>, key: impl AsRef<Path>) -> Result<Self, TlsError> {
        self.changed(|source| source.identities.push(Identity::files(chain, key)))
    }

    /// Requires a certificate of each client, issued by a CA in this PEM file (mTLS). A client without one is refused
    /// in the TLS handshake. Default: none is asked for.
    ///
    /// A client that resumes a session (for twelve hours at most) is not asked for its certificate again, so an expired
    /// one may be used for as long. A reload with another CA file ends all sessions.
    ///
    /// # Errors
    /// [`TlsErrorKind::Files`] if the file cannot be read, or has no certificate that can be used.
    pub fn require_client_certificates(self, ca: impl AsRef<Path>) -> Result<Self, TlsError> {
        let clients = ClientCertificates { ca: Pem::file(ca), are_required: true };
        self.changed(|source| source.clients = Some(clients))
    }

    /// Asks each client for a certificate, issued by a CA in this PEM file. A client without one is let in, and
    /// `on_handshake` can decide; one with a certificate that is not valid is refused. Default: none is asked for.
    ///
    /// # Errors
    /// As [`require_client_certificates`](Self::require_client_certificates).
    pub fn request_client_certificates(self, ca: impl AsRef<Path>) -> Result<Self, TlsError> {
        let clients = ClientCertificates { ca: Pem::file(ca), are_required: false };
        self.changed(|source| source.clients = Some(clients))
    }

    /// Reads all files anew. Handshakes that begin afterwards use what they hold; open connections stay as they are.
    ///
    /// It may be called from any thread, at any time. It does nothing for what came from memory or from a
    /// [configuration](Self::from_config).
    ///
    /// # Errors
    /// As [`from_pem_files`](Self::from_pem_files). What was served before is then served further on. While a
    /// certificate and its key are replaced one after the other they do not belong together: try again a moment later.
    pub fn reload(&self) -> Result<(), TlsError> {
        let Some(source) = &self.shared.source else { return Ok(()) };
        loop {
            let before = self.shared.current();
            let loaded = source.load(Some(&before))?;
            // Not under the lock: it reads files. If another thread has replaced what was served meanwhile, it may have
            // read newer ones.
            if self.shared.replace_if_still(&before, loaded) {
                return Ok(());
            }
        }
    }

    /// Serves another configuration of the application's own from now on, as after [`from_config`](Self::from_config).
    pub fn replace_config(&self, config: Arc<ServerConfig>) {
        self.shared.replace(Current::of_application(config));
    }

    /// The server's own certificates, one for each key, as they are served now. Empty for a configuration of the
    /// application's own.
    pub fn certificates(&self) -> Vec<Certificate> {
        self.shared.current().certificates.to_vec()
    }

    /// What the next handshake uses.
    pub(crate) fn config(&self) -> Arc<ServerConfig> {
        self.shared.current().config
    }

    fn load(source: Source) -> Result<Self, TlsError> {
        let current = Mutex::new(source.load(None)?);
        Ok(Self { shared: Arc::new(Shared { source: Some(source), current }) })
    }

    /// Made anew, so that earlier clones stay as they are.
    fn changed(&self, change: impl FnOnce(&mut Source)) -> Result<Self, TlsError> {
        let Some(mut source) = self.shared.source.clone() else {
            let text = "a configuration of rustls' own has to be complete: files cannot be added to it";
            return Err(TlsError::new(TlsErrorKind::Files, text));
        };
        change(&mut source);
        Self::load(source)
    }
}

impl Shared {
    fn current(&self) -> Current {
        self.current.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn replace(&self, by: Current) {
        let old = std::mem::replace(&mut *self.current.lock().unwrap_or_else(PoisonError::into_inner), by);
        // Its parts may be the application's, so they are dropped without the lock.
        drop(old);
    }

    /// Returns whether it was still this one, and so was replaced.
    fn replace_if_still(&self, before: &Current, by: Current) -> bool {
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        let is_still = Arc::ptr_eq(&current.config, &before.config);
        if is_still {
            // `before` keeps the old one, so that it is not dropped here.
            *current = by;
        }
        is_still
    }
}

impl Current {
    fn of_application(config: Arc<ServerConfig>) -> Self {
        Self { config, certificates: Arc::new([]), client_roots: Arc::new(RootCertStore::empty()) }
    }
}

impl Source {
    fn load(&self, before: Option<&Current>) -> Result<Current, TlsError> {
        let loaded: Result<Vec<_>, _> = self.identities.iter().map(Identity::load).collect();
        let loaded = loaded?;
        let certificates = loaded.iter().map(|(_, certificate)| certificate.clone()).collect();
        let mut roots = RootCertStore::empty();
        if let Some(clients) = &self.clients {
            clients.ca.add_roots_to(&mut roots)?;
        }
        let client_roots = Arc::new(roots);
        let mut config = self.builder(&client_roots)?.with_cert_resolver(Arc::new(ByName::new(loaded)));
        config.alpn_protocols = vec![ALPN.to_vec()];
        // Only tickets: nothing is kept for clients that may never come back.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.ticketer = match before {
            // A client that comes back goes on where it was, unless it may no longer be trusted.
            Some(before) if before.client_roots.roots == client_roots.roots => Arc::clone(&before.config.ticketer),
            _ => new_ticketer()?,
        };
        Ok(Current { config: Arc::new(config), certificates, client_roots })
    }

    fn builder(
        &self,
        client_roots: &Arc<RootCertStore>,
    ) -> Result<rustls::ConfigBuilder<ServerConfig, rustls::server::WantsServerCert>, TlsError> {
        let builder = ServerConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .map_err(|error| other("the crypto provider cannot be used", error))?;
        let Some(clients) = &self.clients else { return Ok(builder.with_no_client_auth()) };
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::clone(client_roots), provider());
        let verifier = if clients.are_required { verifier } else { verifier.allow_unauthenticated() };
        let verifier = verifier.build().map_err(|error| other("client certificates cannot be verified", error))?;
        Ok(builder.with_client_cert_verifier(verifier))
    }
}

fn new_ticketer() -> Result<Arc<dyn ProducesTickets>, TlsError> {
    Ticketer::new().map_err(|error| other("session tickets cannot be made", error))
}

fn other(what: &str, error: impl std::error::Error + Send + Sync + 'static) -> TlsError {
    TlsError::new(TlsErrorKind::Other, format!("{what}: {error}")).because(error)
}

impl fmt::Debug for ServerTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServerTls")
            .field("source", &self.shared.source)
            .field("certificates", &self.certificates())
            .finish_non_exhaustive()
    }
}

/// Chooses a certificate by the name that the client asks for.
#[derive(Debug)]
struct ByName(Vec<Choice>);

struct Choice {
    /// In lower case.
    names: Vec<String>,
    key: Arc<CertifiedKey>,
}

impl ByName {
    fn new(loaded: Vec<(CertifiedKey, Certificate)>) -> Self {
        let choice = |(key, certificate): (CertifiedKey, Certificate)| Choice {
            names: certificate.names().iter().map(|name| name.to_ascii_lowercase()).collect(),
            key: Arc::new(key),
        };
        Self(loaded.into_iter().map(choice).collect())
    }
}

impl ResolvesServerCert for ByName {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let name = hello.server_name().map(str::to_ascii_lowercase);
        let is_for_name = |choice: &&Choice| name.as_deref().is_some_and(|name| choice.is_for(name));
        let mut eligible: Vec<&Choice> = self.0.iter().filter(is_for_name).collect();
        if eligible.is_empty() {
            eligible.extend(&self.0);
        }
        let can_sign = |choice: &&&Choice| choice.key.key.choose_scheme(hello.signature_schemes()).is_some();
        let chosen = eligible.iter().find(can_sign).or(eligible.first())?;
        Some(Arc::clone(&chosen.key))
    }
}

impl Choice {
    fn is_for(&self, name: &str) -> bool {
        let beyond_first_label = name.split_once('.').map(|(_, rest)| rest);
        self.names.iter().any(|own| match own.strip_prefix("*.") {
            Some(own) => beyond_first_label == Some(own),
            None => own == name,
        })
    }
}

impl fmt::Debug for Choice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Choice").field("names", &self.names).finish_non_exhaustive()
    }
}
