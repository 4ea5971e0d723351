//! Handlers without ports: `TestServer` and `pair`.

use std::time::Duration;

use heartwire::testing::{Conduct, PeerEnd, RequestBuilder, TestServer, pair, pair_for};
use heartwire::{Accept, CloseReason, Connection, Error, Event, Request, Response, Server};

use crate::{CEILING, closed_by_peer, ms, patient, quick, wait_until};

fn echo(conn: &mut Connection) -> Result<(), Error> {
    loop {
        let message = conn.recv()?;
        conn.send(message)?;
    }
}

#[test]
fn run_serves_any_number_of_peers_and_reports_each() {
    let server = TestServer::run(echo).unwrap();
    for number in 0..20 {
        let mut peer = server.connect(&format!("/{number}?q")).unwrap();
        peer.send(number.to_string()).unwrap();
        assert_eq!(peer.recv().unwrap().as_text(), Some(&*number.to_string()));
        peer.close(3000 + number, "").unwrap();
        let report = server.closed().unwrap();
        assert_eq!(report.reason, closed_by_peer(3000 + number, ""));
        assert_eq!((report.path, report.traffic.messages_out), (format!("/{number}"), 1));
    }
    assert_eq!(server.handle().stats().opened, 20);
    server.shutdown().unwrap();
}

#[test]
fn run_tells_of_handlers_that_fail_and_panic() {
    let server = TestServer::run(|conn| match conn.path() {
        "/panic" => panic!("as you wish"),
        _ => Err(Error::handler("no")),
    })
    .unwrap();
    for (path, expected) in
        [("/panic", CloseReason::HandlerPanicked("as you wish".into())), ("/", CloseReason::HandlerFailed("no".into()))]
    {
        let mut peer = server.connect(path).unwrap();
        assert_eq!(peer.expect_close().unwrap().0, Some(1011.into()));
        assert_eq!(server.closed().unwrap().reason, expected);
    }
}

#[test]
fn with_has_the_settings_of_a_server() {
    fn decide(request: &Request) -> Result<Accept, Response> {
        match request.header("Authorization") {
            Some("Bearer swordfish") => Ok(Accept::new().subprotocol("chat")),
            _ => Err(Response::new(401).because("no token")),
        }
    }
    let server = TestServer::with(|server: Server| server.on_handshake(decide).max_message_size(10), echo).unwrap();
    let refused = server.connect("/").unwrap_err();
    assert!(refused.to_string().contains("401"), "{refused}");
    let Event::HandshakeFailed { status, reason, .. } = server.next_event().unwrap() else { panic!() };
    assert_eq!((status, reason.as_str()), (Some(401), "rejected by on_handshake: no token"));

    let known = |client: heartwire::Client| client.header("Authorization", "Bearer swordfish").subprotocol("chat");
    let mut peer = server.connect_as("/", known, Conduct::Live).unwrap();
    assert_eq!(peer.subprotocol(), Some("chat"));
    peer.send([b'a'; 11].as_slice()).unwrap();
    let report = server.closed().unwrap();
    assert!(matches!(report.reason, CloseReason::TooBig { .. }), "{report}");
    assert_eq!(peer.expect_close().unwrap().0, Some(1009.into()));

    // The same function by itself.
    let ask = |builder: RequestBuilder| decide(&builder.build()).map_err(|response| response.status());
    assert_eq!(ask(Request::builder("/")), Err(401));
    let request = Request::builder("/").header("Authorization", "Bearer swordfish");
    assert_eq!(ask(request), Ok(Accept::new().subprotocol("chat")));
}

#[test]
fn a_server_in_memory_has_the_real_heartbeat() {
    let server = TestServer::with(|server| server.heartbeat(quick()), echo).unwrap();
    let _silent = server.connect_as("/", |client| client, Conduct::Silent).unwrap();
    let mut missed = Vec::new();
    let report = loop {
        match server.next_event().unwrap() {
            Event::Missed { missed: so_far, .. } => missed.push(so_far),
            Event::Closed(report) => break report,
            _ => {}
        }
    };
    assert_eq!(missed, [1, 2]);
    assert!(matches!(report.reason, CloseReason::HeartbeatLost { missed: 2, .. }), "{report}");
}

#[test]
fn a_server_in_memory_broadcasts_and_shuts_down() {
    let server = TestServer::run(echo).unwrap();
    let mut peers = [server.connect("/").unwrap(), server.connect("/").unwrap()];
    wait_until("both are known", || server.handle().connections().len() == 2);
    server.handle().broadcast("to all");
    for peer in &mut peers {
        assert_eq!(peer.recv().unwrap().as_text(), Some("to all"));
    }
    server.shutdown().unwrap();
    for peer in &mut peers {
        assert_eq!(peer.expect_close().unwrap().0, Some(1001.into()));
    }
}

#[test]
#[cfg(unix)]
fn the_socket_of_a_server_in_memory_is_gone_when_it_is() {
    let server = TestServer::run(echo).unwrap();
    let paths = server.handle().unix_paths();
    assert!(paths[0].exists());
    drop(server);
    assert!(!paths[0].exists());
}

#[test]
fn pair_joins_a_connection_and_its_peer() {
    let request = Request::builder("/room?token=1").header("X-Name", "Ada").build();
    let (mut conn, mut peer) = pair_for(request).unwrap();
    assert_eq!((conn.path(), conn.request().header("x-name")), ("/room", Some("Ada")));
    peer.send("to the server").unwrap();
    assert_eq!(conn.recv().unwrap().as_text(), Some("to the server"));
    conn.send("to the client").unwrap();
    assert_eq!(peer.recv().unwrap().as_text(), Some("to the client"));
    assert!(matches!(conn.events().recv_timeout(CEILING), Ok(Event::Opened { path, .. }) if path == "/room"));

    let events = conn.events().clone();
    let report = conn.finish(Ok(()));
    assert_eq!(report.reason, CloseReason::Local { code: 1000.into(), reason: String::new() });
    assert_eq!((report.received, report.traffic.messages_in, report.traffic.messages_out), (Some(1000.into()), 1, 1));
    assert!(matches!(events.recv_timeout(CEILING), Ok(Event::Closed(closed)) if closed == report));
    assert_eq!(peer.expect_close().unwrap().0, Some(1000.into()));
}

#[test]
fn pair_ends_as_the_peer_ends_it() {
    let (mut conn, peer) = pair().unwrap();
    peer.close(4000, "tired").unwrap();
    let ended = conn.recv().map(drop);
    assert!(matches!(&ended, Err(Error::Closed(reason)) if *reason == closed_by_peer(4000, "tired")), "{ended:?}");
    let report = conn.finish(ended);
    assert_eq!((report.reason, report.sent), (closed_by_peer(4000, "tired"), Some(4000.into())));

    let (mut conn, peer) = pair().unwrap();
    drop(peer);
    let ended = conn.recv().map(drop);
    assert_eq!(conn.finish(ended).reason, CloseReason::Disconnected);
}

#[test]
fn pair_has_the_real_heartbeat_in_recv_and_out_of_it() {
    // In `recv` its own thread judges.
    let (mut conn, peer) = pair().unwrap();
    conn.set_heartbeat(quick());
    peer.vanish();
    let ended = conn.recv().map(drop);
    let report = conn.finish(ended);
    assert!(matches!(report.reason, CloseReason::HeartbeatLost { missed: 2, .. }), "{report}");

    // Out of it the stand-in does.
    let (mut conn, peer) = pair().unwrap();
    conn.set_heartbeat(quick());
    peer.vanish();
    let closed = conn.events().iter().find(|event| matches!(event, Event::Closed(_)));
    let Some(Event::Closed(report)) = closed else { panic!("{closed:?}") };
    assert!(matches!(report.reason, CloseReason::HeartbeatLost { missed: 2, .. }), "{report}");
}

#[test]
fn pair_has_a_stand_in_that_answers_for_a_busy_handler() {
    let (mut conn, peer) = pair().unwrap();
    conn.set_heartbeat(patient());
    peer.send_ping(b"are you there?").unwrap();
    wait_until("the stand-in answers", || peer.pongs() == 1);
    wait_until("the stand-in pings", || conn.round_trip().is_some());
    let stalled = conn.events().iter().find(|event| matches!(event, Event::HandlerStalled { .. }));
    let Some(Event::HandlerStalled { away, .. }) = stalled else { panic!("{stalled:?}") };
    assert!(away >= ms(20), "{away:?}");
    assert_eq!(conn.recv_timeout(Duration::ZERO).unwrap(), None);
}

#[test]
fn drop_of_a_pair_cuts_the_connection_whichever_end_goes_first() {
    let (conn, mut peer) = pair().unwrap();
    let sender = conn.sender();
    drop(conn);
    assert!(matches!(peer.wait_end().unwrap(), PeerEnd::Closed { code: Some(code), .. } if code == 1001.into()));
    assert!(sender.send("too late").is_err());

    // A peer that takes nothing does not hold it up.
    let (conn, peer) = pair().unwrap();
    peer.vanish();
    conn.send(vec![0; 900 * 1024]).unwrap();
    drop(conn);
    drop(peer);
}
