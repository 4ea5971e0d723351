//! Handshakes in memory, between the configurations that are made here, with certificates of every kind.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::{env, fs, process, thread};

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair, date_time_ymd,
};
use rustls::crypto::WebPkiSupportedAlgorithms;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use rustls::version::{TLS12, TLS13};
use rustls::{
    ClientConfig, ClientConnection, Connection, HandshakeKind, ServerConfig, ServerConnection, SignatureScheme,
    SupportedProtocolVersion,
};

use super::error::Peer;
use super::*;

mod certificates;
mod clients;
mod files;
mod fuzz;
mod records;
mod replacing;
mod sessions;

/// A folder of its own for a test, removed with it.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Self {
        static LAST: AtomicUsize = AtomicUsize::new(0);
        let name = format!("heartwire-tls-{}-{}", process::id(), LAST.fetch_add(1, Ordering::Relaxed));
        let path = env::temp_dir().join(name);
        fs::create_dir(&path).unwrap();
        Self(path)
    }

    fn file(&self, name: &str, contents: impl AsRef<[u8]>) -> PathBuf {
        let path = self.0.join(name);
        fs::write(&path, contents).unwrap();
        path
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// A chain and its key, in PEM.
struct Made {
    chain: String,
    key: String,
}

impl Made {
    fn server(&self) -> ServerTls {
        ServerTls::from_pem(&self.chain, &self.key).unwrap()
    }

    fn der(&self) -> CertificateDer<'static> {
        CertificateDer::from_pem_slice(self.chain.as_bytes()).unwrap()
    }
}

type Ca = CertifiedIssuer<'static, KeyPair>;

fn ca(name: &str) -> Ca {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}

fn params(names: &[&str]) -> CertificateParams {
    let mut params = CertificateParams::new(names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>()).unwrap();
    params.distinguished_name.remove(DnType::CommonName);
    params
}

fn signed(ca: &Ca, params: &CertificateParams) -> Made {
    let key = KeyPair::generate().unwrap();
    Made { chain: params.signed_by(&key, ca).unwrap().pem(), key: key.serialize_pem() }
}

fn for_names(ca: &Ca, names: &[&str]) -> Made {
    signed(ca, &params(names))
}

fn device(ca: &Ca, name: &str) -> Made {
    let mut params = params(&[]);
    params.distinguished_name.push(DnType::CommonName, name);
    signed(ca, &params)
}

fn trusting(ca: &Ca) -> ClientTls {
    ClientTls::new().ca_pem(ca.pem()).unwrap()
}

/// Both ends of a connection in memory.
struct Pair {
    client: Connection,
    server: Connection,
}

/// What goes wrong at either end.
#[derive(Debug)]
struct Failed {
    client: Option<TlsError>,
    server: Option<TlsError>,
}

impl Pair {
    fn new(client: &ClientTls, server: &ServerTls, host: &str) -> Self {
        let client = ClientConnection::new(client.config().unwrap(), client.name_for(host).unwrap()).unwrap();
        let server = ServerConnection::new(server.config()).unwrap();
        Self { client: client.into(), server: server.into() }
    }

    /// Exchanges whatever either end has to send, until neither has anything.
    fn exchange(&mut self) -> Result<(), Failed> {
        let (mut client, mut server) = (None, None);
        while self.client.wants_write() || self.server.wants_write() {
            pump(&mut self.client, &mut self.server, &mut server);
            pump(&mut self.server, &mut self.client, &mut client);
        }
        match (client, server) {
            (None, None) => Ok(()),
            (client, server) => Err(Failed {
                client: client.map(|cause| TlsError::of_connection(cause, Peer::Server("example.org"))),
                server: server.map(|cause| TlsError::of_connection(cause, Peer::Client)),
            }),
        }
    }

    fn certificate_of_server(&self) -> &CertificateDer<'_> {
        &self.client.peer_certificates().unwrap()[0]
    }
}

fn pump(from: &mut Connection, to: &mut Connection, error: &mut Option<rustls::Error>) {
    let mut bytes = Vec::new();
    while from.wants_write() {
        from.write_tls(&mut bytes).unwrap();
    }
    let mut rest = &bytes[..];
    while !rest.is_empty() && error.is_none() {
        to.read_tls(&mut rest).unwrap();
        *error = to.process_new_packets().err();
    }
}

fn connect_to(host: &str, client: &ClientTls, server: &ServerTls) -> Result<Pair, Failed> {
    let mut pair = Pair::new(client, server, host);
    pair.exchange()?;
    assert!(!pair.client.is_handshaking() && !pair.server.is_handshaking());
    Ok(pair)
}

fn connect(client: &ClientTls, server: &ServerTls) -> Result<Pair, Failed> {
    connect_to("example.org", client, server)
}

fn fails(client: &ClientTls, server: &ServerTls) -> Failed {
    connect(client, server).err().expect("a handshake that fails")
}

fn client_of(versions: &[&'static SupportedProtocolVersion], alpn: &[&str], ca: &Ca) -> ClientTls {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(ca.der().clone()).unwrap();
    let config = ClientConfig::builder_with_provider(provider()).with_protocol_versions(versions).unwrap();
    let mut config = config.with_root_certificates(roots).with_no_client_auth();
    config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
    ClientTls::from_config(Arc::new(config))
}
