//! Whom a connection belongs to.

use crossbeam_channel::unbounded;
use heartwire::{Accept, Event, Request, Response};

use super::deciding;
use crate::support::{Client, echo, receive, request_with, start};

/// Clients name their user by the path. `/` is nobody.
fn by_path(request: &Request) -> Result<Accept, Response> {
    match &request.path()[1..] {
        "" => Ok(Accept::new()),
        user => Ok(Accept::new().user(user)),
    }
}

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
