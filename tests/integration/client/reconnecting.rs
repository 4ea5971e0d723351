//! How a client comes back: when, how often, and how long that takes.
//!
//! `cargo test --test integration client::reconnecting::a_table -- --nocapture` prints the table of docs/client.md.

use std::thread;
use std::time::{Duration, Instant};

use heartwire::{Backoff, ClientHandle, Event, HeartbeatPolicy};

use super::start_again;
use crate::support::{
    BareConnection, BareServer, CEILING, CLOSE, ClosedPort, RunningClient, SLACK, client, close_payload, codes, echo,
    eventually, listen, ms, quick, refusal, run, server, start,
};

#[test]
fn a_server_that_restarts_on_its_port_gets_its_client_back() {
    let first = start(server(), echo);
    let address = first.address();
    let client = run(client(address), listen);
    for life in 1..=3 {
        let running = if life == 1 { None } else { Some(start_again(address)) };
        let running = running.as_ref().unwrap_or(&first);
        client
            .events
            .wait_for("Opened", |event| matches!(event, Event::Opened { id, .. } if *id == life).then_some(()));
        running.handle.shutdown();
        running.wait_for_end();
        let report = client.events.closed_of(life);
        assert_eq!((report.reason.name(), codes(&report)), ("peer", (Some(1001), Some(1001))));
    }
    assert!(client.runs_on());
}

#[test]
fn retry_after_is_honoured() {
    let server = BareServer::bind();
    let client = run(client(server.address()), listen);
    for seconds in [1, 0] {
        let refused = Instant::now();
        server.answer(&refusal(503, &format!("Retry-After: {seconds}\r\n")));
        let delay = client.retrying();
        assert!(delay >= seconds * ms(1000) && delay <= seconds * ms(1000) + ms(100), "{delay:?}");
        let answered = server.accept();
        assert!(refused.elapsed() >= seconds * ms(1000), "after {:?}", refused.elapsed());
        drop(answered);
        client.retrying();
    }
    // Nonsense, and dates, are as if it were not there.
    for nonsense in ["soon", "-1", "Wed, 21 Oct 2065 07:28:00 GMT", ""] {
        server.answer(&refusal(503, &format!("Retry-After: {nonsense}\r\n")));
        assert!(client.retrying() <= ms(100), "{nonsense}");
    }
}

#[test]
fn longest_retry_after_limits_what_is_honoured() {
    const YEAR: Duration = Duration::from_secs(365 * 24 * 3600);
    let server = BareServer::bind();
    let long = format!("Retry-After: {}\r\n", YEAR.as_secs());
    for (backoff, delay) in [
        (quick(), Duration::from_secs(300)),
        (quick().longest_retry_after(Duration::from_secs(20)), Duration::from_secs(20)),
        (quick().longest_retry_after(Duration::MAX), YEAR),
    ] {
        let client = run(client(server.address()).reconnect(backoff), listen);
        server.answer(&refusal(503, &long));
        let paused = client.retrying();
        assert!(delay <= paused && paused <= delay + ms(100), "{paused:?} instead of {delay:?}");
        // Whoever is in a hurry need not wait.
        client.handle.connect_now();
        server.open().close(1000);
    }
}

#[test]
fn a_server_that_says_1012_or_1013_is_given_time() {
    for code in [1012, 1013, 1001] {
        let server = BareServer::bind();
        let backoff = Backoff::default().first(ms(1)).longest(ms(1)).after_restart(ms(300), ms(400));
        let client = run(client(server.address()).reconnect(backoff), listen);
        server.open().close(code);
        let delay = client.retrying();
        match code {
            1001 => assert!(delay <= ms(1), "{delay:?}"),
            _ => assert!(ms(300) <= delay && delay <= ms(400), "{delay:?}"),
        }
    }
}

#[test]
fn a_server_that_sends_its_clients_away_in_turn_is_asked_again_at_once() {
    const YEAR: Duration = Duration::from_secs(365 * 24 * 3600);
    let backoff = Backoff::default().first(YEAR).longest(YEAR).after_restart(YEAR, YEAR);
    let running = start(server(), echo);
    let client = run(client(running.address()).reconnect(backoff), listen);
    assert!(client.handle.wait_connected(CEILING));
    running.events.opened();
    // Who has just come would not be in a hurry.
    thread::sleep(Duration::from_secs(1));
    running.handle.drain(Duration::from_secs(1));
    assert_eq!(client.retrying(), Duration::ZERO);
    // Another one says so in its own words.
    let other = BareServer::bind();
    let client = run(crate::support::client(other.address()).reconnect(backoff), listen);
    let close = |mut connection: BareConnection| {
        connection.send(CLOSE, &close_payload(1012, "moving; reconnect at once"));
        assert_eq!(connection.close_code(), Some(1012));
    };
    let connection = other.open();
    // From when the client knows of it.
    assert!(client.handle.wait_connected(CEILING));
    thread::sleep(Duration::from_secs(1));
    close(connection);
    assert_eq!(client.retrying(), Duration::ZERO);
    close(other.open());
    assert!(client.retrying() > Duration::from_secs(1));
}

#[test]
fn delays_grow_with_each_failure_up_to_the_longest_and_are_drawn_from_zero() {
    let port = ClosedPort::new();
    let clients = (0..50).map(|_| {
        let backoff = Backoff::default().first(ms(8)).longest(ms(30));
        run(client(port.address()).reconnect(backoff), listen)
    });
    let clients: Vec<_> = clients.collect();
    for limit in [8, 16, 30, 30] {
        let delays: Vec<_> = clients.iter().map(RunningClient::retrying).collect();
        assert!(delays.iter().all(|delay| *delay <= ms(limit)), "{limit} ms: {delays:?}");
        // By chance, this fails once in a million runs.
        assert!(delays.iter().any(|delay| *delay > ms(limit) * 3 / 4), "up to {limit} ms: {delays:?}");
        assert!(delays.iter().any(|delay| *delay < ms(limit) / 4), "from 0: {delays:?}");
    }
}

#[test]
fn stable_after_decides_when_failures_are_forgotten() {
    let server = BareServer::bind();
    let backoff = Backoff::default().first(ms(1)).longest(ms(5)).stable_after(ms(400));
    let client = run(client(server.address()).reconnect(backoff), listen);
    for attempt in 1..=5 {
        assert_eq!(client.connecting(), attempt, "a server that drops soon is no better than one that is down");
        let connection = server.open();
        thread::sleep(ms(20));
        drop(connection);
        client.closed();
    }
    assert_eq!(client.connecting(), 6);
    let connection = server.open();
    assert!(client.handle.wait_connected(CEILING));
    thread::sleep(ms(450));
    drop(connection);
    assert_eq!(client.connecting(), 1);
    server.answer(&refusal(503, ""));
    assert_eq!(client.connecting(), 2);
}

// The table of reconnections.

/// What the client of the table goes by.
fn table_backoff() -> Backoff {
    // As by default, but for 5 s to 30 s after a restart.
    Backoff::default().after_restart(ms(500), ms(2000))
}

fn table_heartbeat() -> HeartbeatPolicy {
    HeartbeatPolicy::new(ms(500), ms(250)).max_missed(2)
}

struct Row {
    /// From the loss to when the client knew of it.
    noticed: Duration,
    /// From the moment at which the server was there again.
    back: Duration,
    attempts: usize,
}

/// Loses a connection by `lose`, which returns when the server is there again, and prints how the client came back.
fn row(name: &str, lose: impl FnOnce(&BareServer, BareConnection)) -> Row {
    let server = BareServer::bind();
    let client = run(client(server.address()).heartbeat(table_heartbeat()).reconnect(table_backoff()), listen);
    let mut connection = server.accept();
    connection.upgrade("");
    assert!(client.handle.wait_connected(CEILING));
    let stamps = stamp(&client.handle);
    let lost = Instant::now();
    lose(&server, connection);
    let there_again = Instant::now();
    let mut connection = server.accept();
    connection.upgrade("");
    eventually("the client is back", || client.handle.stats().opened == 2);
    let back = there_again.elapsed();
    client.handle.stop();
    drop(connection);
    client.result().unwrap();
    let (closed, attempts) = stamps.join().unwrap();
    let row = Row { noticed: closed - lost, back, attempts };
    println!("| {name} | {:.2} s | {:.2} s | {} |", row.noticed.as_secs_f64(), row.back.as_secs_f64(), row.attempts);
    row
}

/// When the first closure was told, and how many attempts there were from then on.
fn stamp(handle: &ClientHandle) -> thread::JoinHandle<(Instant, usize)> {
    let events = handle.events();
    thread::spawn(move || {
        let mut closed = None;
        let mut attempts = 0;
        for event in events {
            match event {
                Event::Closed(_) if closed.is_none() => closed = Some(Instant::now()),
                Event::Connecting { .. } => attempts += 1,
                _ => {}
            }
        }
        (closed.expect("a closure"), attempts)
    })
}

/// Answers as a server that is down behind a proxy, for so long.
fn down_for(server: &BareServer, time: Duration) {
    let end = Instant::now() + time;
    while let Some(left) = end.checked_duration_since(Instant::now()).filter(|left| !left.is_zero()) {
        if let Some(mut connection) = server.accept_within(left) {
            connection.request();
            connection.write(refusal(503, "").as_bytes());
        }
    }
}

#[test]
fn a_table_of_reconnections_and_the_time_each_took() {
    let bound = table_heartbeat().worst_case().unwrap();
    println!("| the server | noticed after | back, once it was there again, after | attempts |");
    println!("| --- | --- | --- | --- |");
    let closes = row("closes with 1001 and is there again at once", |_, connection| connection.close(1001));
    let drops = row("ends without a word (killed), there again at once", |_, connection| drop(connection));
    let resets = row("resets, there again at once", |_, connection| connection.reset());
    for row in [&closes, &drops, &resets] {
        assert!(row.noticed < SLACK && row.back < ms(500) + SLACK && row.attempts == 1);
    }
    let down = row("is killed and answers 503 for 3 s", |server, connection| {
        drop(connection);
        down_for(server, ms(3000));
    });
    assert!(down.noticed < SLACK && down.attempts >= 2, "{} attempts", down.attempts);
    let restart = row("closes with 1012 (service restart), here 0.5 s to 2 s", |_, connection| connection.close(1012));
    assert!(restart.back >= ms(450) && restart.attempts == 1);
    let retry = row("is killed, and says 503 with Retry-After: 1 once", |server, connection| {
        drop(connection);
        server.answer(&refusal(503, "Retry-After: 1\r\n"));
    });
    assert!(retry.back >= ms(980) && retry.attempts == 2);
    let torn = row("is killed, and the next handshake is cut off", |server, connection| {
        drop(connection);
        server.answer("HTTP/1.1 101 Swi");
    });
    assert!(torn.attempts == 2);
    let mut held = None;
    let silent = row("falls silent (stopped, unplugged), another takes over at once", |_, connection| {
        held = Some(connection);
    });
    assert!(silent.noticed >= 2 * ms(250) && silent.noticed < bound + SLACK && silent.attempts == 1);
}
