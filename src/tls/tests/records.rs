//! Records of one end against rustls' own connection at the other: cut anywhere, with new keys, and with messages of
//! TLS in several records.

use std::io::{Read, Write};

use rustls::client::{ClientSessionStore, Resumption, Tls12ClientSessionValue, Tls13ClientSessionValue};
use rustls::crypto::CipherSuiteCommon;
use rustls::crypto::cipher::{MessageEncrypter, OutboundChunks, OutboundPlainMessage};
use rustls::pki_types::ServerName;
use rustls::{
    ConnectionTrafficSecrets, ContentType, ExtractedSecrets, NamedGroup, ProtocolVersion, RootCertStore, ServerConfig,
    SupportedCipherSuite, Tls12CipherSuite, Tls13CipherSuite,
};

use super::*;
use crate::protocol::frame::Role;
use crate::tls::session::{Progress, Session};
use crate::transport::secured::{Opened, Records, record_len};

/// One end of ours, with what it has not taken yet, and the other.
struct Ends {
    ours: Session,
    arrived: Vec<u8>,
    opened: Vec<u8>,
    sealed: Vec<u8>,
    theirs: Connection,
}

fn configs(versions: &[&'static SupportedProtocolVersion], fragments: Option<usize>) -> (ClientConfig, ServerConfig) {
    let ca = ca("a CA");
    let mut roots = RootCertStore::empty();
    roots.add(ca.der().clone()).unwrap();
    let client = ClientConfig::builder_with_provider(provider()).with_protocol_versions(versions).unwrap();
    let mut client = client.with_root_certificates(roots).with_no_client_auth();
    let server = for_names(&ca, &["example.org"]).server().config();
    let mut server = ServerConfig::clone(&server);
    // So that either end's messages of TLS come in many records.
    (client.max_fragment_size, server.max_fragment_size) = (fragments, fragments);
    (client, server)
}

impl Ends {
    fn new(role: Role, (client, server): (ClientConfig, ServerConfig)) -> Self {
        let name = rustls::pki_types::ServerName::try_from("example.org").unwrap();
        let (ours, theirs): (_, Connection) = match role {
            Role::Server => (
                Session::server(Arc::new(server)).unwrap(),
                ClientConnection::new(Arc::new(client), name).unwrap().into(),
            ),
            Role::Client => (
                Session::client(Arc::new(client), name, "example.org").unwrap(),
                ServerConnection::new(Arc::new(server)).unwrap().into(),
            ),
        };
        Self { ours, arrived: Vec::new(), opened: Vec::new(), sealed: Vec::new(), theirs }
    }

    fn open(role: Role, configs: (ClientConfig, ServerConfig)) -> Self {
        let mut ends = Self::new(role, configs);
        for _ in 0..20 {
            let progress = ends.advance().unwrap();
            ends.give_ours().unwrap();
            if progress == Progress::Open && !ends.theirs.is_handshaking() && !ends.theirs.wants_write() {
                return ends;
            }
            let sent = ends.take_theirs();
            ends.arrived.extend(sent);
        }
        panic!("no end of the handshake");
    }

    fn advance(&mut self) -> Result<Progress, TlsError> {
        self.ours.advance(&mut self.arrived, &mut self.opened, &mut self.sealed)
    }

    fn take_theirs(&mut self) -> Vec<u8> {
        let mut bytes = Vec::new();
        while self.theirs.wants_write() {
            self.theirs.write_tls(&mut bytes).unwrap();
        }
        bytes
    }

    /// Gives them what we have sealed, and returns what they have opened of it.
    fn give_ours(&mut self) -> Result<Vec<u8>, rustls::Error> {
        let (sealed, mut opened) = (std::mem::take(&mut self.sealed), Vec::new());
        let mut rest = &sealed[..];
        while !rest.is_empty() {
            self.theirs.read_tls(&mut rest).unwrap();
            self.theirs.process_new_packets()?;
            let _ = self.theirs.reader().read_to_end(&mut opened);
        }
        Ok(opened)
    }

    fn seal(&mut self, bytes: &[u8]) {
        self.ours.seal(bytes, &mut self.sealed).unwrap();
    }
}

const BOTH: [&[&SupportedProtocolVersion]; 2] = [&[&TLS12], &[&TLS13]];

#[test]
fn bytes_go_both_ways_whatever_their_number() {
    for (versions, role) in BOTH.into_iter().flat_map(|versions| [(versions, Role::Server), (versions, Role::Client)]) {
        let mut ends = Ends::open(role, configs(versions, None));
        for len in [1, 2, 100, 1000, 16_383, 16_384] {
            let bytes: Vec<u8> = (0..len).map(|at| (at % 251) as u8).collect();
            ends.seal(&bytes);
            // One record each, with the overhead that is measured.
            assert_eq!(record_len(&ends.sealed), Some(ends.sealed.len()));
            assert!(ends.sealed.len() - len <= 29, "{}", ends.sealed.len() - len);
            assert_eq!(ends.give_ours().unwrap(), bytes);
            ends.theirs.writer().write_all(&bytes).unwrap();
            ends.arrived = ends.take_theirs();
            assert_eq!(ends.advance().unwrap(), Progress::Open);
            assert_eq!((std::mem::take(&mut ends.opened), ends.arrived.len()), (bytes, 0));
        }
    }
}

#[test]
fn a_handshake_and_what_follows_may_be_cut_anywhere_while_the_other_direction_is_used() {
    // In the smallest pieces, so that tickets come in several records: rustls then has to see them all until the last.
    for (versions, fragments) in [(BOTH[0], Some(64)), (BOTH[1], Some(64)), (BOTH[1], None)] {
        for role in [Role::Server, Role::Client] {
            for step in [1, 2, 3, 7, 50] {
                let mut ends = Ends::new(role, configs(versions, fragments));
                let (mut is_open, mut replies) = (false, 0);
                ends.advance().unwrap();
                for _ in 0..50 {
                    replies += ends.give_ours().unwrap().len();
                    if !ends.theirs.is_handshaking() && replies > 0 {
                        break;
                    }
                    if !ends.theirs.is_handshaking() {
                        ends.theirs.writer().write_all(b"question").unwrap();
                    }
                    for piece in ends.take_theirs().chunks(step) {
                        ends.arrived.extend_from_slice(piece);
                        is_open |= ends.advance().unwrap() == Progress::Open;
                        if is_open {
                            // Another thread sends in the middle of whatever arrives.
                            ends.seal(b"x");
                        }
                    }
                }
                assert!(replies > 0 && is_open);
                for _ in 0..3 {
                    ends.theirs.writer().write_all(b"the last").unwrap();
                    for piece in ends.take_theirs().chunks(step) {
                        ends.arrived.extend_from_slice(piece);
                        ends.advance().unwrap();
                        ends.seal(b"y");
                    }
                    ends.give_ours().unwrap();
                }
                assert!(ends.opened.ends_with(b"the lastthe lastthe last") && ends.arrived.is_empty());
            }
        }
    }
}

#[test]
fn new_keys_in_either_direction_lose_nothing() {
    for role in [Role::Server, Role::Client] {
        let mut ends = Ends::open(role, configs(BOTH[1], None));
        ends.opened.clear();
        for round in 0..100_u8 {
            // They take new keys, and ask us to do the same: our next record comes after ours.
            ends.theirs.refresh_traffic_keys().unwrap();
            ends.theirs.writer().write_all(&[round]).unwrap();
            ends.arrived = ends.take_theirs();
            ends.advance().unwrap();
            assert_eq!(std::mem::take(&mut ends.opened), [round]);
            ends.seal(&[round, 1]);
            assert_eq!(ends.give_ours().unwrap(), [round, 1]);
        }
    }
}

#[test]
fn requests_for_new_keys_without_end_are_refused() {
    let mut ends = Ends::open(Role::Server, configs(BOTH[1], None));
    let error = (0..1000).find_map(|_| {
        ends.theirs.refresh_traffic_keys().unwrap();
        ends.arrived = ends.take_theirs();
        ends.advance().err()
    });
    assert_eq!(error.expect("a bound").kind(), TlsErrorKind::Protocol);
}

#[test]
fn an_error_is_told_by_an_alert_and_what_came_before_it_is_not_lost() {
    for role in [Role::Server, Role::Client] {
        let mut ends = Ends::open(role, configs(BOTH[1], None));
        ends.opened.clear();
        ends.theirs.writer().write_all(b"good").unwrap();
        ends.arrived = ends.take_theirs();
        ends.theirs.writer().write_all(b"bad").unwrap();
        let mut bad = ends.take_theirs();
        *bad.last_mut().unwrap() ^= 1;
        ends.arrived.extend(bad);
        let error = ends.advance().unwrap_err();
        assert_eq!((error.kind(), &ends.opened[..]), (TlsErrorKind::Protocol, &b"good"[..]));
        let told = ends.give_ours().unwrap_err();
        assert_eq!(told, rustls::Error::AlertReceived(rustls::AlertDescription::BadRecordMac));
        // Whoever sends now learns why it is over, whether or not whoever receives has told so far.
        let unsent = ends.ours.seal(b"more", &mut ends.sealed).unwrap_err();
        assert_eq!((unsent.kind(), unsent.to_string()), (std::io::ErrorKind::InvalidData, error.to_string()));
    }
}

#[test]
fn what_is_no_tls_is_an_error_at_once() {
    for garbage in [&b"GET / HTTP/1.1\r\n\r\n"[..], &[0; 64], &[0x16, 3, 1, 0xff, 0xff, 1], &[23, 3, 3, 0, 1, 9]] {
        let mut ends = Ends::new(Role::Server, configs(BOTH[1], None));
        ends.arrived = garbage.to_vec();
        assert!(ends.advance().is_err(), "{garbage:?}");
    }
}

#[test]
fn both_directions_end_by_themselves() {
    let mut ends = Ends::open(Role::Server, configs(BOTH[1], None));
    ends.opened.clear();
    ends.theirs.writer().write_all(b"last").unwrap();
    ends.theirs.send_close_notify();
    ends.arrived = ends.take_theirs();
    let outcome = ends.ours.open(&mut ends.arrived, &mut ends.opened, &mut ends.sealed).unwrap();
    assert_eq!((outcome, &ends.opened[..]), (Opened::Ended, &b"last"[..]));
    // Our direction is open still.
    ends.seal(b"answer");
    ends.ours.seal_end(&mut ends.sealed);
    assert_eq!(ends.give_ours().unwrap(), b"answer");
    let mut end = [0];
    assert_eq!(ends.theirs.reader().read(&mut end).unwrap(), 0, "an end that was said");
}

#[test]
fn messages_that_never_end_are_refused_before_they_fill_the_memory() {
    // A ClientHello that announces 16 MB, in records of 1,000 bytes.
    let mut ends = Ends::new(Role::Server, configs(BOTH[1], None));
    let hello = [&[1, 0xff, 0xff, 0xff][..], &[0; 996]].concat();
    let mut waiting = 0;
    let refused = (0..1000).find(|at| {
        let payload = if *at == 0 { &hello[..] } else { &[0; 1000] };
        ends.arrived.extend([22, 3, 1, 3, 0xe8]);
        ends.arrived.extend(payload);
        waiting = ends.arrived.len() + ends.ours.held();
        ends.advance().is_err()
    });
    assert!(refused.is_some() && waiting < 100_000, "{waiting} bytes waiting");
}

/// The records of an open connection of theirs, made by hand: what rustls itself would never send.
struct Sealer {
    sealer: Box<dyn MessageEncrypter>,
    number: u64,
}

impl Sealer {
    fn new(theirs: Connection) -> Self {
        let suite = theirs.negotiated_cipher_suite().unwrap().tls13().unwrap();
        let ExtractedSecrets { tx: (number, secrets), .. } = theirs.dangerous_extract_secrets().unwrap();
        let (ConnectionTrafficSecrets::Aes256Gcm { key, iv } | ConnectionTrafficSecrets::Chacha20Poly1305 { key, iv }) =
            secrets
        else {
            panic!("another suite");
        };
        Self { sealer: suite.aead_alg.encrypter(key, iv), number }
    }

    fn seal(&mut self, typ: ContentType, payload: &[u8]) -> Vec<u8> {
        let payload = OutboundChunks::Single(payload);
        let message = OutboundPlainMessage { typ, version: ProtocolVersion::TLSv1_3, payload };
        let record = self.sealer.encrypt(message, self.number).unwrap().encode();
        self.number += 1;
        record
    }
}

#[test]
fn a_message_after_the_handshake_that_never_ends_is_refused_before_it_fills_the_memory() {
    for (role, most) in [(Role::Server, 64 * 1024), (Role::Client, 256 * 1024)] {
        let mut configs = configs(BOTH[1], None);
        (configs.0.enable_secret_extraction, configs.1.enable_secret_extraction) = (true, true);
        let Ends { mut ours, theirs, mut opened, .. } = Ends::open(role, configs);
        let mut theirs = Sealer::new(theirs);
        // A message that announces as much as rustls admits, one byte in each record: each takes 23 as it arrives.
        let message = [&[4, 0, 0xff, 0xff][..], &[0; 0xffff]].concat();
        let mut held = 0;
        let refused = message.chunks(1).take(message.len() - 1).find_map(|byte| {
            let mut arrived = theirs.seal(ContentType::Handshake, byte);
            let outcome = ours.open(&mut arrived, &mut opened, &mut Vec::new());
            held = held.max(ours.held() + arrived.len());
            outcome.err()
        });
        assert!(held < most, "{role:?} has held {held} bytes");
        let refused = refused.expect("a bound");
        assert!(refused.to_string().contains("TLS"), "{refused}");
        // And it stays over.
        assert!(ours.seal(b"more", &mut Vec::new()).is_err());
    }
}

#[test]
fn what_follows_the_end_that_the_peer_has_announced_is_not_kept() {
    for (versions, role) in BOTH.into_iter().flat_map(|versions| [(versions, Role::Server), (versions, Role::Client)]) {
        let mut ends = Ends::open(role, configs(versions, None));
        ends.opened.clear();
        ends.theirs.writer().write_all(b"last").unwrap();
        ends.theirs.send_close_notify();
        ends.arrived = ends.take_theirs();
        for round in 0..100 {
            let outcome = ends.ours.open(&mut ends.arrived, &mut ends.opened, &mut ends.sealed).unwrap();
            assert_eq!((outcome, &ends.opened[..]), (Opened::Ended, &b"last"[..]), "round {round}");
            assert_eq!((ends.ours.held(), ends.arrived.len()), (0, 0), "round {round}");
            // TCP goes on, with what may be a record and what may be none.
            ends.arrived.extend([23, 3, 3, 0, 100]);
            ends.arrived.extend([round; 100]);
            ends.arrived.extend([round; 3]);
        }
        // Our direction is open still.
        ends.seal(b"answer");
        assert_eq!(ends.give_ours().unwrap(), b"answer");
    }
}

/// A store of sessions that fails as soon as there is one.
#[derive(Debug)]
struct Panicking;

impl ClientSessionStore for Panicking {
    fn set_kx_hint(&self, _: ServerName<'static>, _: NamedGroup) {}
    fn kx_hint(&self, _: &ServerName<'_>) -> Option<NamedGroup> {
        None
    }
    fn set_tls12_session(&self, _: ServerName<'static>, _: Tls12ClientSessionValue) {}
    fn tls12_session(&self, _: &ServerName<'_>) -> Option<Tls12ClientSessionValue> {
        None
    }
    fn remove_tls12_session(&self, _: &ServerName<'static>) {}
    fn insert_tls13_ticket(&self, _: ServerName<'static>, _: Tls13ClientSessionValue) {
        panic!("a panic that is part of the test");
    }
    fn take_tls13_ticket(&self, _: &ServerName<'static>) -> Option<Tls13ClientSessionValue> {
        None
    }
}

#[test]
fn a_store_of_sessions_that_panics_after_the_handshake_is_an_error_of_the_connection() {
    // A ticket may come at any time, and then the stand-in may read it, whose own panic would end everything.
    let (mut client, server) = configs(BOTH[1], None);
    client.resumption = Resumption::store(Arc::new(Panicking));
    let mut ends = Ends::new(Role::Client, (client, server));
    while ends.advance().unwrap() != Progress::Open {
        ends.give_ours().unwrap();
        ends.arrived = ends.take_theirs();
    }
    ends.give_ours().unwrap();
    ends.arrived = ends.take_theirs();
    let error = ends.ours.open(&mut ends.arrived, &mut ends.opened, &mut ends.sealed).unwrap_err();
    assert!(error.to_string().contains("a panic that is part of the test"), "{error}");
    let unsent = ends.ours.seal(b"more", &mut ends.sealed).unwrap_err();
    assert_eq!(unsent.to_string(), error.to_string());
}

/// The configurations again, with a suite whose keys are used up after so many records.
fn configs_with_limit(version: &'static SupportedProtocolVersion, limit: u64) -> (ClientConfig, ServerConfig) {
    use rustls::crypto::ring::cipher_suite;
    let suite = match (cipher_suite::TLS13_AES_256_GCM_SHA384, cipher_suite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384) {
        (SupportedCipherSuite::Tls13(suite), _) if version == &TLS13 => {
            let common = CipherSuiteCommon { confidentiality_limit: limit, ..suite.common };
            SupportedCipherSuite::Tls13(Box::leak(Box::new(Tls13CipherSuite { common, quic: None, ..*suite })))
        }
        (_, SupportedCipherSuite::Tls12(suite)) => {
            let common = CipherSuiteCommon { confidentiality_limit: limit, ..suite.common };
            SupportedCipherSuite::Tls12(Box::leak(Box::new(Tls12CipherSuite { common, ..*suite })))
        }
        _ => unreachable!("a suite of each version"),
    };
    let mut limited = rustls::crypto::CryptoProvider::clone(&provider());
    limited.cipher_suites = vec![suite];
    let limited = Arc::new(limited);
    let ca = ca("a CA");
    let mut roots = RootCertStore::empty();
    roots.add(ca.der().clone()).unwrap();
    let client = ClientConfig::builder_with_provider(Arc::clone(&limited)).with_protocol_versions(&[version]).unwrap();
    let client = client.with_root_certificates(roots).with_no_client_auth();
    let made = for_names(&ca, &["example.org"]);
    let key = PrivateKeyDer::from_pem_slice(made.key.as_bytes()).unwrap();
    let server = ServerConfig::builder_with_provider(limited).with_protocol_versions(&[version]).unwrap();
    let server = server.with_no_client_auth().with_single_cert(vec![made.der()], key).unwrap();
    (client, server)
}

#[test]
fn keys_that_are_used_up_are_replaced_and_nothing_is_lost() {
    for role in [Role::Server, Role::Client] {
        let mut ends = Ends::open(role, configs_with_limit(&TLS13, 10));
        ends.opened.clear();
        for round in 0..200_u8 {
            ends.seal(&[round, 1]);
            assert_eq!(ends.give_ours().unwrap(), [round, 1], "{role:?} in round {round}");
            ends.theirs.writer().write_all(&[round]).unwrap();
            ends.arrived = ends.take_theirs();
            ends.advance().unwrap();
            assert_eq!(std::mem::take(&mut ends.opened), [round]);
        }
    }
}

#[test]
fn keys_of_tls_1_2_that_are_used_up_end_it_and_the_reason_is_told() {
    for role in [Role::Server, Role::Client] {
        let mut ends = Ends::open(role, configs_with_limit(&TLS12, 10));
        let error = (0..200_u8).find_map(|round| match ends.ours.seal(&[round, 1], &mut ends.sealed) {
            Ok(()) => {
                assert_eq!(ends.give_ours().unwrap(), [round, 1]);
                None
            }
            Err(error) => Some(error),
        });
        let error = error.expect("a limit");
        assert!(error.to_string().starts_with("the keys of TLS 1.2 with "), "{error}");
        let error = error.downcast::<TlsError>().unwrap();
        assert!(!error.is_fatal(), "a client may come back");
        // The end is announced all the same.
        ends.ours.seal_end(&mut ends.sealed);
        ends.give_ours().unwrap();
        assert_eq!(ends.theirs.reader().read(&mut [0]).unwrap(), 0);
    }
}

#[test]
fn a_hello_is_answered_once_it_is_whole_and_may_be_asked_for_again() {
    let in_two_records = |record: Vec<u8>| -> [Vec<u8>; 2] {
        let (first, second) = record[5..].split_at(10);
        [first, second].map(|part| [&record[..3], &(part.len() as u16).to_be_bytes(), part].concat())
    };
    for versions in BOTH {
        let mut ends = Ends::new(Role::Server, configs(versions, None));
        let [first, second] = in_two_records(ends.take_theirs());
        ends.arrived = first;
        ends.advance().unwrap();
        assert!(ends.sealed.is_empty());
        ends.arrived = second;
        ends.advance().unwrap();
        assert!(!ends.sealed.is_empty());
        ends.give_ours().unwrap();
        ends.arrived = ends.take_theirs();
        assert_eq!(ends.advance().unwrap(), Progress::Open);
    }

    // A server that asks for another hello, for it does not know the client's first group.
    let (client, server) = configs(BOTH[1], None);
    let first = client.crypto_provider().kx_groups[0].name();
    let mut others = rustls::crypto::CryptoProvider::clone(&provider());
    others.kx_groups.retain(|group| group.name() != first);
    let builder = ServerConfig::builder_with_provider(Arc::new(others)).with_protocol_versions(BOTH[1]).unwrap();
    let server = builder.with_no_client_auth().with_cert_resolver(server.cert_resolver);
    let mut ends = Ends::new(Role::Server, (client, server));
    for progress in [Progress::Handshaking, Progress::Handshaking, Progress::Open] {
        ends.arrived = ends.take_theirs();
        assert_eq!(ends.advance().unwrap(), progress);
        assert!(!ends.sealed.is_empty());
        ends.give_ours().unwrap();
    }
}
