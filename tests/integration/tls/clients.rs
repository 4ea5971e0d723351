//! Our client: servers that do not speak TLS, or do so badly, and sessions that are resumed.

use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::thread;
use std::time::Instant;

use heartwire::{CloseReason, ConnectError, TlsErrorKind};
use rustls::crypto::ring::Ticketer;
use rustls::server::ProducesTickets;
use rustls::version::{TLS12, TLS13};

use super::{client, secure, start};
use crate::support::tls::server_config;
use crate::support::wire::Wire;
use crate::support::{BareServer, CEILING, SLACK, TEXT, client_for, echo, listen, ms, run, server, start_as_it_is};

#[test]
fn wss_to_a_server_without_tls_is_fatal_and_says_what_is_wrong() {
    let running = start_as_it_is(server(), echo);
    let ConnectError::Tls(error) = run(client(running.address()), listen).not_connected() else { panic!() };
    assert_eq!((error.kind(), error.is_fatal()), (TlsErrorKind::NotTls, true));
    let text = error.to_string();
    assert!(text.contains("does not answer in TLS: is this a port for TLS (wss://), or for ws://?"), "{text}");
}

#[test]
fn ws_to_a_server_with_tls_is_fatal() {
    let running = start(secure());
    let client = client_for(&format!("ws://127.0.0.1:{}/", running.address().port()));
    let error = run(client, listen).not_connected();
    assert!(matches!(error, ConnectError::Refused { status: 400, .. }) && error.is_fatal(), "{error:?}");
}

/// The ways in which a server may keep its client waiting: what it does, and how far it gets.
#[test]
fn handshake_timeout_is_for_tls_and_http_together() {
    // On a busy machine TLS takes its time.
    let limits = [("says nothing", ms(600)), ("trickles", ms(600)), ("is secure, and says nothing", ms(3000))];
    for (step, limit) in limits {
        let server = BareServer::bind();
        let client = run(client(server.address()).handshake_timeout(limit), listen);
        let began = Instant::now();
        let mut connection = match step {
            "is secure, and says nothing" => server.accept_on(|it| Wire::from_tls_client(it, server_config(&[&TLS13]))),
            _ => server.accept_on(Wire::plain),
        };
        match step {
            "says nothing" => {}
            // A record as long as can be, of a ServerHello that never ends.
            "trickles" => {
                let _ = connection.stream.write_all(&[22, 3, 3, 0x40, 0, 2, 0, 0x3f, 0xfc, 3, 3]);
                while began.elapsed() < CEILING && connection.stream.write_all(&[7]).is_ok() {
                    thread::sleep(ms(5));
                }
            }
            _ => {
                let request = connection.request();
                assert!(request.starts_with("GET / HTTP/1.1\r\n"), "{request}");
            }
        }
        assert_eq!(client.connect_failed(), ("the opening handshake took too long".to_owned(), false), "{step}");
        assert!(began.elapsed() < limit + SLACK, "{step}: {:?}", began.elapsed());
    }
}

#[test]
fn a_server_that_hangs_up_in_its_handshake_is_tried_again() {
    let server = BareServer::bind();
    let client = run(client(server.address()), listen);
    // At once, in the middle of a record, and after its certificate.
    for sent in [&b""[..], &[22, 3, 3, 0, 122, 2, 0]] {
        let mut connection = server.accept_on(Wire::plain);
        connection.stream.write_all(sent).unwrap();
        // What it was sent is read, so that it sees an orderly end.
        let mut hello = [0; 4096];
        let _ = std::io::Read::read(&mut connection.stream, &mut hello);
        drop(connection);
        let (error, is_fatal) = client.connect_failed();
        assert!(error.starts_with("connection lost during the opening handshake") && !is_fatal, "{error}");
    }
    let mut connection = server.accept_on(|it| Wire::from_tls_client(it, server_config(&[&TLS13])));
    connection.upgrade("");
    assert!(client.handle.wait_connected(CEILING));
}

#[test]
fn what_a_server_sends_with_its_answer_is_received() {
    for version in [&TLS12, &TLS13] {
        let server = BareServer::bind();
        let (sender, received) = crossbeam_channel::unbounded();
        let client = run(client(server.address()).no_reconnect(), move |conn| {
            loop {
                let _ = sender.send(conn.recv()?);
            }
        });
        let mut connection = server.accept_on(|it| Wire::from_tls_client(it, server_config(&[version])));
        let request = connection.request();
        // Its answer, a frame and a half in one record.
        let answer = crate::support::acceptance(&request, "");
        let frames = [[0x81, 5].as_slice(), b"early", &[0x81, 4], b"half"].concat();
        let (now, later) = frames.split_at(frames.len() - 2);
        connection.write(&[answer.as_bytes(), now].concat());
        assert_eq!(received.recv_timeout(CEILING).unwrap().as_text(), Some("early"));
        connection.write(later);
        assert_eq!(received.recv_timeout(CEILING).unwrap().as_text(), Some("half"));
        connection.send(TEXT, b"later");
        assert_eq!(received.recv_timeout(CEILING).unwrap().as_text(), Some("later"));
        connection.close(1000);
        assert!(matches!(client.closed().reason, CloseReason::Peer { .. }));
    }
}

/// Counts the tickets that are given out and taken back.
#[derive(Debug)]
struct Counting {
    inner: Arc<dyn ProducesTickets>,
    taken: AtomicUsize,
    refused: AtomicUsize,
}

impl ProducesTickets for Counting {
    fn enabled(&self) -> bool {
        true
    }

    fn lifetime(&self) -> u32 {
        self.inner.lifetime()
    }

    fn encrypt(&self, plain: &[u8]) -> Option<Vec<u8>> {
        self.inner.encrypt(plain)
    }

    fn decrypt(&self, cipher: &[u8]) -> Option<Vec<u8>> {
        let plain = self.inner.decrypt(cipher);
        let count = if plain.is_some() { &self.taken } else { &self.refused };
        count.fetch_add(1, SeqCst);
        plain
    }
}

#[test]
fn a_client_that_reconnects_resumes_its_session() {
    for version in [&TLS12, &TLS13] {
        let ticketer = Ticketer::new().unwrap();
        let counting = Arc::new(Counting { inner: ticketer, taken: AtomicUsize::new(0), refused: AtomicUsize::new(0) });
        let mut config = server_config(&[version]);
        config.session_storage = Arc::new(rustls::server::NoServerSessionStorage {});
        config.ticketer = Arc::clone(&counting) as Arc<dyn ProducesTickets>;
        let tls = heartwire::ServerTls::from_config(Arc::new(config));
        let running = start_as_it_is(server().tls(tls), |conn| {
            let message = conn.recv()?;
            conn.send(message)?;
            // It ends the connection, so that the client comes back.
            conn.close(1012, "")
        });
        let (sender, rounds) = crossbeam_channel::unbounded();
        let client = run(client(running.address()), move |conn| {
            conn.send("hello")?;
            conn.recv()?;
            let _ = sender.send(());
            loop {
                conn.recv()?;
            }
        });
        for round in 0..5 {
            rounds.recv_timeout(CEILING).unwrap();
            running.closed();
            let counts = (counting.taken.load(SeqCst), counting.refused.load(SeqCst));
            // The client may be on its way back already.
            assert!((counts.0 == round || counts.0 == round + 1) && counts.1 == 0, "{counts:?} in round {round}");
        }
        client.stop();
    }
}
