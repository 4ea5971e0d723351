//! What a client logs, and that its logger may use the client: here it ships each line over the client's own handle.
//!
//! The logger has a thread of its own, so a line is logged some time after what it tells of, and at the latest when
//! `run` has returned. There is one logger for a process, so each test has one of its own.

use std::cell::Cell;
use std::sync::Mutex;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::SeqCst;
use std::time::Duration;

use heartwire::{ClientHandle, ConnectError};
use log::{LevelFilter, Log, Metadata, Record};

use crate::support::{BareServer, alone, client, eventually, listen, refusal, run};

/// Keeps each line, and sends it to the server as well once there is a handle.
struct Shipper {
    handle: Mutex<Option<ClientHandle>>,
    lines: Mutex<Vec<String>>,
    shipped: AtomicUsize,
}

static SHIPPER: Shipper =
    Shipper { handle: Mutex::new(None), lines: Mutex::new(Vec::new()), shipped: AtomicUsize::new(0) };

thread_local! {
    /// As any logger that causes log lines has to, it passes over its own.
    static IS_SHIPPING: Cell<bool> = const { Cell::new(false) };
}

impl Shipper {
    fn start(handle: Option<ClientHandle>) {
        *SHIPPER.handle.lock().unwrap() = handle;
        log::set_logger(&SHIPPER).expect("the only logger");
        log::set_max_level(LevelFilter::Debug);
    }

    /// How many lines of the client have this in them.
    fn count(part: &str) -> usize {
        SHIPPER.lines.lock().unwrap().iter().filter(|line| line.contains(part)).count()
    }
}

impl Log for Shipper {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.target().starts_with("heartwire")
    }

    fn log(&self, record: &Record<'_>) {
        if !self.enabled(record.metadata()) || IS_SHIPPING.replace(true) {
            return;
        }
        let line = record.args().to_string();
        let handle = self.handle.lock().unwrap().clone();
        if let Some(handle) = handle
            && handle.send(line.clone()).is_ok()
        {
            self.shipped.fetch_add(1, SeqCst);
        }
        self.lines.lock().unwrap().push(line);
        IS_SHIPPING.set(false);
    }

    fn flush(&self) {}
}

#[test]
fn a_logger_may_send_what_is_said_of_messages_that_were_never_sent() {
    if !alone!() {
        return;
    }
    let server = BareServer::bind();
    let client = client(server.address()).outbox_size(1 << 20);
    Shipper::start(Some(client.handle()));
    client.handle().send("never sent").unwrap();
    let client = run(client, listen);
    server.answer(&refusal(403, ""));
    assert!(matches!(client.not_connected(), ConnectError::Refused { status: 403, .. }));
    assert_eq!(Shipper::count("not connected: refused"), 1);
    assert_eq!(Shipper::count("unsent in the outbox"), 1);
    assert!(SHIPPER.shipped.load(SeqCst) <= 1, "the refusal may have been kept, and the end has nowhere to go");
}

#[test]
fn a_logger_may_send_what_is_said_of_a_connection_that_dies_while_the_outbox_leaves() {
    if !alone!() {
        return;
    }
    let server = BareServer::bind();
    let client = client(server.address()).outbox_size(1 << 20);
    let handle = client.handle();
    Shipper::start(Some(handle.clone()));
    let client = run(client, listen);
    for _ in 0..10 {
        let mut connection = server.accept();
        for number in 0..5 {
            handle.send(format!("reading {number}")).unwrap();
        }
        // The client finds the answer, and its first write an end.
        connection.upgrade("");
        connection.reset();
    }
    let mut connection = server.open();
    while !connection.text().contains("write failed") {}
    assert!(Shipper::count("write failed") > 0);
    client.handle.stop();
    connection.expect_close(1000);
    client.result().unwrap();
}

#[test]
fn a_pause_that_is_shorter_than_the_server_asked_for_is_said_with_what_it_asked_for() {
    if !alone!() {
        return;
    }
    Shipper::start(None);
    let server = BareServer::bind();
    let client = run(client(server.address()), listen);
    server.answer(&refusal(503, "Retry-After: 31536000\r\n"));
    assert!(client.retrying() < Duration::from_secs(301));
    eventually("the pause is logged", || Shipper::count("retrying in 300.") == 1);
    assert_eq!(Shipper::count("although the server asked for 31536000s (Retry-After)"), 1);
}
