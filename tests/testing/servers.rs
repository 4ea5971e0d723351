//! Peers as clients of a server: over TCP, as an application's own server has them.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::thread::{self, JoinHandle};
use std::time::Instant;

use heartwire::crossbeam_channel::Receiver;
use heartwire::testing::{Conduct, Peer, PeerEnd};
use heartwire::{CloseReason, CloseReport, Connection, Error, Event, HeartbeatPolicy, Server, ServerHandle};

use crate::{CEILING, closed_by_peer, ms, patient, quick, wait_until};

/// A server at a port.
struct Running {
    handle: ServerHandle,
    events: Receiver<Event>,
    serving: Option<JoinHandle<Result<(), Error>>>,
}

impl Running {
    fn start(
        policy: HeartbeatPolicy,
        set_up: impl FnOnce(Server) -> Server,
        handler: impl Fn(&mut Connection) -> Result<(), Error> + Send + Sync + 'static,
    ) -> Self {
        let server = set_up(Server::bind("127.0.0.1:0").unwrap().heartbeat(policy));
        let handle = server.handle();
        let events = handle.events();
        Self { handle, events, serving: Some(thread::spawn(move || server.serve(handler))) }
    }

    /// One that echoes.
    fn echo(policy: HeartbeatPolicy) -> Self {
        Self::start(
            policy,
            |server| server,
            |conn| loop {
                let message = conn.recv()?;
                conn.send(message)?;
            },
        )
    }

    fn connect(&self, conduct: Conduct) -> Peer {
        Peer::connect(&format!("ws://{}/", self.handle.local_addr()), conduct).unwrap()
    }

    fn report(&self) -> CloseReport {
        loop {
            if let Event::Closed(report) = self.events.recv_timeout(CEILING).expect("the connection ends") {
                return report;
            }
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.handle.shutdown();
        let served = self.serving.take().map(JoinHandle::join);
        if !thread::panicking() {
            served.unwrap().unwrap().unwrap();
        }
    }
}

/// Sends until there is no more room, and for ever.
fn flood(conn: &mut Connection) -> Result<(), Error> {
    loop {
        conn.send(vec![0; 64 * 1024])?;
    }
}

#[test]
fn live_answers_pings_and_gives_the_test_what_it_receives() {
    let server = Running::echo(patient());
    let mut peer = server.connect(Conduct::Live);
    peer.send("one").unwrap();
    peer.send(vec![2]).unwrap();
    assert_eq!(peer.recv().unwrap().as_text(), Some("one"));
    assert_eq!(peer.recv().unwrap().as_bytes(), [2]);
    wait_until("three Pings are answered", || server.handle.connections()[0].pongs >= 3);
    peer.close(1000, "enough").unwrap();
    let report = server.report();
    assert_eq!(report.reason, closed_by_peer(1000, "enough"));
    assert_eq!((report.sent, report.missed), (Some(1000.into()), 0));
    assert_eq!(peer.expect_close().unwrap().0, Some(1000.into()));
    assert!(peer.pings() >= 3);
    assert!(peer.recv().is_err(), "the end stays");
}

#[test]
fn live_answers_a_close_frame() {
    let server = Running::start(patient(), |server| server, |conn| conn.close(4001, "go"));
    let mut peer = server.connect(Conduct::Live);
    assert_eq!(peer.expect_close().unwrap(), (Some(4001.into()), "go".to_owned()));
    let report = server.report();
    assert_eq!(report.reason, CloseReason::Local { code: 4001.into(), reason: "go".into() });
    assert_eq!(report.received, Some(4001.into()));
}

#[test]
fn echo_sends_messages_back() {
    let server = Running::start(
        patient(),
        |server| server,
        |conn| {
            conn.send("ping-pong")?;
            let echoed = conn.recv()?;
            assert_eq!(echoed.as_text(), Some("ping-pong"));
            conn.close(1000, "echoed")
        },
    );
    let mut peer = server.connect(Conduct::Echo);
    assert_eq!(peer.expect_close().unwrap().1, "echoed");
    assert_eq!(server.report().traffic.messages_in, 1);
}

#[test]
fn trickle_sends_byte_by_byte_and_lives() {
    let pause = ms(5);
    let server = Running::start(
        patient(),
        |server| server,
        move |conn| {
            let begun = Instant::now();
            conn.send("0123456789")?;
            while conn.recv()?.as_text() != Some("0123456789") {}
            // Two bytes of header, four of the mask, and the text.
            assert!(begun.elapsed() >= 16 * pause, "it came after {:?}", begun.elapsed());
            conn.close(1000, "slow")
        },
    );
    let mut peer = server.connect(Conduct::Trickle { pause });
    assert_eq!(peer.expect_close().unwrap().1, "slow");
    let report = server.report();
    assert_eq!(report.reason, CloseReason::Local { code: 1000.into(), reason: "slow".into() });
}

#[test]
fn silent_reads_and_is_found_dead() {
    let server = Running::echo(quick());
    let mut peer = server.connect(Conduct::Silent);
    let report = server.report();
    assert!(matches!(report.reason, CloseReason::HeartbeatLost { missed: 2, .. }), "{report}");
    assert_eq!((report.pongs, report.traffic.bytes_in), (0, 0));
    assert_eq!(peer.expect_close().unwrap().0, Some(1011.into()), "it has read that it is dead");
    assert!(peer.pings() >= 2);
}

#[test]
fn stopped_reads_nothing_and_is_found_dead() {
    let server = Running::echo(quick());
    let peer = server.connect(Conduct::Stopped);
    assert!(peer.send("a").is_err());
    let report = server.report();
    assert!(matches!(report.reason, CloseReason::HeartbeatLost { missed: 2, .. }), "{report}");
    assert_eq!((peer.pings(), report.traffic.bytes_in), (0, 0));
}

#[test]
fn stopped_is_a_stall_if_much_is_sent_to_it() {
    // No Ping is due before.
    let policy = HeartbeatPolicy::new(CEILING, ms(50)).max_missed(2);
    let server = Running::start(policy, |server| server, flood);
    let _peer = server.connect(Conduct::Stopped);
    let report = server.report();
    assert!(matches!(report.reason, CloseReason::WriteStalled { .. }), "{report}");
}

#[test]
fn stopped_goes_on_where_it_was_when_its_conduct_changes() {
    let server = Running::echo(HeartbeatPolicy::off());
    let mut peer = server.connect(Conduct::Live);
    peer.send("first").unwrap();
    assert_eq!(peer.recv().unwrap().as_text(), Some("first"));
    peer.vanish();
    server.handle.broadcast("second");
    assert_eq!(peer.recv_timeout(ms(20)).unwrap(), None);
    peer.set_conduct(Conduct::Live);
    assert_eq!(peer.recv().unwrap().as_text(), Some("second"));
}

#[test]
fn vanish_ends_nothing_so_that_only_the_heartbeat_can_tell() {
    let server = Running::start(
        patient(),
        |server| server,
        |conn| {
            let message = conn.recv()?;
            conn.send(message)?;
            conn.recv()?;
            conn.set_heartbeat(quick());
            conn.recv().map(drop)
        },
    );
    let mut peer = server.connect(Conduct::Live);
    peer.send("here").unwrap();
    assert_eq!(peer.recv().unwrap().as_text(), Some("here"));
    peer.send("and gone").unwrap();
    peer.vanish();
    let report = server.report();
    assert!(matches!(report.reason, CloseReason::HeartbeatLost { missed: 2, .. }), "{report}");
    assert_eq!(report.traffic.messages_in, 2);
}

#[test]
fn never_reads_is_alive_and_takes_nothing() {
    let limit = ms(1000);
    let server = Running::start(patient(), |server| server.full_queue_timeout(Some(limit)), flood);
    let peer = server.connect(Conduct::NeverReads { every: ms(5) });
    let report = server.report();
    assert!(matches!(report.reason, CloseReason::WriteStalled { limit: found, .. } if found == limit), "{report}");
    assert!(report.traffic.bytes_in > 0 && report.missed == 0, "{report}");
    assert_eq!(peer.pings(), 0);
}

#[test]
fn close_sends_its_code_whatever_it_is() {
    let server = Running::echo(patient());
    let mut peer = server.connect(Conduct::close(4321, "bye"));
    assert_eq!(server.report().reason, closed_by_peer(4321, "bye"));
    assert_eq!(peer.expect_close().unwrap().0, Some(4321.into()), "the answer");

    let mut peer = server.connect(Conduct::close(1005, ""));
    let report = server.report();
    assert!(matches!(report.reason, CloseReason::Protocol(_)), "{report}");
    assert_eq!(peer.expect_close().unwrap().0, Some(1002.into()));
}

#[test]
fn send_raw_breaks_the_protocol_or_stops_in_a_frame() {
    let server = Running::echo(patient());
    let mut peer = server.connect(Conduct::Live);
    peer.send_raw(&[0xff; 16]).unwrap();
    let report = server.report();
    assert!(matches!(report.reason, CloseReason::Protocol(_)), "{report}");
    assert_eq!(peer.expect_close().unwrap().0, Some(1002.into()));

    let has_begun = Arc::new(AtomicBool::new(false));
    let begins = Arc::clone(&has_begun);
    let server = Running::start(
        patient(),
        |server| server,
        move |conn| {
            while !begins.load(SeqCst) {
                conn.recv_timeout(ms(1))?;
            }
            conn.set_heartbeat(quick());
            conn.recv().map(drop)
        },
    );
    let peer = server.connect(Conduct::Silent);
    // The header of a text of ten bytes.
    peer.send_raw(&[0x81, 0x8a, 0, 0, 0, 0]).unwrap();
    has_begun.store(true, SeqCst);
    let report = server.report();
    assert!(matches!(report.reason, CloseReason::HeartbeatLost { .. }), "{report}");
    assert_eq!((report.traffic.messages_in, report.traffic.bytes_in), (0, 6));
}

#[test]
fn drop_ends_without_a_close_frame() {
    let server = Running::echo(patient());
    drop(server.connect(Conduct::Live));
    assert_eq!(server.report().reason, CloseReason::Disconnected);
}

#[test]
fn drop_wakes_a_peer_that_waits_for_the_server_to_read() {
    // Its handler never reads, and little is read for it. So the echoes fill all buffers, and the peer waits to write.
    let server = Running::start(HeartbeatPolicy::off(), |server| server.read_ahead(4096), flood);
    let peer = server.connect(Conduct::Echo);
    wait_until("the peer takes no more", || server.handle.connections().iter().any(|info| info.queued > 512 * 1024));
    let dropped = Instant::now();
    drop(peer);
    // A write gives up after 30 s.
    assert!(dropped.elapsed() < CEILING / 3, "{:?}", dropped.elapsed());
    assert!(!server.report().reason.is_clean());
}

#[test]
fn wait_end_tells_of_a_server_that_ends() {
    let mut server = Running::echo(patient());
    let mut peer = server.connect(Conduct::Echo);
    server.handle.shutdown();
    server.serving.take().unwrap().join().unwrap().unwrap();
    assert!(matches!(peer.wait_end().unwrap(), PeerEnd::Closed { code: Some(code), .. } if code == 1001.into()));
    server.serving = Some(thread::spawn(|| Ok(())));
}

#[test]
#[cfg(feature = "tls")]
fn peers_of_a_server_with_tls_connect_as_its_clients_do() {
    use heartwire::{Client, ClientTls, ServerTls};
    let key = rcgen::KeyPair::generate().unwrap();
    let certificate = rcgen::CertificateParams::new(["localhost".into()]).unwrap().self_signed(&key).unwrap();
    let tls = ServerTls::from_pem(certificate.pem(), key.serialize_pem()).unwrap();
    let server = Running::start(
        patient(),
        |server| server.tls(tls),
        |conn| {
            conn.send("over TLS")?;
            conn.recv()?;
            conn.set_heartbeat(quick());
            conn.recv().map(drop)
        },
    );
    let url = format!("wss://localhost:{}/", server.handle.local_addr().port());
    let client = Client::new(&url).unwrap().tls(ClientTls::new().ca_pem(certificate.pem()).unwrap());

    let peer = Peer::connect_as(&client, Conduct::Echo).unwrap();
    wait_until("its echo comes", || server.handle.connections().iter().any(|info| info.traffic.messages_in == 1));
    peer.vanish();
    let report = server.report();
    assert!(matches!(report.reason, CloseReason::HeartbeatLost { .. }), "{report}");

    let mut peer = Peer::connect_as(&client, Conduct::Trickle { pause: ms(1) }).unwrap();
    wait_until("its echo comes", || server.handle.connections().iter().any(|info| info.traffic.messages_in == 1));
    peer.set_conduct(Conduct::Silent);
    assert_eq!(peer.expect_close().unwrap().0, Some(1011.into()));
    drop(peer);
    assert!(matches!(server.report().reason, CloseReason::HeartbeatLost { .. }));
}
