//! Loggers that do anything: they send over the connections that they are told of, ask the server questions, panic,
//! block. It costs nobody else anything.
//!
//! There is one logger for a process, so each test has one of its own.

use std::sync::atomic::Ordering::SeqCst;
use std::sync::atomic::{AtomicBool, AtomicUsize};
use std::sync::{Condvar, Mutex, OnceLock};
use std::time::Instant;

use heartwire::{CloseReason, Connection, Error, HeartbeatPolicy, Sender, ServerHandle};
use log::{LevelFilter, Log, Metadata, Record};

use crate::support::{CEILING, Client, TEXT, alone, closures, echo, eventually, ms, request_with, server, start};

/// Calls a function with each line of any crate, at any level.
struct Tells(fn(&str));

impl Log for Tells {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &Record<'_>) {
        (self.0)(&record.args().to_string());
    }

    fn flush(&self) {}
}

static LINES: AtomicUsize = AtomicUsize::new(0);

fn log_by(tell: fn(&str)) {
    log::set_logger(Box::leak(Box::new(Tells(tell)))).expect("the only logger");
    log::set_max_level(LevelFilter::Trace);
}

#[track_caller]
fn assert_echo(client: &mut Client) {
    client.send_text("hello");
    while client.text() != "hello" {}
}

#[test]
fn a_logger_may_send_over_the_connections_that_it_is_told_of() {
    if !alone!() {
        return;
    }
    static SENDERS: Mutex<Vec<Sender>> = Mutex::new(Vec::new());
    log_by(|line| {
        let senders = SENDERS.lock().unwrap().clone();
        senders.iter().for_each(|sender| _ = sender.send(line));
        LINES.fetch_add(1, SeqCst);
    });
    let running = start(server(), |conn: &mut Connection| {
        SENDERS.lock().unwrap().push(conn.sender());
        echo(conn)
    });
    let mut clients: Vec<Client> = (0..5).map(|_| running.connect()).collect();
    clients.iter_mut().for_each(assert_echo);
    // Each is told of the next, and of the end of those before.
    for client in clients {
        drop(client);
        running.closed();
    }
    // Opened and ended; and perhaps a write that failed, because the logger was told of an end too late.
    let lines = LINES.load(SeqCst);
    assert!((5..=3 * 5).contains(&lines), "{lines} lines: a send that succeeds logs nothing");
    assert_eq!(running.stop().len(), 5 + 1, "Opened of each, and the end of the server");
}

/// The server that the logger asks.
static HANDLE: OnceLock<ServerHandle> = OnceLock::new();

#[test]
fn a_logger_may_ask_and_tell_the_server_anything() {
    if !alone!() {
        return;
    }
    log_by(|line| {
        LINES.fetch_add(1, SeqCst);
        if let Some(handle) = HANDLE.get() {
            handle.connections();
            handle.snapshot();
            handle.stats();
            handle.broadcast(line);
        }
    });
    // The stand-in reads for handlers that are away, and is not held up either.
    let away = ms(300);
    let running = start(server().close_timeout(ms(1000)), move |conn: &mut Connection| {
        loop {
            let message = conn.recv()?;
            std::thread::sleep(away);
            conn.send(message)?;
        }
    });
    assert!(HANDLE.set(running.handle.clone()).is_ok());
    let mut clients: Vec<Client> = (0..5).map(|_| running.connect()).collect();
    for client in &mut clients {
        for _ in 0..3 {
            client.send_text("hello");
        }
    }
    clients.iter_mut().for_each(assert_echo);
    running.handle.shutdown();
    // Nobody answers the Close, so it takes most of the close timeout, as without a logger.
    assert!(running.wait_for_end() < CEILING);
    assert_eq!(closures(&running.events.rest()), 5);
    assert!(LINES.load(SeqCst) >= 10);
}

#[test]
fn a_logger_may_end_the_server() {
    if !alone!() {
        return;
    }
    log_by(|line| {
        if let Some(handle) = HANDLE.get().filter(|_| line.contains("opened /")) {
            handle.shutdown();
        }
    });
    let server = server();
    assert!(HANDLE.set(server.handle()).is_ok());
    let running = start(server, echo);
    assert_eq!(running.connect().expect_close().0, Some(1001));
    running.wait_for_end();
}

#[test]
fn a_logger_that_panics_costs_its_lines_alone() {
    if !alone!() {
        return;
    }
    static TOLD: AtomicUsize = AtomicUsize::new(0);
    // A backtrace of each panic would take the logger longer than the server lives.
    std::panic::set_hook(Box::new(|info| eprintln!("{info}")));
    log_by(|line| {
        if line.contains("the logger panicked: its reader has gone") {
            TOLD.fetch_add(1, SeqCst);
        } else {
            LINES.fetch_add(1, SeqCst);
            panic!("its reader has gone");
        }
    });
    let running = start(server(), echo);
    for _ in 0..10 {
        let mut client = running.connect();
        assert_echo(&mut client);
        drop(client);
        running.closed();
    }
    let handle = running.handle.clone();
    let events = running.stop();
    assert_eq!(events.len(), 10 + 1, "Opened of each, and the end of the server: {events:?}");
    let stats = handle.stats();
    assert_eq!((stats.opened, stats.open, stats.closed_total()), (10, 0, 10));
    // The end of a server does not wait for a logger that takes its time.
    eventually("all lines have had their panic", || handle.stats().log_lines_lost == LINES.load(SeqCst) as u64);
    assert_eq!(TOLD.load(SeqCst), 1);
}

/// Whether the logger may go on, and who waits for that.
static GATE: (Mutex<bool>, Condvar) = (Mutex::new(false), Condvar::new());

fn block(_: &str) {
    LINES.fetch_add(1, SeqCst);
    let mut is_open = GATE.0.lock().unwrap();
    while !*is_open {
        is_open = GATE.1.wait(is_open).unwrap();
    }
}

#[test]
fn a_logger_that_blocks_holds_nobody_up_and_is_told_what_it_missed() {
    if !alone!() {
        return;
    }
    static MISSED: AtomicBool = AtomicBool::new(false);
    log_by(|line| {
        block(line);
        if line.starts_with("log lines lost: ") {
            MISSED.store(true, SeqCst);
        }
    });
    let policy = HeartbeatPolicy::new(ms(100), ms(50)).max_missed(2);
    let running = start(server().heartbeat(policy), |conn: &mut Connection| match conn.path() {
        "/verbose" => Err(Error::handler("x".repeat(100_000))),
        _ => echo(conn),
    });
    // A dead peer is found, broadcasts pass, closures are reported and counted.
    let mut dead = running.connect();
    running.events.opened();
    running.handle.broadcast("to all");
    while dead.frame().opcode != TEXT {}
    assert!(matches!(running.closed().reason, CloseReason::HeartbeatLost { missed: 2, .. }));
    eventually("the logger blocks", || LINES.load(SeqCst) == 1);
    let mut told = 0;
    while running.handle.stats().log_lines_lost == 0 {
        // The path is logged, and is the longest thing that a client can have logged.
        let target = format!("/verbose?{}", "x".repeat(15_000));
        let mut client = Client::tcp(running.address()).upgraded(&request_with(&target, ""));
        assert_eq!(client.expect_close().0, Some(1011));
        drop(client);
        running.closed();
        told += 1;
        assert!(told < 2000, "the queue is bounded");
    }
    *GATE.0.lock().unwrap() = true;
    GATE.1.notify_all();
    eventually("it is told", || MISSED.load(SeqCst));
    running.handle.shutdown();
    running.wait_for_end();
}

#[test]
fn the_end_of_a_server_does_not_wait_for_a_logger_that_blocks() {
    if !alone!() {
        return;
    }
    log_by(block);
    let running = start(server().close_timeout(ms(1000)), echo);
    let client = running.connect();
    eventually("the logger blocks", || LINES.load(SeqCst) == 1);
    drop(client);
    running.handle.shutdown();
    let before = Instant::now();
    // The events end with the last report. For the log half a second is waited, and then no more.
    assert_eq!(closures(&running.events.rest()), 1);
    running.wait_for_end();
    let took = before.elapsed();
    assert!(took < CEILING / 2, "{took:?}");
    assert_eq!(running.handle.connections().len(), 0);
}
