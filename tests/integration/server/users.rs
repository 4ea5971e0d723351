//! Whom a connection belongs to, and what the application has attached to it.

use std::thread;

use crossbeam_channel::{Sender as Channel, unbounded};
use heartwire::{Accept, Event, Request, Response, ServerHandle};

use super::deciding;
use crate::support::{CEILING, Client, echo, exchange, receive, request_with, server, start};

/// Clients name their user by the path. `/` is nobody.
fn by_path(request: &Request) -> Result<Accept, Response> {
    match &request.path()[1..] {
        "" => Ok(Accept::new()),
        user => Ok(Accept::new().user(user)),
    }
}

// Whom it belongs to.

#[test]
fn user_is_known_to_the_handler_its_senders_the_events_the_snapshot_and_the_report() {
    let (seen, in_handler) = unbounded();
    let running = start(deciding(by_path), move |conn| {
        let owned = |user: Option<&str>| user.map(str::to_owned);
        let _ = seen.send((owned(conn.user()), owned(conn.sender().user())));
        echo(conn)
    });
    for (path, user) in [("/anna", Some("anna")), ("/", None)] {
        let client = Client::tcp(running.address()).upgraded(&request_with(path, ""));
        let opened = running.events.wait_for("Opened", |event| match event {
            Event::Opened { user, .. } => Some(user.clone()),
            _ => None,
        });
        assert_eq!(opened.as_deref(), user);
        let (by_conn, by_sender) = receive("the handler", &in_handler);
        assert_eq!((by_conn.as_deref(), by_sender.as_deref()), (user, user));
        let [info] = &running.handle.connections()[..] else { panic!("one connection") };
        assert_eq!(info.user.as_deref(), user);
        client.close();
        assert_eq!(running.closed().user.as_deref(), user);
    }
}

// What is attached.

#[derive(Debug, PartialEq)]
struct Plan(u32);

#[test]
fn extension_is_found_by_its_type_in_the_handler_and_by_a_sender() {
    let (seen, found) = unbounded();
    let server = deciding(|_| Ok(Accept::new().extension(Plan(1)).extension("a text").extension(Plan(2))));
    let running = start(server, move |conn| {
        let sender = conn.sender();
        for (plan, text) in [(conn.extension(), conn.extension()), (sender.extension(), sender.extension())] {
            let _ = seen.send((plan.map(|Plan(number)| *number), text.copied()));
        }
        let _ = seen.send((conn.extension::<u32>().copied(), sender.extension::<&str>().copied()));
        echo(conn)
    });
    let _client = running.connect();
    let what: Vec<(Option<u32>, Option<&str>)> = (0..3).map(|_| receive("the handler", &found)).collect();
    assert_eq!(what, [(Some(2), Some("a text")), (Some(2), Some("a text")), (None, Some("a text"))]);
}

/// Says in which thread it is dropped and how many connections the server has then, and panics.
struct Curious {
    server: ServerHandle,
    dropped: Channel<(String, usize)>,
}

impl Drop for Curious {
    fn drop(&mut self) {
        let name = thread::current().name().unwrap_or_default().to_owned();
        // The supervisor answers this: it would wait for itself.
        let _ = self.dropped.send((name, self.server.connections().len()));
        panic!("as the test wants it");
    }
}

#[test]
fn extension_is_given_back_by_the_connections_thread_after_its_end_and_may_panic() {
    let server = server();
    let (dropped, drops) = unbounded();
    let handle = server.handle();
    let server = server.on_handshake(move |request| {
        let curious = Curious { server: handle.clone(), dropped: dropped.clone() };
        let accept = Accept::new().extension(curious);
        // What is refused after all is given back too.
        Ok(if request.path() == "/refused" { accept.user("") } else { accept })
    });
    let running = start(server, echo);
    let mut client = running.connect();
    client.expect_echo("hello");
    assert_eq!(drops.try_recv().ok(), None, "it is in use");
    client.close();
    running.closed();
    assert_eq!(drops.recv_timeout(CEILING), Ok(("heartwire-conn".into(), 0)));

    assert_eq!(exchange(running.address(), request_with("/refused", "")).status, 500);
    assert_eq!(drops.recv_timeout(CEILING), Ok(("heartwire-conn".into(), 0)));
    running.connect().expect_echo("the server lives");
    let events = running.stop();
    assert_eq!(drops.recv_timeout(CEILING).map(|(thread, _)| thread), Ok("heartwire-conn".into()));
    assert!(drops.try_recv().is_err(), "once for each connection: {events:?}");
}
