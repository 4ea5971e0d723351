//! Stopping a client at once, whatever is under way. "At once" is much less than any timeout in force.

use std::thread;
use std::time::Duration;

use crossbeam_channel::bounded;
use heartwire::Backoff;

use crate::support::{
    BareServer, BlackHole, CEILING, ClosedPort, HOUR, by_peer, by_us, client, echo, listen, ms, receive, run, server,
    start,
};

const AT_ONCE: Duration = Duration::from_secs(5);

#[test]
#[cfg(target_os = "linux")]
fn stop_does_not_wait_for_a_host_that_does_not_answer() {
    let hole = BlackHole::new();
    let client = run(client(hole.address()).connect_timeout(HOUR), listen);
    client.connecting();
    let took = client.stop();
    assert!(took < AT_ONCE, "{took:?}");
    println!("stopped while connecting after {took:?}");
}

#[test]
fn stop_does_not_wait_for_an_attempt_that_is_being_prepared() {
    let server = BareServer::bind();
    let (release, released) = bounded::<()>(0);
    let (begin, begun) = bounded(1);
    let client = client(server.address()).prepare(move |_| {
        let _ = begin.send(());
        let _ = released.recv();
        Ok(())
    });
    let client = run(client, listen);
    receive("the attempt is being prepared", &begun);
    let took = client.stop();
    assert!(took < AT_ONCE, "{took:?}");
    drop(release);
    assert!(server.accept_within(ms(50)).is_none(), "a client that was stopped does not come");
}

#[test]
fn stop_does_not_wait_for_an_opening_handshake() {
    let server = BareServer::bind();
    let client = run(client(server.address()).handshake_timeout(HOUR), listen);
    let mut connection = server.accept();
    connection.request();
    let took = client.stop();
    assert!(took < AT_ONCE, "{took:?}");
    println!("stopped in the opening handshake after {took:?}");
}

#[test]
fn stop_does_not_wait_for_a_pause_and_connect_now_cuts_it_short() {
    let slow = Backoff::default().first(HOUR).longest(HOUR);
    let port = ClosedPort::new();
    let client = run(client(port.address()).reconnect(slow), listen);
    client.retrying();
    client.handle.connect_now();
    assert_eq!((client.connecting(), client.connecting()), (1, 2));
    client.retrying();
    let took = client.stop();
    assert!(took < AT_ONCE, "{took:?}");
    println!("stopped in a pause after {took:?}");
}

#[test]
fn connect_now_does_not_count_for_pauses_to_come() {
    let server = BareServer::bind();
    let client = run(client(server.address()).reconnect(Backoff::default().first(HOUR).longest(HOUR)), listen);
    let connection = server.open();
    assert!(client.handle.wait_connected(CEILING));
    for _ in 0..20 {
        client.handle.connect_now();
    }
    drop(connection);
    assert!(client.retrying() > ms(500), "one in seven thousand is shorter");
    assert!(server.accept_within(ms(100)).is_none());
    client.handle.connect_now();
    server.accept();
}

#[test]
fn stop_ends_an_open_connection_at_once_if_the_server_answers() {
    let running = start(server(), echo);
    let client = run(client(running.address()).close_timeout(HOUR), listen);
    assert!(client.handle.wait_connected(CEILING));
    let took = client.stop();
    assert!(took < AT_ONCE, "{took:?}");
    println!("stopped with an open connection after {took:?}");
    assert_eq!(running.closed().received.map(u16::from), Some(1000));
}

#[test]
fn stop_with_sends_its_code_and_reason_and_the_first_call_counts() {
    let running = start(server(), echo);
    let client = run(client(running.address()), listen);
    assert!(client.handle.wait_connected(CEILING));
    assert!(client.handle.stop_with(1006, "").is_err());
    assert!(client.handle.is_connected());
    client.handle.stop_with(4000, "moving house").unwrap();
    client.handle.stop_with(4001, "too late").unwrap();
    client.stop();
    assert_eq!(client.closed().reason, by_us(4000, "moving house"));
    assert_eq!(running.closed().reason, by_peer(Some(4000), "moving house"));
}

#[test]
fn stop_may_be_called_by_any_number_of_threads_any_number_of_times() {
    let running = start(server(), echo);
    let client = run(client(running.address()), listen);
    assert!(client.handle.wait_connected(CEILING));
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| (0..25).for_each(|_| client.handle.stop()));
        }
    });
    client.result().unwrap();
    assert_eq!(client.closed().reason.name(), "local");
}
