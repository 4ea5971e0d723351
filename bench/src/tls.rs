//! What both ends of TLS are given here: one certificate for all servers, and clients that trust whatever they are
//! shown.
//!
//! All servers have the same version, cipher suite and key exchange, because the clients offer no others: TLS 1.3 with
//! AES-256-GCM and X25519, which is what rustls chooses by default. They also resume sessions alike, by tickets.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, LazyLock};

use rustls::WantsVerifier;
use rustls::client::Resumption;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::ring::cipher_suite::TLS13_AES_256_GCM_SHA384;
use rustls::crypto::ring::kx_group::X25519;
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::NoServerSessionStorage;
use rustls::version::TLS13;
use rustls::{ClientConfig, ConfigBuilder, DigitallySignedStruct, RootCertStore, ServerConfig, SignatureScheme};

/// The name in the certificate.
pub(crate) const NAME: &str = "localhost";

/// A certificate for `localhost` with a key of ECDSA P-256, in a file that is removed with it.
#[derive(Debug)]
pub(crate) struct Identity {
    file: PathBuf,
}

impl Identity {
    pub(crate) fn make() -> io::Result<Self> {
        let names = [NAME.to_owned(), "127.0.0.1".to_owned()];
        let made = rcgen::generate_simple_self_signed(names).map_err(io::Error::other)?;
        static LAST: AtomicUsize = AtomicUsize::new(0);
        let (process, number) = (std::process::id(), LAST.fetch_add(1, Relaxed));
        let file = std::env::temp_dir().join(format!("heartwire-bench-{process}-{number}.pem"));
        fs::write(&file, made.cert.pem() + &made.signing_key.serialize_pem())?;
        Ok(Self { file })
    }

    /// The certificate and its key, in PEM.
    pub(crate) fn file(&self) -> &Path {
        &self.file
    }
}

impl Drop for Identity {
    fn drop(&mut self) {
        // If it is gone already, so much the better.
        let _ = fs::remove_file(&self.file);
    }
}

/// For clients that only load: they verify nothing, for that is none of the server's work.
pub(crate) fn careless_client() -> Arc<ClientConfig> {
    static CONFIG: LazyLock<Arc<ClientConfig>> = LazyLock::new(|| {
        let verifier = Arc::new(TrustsAll(provider()));
        let mut config = builder().dangerous().with_custom_certificate_verifier(verifier).with_no_client_auth();
        config.resumption = Resumption::disabled();
        Arc::new(config)
    });
    Arc::clone(&CONFIG)
}

/// The same, but it resumes its sessions. Each client needs one of its own, or they take each other's tickets.
pub(crate) fn resuming_client() -> Arc<ClientConfig> {
    let mut config = ClientConfig::clone(&careless_client());
    config.resumption = resumption(true);
    Arc::new(config)
}

/// For clients as they are in earnest: they verify the server's certificate, which is this one.
pub(crate) fn careful_client(identity: &Path, resumes: bool) -> io::Result<Arc<ClientConfig>> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(identity).map_err(io::Error::other)?).map_err(io::Error::other)?;
    let mut config = builder().with_root_certificates(roots).with_no_client_auth();
    config.resumption = resumption(resumes);
    Ok(Arc::new(config))
}

/// Sessions that one client remembers. The server sends two tickets for each connection, and a ticket is used once.
fn resumption(resumes: bool) -> Resumption {
    if resumes { Resumption::in_memory_sessions(1) } else { Resumption::disabled() }
}

/// For a server that is not heartwire: tickets, and nothing kept for clients, as heartwire has it.
pub(crate) fn server(identity: &Path) -> io::Result<Arc<ServerConfig>> {
    let chain = vec![CertificateDer::from_pem_file(identity).map_err(io::Error::other)?];
    let key = PrivateKeyDer::from_pem_file(identity).map_err(io::Error::other)?;
    let mut config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(io::Error::other)?
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .map_err(io::Error::other)?;
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.ticketer = ring::Ticketer::new().map_err(io::Error::other)?;
    Ok(Arc::new(config))
}

fn builder() -> ConfigBuilder<ClientConfig, WantsVerifier> {
    let builder = ClientConfig::builder_with_provider(provider()).with_protocol_versions(&[&TLS13]);
    // The provider has what this version needs.
    builder.unwrap_or_else(|_| unreachable!())
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(CryptoProvider {
        cipher_suites: vec![TLS13_AES_256_GCM_SHA384],
        kx_groups: vec![X25519],
        ..ring::default_provider()
    })
}

#[derive(Debug)]
struct TrustsAll(Arc<CryptoProvider>);

impl ServerCertVerifier for TrustsAll {
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
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
