//! A server that drains: its clients are sent away in turn, new ones are told to go elsewhere, and then it ends.

use std::net::{TcpListener, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use heartwire::{CloseCode, CloseReason, Event, HeartbeatPolicy, Server};

use crate::support::{
    CEILING, Client, Running, SLACK, echo, eventually, exchange, ms, request, request_with, server, start,
};

/// What tells clients to come back at once.
const AT_ONCE: &str = "restart; reconnect at once";
const HOUR: Duration = Duration::from_secs(3600);

fn draining(running: &Running, period: Duration) {
    running.handle.drain(period);
    assert!(running.handle.is_draining());
}

#[test]
fn drain_sends_clients_away_evenly_and_then_ends() {
    const CLIENTS: u32 = 20;
    let period = ms(2000);
    let running = start(server().close_timeout(HOUR), echo);
    let clients: Vec<Client> = (0..CLIENTS).map(|_| running.connect()).collect();
    clients.iter().for_each(|_| _ = running.events.opened());
    let begin = Instant::now();
    let answering: Vec<_> = clients
        .into_iter()
        .map(|mut client| {
            thread::spawn(move || {
                assert_eq!(client.expect_close(), (Some(1012), AT_ONCE.to_owned()));
                let sent_away = begin.elapsed();
                client.send_close(1012, "");
                client.drain();
                sent_away
            })
        })
        .collect();
    draining(&running, period);
    running.events.wait_for("Draining", |event| matches!(event, Event::Draining { .. }).then_some(()));
    running.wait_for_end();
    let took = begin.elapsed();
    let sent_away: Vec<Duration> = answering.into_iter().map(|thread| thread.join().unwrap()).collect();
    // In the order in which they came, and none before its turn.
    for (turn, at) in (0..CLIENTS).zip(&sent_away) {
        assert!(*at >= period * turn / CLIENTS, "{turn}: {sent_away:?}");
    }
    // And not all at the end: a busy machine may be late for some.
    assert!(sent_away[0] < period / 2 + SLACK && took < period + SLACK, "{took:?}: {sent_away:?}");
    let reasons = running.events.rest().into_iter().filter_map(|event| match event {
        Event::Closed(report) => Some(report.reason),
        _ => None,
    });
    let expected = CloseReason::Shutdown { code: CloseCode::RESTART, reason: AT_ONCE.to_owned() };
    assert!(reasons.inspect(|reason| assert_eq!(*reason, expected)).count() == CLIENTS as usize);
}

#[test]
fn drain_tells_new_clients_and_health_checks_and_serves_those_who_had_no_turn() {
    let running = start(server().health("/healthz"), echo);
    let health = || exchange(running.address(), "GET /healthz HTTP/1.1\r\nHost: test\r\n\r\n");
    let mut first = running.connect();
    let mut second = running.connect();
    (0..2).for_each(|_| _ = running.events.opened());
    assert_eq!(health().status, 200);
    draining(&running, HOUR);
    assert!(!running.handle.is_shutting_down());
    assert_eq!(first.expect_close().0, Some(1012));
    let refused = exchange(running.address(), request());
    assert_eq!((refused.status, refused.header("Retry-After")), (503, Some("1")));
    let (status, reason) = running.events.handshake_failed();
    assert_eq!((status, reason.as_str()), (Some(503), "the server is draining"));
    let health = health();
    assert_eq!((health.status, health.body.as_str()), (503, "draining\n"));
    second.expect_echo("still served");
    assert_eq!(running.handle.stats().refused, 1);
    assert_eq!(running.handle.stalled_parts(CEILING), []);
    // Whoever is left when a drain is cut short gets 1001.
    running.handle.shutdown();
    assert_eq!(second.expect_close().0, Some(1001));
}

#[test]
fn drain_lets_in_whoever_was_in_the_middle_of_a_handshake() {
    let server = server().on_handshake(|request| {
        if request.path() == "/slow" {
            thread::sleep(ms(300));
        }
        Ok(heartwire::Accept::new())
    });
    let running = start(server, echo);
    let _keeps_it_from_ending = [running.connect(), running.connect()];
    (0..2).for_each(|_| _ = running.events.opened());
    let mut slow = Client::tcp(running.address());
    eventually("it was accepted", || running.handle.stats().accepted == 3);
    slow.write(request_with("/slow", "").as_bytes());
    draining(&running, HOUR);
    assert_eq!(slow.answer().status, 101);
    running.events.opened();
    draining(&running, ms(2000));
    assert_eq!(slow.expect_close(), (Some(1012), AT_ONCE.to_owned()));
}

#[test]
fn drain_ends_with_the_last_client_or_with_an_earlier_drain() {
    let empty = start(server(), echo);
    draining(&empty, HOUR);
    assert!(empty.wait_for_end() < SLACK);

    let leaving = start(server(), echo);
    let [mut sent_away, leaves] = [leaving.connect(), leaving.connect()];
    (0..2).for_each(|_| _ = leaving.events.opened());
    draining(&leaving, HOUR);
    sent_away.expect_close();
    sent_away.send_close(1012, "");
    sent_away.drain();
    leaves.close();
    assert!(leaving.wait_for_end() < SLACK);

    let twice = start(server(), echo);
    let mut clients = [twice.connect(), twice.connect()];
    clients.iter().for_each(|_| _ = twice.events.opened());
    draining(&twice, HOUR);
    draining(&twice, ms(100));
    draining(&twice, HOUR);
    for client in &mut clients {
        assert_eq!(client.expect_close().0, Some(1012));
        client.send_close(1000, "");
        client.drain();
    }
    assert!(twice.wait_for_end() < SLACK);

    let before = server();
    before.handle().drain(HOUR);
    assert!(start(before, echo).wait_for_end() < SLACK);
}

#[test]
fn drain_without_a_period_does_not_call_all_back_at_once() {
    let running = start(server(), echo);
    let mut client = running.connect();
    running.events.opened();
    draining(&running, Duration::ZERO);
    assert_eq!(client.expect_close(), (Some(1012), "restart".to_owned()));
}

#[test]
fn drain_waits_neither_for_peers_nor_for_handlers_beyond_the_close_timeout() {
    let close_timeout = ms(500);
    let server = server().close_timeout(close_timeout).heartbeat(HeartbeatPolicy::off()).queue_size(100_000);
    let running = start(server, |conn| match conn.path() {
        "/busy" => {
            thread::sleep(CEILING);
            Ok(())
        }
        "/flood" => loop {
            conn.send(vec![0; 10_000])?;
        },
        _ => echo(conn),
    });
    let connect = |path: &str| Client::tcp(running.address()).upgraded(&request_with(path, ""));
    let _rude = [connect("/busy"), connect("/flood"), connect("/"), connect("/busy"), connect("/flood")];
    (0..5).for_each(|_| _ = running.events.opened());
    let mut last = connect("/");
    running.events.opened();
    draining(&running, ms(600));
    assert_eq!(last.expect_close().0, Some(1012), "who comes after those who do not answer");
    assert!(running.wait_for_end() < SLACK);
    let events = running.events.rest();
    assert_eq!(events.iter().filter(|event| matches!(event, Event::Closed(_))).count(), 6);
}

/// Whoever comes is served, by one server or the other, while the first is draining and after it has ended.
#[test]
fn drain_leaves_a_listener_that_was_handed_in_to_whoever_shares_it() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let serving = |listener: &TcpListener| {
        let server = Server::from_listener(listener.try_clone().unwrap()).unwrap();
        start(server.heartbeat(HeartbeatPolicy::off()).close_timeout(HOUR), echo)
    };
    let first = serving(&listener);
    let mut kept = [Client::connect(address), Client::connect(address)];
    kept.iter().for_each(|_| _ = first.events.opened());
    draining(&first, HOUR);
    assert_eq!(kept[0].expect_close().0, Some(1012));

    // Nobody takes it, and it waits for the one that is about to start.
    let waiting = TcpStream::connect(address).unwrap();
    let opened_before = first.handle.stats().opened;
    let second = serving(&listener);
    let mut waiting = Client::of(waiting).upgraded(&request());
    waiting.expect_echo("taken over");
    for _ in 0..100 {
        let mut client = Client::connect(address);
        client.expect_echo("served");
        client.close();
    }
    // Systemd does so when it starts another process with the same socket.
    listener.set_nonblocking(false).unwrap();
    for _ in 0..20 {
        Client::connect(address).close();
    }
    assert_eq!(first.handle.stats().opened, opened_before);
    kept[1].expect_echo("still served");
    let ending = Instant::now();
    first.handle.shutdown();
    for client in &mut kept {
        client.send_close(1001, "");
        client.drain();
    }
    first.wait_for_end();
    assert!(ending.elapsed() < SLACK);
    Client::connect(address).expect_echo("the listener is as it was");
    drop(waiting);
    second.stop();
}
