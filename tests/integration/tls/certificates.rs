//! Certificates of both ends on a live server: which one a client gets, what becomes of a client's own, and what
//! changes while connections are open. Every wrong kind of certificate is tried in memory (src/tls/tests).

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};

use heartwire::{Accept, ClientTls, ConnectError, Event, Response, ServerTls, TlsErrorKind};
use rcgen::date_time_ymd;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{DigitallySignedStruct, DistinguishedName, ServerConfig, SignatureScheme};

use super::{VERSIONS, say_hello, start};
use crate::support::Folder;
use crate::support::tls::{Ca, Made, ca, client_tls, params, provider, server_tls, site_ca};
use crate::support::{Running, listen, run, server};

/// The TLS of a client of one version that presents this certificate, if any.
fn presenting(versions: &[&'static rustls::SupportedProtocolVersion], made: Option<&Made>) -> ClientTls {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(site_ca().der().clone()).unwrap();
    let builder = rustls::ClientConfig::builder_with_provider(provider()).with_protocol_versions(versions).unwrap();
    let builder = builder.with_root_certificates(roots);
    ClientTls::from_config(Arc::new(match made {
        None => builder.with_no_client_auth(),
        Some(made) => builder.with_client_auth_cert(vec![made.der()], made.key()).unwrap(),
    }))
}

/// A server that tells each client who it is, and lets in those of this CA.
fn mtls(folder: &Folder, devices: &Ca, are_required: bool) -> Running {
    let site = Made::for_names(site_ca(), &["localhost"]);
    let tls = site.server();
    let file = folder.file("devices.pem", devices.pem());
    let tls = if are_required { tls.require_client_certificates(file) } else { tls.request_client_certificates(file) };
    let server = server().tls(tls.unwrap()).on_handshake(|request| match request.client_certificate() {
        None if request.path() == "/members" => Err(Response::new(403).because("no certificate")),
        certificate => {
            let who = certificate.map_or("nobody", |certificate| certificate.subject());
            Ok(Accept::new().header("X-You-Are", who))
        }
    });
    start(server)
}

fn refused(running: &Running, tls: ClientTls) -> heartwire::TlsError {
    match run(super::client(running.address()).tls(tls), listen).not_connected() {
        ConnectError::Tls(error) => error,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_client_certificate_is_seen_by_on_handshake_and_in_reports() {
    let (folder, devices) = (Folder::new(), ca("devices"));
    for are_required in [true, false] {
        let running = mtls(&folder, &devices, are_required);
        for versions in VERSIONS {
            let made = Made::device(&devices, "kitchen-7");
            let client = super::client(running.address()).tls(presenting(versions, Some(&made))).no_reconnect();
            let handle = running.handle.clone();
            let der = made.der();
            client
                .run(move |conn| {
                    say_hello(conn)?;
                    let connections = handle.connections();
                    let [one] = &connections[..] else { panic!("{connections:?}") };
                    let certificate = one.client_certificate.as_ref().expect("it was presented");
                    assert!(certificate.subject().contains("kitchen-7"), "{certificate:?}");
                    assert_eq!(certificate.der(), &der[..]);
                    Ok(())
                })
                .unwrap();
            let report = running.closed();
            assert_eq!(report.client_certificate.expect("it was presented").der(), &made.der()[..]);
        }
    }
}

#[test]
fn a_client_without_a_certificate_is_told_that_it_needs_one() {
    let (folder, devices) = (Folder::new(), ca("devices"));
    let required = mtls(&folder, &devices, true);
    for versions in VERSIONS {
        // In TLS 1.3 it learns of it only after its own part of the handshake.
        let error = refused(&required, presenting(versions, None));
        if versions == VERSIONS[1] {
            assert_eq!(error.kind(), TlsErrorKind::OurCertificate, "{error}");
            assert!(error.to_string().contains("asks for a client certificate, and none is set"), "{error}");
        }
        assert!(error.is_fatal(), "{error}");
        let (status, reason) = required.events.handshake_failed();
        assert_eq!((status, &reason[..]), (None, "TLS: the client presents no certificate, and has to"));
    }
    // Where it is only asked for, on_handshake decides.
    let requested = mtls(&folder, &devices, false);
    for versions in VERSIONS {
        let client = super::client(requested.address()).tls(presenting(versions, None)).no_reconnect();
        client.run(say_hello).unwrap();
        assert_eq!(requested.closed().client_certificate, None);
    }
    let members = heartwire::Client::new(&format!("wss://localhost:{}/members", requested.address().port())).unwrap();
    let error = run(members.tls(client_tls()), listen).not_connected();
    assert!(matches!(error, ConnectError::Refused { status: 403, .. }), "{error:?}");
}

#[test]
fn a_wrong_client_certificate_is_refused_and_the_client_learns_what_is_wrong() {
    let (folder, devices) = (Folder::new(), ca("devices"));
    let mut expired = params(&[]);
    expired.not_after = date_time_ymd(2020, 1, 1);
    let cases = [
        ("of another CA", Made::device(&ca("others"), "d"), "does not come from a CA that the server trusts", true),
        ("expired", Made::signed(&devices, &expired), "expired", false),
    ];
    for are_required in [true, false] {
        let running = mtls(&folder, &devices, are_required);
        for (what, made, text, is_fatal) in &cases {
            for versions in VERSIONS {
                let tls = presenting(versions, Some(made));
                let client = run(super::client(running.address()).tls(tls).no_reconnect(), listen);
                let ConnectError::Tls(error) = client.not_connected() else { panic!("{what}") };
                assert_eq!((error.kind(), error.is_fatal()), (TlsErrorKind::OurCertificate, *is_fatal), "{error}");
                let (_, reason) = running.events.handshake_failed();
                assert!(reason.contains(text), "{what}: {reason}");
            }
        }
        assert_eq!(running.handle.stats().opened, 0);
    }
}

#[test]
fn a_client_gets_the_certificate_of_the_name_that_it_asks_for() {
    let folder = Folder::new();
    let files = |name: &str| {
        let made = Made::for_names(site_ca(), &[name]);
        (folder.file(&format!("{name}.pem"), &made.chain), folder.file(&format!("{name}.key"), &made.key))
    };
    let ([a, b], names) = (["a.test", "b.test"].map(files), ["a.test", "b.test"]);
    let tls = ServerTls::from_pem_files(a.0, a.1).unwrap().add_pem_files(b.0, b.1).unwrap();
    let running = start(server().tls(tls));
    for name in names {
        // It would refuse the other one.
        let tls = client_tls().server_name(name).unwrap();
        super::client(running.address()).tls(tls).no_reconnect().run(say_hello).unwrap();
    }
    let error = refused(&running, client_tls());
    assert_eq!(error.kind(), TlsErrorKind::WrongName);
    assert!(error.to_string().contains("is for a.test, and not for localhost"), "{error}");
}

#[test]
fn a_reload_is_for_new_connections_and_leaves_open_ones_alone() {
    let folder = Folder::new();
    let issue = |ca: &Ca| {
        let made = Made::for_names(ca, &["localhost"]);
        (folder.file("chain.pem", &made.chain), folder.file("key.pem", &made.key))
    };
    let (old, new) = (ca("old"), ca("new"));
    let (chain, key) = issue(&old);
    let tls = ServerTls::from_pem_files(chain, key).unwrap();
    let running = start(server().tls(tls.clone()));
    let trusting = |ca: &Ca| ClientTls::new().ca_pem(ca.pem()).unwrap();
    let (trusts_old, trusts_new) = (trusting(&old), trusting(&new));
    let connected = run(super::client(running.address()).tls(trusts_old), listen);
    running.events.opened();

    issue(&new);
    tls.reload().unwrap();
    super::client(running.address()).tls(trusts_new.clone()).no_reconnect().run(say_hello).unwrap();
    assert_eq!(refused(&running, trusting(&old)).kind(), TlsErrorKind::UnknownIssuer);
    assert!(connected.handle.is_connected() && connected.runs_on());

    // What cannot be used replaces nothing.
    folder.file("chain.pem", "no certificate");
    assert_eq!(tls.reload().unwrap_err().kind(), TlsErrorKind::Files);
    super::client(running.address()).tls(trusts_new).no_reconnect().run(say_hello).unwrap();
    assert!(connected.handle.is_connected());
}

/// A verifier of the application's own, with a mistake.
#[derive(Debug)]
struct Panics;

impl ClientCertVerifier for Panics {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        panic!("a mistake that is part of the test")
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        provider().signature_verification_algorithms.supported_schemes()
    }

    fn client_auth_mandatory(&self) -> bool {
        false
    }
}

#[test]
fn a_verifier_that_panics_costs_the_client_in_question_alone() {
    let site = Made::for_names(site_ca(), &["localhost"]);
    let config = ServerConfig::builder_with_provider(provider()).with_safe_default_protocol_versions().unwrap();
    let config = config.with_client_cert_verifier(Arc::new(Panics));
    let config = config.with_single_cert(vec![site.der()], site.key()).unwrap();
    let running = start(server().tls(ServerTls::from_config(Arc::new(config))));
    // More of them than threads that compute handshakes.
    for _ in 0..10 {
        let tls = presenting(VERSIONS[1], Some(&Made::device(&ca("any"), "d")));
        let client = run(super::client(running.address()).tls(tls).no_reconnect(), listen);
        let error = client.not_connected();
        assert!(matches!(error, ConnectError::Lost(_)) && !error.is_fatal(), "{error:?}");
        let (_, reason) = running.events.handshake_failed();
        assert!(reason.contains("the TLS handshake panicked"), "{reason}");
        // Who has none is not looked at.
        super::client(running.address()).tls(client_tls()).no_reconnect().run(say_hello).unwrap();
    }
    let failures = running.stop().iter().filter(|event| matches!(event, Event::HandshakeFailed { .. })).count();
    assert_eq!(failures, 0, "each was told once");
}

/// The same at the other end: it panics the first time.
#[derive(Debug)]
struct PanicsOnce(AtomicBool, Arc<dyn ServerCertVerifier>);

impl ServerCertVerifier for PanicsOnce {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        assert!(self.0.swap(true, SeqCst), "a mistake that is part of the test");
        self.1.verify_server_cert(certificate, intermediates, name, ocsp, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.1.verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.1.verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.1.supported_verify_schemes()
    }
}

#[test]
fn a_verifier_of_a_client_that_panics_costs_one_attempt() {
    let running = start(server().tls(server_tls()));
    let mut roots = rustls::RootCertStore::empty();
    roots.add(site_ca().der().clone()).unwrap();
    let usual = WebPkiServerVerifier::builder_with_provider(roots.into(), provider()).build().unwrap();
    let config = rustls::ClientConfig::builder_with_provider(provider()).with_safe_default_protocol_versions().unwrap();
    let verifier = Arc::new(PanicsOnce(AtomicBool::new(false), usual));
    let config = config.dangerous().with_custom_certificate_verifier(verifier).with_no_client_auth();
    let client = run(super::client(running.address()).tls(ClientTls::from_config(Arc::new(config))), listen);
    let text = "connection lost during the opening handshake: the TLS handshake panicked";
    assert_eq!(client.connect_failed(), (text.to_owned(), false));
    client.events.opened();
}
