//! Peers that do with TLS what they should not, on an open connection, and slow ones that do what they may.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::bounded;
use heartwire::{CloseReason, CloseReport, HeartbeatPolicy, Liveness};
use rustls::crypto::cipher::{MessageEncrypter, OutboundChunks, OutboundPlainMessage};
use rustls::crypto::ring::cipher_suite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256;
use rustls::version::TLS12;
use rustls::{
    ClientConfig, ClientConnection, ConnectionTrafficSecrets, ContentType, ExtractedSecrets, ProtocolVersion,
    SupportedCipherSuite,
};

use super::{connect, dial, secure, start};
use crate::support::tls::{client_config, provider, site_ca};
use crate::support::{
    BINARY, CEILING, Client, End, Incoming, PING, PONG, SLACK, TEXT, live, lost, masked, ms, receive, request,
    start_as_it_is,
};

/// What a connection ended with because of its TLS.
fn tls_reason(report: &CloseReport) -> &str {
    match &report.reason {
        CloseReason::Io { kind: std::io::ErrorKind::InvalidData, message, .. } => message,
        other => panic!("{other:?} in {report:?}"),
    }
}

/// The record of this frame, sealed but not sent.
fn record_of(client: &Client, frame: &[u8]) -> Vec<u8> {
    client.wire().tls().with(|connection| {
        let mut bytes = Vec::new();
        connection.writer().write_all(frame).expect("into memory");
        while connection.wants_write() {
            connection.write_tls(&mut bytes).expect("into memory");
        }
        bytes
    })
}

fn write_raw(client: &Client, bytes: &[u8]) {
    let mut socket = client.wire().socket();
    socket.write_all(bytes).expect("the server takes it");
}

#[test]
fn new_keys_without_end_end_the_connection_for_a_reason_that_is_told() {
    let running = start(secure());
    let mut client = connect(&running);
    // As often as one likes, with something said in between.
    for _ in 0..100 {
        client.wire().tls().with(|connection| connection.refresh_traffic_keys()).unwrap();
        client.expect_echo("with new keys");
    }
    let deadline = Instant::now() + CEILING;
    while !running.events.so_far().iter().any(crate::support::is_closed) {
        assert!(Instant::now() < deadline, "it goes on for ever");
        let update = client.wire().tls().with(|connection| {
            connection.refresh_traffic_keys().expect("TLS 1.3");
            let mut bytes = Vec::new();
            while connection.wants_write() {
                connection.write_tls(&mut bytes).expect("into memory");
            }
            bytes
        });
        if client.wire().socket().write_all(&update).is_err() {
            break;
        }
    }
    let report = running.closed();
    assert!(tls_reason(&report).contains("TooManyKeyUpdateRequests"), "{report:?}");
    connect(&running).expect_echo("hello");
}

#[test]
fn a_record_that_was_changed_on_its_way_ends_the_connection_and_gives_nothing_away() {
    let running = start(secure());
    for what in ["the first byte of its contents", "its last byte"] {
        let mut client = connect(&running);
        let mut bytes = record_of(&client, &masked(TEXT, b"good"));
        let mut bad = record_of(&client, &masked(TEXT, b"bad"));
        let at = if what == "its last byte" { bad.len() - 1 } else { 5 };
        bad[at] ^= 1;
        bytes.append(&mut bad);
        write_raw(&client, &bytes);
        assert_eq!(client.expect_end(), End::Failed, "{what}: an alert says so");
        let report = running.closed();
        assert!(tls_reason(&report).contains("damaged on its way"), "{what}: {report:?}");
        assert_eq!(report.traffic.messages_in, 1, "{what}: what came before it was right");
    }
}

/// A client whose keys we have: it can seal what rustls never would.
struct Sealing {
    socket: TcpStream,
    sealer: Box<dyn MessageEncrypter>,
    number: u64,
}

impl Sealing {
    fn connect(running: &crate::support::Running) -> Self {
        let mut provider = (*provider()).clone();
        provider.cipher_suites = vec![TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256];
        let mut roots = rustls::RootCertStore::empty();
        roots.add(site_ca().der().clone()).unwrap();
        let config = ClientConfig::builder_with_provider(Arc::new(provider)).with_protocol_versions(&[&TLS12]).unwrap();
        let mut config = config.with_root_certificates(roots).with_no_client_auth();
        config.enable_secret_extraction = true;
        let mut client = dial(running.address(), config).upgraded(&request());
        client.expect_echo("before");
        let connection = client.wire().tls().with(|connection| {
            let name = "localhost".try_into().expect("a name");
            let other = ClientConnection::new(client_config(&[&TLS12]).into(), name).expect("a configuration");
            std::mem::replace(connection, other.into())
        });
        let ExtractedSecrets { tx: (number, secrets), .. } = connection.dangerous_extract_secrets().unwrap();
        let ConnectionTrafficSecrets::Chacha20Poly1305 { key, iv } = secrets else { panic!("another suite") };
        let SupportedCipherSuite::Tls12(suite) = TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256 else { panic!() };
        let sealer = suite.aead_alg.encrypter(key, iv.as_ref(), &[]);
        let socket = client.wire().socket().try_clone().unwrap();
        socket.set_read_timeout(Some(CEILING)).unwrap();
        Self { socket, sealer, number }
    }

    fn send(&mut self, typ: ContentType, payload: &[u8]) {
        let message =
            OutboundPlainMessage { typ, version: ProtocolVersion::TLSv1_2, payload: OutboundChunks::Single(payload) };
        let record = self.sealer.encrypt(message, self.number).unwrap().encode();
        self.number += 1;
        self.socket.write_all(&record).unwrap();
    }

    /// The type of the next record; `None` at the end.
    fn next(&mut self) -> Option<u8> {
        let mut header = [0; 5];
        self.socket.read_exact(&mut header).ok()?;
        let mut rest = vec![0; usize::from(u16::from_be_bytes([header[3], header[4]]))];
        self.socket.read_exact(&mut rest).ok()?;
        Some(header[0])
    }
}

const ALERT: u8 = 21;
const DATA: u8 = 23;

#[test]
fn renegotiation_is_refused() {
    let running = start(secure());
    let mut client = Sealing::connect(&running);
    // A hello as at the beginning; what is in it does not matter.
    let hello = [&[1, 0, 0, 41, 3, 3][..], &[9; 32], &[0, 0, 2, 0xcc, 0xa9, 1, 0]].concat();
    client.send(ContentType::Handshake, &hello);
    // It was only asked, so the connection goes on, with the keys that it had. The refusal leaves with the next frame.
    client.send(ContentType::ApplicationData, &masked(TEXT, b"hello"));
    assert_eq!((client.next(), client.next()), (Some(ALERT), Some(DATA)));
    // Whoever insists is sent away.
    client.send(ContentType::Handshake, &hello);
    let report = running.closed();
    assert!(tls_reason(&report).contains("TooManyRenegotiationRequests"), "{report:?}");
    while client.next().is_some() {}
}

// Slow ones.

#[test]
fn a_record_that_arrives_a_byte_at_a_time_is_life_from_its_first_byte_on() {
    let policy = HeartbeatPolicy::new(ms(200), ms(400)).max_missed(2);
    live(ms(800), |pulse| {
        let running = start(secure().heartbeat(policy));
        let mut client = connect(&running);
        client.expect_echo("hello");
        // Neither this message nor an answer to a Ping is complete for several times the time until death.
        let record = record_of(&client, &masked(BINARY, &[7; 200]));
        pulse.beat();
        for byte in &record {
            write_raw(&client, &[*byte]);
            pulse.beat();
            thread::sleep(ms(20));
        }
        assert_eq!(client.message().payload, [7; 200]);
        pulse.beat();
        assert_eq!(running.handle.stats().closed_total(), 0);
    });
}

#[test]
fn a_record_that_begins_behind_the_request_is_counted_and_opened_as_any_other() {
    let running = start(secure());
    let mut client = dial(running.address(), client_config(rustls::ALL_VERSIONS));
    client.wire().tls().shake_hands(client.wire().socket()).unwrap();
    let opening = record_of(&client, request().as_bytes());
    let pings: Vec<u8> = (0..20_u8).flat_map(|number| masked(PING, &[number; 100])).collect();
    let record = record_of(&client, &pings);
    let (first, last) = record.split_at(record.len() - 1);
    write_raw(&client, &[&opening, first].concat());
    assert_eq!(client.answer().status, 101);
    write_raw(&client, last);
    // Of answers that wait only the newest is sent; nothing waits here for long, so the last one comes at any rate.
    while client.frame().payload != [19; 100] {}
    client.close();
    let report = running.closed();
    let close = 5 + 8 + 1 + 16;
    assert_eq!(report.traffic.bytes_in, (record.len() + close) as u64, "{report:?}");
}

#[test]
fn with_pong_only_half_a_record_is_no_life() {
    let policy = HeartbeatPolicy::new(ms(100), ms(100)).max_missed(2).liveness(Liveness::PongOnly);
    let running = start(secure().heartbeat(policy));
    let client = connect(&running);
    let record = record_of(&client, &masked(BINARY, &[7; 5000]));
    let began = Instant::now();
    for byte in &record {
        if client.wire().socket().write_all(&[*byte]).is_err()
            || running.events.so_far().iter().any(crate::support::is_closed)
        {
            break;
        }
        thread::sleep(ms(5));
    }
    let report = running.closed();
    assert_eq!(lost(&report), 2, "{report:?}");
    assert!(began.elapsed() < policy.worst_case().unwrap() + SLACK, "{:?}", began.elapsed());
}

#[test]
fn while_the_handler_is_away_records_are_opened_and_pings_answered() {
    let (open, gate) = bounded::<()>(1);
    let running = start_as_it_is(secure(), move |conn| {
        let _ = gate.recv_timeout(CEILING);
        loop {
            let message = conn.recv()?;
            conn.send(message)?;
        }
    });
    let mut client = connect(&running);
    for round in 0..20 {
        let text = format!("ping {round}");
        // A record with new keys before it, one with two frames, and one in two pieces.
        client.wire().tls().with(|connection| connection.refresh_traffic_keys()).unwrap();
        let frames = [masked(TEXT, format!("{round}").as_bytes()), masked(PING, text.as_bytes())].concat();
        let record = record_of(&client, &frames);
        let (first, second) = record.split_at(record.len() / 2);
        write_raw(&client, first);
        write_raw(&client, second);
        let pong = client.frame();
        assert_eq!((pong.opcode, pong.payload), (PONG, text.into_bytes()));
    }
    open.send(()).unwrap();
    for round in 0..20 {
        assert_eq!(client.text(), format!("{round}"));
    }
}

#[test]
fn a_peer_that_stops_is_found_while_the_handler_is_away_and_while_it_sends() {
    let policy = HeartbeatPolicy::new(ms(200), ms(200)).max_missed(2);
    let (sender, gates) = bounded::<crossbeam_channel::Sender<()>>(1);
    let running = start_as_it_is(secure().heartbeat(policy), move |conn| match conn.path() {
        "/away" => {
            let (open, gate) = bounded(1);
            let _ = sender.send(open);
            let _ = gate.recv_timeout(CEILING);
            conn.recv().map(drop)
        }
        _ => loop {
            conn.send(vec![7; 64 * 1024])?;
        },
    });
    for path in ["/away", "/sends"] {
        let asked = crate::support::request_with(path, "");
        let client = dial(running.address(), client_config(rustls::ALL_VERSIONS)).upgraded(&asked);
        let began = Instant::now();
        let report = running.closed();
        let took = began.elapsed();
        match path {
            "/away" => assert_eq!(lost(&report), 2, "{report:?}"),
            _ => assert!(matches!(report.reason, CloseReason::WriteStalled { .. }), "{report:?}"),
        }
        assert!(took < policy.worst_case().unwrap() + SLACK, "{path}: {took:?}");
        if path == "/away" {
            receive("the handler's gate", &gates).send(()).unwrap();
        }
        drop(client);
    }
}

#[test]
fn a_peer_that_answers_between_records_lives_on_while_the_handler_is_away() {
    let policy = HeartbeatPolicy::new(ms(200), ms(400)).max_missed(2);
    let away = Duration::from_secs(2);
    live(ms(800), |pulse| {
        let running = start_as_it_is(secure().heartbeat(policy), move |conn| {
            thread::sleep(away);
            conn.send("back")?;
            conn.recv().map(drop)
        });
        let mut client = connect(&running);
        pulse.beat();
        loop {
            match client.next_within(CEILING) {
                Incoming::Frame(frame) if frame.opcode == PING => client.send(PONG, &frame.payload),
                Incoming::Frame(frame) if frame.opcode == TEXT => break,
                other => panic!("{other:?}"),
            }
            pulse.beat();
        }
        assert_eq!(running.handle.stats().closed_total(), 0);
    });
}
