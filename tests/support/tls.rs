//! TLS for tests: certificates, and the configurations of both ends.

use std::sync::{Arc, OnceLock};
#[cfg(feature = "cli")]
use std::time::{Duration, SystemTime};

use heartwire::{ClientTls, ServerTls};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore, ServerConfig, SupportedProtocolVersion};

/// A CA of the tests' own.
pub(crate) type Ca = CertifiedIssuer<'static, KeyPair>;

pub(crate) fn ca(name: &str) -> Ca {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    CertifiedIssuer::self_signed(params, KeyPair::generate().expect("a key")).expect("a certificate")
}

/// A certificate chain and its key, in PEM.
pub(crate) struct Made {
    pub(crate) chain: String,
    pub(crate) key: String,
}

impl Made {
    /// For a server of these names.
    pub(crate) fn for_names(ca: &Ca, names: &[&str]) -> Self {
        Self::signed(ca, &params(names))
    }

    /// For a device of this name.
    pub(crate) fn device(ca: &Ca, name: &str) -> Self {
        let mut params = params(&[]);
        params.distinguished_name.push(DnType::CommonName, name);
        Self::signed(ca, &params)
    }

    /// For localhost and this name, made 90 days ago and good for so many more. Its end is in the middle of a day.
    #[cfg(feature = "cli")]
    pub(crate) fn lasting(ca: &Ca, name: &str, days: i64) -> Self {
        const DAY: u64 = 24 * 3600;
        let mut params = params(&["localhost", name]);
        let now = SystemTime::now();
        let distance = Duration::from_secs(days.unsigned_abs() * DAY + DAY / 2);
        params.not_before = (now - Duration::from_secs(90 * DAY)).into();
        params.not_after = if days < 0 { now - distance } else { now + distance }.into();
        Self::signed(ca, &params)
    }

    pub(crate) fn signed(ca: &Ca, params: &CertificateParams) -> Self {
        let key = KeyPair::generate().expect("a key");
        Self { chain: params.signed_by(&key, ca).expect("a certificate").pem(), key: key.serialize_pem() }
    }

    pub(crate) fn server(&self) -> ServerTls {
        ServerTls::from_pem(&self.chain, &self.key).expect("they belong together")
    }

    pub(crate) fn der(&self) -> CertificateDer<'static> {
        CertificateDer::from_pem_slice(self.chain.as_bytes()).expect("a certificate")
    }

    pub(crate) fn key(&self) -> PrivateKeyDer<'static> {
        PrivateKeyDer::from_pem_slice(self.key.as_bytes()).expect("a key")
    }
}

pub(crate) fn params(names: &[&str]) -> CertificateParams {
    let mut params = CertificateParams::new(names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>())
        .expect("names of hosts, and addresses");
    params.distinguished_name.remove(DnType::CommonName);
    params
}

/// Where most servers of tests are.
const NAMES: [&str; 3] = ["localhost", "127.0.0.1", "::1"];

/// The CA and the server's certificate of most tests.
fn site() -> &'static (Ca, Made) {
    static SITE: OnceLock<(Ca, Made)> = OnceLock::new();
    SITE.get_or_init(|| {
        let ca = ca("the tests' CA");
        let made = Made::for_names(&ca, &NAMES);
        (ca, made)
    })
}

pub(crate) fn site_ca() -> &'static Ca {
    &site().0
}

/// The TLS of a heartwire server.
pub(crate) fn server_tls() -> ServerTls {
    site().1.server()
}

/// The TLS of a heartwire client that trusts [`server_tls`].
pub(crate) fn client_tls() -> ClientTls {
    ClientTls::new().ca_pem(site().0.pem()).expect("a CA")
}

pub(crate) fn provider() -> Arc<CryptoProvider> {
    Arc::new(ring::default_provider())
}

/// rustls' own configuration of a server with that certificate.
pub(crate) fn server_config(versions: &[&'static SupportedProtocolVersion]) -> ServerConfig {
    let made = &site().1;
    let builder = ServerConfig::builder_with_provider(provider()).with_protocol_versions(versions).expect("ring");
    builder.with_no_client_auth().with_single_cert(vec![made.der()], made.key()).expect("they belong together")
}

/// rustls' own configuration of a client that trusts that certificate.
pub(crate) fn client_config(versions: &[&'static SupportedProtocolVersion]) -> ClientConfig {
    client_config_trusting(site().0.der().clone(), versions)
}

/// The same for the certificate of any CA.
pub(crate) fn client_config_trusting(
    ca: CertificateDer<'static>,
    versions: &[&'static SupportedProtocolVersion],
) -> ClientConfig {
    let mut roots = RootCertStore::empty();
    roots.add(ca).expect("a CA");
    let builder = ClientConfig::builder_with_provider(provider()).with_protocol_versions(versions).expect("ring");
    builder.with_root_certificates(roots).with_no_client_auth()
}
