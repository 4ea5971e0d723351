//! How a connection of a client ends, and its run with it.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::thread;

use crossbeam_channel::unbounded;
use heartwire::{ClientSendError, CloseReason, ConnectError, Connection, Error, Event, Message};

use super::forward;
use crate::support::{BareServer, CEILING, End, SLACK, client, codes, listen, ms, receive, run};

/// Runs a client against a server made by hand up to its end: what it said in its Close frame, and its result.
fn closes_with<H>(handler: H) -> (Option<u16>, Result<(), Error>, String)
where
    H: FnMut(&mut Connection) -> Result<(), Error> + Send + 'static,
{
    let server = BareServer::bind();
    let client = run(client(server.address()), handler);
    let mut connection = server.open();
    let code = connection.close_code();
    connection.send_close(code.unwrap_or(1000));
    let result = client.result();
    (code, result, client.closed().reason.name().to_owned())
}

#[test]
fn a_handler_that_returns_ok_ends_the_client_with_1000() {
    let (code, result, reason) = closes_with(|_| Ok(()));
    assert!(matches!((code, result, &*reason), (Some(1000), Ok(()), "local")));
}

#[test]
fn a_handler_that_closes_ends_the_client_with_its_code() {
    let (code, result, reason) = closes_with(|conn| {
        conn.close(4001, "enough")?;
        conn.recv().map(drop)
    });
    assert!(matches!((code, result, &*reason), (Some(4001), Ok(()), "local")));
    let (code, result, _) = closes_with(|conn| {
        conn.sender().close(4002, "by another way")?;
        listen(conn)
    });
    assert!(matches!((code, result), (Some(4002), Ok(()))));
}

#[test]
fn a_handler_that_fails_ends_the_client_with_1011_and_its_error() {
    let (code, result, reason) = closes_with(|_| Err(Error::handler("out of paper")));
    assert_eq!((code, &*reason), (Some(1011), "handler_failed"));
    assert!(matches!(&result, Err(Error::Handler(error)) if error.to_string() == "out of paper"), "{result:?}");
}

#[test]
fn the_end_of_another_connection_is_an_error_of_the_handler() {
    let (code, result, reason) = closes_with(|_| Err(Error::Closed(CloseReason::Disconnected)));
    assert_eq!((code, &*reason), (Some(1011), "handler_failed"));
    assert!(matches!(result, Err(Error::Closed(CloseReason::Disconnected))));
}

#[test]
fn a_panic_of_the_handler_passes_through_and_the_server_gets_1011() {
    let server = BareServer::bind();
    let client = client(server.address());
    let (handle, events) = (client.handle(), client.handle().events());
    let runs = thread::spawn(move || catch_unwind(AssertUnwindSafe(|| client.run(|_| panic!("as you wish")))));
    server.open().expect_close(1011);
    let panic = runs.join().unwrap().unwrap_err();
    assert_eq!(panic.downcast_ref::<&str>(), Some(&"as you wish"));
    assert!(handle.has_ended());
    let closed = events.iter().find_map(|event| match event {
        Event::Closed(report) => Some(report.reason),
        _ => None,
    });
    assert_eq!(closed, Some(CloseReason::HandlerPanicked("as you wish".to_owned())));
}

#[test]
fn stop_sends_what_is_queued_then_closes_with_1000_and_hears_what_the_server_still_says() {
    let server = BareServer::bind();
    let (sender, messages) = unbounded();
    let client = run(client(server.address()), forward(sender));
    let mut connection = server.open();
    assert!(client.handle.wait_connected(CEILING));
    for number in 0..100 {
        client.handle.send(format!("{number}")).unwrap();
    }
    client.handle.stop();
    assert!(matches!(client.handle.send("too late"), Err(ClientSendError::Closed(_))));
    assert!(!client.handle.is_connected());
    for number in 0..100 {
        assert_eq!(connection.text(), number.to_string());
    }
    assert_eq!(connection.close_code(), Some(1000));
    connection.send_text("my last word");
    connection.send_close(1000);
    client.result().unwrap();
    assert_eq!(receive("the last word", &messages), Message::from("my last word"));
    assert_eq!(codes(&client.closed()), (Some(1000), Some(1000)));
}

#[test]
fn stop_waits_for_the_answer_to_close_for_the_close_timeout_at_most() {
    let server = BareServer::bind();
    let client = run(client(server.address()).close_timeout(ms(300)), listen);
    let mut connection = server.open();
    assert!(client.handle.wait_connected(CEILING));
    let took = client.stop();
    assert!(took < ms(300) + SLACK, "{took:?}");
    let report = client.closed();
    assert_eq!((report.reason.name(), codes(&report)), ("local", (Some(1000), None)));
    assert_eq!(connection.close_code(), Some(1000));
    let _: End = connection.wait_for_end();
}

#[test]
fn stop_before_run_means_that_nothing_is_tried() {
    let server = BareServer::bind();
    let client = client(server.address());
    let handle = client.handle();
    handle.stop();
    client.run(listen).unwrap();
    assert!(server.accept_within(ms(50)).is_none());
    assert!(handle.has_ended() && !handle.wait_connected(CEILING), "and nobody waits for a connection");
}

#[test]
fn a_client_that_cannot_begin_has_ended_for_its_handles() {
    let client = client(BareServer::bind().address()).header("X", "a\r\nY: b").outbox_size(1000);
    let handle = client.handle();
    let events = handle.events();
    assert!(matches!(client.run(listen), Err(Error::Connect(ConnectError::Invalid(_)))));
    assert!(handle.has_ended());
    assert!(!handle.wait_connected(CEILING));
    assert!(matches!(handle.send("hello"), Err(ClientSendError::Closed(_))));
    assert!(events.recv_timeout(CEILING).is_err_and(|error| error.is_disconnected()), "nothing happens any more");
}
