//! Panics of our own threads, of which there should be none: all ends, loudly, and what was open is reported.

use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use crossbeam_channel::Receiver;
use tungstenite::WebSocket;

use super::*;
use crate::{Client, ClientHandle, CloseReason, Connection, Event, Server};

const CEILING: Duration = Duration::from_secs(30);

fn connect(address: SocketAddr) -> WebSocket<TcpStream> {
    let stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(CEILING)).unwrap();
    tungstenite::client(format!("ws://{address}/"), stream).unwrap().0
}

fn echo(conn: &mut Connection) -> Result<(), Error> {
    loop {
        let message = conn.recv()?;
        conn.send(message)?;
    }
}

/// All events up to the end: how many connections opened, and why each was closed.
fn until_the_end(events: &Receiver<Event>) -> (usize, Vec<CloseReason>) {
    let (mut opened, mut closed) = (0, Vec::new());
    loop {
        match events.recv_timeout(CEILING) {
            Ok(Event::Opened { .. }) => opened += 1,
            Ok(Event::Closed(report)) => closed.push(report.reason),
            Ok(_) => {}
            Err(error) => {
                assert!(error.is_disconnected(), "the server does not end");
                return (opened, closed);
            }
        }
    }
}

fn assert_internal(result: Result<(), Error>, thread: &str) {
    match result {
        Err(Error::Internal(text)) => assert_eq!(text, format!("{thread} panicked: as the test wants it")),
        other => panic!("{other:?}"),
    }
}

/// A server with three connections, one of which is in a handler that never asks for it.
#[track_caller]
fn server_ends_by(panic: fn(&SupervisorHandle), thread: &str) {
    let server = Server::bind("127.0.0.1:0").unwrap();
    let (supervisor, handle) = (server.supervisor(), server.handle());
    let events = handle.events();
    let serving = thread::spawn(move || {
        server.serve(|conn| {
            if conn.id() == 2 {
                thread::sleep(Duration::from_millis(500));
            }
            echo(conn)
        })
    });
    let mut clients: Vec<_> = (0..3).map(|_| connect(handle.local_addr())).collect();
    for client in [0, 2] {
        clients[client].send("hello".into()).unwrap();
        clients[client].read().unwrap();
    }
    let before = Instant::now();
    panic(&supervisor);
    assert_internal(serving.join().unwrap(), thread);
    assert!(before.elapsed() < Duration::from_secs(5), "no peer is waited for");
    assert_eq!(until_the_end(&events), (3, vec![CloseReason::shutdown(); 3]));
    let stats = handle.stats();
    assert_eq!((stats.opened, stats.open, stats.closed_total()), (3, 0, 3));
    assert!(TcpStream::connect(handle.local_addr()).is_err(), "nobody listens any more");
}

#[test]
fn a_panic_of_the_supervisor_ends_the_server() {
    server_ends_by(|handle| handle.notify(crate::supervisor::notice::Notice::Panic), "the supervisor");
}

#[test]
fn many_panics_of_the_supervisor_end_the_server_as_one_does() {
    server_ends_by(
        |handle| (0..50).for_each(|_| handle.notify(crate::supervisor::notice::Notice::Panic)),
        "the supervisor",
    );
}

#[test]
fn a_panic_of_the_stand_in_ends_the_server() {
    server_ends_by(|handle| handle.stand_in.panic(), "heartwire-stand-in");
}

#[test]
fn a_panic_of_our_own_ends_a_client_wherever_it_is() {
    // In its handler, and in the pause before an attempt.
    for is_connected in [true, false] {
        let server = Server::bind("127.0.0.1:0").unwrap();
        let address = server.local_addr();
        let handle = server.handle();
        let serving = thread::spawn(move || server.serve(echo));
        if !is_connected {
            handle.shutdown();
        }
        let client = Client::new(&format!("ws://{address}/")).unwrap();
        let client = client.reconnect(crate::Backoff::default().first(CEILING).longest(2 * CEILING));
        let (remote, supervisor) = (client.handle(), client.supervisor());
        let events = remote.events();
        let running = thread::spawn(move || client.run(echo));
        wait_for(&events, |event| match event {
            Event::Opened { .. } => is_connected,
            Event::Retrying { .. } => !is_connected,
            _ => false,
        });
        supervisor.notify(crate::supervisor::notice::Notice::Panic);
        assert_internal(running.join().unwrap(), "the supervisor");
        assert_eq!(until_the_end(&events).1.len(), usize::from(is_connected));
        assert!(ClientHandle::has_ended(&remote));
        handle.shutdown();
        serving.join().unwrap().unwrap();
    }
}

fn wait_for(events: &Receiver<Event>, is_it: impl Fn(&Event) -> bool) {
    while !is_it(&events.recv_timeout(CEILING).unwrap()) {}
}
