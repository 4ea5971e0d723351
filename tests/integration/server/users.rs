//! Whom a connection belongs to, what the application has attached to it, and messages for one connection or for all of
//! a user.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::thread;

use crossbeam_channel::{Sender as Channel, bounded, unbounded};
use heartwire::{
    Accept, CloseCode, Error, Event, Message, Request, Response, SendToError, Sender, SentToUser, ServerHandle,
};

use super::deciding;
use crate::support::{
    CEILING, Client, Running, by_us, echo, eventually, exchange, fill, ms, receive, request_with, server, start,
    start_listening,
};

/// Clients name their user by the path. `/` is nobody.
fn by_path(request: &Request) -> Result<Accept, Response> {
    match &request.path()[1..] {
        "" => Ok(Accept::new()),
        user => Ok(Accept::new().user(user)),
    }
}

/// A client of this user, once it has opened, and its number.
fn connect(running: &Running, user: &str) -> (Client, u64) {
    let client = Client::tcp(running.address()).upgraded(&request_with(&format!("/{user}"), ""));
    (client, running.events.opened())
}

fn sent(sent: usize) -> SentToUser {
    let mut outcome = SentToUser::default();
    outcome.sent = sent;
    outcome
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

#[test]
fn extension_lives_as_long_as_a_sender_that_is_kept() {
    let token = Arc::new(());
    let attached = Arc::clone(&token);
    let server = deciding(move |_| Ok(Accept::new().extension(Arc::clone(&attached))));
    let (running, senders) = start_listening(server);
    let client = running.connect();
    let sender = receive("a sender", &senders);
    client.close();
    running.closed();
    eventually("the connection has ended", || running.handle.send_to(1, "x").is_err_and(is_unknown));
    // The test, `on_handshake`, and what is attached.
    assert_eq!(Arc::strong_count(&token), 3);
    assert!(sender.extension::<Arc<()>>().is_some_and(|extension| Arc::ptr_eq(extension, &token)));
    drop(sender);
    assert_eq!(Arc::strong_count(&token), 2);
}

fn is_unknown(error: SendToError<Message>) -> bool {
    matches!(error, SendToError::NoSuchConnection(_))
}

// Messages.

#[test]
fn send_to_reaches_one_connection_in_the_order_of_the_calls() {
    const ROUNDS: u32 = 200;
    let (running, senders) = start_listening(deciding(by_path));
    let (mut other, _) = connect(&running, "");
    receive("its sender", &senders);
    let (mut client, id) = connect(&running, "anna");
    let sender: Sender = receive("its sender", &senders);
    for round in 0..ROUNDS {
        assert_eq!(running.handle.send_to(id, format!("{round} by number")), Ok(()));
        sender.send(format!("{round} by sender")).expect("open");
        assert_eq!(running.handle.send_to_user("anna", format!("{round} by user")), sent(1));
    }
    for round in 0..ROUNDS {
        for by in ["number", "sender", "user"] {
            assert_eq!(client.text(), format!("{round} by {by}"));
        }
    }
    running.handle.broadcast("to all");
    assert_eq!(other.text(), "to all", "the other one got nothing else");
}

#[test]
fn send_to_finds_a_connection_in_its_own_handler() {
    let server = deciding(by_path);
    let handle = server.handle();
    let running = start(server, move |conn| {
        handle.send_to(conn.id(), "by number").map_err(Error::handler)?;
        let outcome = handle.send_to_user(conn.user().unwrap_or_default(), "by user");
        conn.send(format!("{}", outcome.sent))?;
        echo(conn)
    });
    for _ in 0..20 {
        let (mut client, _) = connect(&running, "anna");
        assert_eq!([client.text(), client.text(), client.text()], ["by number", "by user", "1"]);
        client.close();
        // Its user has no other connection in the next round.
        eventually("it is forgotten", || running.handle.send_to_user("anna", "x") == SentToUser::default());
    }
}

#[test]
fn send_to_says_why_it_gives_the_message_back() {
    let (running, senders) = start_listening(deciding(by_path).queue_size(100_000));
    let handle = &running.handle;
    assert_eq!(handle.send_to(1, "x"), Err(SendToError::NoSuchConnection("x".into())));

    let (client, id) = connect(&running, "anna");
    let sender = receive("its sender", &senders);
    let message = fill(&sender);
    assert_eq!(handle.send_to(id, message.clone()), Err(SendToError::Full(message.clone())));
    assert_eq!(handle.send_to(id + 1, "x"), Err(SendToError::NoSuchConnection("x".into())));

    sender.close(CloseCode::NORMAL, "").expect("open");
    let refused = handle.send_to(id, message.clone()).expect_err("it is closing");
    assert_eq!(refused, SendToError::Closed(message.clone()));
    assert_eq!(refused.into_inner(), message);
    drop(client);
    running.closed();
    eventually("it is forgotten", || handle.send_to(id, "x").is_err_and(is_unknown));
}

#[test]
fn send_to_user_reaches_all_of_the_users_connections_and_counts_them() {
    let (running, senders) = start_listening(deciding(by_path).queue_size(100_000));
    let handle = &running.handle;
    let (mut phone, _) = connect(&running, "anna");
    let (mut page, _) = connect(&running, "anna");
    let (mut other, _) = connect(&running, "Anna");
    let (mut nobody, _) = connect(&running, "");
    (0..4).for_each(|_| _ = receive("a sender", &senders));
    assert_eq!(handle.send_to_user("anna", "hello"), sent(2));
    assert_eq!((phone.text(), page.text()), ("hello".into(), "hello".into()));
    for name in ["", "ann", "annaa", "bob"] {
        assert_eq!(handle.send_to_user(name, "hello"), SentToUser::default(), "{name:?}");
    }
    handle.broadcast("to all");
    assert_eq!((other.text(), nobody.text()), ("to all".into(), "to all".into()), "they got nothing else");
    assert_eq!((phone.text(), page.text()), ("to all".into(), "to all".into()));

    // One is slow, one is closing, and two take it.
    let (_slow, _) = connect(&running, "anna");
    let message = fill(&receive("its sender", &senders));
    let (_closing, closing) = connect(&running, "anna");
    handle.close(closing, 4000, "").expect("open");
    let outcome = handle.send_to_user("anna", message);
    assert_eq!((outcome.sent, outcome.full, outcome.closed), (2, 1, 1));
}

// Closing.

#[test]
fn close_closes_one_connection_and_says_if_there_is_none() {
    let (running, _senders) = start_listening(deciding(by_path));
    let handle = &running.handle;
    let (mut client, id) = connect(&running, "anna");
    let (mut other, _) = connect(&running, "anna");
    assert!(matches!(handle.close(id, 1005, ""), Err(Error::InvalidCloseCode(_))));
    assert!(matches!(handle.close(77, 4000, ""), Err(Error::NoSuchConnection(77))));
    handle.close(id, 4000, "enough").expect("it is open");
    let again = handle.close(id, 4001, "too late").expect_err("it is closing");
    assert!(matches!(&again, Error::Closed(reason) if *reason == by_us(4000, "enough")), "{again}");
    assert_eq!(client.expect_close(), (Some(4000), "enough".into()));
    client.send_close(4000, "");
    let report = running.closed();
    assert_eq!((report.id, report.reason), (id, by_us(4000, "enough")));
    assert_eq!(handle.send_to_user("anna", "still here").sent, 1);
    assert_eq!(other.text(), "still here");
}

#[test]
fn close_user_closes_all_of_the_users_connections_and_no_other() {
    let (running, _senders) = start_listening(deciding(by_path));
    let handle = &running.handle;
    let mut clients = [connect(&running, "anna").0, connect(&running, "anna").0];
    let (mut other, _) = connect(&running, "bob");
    assert!(matches!(handle.close_user("anna", 1006, ""), Err(Error::InvalidCloseCode(_))));
    assert_eq!(handle.close_user("carol", 4000, "").ok(), Some(0));
    assert_eq!(handle.close_user("anna", 4000, "signed out").ok(), Some(2));
    assert_eq!(handle.close_user("anna", 4001, "too late").ok(), Some(0), "they are closing already");
    for client in &mut clients {
        assert_eq!(client.expect_close(), (Some(4000), "signed out".into()));
        client.send_close(4000, "");
        assert_eq!(running.closed().reason, by_us(4000, "signed out"));
    }
    assert_eq!(handle.send_to_user("bob", "still here"), sent(1));
    assert_eq!(other.text(), "still here");
}

#[test]
fn close_of_a_peer_that_does_not_answer_ends_within_the_close_timeout() {
    let (leave, left) = bounded::<()>(0);
    let running = start(deciding(by_path).close_timeout(ms(200)), move |_| {
        // It is not the handler's thread that sees to it.
        let _ = left.recv();
        Ok(())
    });
    let (mut client, id) = connect(&running, "anna");
    running.handle.close(id, 4000, "").expect("open");
    assert_eq!(client.expect_close().0, Some(4000));
    assert_eq!(running.closed().reason, by_us(4000, ""));
    drop(leave);
}

#[test]
fn send_to_user_and_close_user_are_safe_while_the_users_connections_come_and_go() {
    let running = start(deciding(by_path), echo);
    let address = running.address();
    let is_over = AtomicBool::new(false);
    let (counted, counts) = bounded(1);
    thread::scope(|scope| {
        scope.spawn(|| {
            let mut reached = 0;
            while !is_over.load(SeqCst) {
                reached += running.handle.send_to_user("anna", "hello").sent;
                thread::yield_now();
            }
            let _ = counted.send(reached);
        });
        let visitors: Vec<_> = (0..4)
            .map(|_| {
                scope.spawn(move || {
                    for _ in 0..25 {
                        let mut client = Client::tcp(address).upgraded(&request_with("/anna", ""));
                        assert_eq!(client.text(), "hello");
                    }
                })
            })
            .collect();
        visitors.into_iter().for_each(|visitor| visitor.join().expect("each visitor is reached"));
        is_over.store(true, SeqCst);
    });
    assert!(receive("the count", &counts) >= 100);
}
