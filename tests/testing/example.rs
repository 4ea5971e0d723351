//! What the tests of an application may look like. The application is a counter: whoever sends `up` gets the new value,
//! and anything else is an error.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::Duration;

use heartwire::testing::{Beat, Conduct, PeerServer, TestServer, Timeline, pair};
use heartwire::{Client, CloseReason, Connection, Error, HeartbeatPolicy};

// The application.

fn policy() -> HeartbeatPolicy {
    HeartbeatPolicy::new(Duration::from_secs(30), Duration::from_secs(10)).max_missed(2)
}

fn count(conn: &mut Connection, counter: &AtomicUsize) -> Result<(), Error> {
    match conn.recv()?.as_text() {
        Some("up") => conn.send((counter.fetch_add(1, SeqCst) + 1).to_string()),
        _ => Err(Error::handler("expected: up")),
    }
}

fn handler(counter: Arc<AtomicUsize>) -> impl Fn(&mut Connection) -> Result<(), Error> + Send + Sync + 'static {
    move |conn| {
        loop {
            count(conn, &counter)?;
        }
    }
}

/// A client that counts up once.
fn count_up(url: &str) -> Result<usize, Error> {
    let mut value = 0;
    Client::new(url)?.no_reconnect().run(|conn| {
        conn.send("up")?;
        value = conn.recv()?.as_text().unwrap_or_default().parse().map_err(Error::handler)?;
        Ok(())
    })?;
    Ok(value)
}

// Its tests.

#[test]
fn one_step() {
    let counter = AtomicUsize::new(41);
    let (mut conn, mut peer) = pair().unwrap();
    peer.send("up").unwrap();
    count(&mut conn, &counter).unwrap();
    assert_eq!(peer.recv().unwrap().as_text(), Some("42"));

    peer.send("down").unwrap();
    assert!(matches!(count(&mut conn, &counter), Err(Error::Handler(_))));
}

#[test]
fn all_count_the_same_counter() {
    let server = TestServer::run(handler(Arc::default())).unwrap();
    for expected in 1..=10 {
        assert_eq!(count_up(&server.url("/")).unwrap(), expected);
    }
}

#[test]
fn whoever_asks_for_something_else_is_closed_with_1011() {
    let server = TestServer::run(handler(Arc::default())).unwrap();
    let mut peer = server.connect("/").unwrap();
    peer.send("down").unwrap();
    assert_eq!(peer.expect_close().unwrap().0, Some(1011.into()));
    assert_eq!(server.closed().unwrap().reason, CloseReason::HandlerFailed("expected: up".into()));
}

#[test]
fn a_server_that_hangs_up_is_an_error_of_the_client() {
    let server = PeerServer::bind(Conduct::close(1013, "later")).unwrap();
    assert!(matches!(count_up(&server.url()), Err(Error::Closed(CloseReason::Peer { .. }))));
}

#[test]
fn a_client_that_is_gone_is_found_within_50_seconds() {
    let mut timeline = Timeline::new(policy());
    assert_eq!(timeline.run_until_dead(), Some(Duration::from_secs(30 + 2 * 10)));
    let mut timeline = Timeline::new(policy());
    timeline.answer_after(Some(Duration::from_secs(9)));
    let day = timeline.advance(Duration::from_secs(24 * 3600));
    assert!(day.iter().all(|(_, beat)| *beat == Beat::Ping));
}
