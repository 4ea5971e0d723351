//! Peers as the server of a client.

use std::thread::{self, JoinHandle};

use heartwire::crossbeam_channel::{RecvTimeoutError, bounded};
use heartwire::testing::{Conduct, PeerServer};
use heartwire::{Backoff, Client, ClientHandle, CloseReason, Connection, Error};

use crate::{CEILING, ms, patient, quick, wait_until};

/// A client that runs until its first connection ends.
fn run(server: &PeerServer, set_up: impl FnOnce(Client) -> Client) -> Result<(), Error> {
    run_with(server, set_up, |conn| {
        loop {
            conn.recv()?;
        }
    })
}

fn run_with(
    server: &PeerServer,
    set_up: impl FnOnce(Client) -> Client,
    handler: impl FnMut(&mut Connection) -> Result<(), Error>,
) -> Result<(), Error> {
    let client = set_up(Client::new(&server.url()).unwrap().heartbeat(quick()).no_reconnect());
    let (handle, (done, is_done)) = (client.handle(), bounded::<()>(0));
    thread::scope(|scope| {
        // A client that finds nothing wrong with its server would run for ever.
        scope.spawn(move || {
            if is_done.recv_timeout(CEILING) == Err(RecvTimeoutError::Timeout) {
                handle.stop();
            }
        });
        let _done = done;
        client.run(handler)
    })
}

fn reason(result: Result<(), Error>) -> CloseReason {
    match result {
        Err(Error::Closed(reason)) => reason,
        other => panic!("{other:?}"),
    }
}

/// A client in a thread of its own, that reconnects at once.
fn in_the_background(server: &PeerServer) -> (ClientHandle, JoinHandle<Result<(), Error>>) {
    let client = Client::new(&server.url())
        .unwrap()
        .heartbeat(patient())
        .reconnect(Backoff::default().first(ms(1)).longest(ms(1)));
    let handle = client.handle();
    let running = thread::spawn(move || {
        client.run(|conn| {
            loop {
                let message = conn.recv()?;
                conn.send(message)?;
            }
        })
    });
    (handle, running)
}

#[test]
fn silent_and_stopped_servers_are_found_dead() {
    for conduct in [Conduct::Silent, Conduct::Stopped] {
        let server = PeerServer::bind(conduct.clone()).unwrap();
        let reason = reason(run(&server, |client| client));
        assert!(matches!(reason, CloseReason::HeartbeatLost { missed: 2, .. }), "{conduct:?}: {reason}");
        let peer = server.accept().unwrap();
        match conduct {
            Conduct::Silent => wait_until("a Ping is read", || peer.pings() > 0),
            _ => assert_eq!(peer.pings(), 0),
        }
    }
}

#[test]
fn a_server_that_vanishes_is_found_dead() {
    let server = PeerServer::bind(Conduct::Echo).unwrap();
    let vanishing = |conn: &mut Connection| {
        conn.send("hello")?;
        assert_eq!(conn.recv()?.as_text(), Some("hello"));
        let peer = server.accept()?;
        peer.vanish();
        conn.set_heartbeat(quick());
        conn.recv().map(drop)
    };
    let reason = reason(run_with(&server, |client| client.heartbeat(patient()), vanishing));
    assert!(matches!(reason, CloseReason::HeartbeatLost { missed: 2, .. }), "{reason}");
}

#[test]
fn a_server_that_never_reads_lives_and_holds_a_full_queue_up() {
    let server = PeerServer::bind(Conduct::NeverReads { every: ms(5) }).unwrap();
    let limit = ms(1000);
    let flood = |conn: &mut Connection| {
        loop {
            conn.send(vec![0; 64 * 1024])?;
        }
    };
    let set_up = |client: Client| client.heartbeat(patient()).full_queue_timeout(Some(limit));
    let reason = reason(run_with(&server, set_up, flood));
    assert!(matches!(reason, CloseReason::WriteStalled { limit: found, .. } if found == limit), "{reason}");
}

#[test]
fn a_server_that_trickles_lives() {
    let server = PeerServer::bind(Conduct::Trickle { pause: ms(2) }).unwrap();
    let echoed = run_with(
        &server,
        |client| client.heartbeat(patient()),
        |conn| {
            conn.send("0123456789")?;
            assert_eq!(conn.recv()?.as_text(), Some("0123456789"));
            Ok(())
        },
    );
    echoed.unwrap();
}

#[test]
fn a_close_code_decides_whether_the_client_comes_back() {
    // 1008 is fatal.
    let server = PeerServer::bind(Conduct::close(1008, "not you")).unwrap();
    let client = Client::new(&server.url()).unwrap();
    assert_eq!(reason(client.run(|conn| conn.recv().map(drop))), crate::closed_by_peer(1008, "not you"));

    // After 1012 it comes back.
    let server = PeerServer::bind(Conduct::Live).unwrap();
    let (handle, running) = in_the_background(&server);
    let first = server.accept().unwrap();
    first.close(1012, "restart; reconnect at once").unwrap();
    let mut second = server.accept().unwrap();
    second.send("again").unwrap();
    assert_eq!(second.recv().unwrap().as_text(), Some("again"));
    handle.stop();
    assert_eq!(second.expect_close().unwrap().0, Some(1000.into()));
    running.join().unwrap().unwrap();
}

#[test]
fn a_connection_that_is_dropped_is_one_that_the_client_makes_anew() {
    let server = PeerServer::bind(Conduct::Live).unwrap();
    let (handle, running) = in_the_background(&server);
    drop(server.accept().unwrap());
    let second = server.accept().unwrap();
    second.send("x").unwrap();
    handle.stop();
    running.join().unwrap().unwrap();
}

#[test]
fn the_request_and_the_subprotocol_are_those_of_the_client() {
    let server = PeerServer::bind(Conduct::close(1000, "")).unwrap();
    let set_up = |client: Client| client.header("X-Device", "17").subprotocol("b").subprotocol("a");
    let mut chosen = None;
    let ended = run_with(&server, set_up, |conn| {
        chosen = conn.subprotocol().map(str::to_owned);
        conn.recv().map(drop)
    });
    assert_eq!(reason(ended), crate::closed_by_peer(1000, ""));
    let peer = server.accept().unwrap();
    assert_eq!((peer.request().path(), peer.request().header("x-device")), ("/", Some("17")));
    assert_eq!((peer.subprotocol(), chosen.as_deref()), (Some("b"), Some("b")));
}

#[test]
fn drop_of_the_server_refuses_clients_and_ends_what_was_not_taken() {
    let server = PeerServer::bind(Conduct::Live).unwrap();
    let url = server.url();
    let client = Client::new(&url).unwrap().heartbeat(patient()).no_reconnect();
    let mut server = Some(server);
    let ended = client.run(|conn| {
        drop(server.take());
        conn.recv().map(drop)
    });
    let reason = reason(ended);
    assert!(matches!(reason, CloseReason::Disconnected | CloseReason::Io { .. }), "{reason}");
    let refused = Client::new(&url).unwrap().no_reconnect().run(|_| Ok(()));
    assert!(matches!(refused, Err(Error::Connect(_))), "{refused:?}");
}
