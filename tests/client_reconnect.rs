//! How a client comes back: when, how often, and not in step with a thousand others.
//!
//! `cargo test --test client_reconnect -- --nocapture --test-threads=1 table storm` prints the table and the histogram
//! of the README.

#[path = "support/other_end.rs"]
mod other_end;
mod support;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::thread;
use std::time::{Duration, Instant};

use heartwire::{Backoff, ClientHandle, Event, HeartbeatPolicy, Server, ServerHandle};
use other_end::{BareServer, RunningClient, acceptance, client, listen, quick, run};
use support::{CEILING, Running, alone_with_files, codes, echo, eventually, ms, server, start};

/// What a busy machine may add.
const SLACK: Duration = Duration::from_secs(10);

fn unavailable(headers: &str) -> String {
    format!("HTTP/1.1 503 Service Unavailable\r\n{headers}Content-Length: 0\r\n\r\n")
}

/// Serves again where another server has just ended.
fn start_again(address: SocketAddr) -> Running {
    start(Server::bind(address).expect("the same port").heartbeat(HeartbeatPolicy::off()), echo)
}

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
        server.answer(&unavailable(&format!("Retry-After: {seconds}\r\n")));
        let refused = Instant::now();
        let delay = client.retrying();
        assert!(delay >= seconds * ms(1000) && delay <= seconds * ms(1000) + ms(100), "{delay:?}");
        let answered = server.accept();
        assert!(refused.elapsed() >= (seconds * ms(1000)).saturating_sub(ms(20)), "after {:?}", refused.elapsed());
        drop(answered);
        client.retrying();
    }
    // Nonsense, and dates, are as if it were not there.
    for nonsense in ["soon", "-1", "Wed, 21 Oct 2065 07:28:00 GMT", ""] {
        server.answer(&unavailable(&format!("Retry-After: {nonsense}\r\n")));
        assert!(client.retrying() <= ms(100), "{nonsense}");
    }
}

#[test]
fn retry_after_is_honoured_up_to_a_limit() {
    const YEAR: Duration = Duration::from_secs(365 * 24 * 3600);
    let server = BareServer::bind();
    let long = format!("Retry-After: {}\r\n", YEAR.as_secs());
    for (backoff, delay) in [
        (quick(), Duration::from_secs(300)),
        (quick().longest_retry_after(Duration::from_secs(20)), Duration::from_secs(20)),
        (quick().longest_retry_after(Duration::MAX), YEAR),
    ] {
        let client = run(client(server.address()).reconnect(backoff), listen);
        server.answer(&unavailable(&long));
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
fn delays_grow_with_each_failure_up_to_the_longest_and_are_drawn_from_zero() {
    let nobody = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let clients = (0..50).map(|_| {
        let backoff = Backoff::default().first(ms(8)).longest(ms(30));
        run(client(nobody).reconnect(backoff), listen)
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
fn only_a_connection_that_lasted_makes_the_failures_forgotten() {
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
    server.answer(&unavailable(""));
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
fn row(name: &str, lose: impl FnOnce(&BareServer, other_end::BareConnection)) -> Row {
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
            connection.write(unavailable("").as_bytes());
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
        server.answer(&unavailable("Retry-After: 1\r\n"));
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

// The storm.

/// A server for a thousand clients, on one thread: it takes all, loses all at one moment, is unavailable for a while,
/// and takes them again.
struct Storm {
    listener: TcpListener,
    is_down: Arc<AtomicBool>,
}

impl Storm {
    fn take(stream: TcpStream, is_down: bool) -> Option<TcpStream> {
        let mut request = Vec::new();
        let mut chunk = [0; 1024];
        let mut socket = &stream;
        socket.set_read_timeout(Some(CEILING)).ok()?;
        while !request.ends_with(b"\r\n\r\n") {
            let count = socket.read(&mut chunk).ok().filter(|count| *count > 0)?;
            request.extend_from_slice(&chunk[..count]);
        }
        let answer = if is_down { unavailable("") } else { acceptance(&String::from_utf8(request).ok()?, "") };
        socket.write_all(answer.as_bytes()).ok()?;
        (!is_down).then_some(stream)
    }

    /// Accepts until so many clients are connected.
    fn accept(&self, clients: usize) -> Vec<TcpStream> {
        let mut open = Vec::new();
        while open.len() < clients {
            let (stream, _) = self.listener.accept().expect("a client");
            open.extend(Self::take(stream, self.is_down.load(SeqCst)));
        }
        open
    }
}

/// Notes when each attempt of these clients begins, to some milliseconds, until all of their channels have ended.
fn stamp_attempts(clients: &[RunningClient]) -> thread::JoinHandle<Vec<Instant>> {
    let mut channels: Vec<_> = clients.iter().map(|client| client.handle.events()).collect();
    thread::spawn(move || {
        let mut attempts = Vec::new();
        while !channels.is_empty() {
            thread::sleep(ms(2));
            let now = Instant::now();
            channels.retain(|events| {
                loop {
                    match events.try_recv() {
                        Ok(Event::Connecting { .. }) => attempts.push(now),
                        Ok(_) => {}
                        Err(nothing) => break nothing.is_empty(),
                    }
                }
            });
        }
        attempts
    })
}

#[test]
#[cfg(target_os = "linux")]
fn a_storm_of_a_thousand_clients_comes_back_without_two_peaks() {
    // Both ends of each connection are ours.
    if !alone_with_files("a_storm_of_a_thousand_clients_comes_back_without_two_peaks", 8192) {
        return;
    }
    const CLIENTS: usize = 1000;
    const DOWN: Duration = Duration::from_secs(3);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let storm = Storm { listener, is_down: Arc::new(AtomicBool::new(false)) };
    let clients: Vec<_> = (0..CLIENTS).map(|_| run(client(address).reconnect(Backoff::default()), listen)).collect();
    let open = storm.accept(CLIENTS);
    eventually("all are connected", || clients.iter().all(|client| client.handle.is_connected()));
    let attempts = stamp_attempts(&clients);

    storm.is_down.store(true, SeqCst);
    let is_down = Arc::clone(&storm.is_down);
    let lost = Instant::now();
    drop(open);
    thread::spawn(move || {
        thread::sleep(DOWN.saturating_sub(lost.elapsed()));
        is_down.store(false, SeqCst);
    });
    let open = storm.accept(CLIENTS);
    let took = lost.elapsed();
    clients.iter().for_each(|client| client.handle.stop());
    drop(open);
    let attempts = attempts.join().unwrap();

    println!("{CLIENTS} clients lost one server at once; for {DOWN:?} it answered 503; {} attempts:", attempts.len());
    one_peak(&histogram(attempts.iter().map(|at| *at - lost)));
    println!("the last was back {:.1} s after the loss", took.as_secs_f64());
    assert!(attempts.len() >= 2 * CLIENTS, "most came more than once");
}

/// Counts by half seconds, and prints the counts.
fn histogram(times: impl Iterator<Item = Duration>) -> Vec<usize> {
    let mut bins: Vec<usize> = Vec::new();
    for time in times {
        let bin = (time.as_millis() / 500) as usize;
        bins.resize(bins.len().max(bin + 1), 0);
        bins[bin] += 1;
    }
    for (bin, count) in bins.iter().enumerate() {
        println!("{:>4.1} s {count:>5} {}", bin as f64 / 2.0, "#".repeat(count.div_ceil(20)));
    }
    bins
}

/// From the highest bin on, none is higher than an earlier one by more than chance, and than a busy machine that was
/// late for some: a fifth, and four standard deviations. What is less than a twentieth of the highest is no peak: of many
/// small bins some are low by chance, and hardly anything is not higher than the lowest of them.
fn one_peak(bins: &[usize]) {
    let top = (0..bins.len()).max_by_key(|bin| bins[*bin]).expect("some bins");
    assert!(top <= 1, "the first attempts are the most: {bins:?}");
    let (mut lowest, small) = (bins[top], bins[top] as f64 / 20.0);
    for (bin, count) in bins.iter().enumerate().skip(top) {
        let highest = 1.2 * lowest as f64 + 4.0 * (lowest.max(1) as f64).sqrt();
        assert!(*count as f64 <= highest.max(small), "a second peak in bin {bin}: {bins:?}");
        lowest = lowest.min(*count);
    }
}

#[test]
fn a_second_peak_would_be_seen() {
    one_peak(&[1240, 600, 545, 310, 330, 270, 190, 180, 160, 110, 60, 1, 0, 2]);
    one_peak(&[
        1090, 765, 571, 300, 327, 283, 156, 129, 142, 133, 141, 74, 57, 27, 7, 19, 23, 16, 25, 16, 11, 6, 4, 1, 2,
    ]);
    // Without jitter all come together, after 0.5 s, 1.5 s, 3.5 s.
    for in_step in [&[0, 1000, 0, 1000, 0, 0, 0, 1000][..], &[1000, 600, 900], &[1240, 600, 545, 310, 500]] {
        assert!(std::panic::catch_unwind(|| one_peak(in_step)).is_err());
    }
}

#[test]
fn a_real_server_survives_the_return_of_two_hundred_clients() {
    const CLIENTS: u64 = 200;
    let first = start(server(), echo);
    let address = first.address();
    let backoff = || Backoff::default().first(ms(200)).longest(ms(1000));
    let clients: Vec<_> = (0..CLIENTS).map(|_| run(client(address).reconnect(backoff()), listen)).collect();
    let all_in = |handle: &ServerHandle| eventually("all are in", || handle.stats().open == CLIENTS);
    all_in(&first.handle);
    drop(first);
    let second = start_again(address);
    all_in(&second.handle);
    // The server has let them in a moment before they know.
    for client in &clients {
        client.events.opened();
        client.events.opened();
    }
    clients.iter().for_each(|client| client.handle.stop());
    for client in &clients {
        client.result().unwrap();
        let reasons: Vec<_> = [client.closed(), client.closed()].map(|report| report.reason.name()).into();
        assert_eq!(reasons, ["peer", "local"]);
    }
}
