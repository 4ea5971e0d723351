//! What the tests of the library share: a server to test, raw clients, ways to wait, and counts of threads.
//!
//! Nothing here waits for ever: whatever does not come within [`CEILING`] fails the test, and says what did come.
#![allow(dead_code, unused_imports, reason = "each test file uses only some of this")]

mod alone;
mod client;
mod frame;
mod live;

use std::cell::RefCell;
use std::collections::VecDeque;
use std::net::SocketAddr;
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, bounded, unbounded};
use heartwire::{CloseReport, Connection, ConnectionId, Error, Event, HeartbeatPolicy, Sender, Server, ServerHandle};

pub(crate) use alone::{alone, alone_with_files, open_sockets, threads_named};
pub(crate) use client::{Answer, Client, End, Incoming, KEY, exchange, request, request_with};
pub(crate) use frame::{BINARY, CLOSE, CONTINUATION, Frame, PING, PONG, TEXT, close_payload, fragment, masked};
pub(crate) use live::{Pulse, live};

/// How long anything may take on a busy machine before the test fails. Only a failing test ever waits so long.
pub(crate) const CEILING: Duration = Duration::from_secs(30);

pub(crate) fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

/// A server on a free port, without a heartbeat: a test that is about it sets its own.
pub(crate) fn server() -> Server {
    Server::bind("127.0.0.1:0").expect("a free port").heartbeat(HeartbeatPolicy::off())
}

/// The handler of most tests.
pub(crate) fn echo(conn: &mut Connection) -> Result<(), Error> {
    loop {
        let message = conn.recv()?;
        conn.send(message)?;
    }
}

/// Serves in a thread of its own until it is dropped.
pub(crate) fn start<H>(server: Server, handler: H) -> Running
where
    H: Fn(&mut Connection) -> Result<(), Error> + Send + Sync + 'static,
{
    let handle = server.handle();
    let events = Events::new(handle.events());
    let (sender, ended) = bounded(1);
    thread::spawn(move || {
        let _ = sender.send(server.serve(handler));
    });
    Running { handle, events, ended }
}

/// A server whose handlers wait in `recv`, and the `Sender` of each connection.
pub(crate) fn start_listening(server: Server) -> (Running, Receiver<Sender>) {
    let (sender, senders) = unbounded();
    let running = start(server, move |conn| {
        let _ = sender.send(conn.sender());
        loop {
            conn.recv()?;
        }
    });
    (running, senders)
}

/// A server that runs. Dropping it shuts it down and waits for its end.
pub(crate) struct Running {
    pub(crate) handle: ServerHandle,
    pub(crate) events: Events,
    ended: Receiver<Result<(), Error>>,
}

impl Running {
    pub(crate) fn address(&self) -> SocketAddr {
        self.handle.local_addr()
    }

    /// A client whose opening handshake is done.
    pub(crate) fn connect(&self) -> Client {
        Client::connect(self.address())
    }

    /// Waits until the one connection that ended is reported.
    pub(crate) fn closed(&self) -> CloseReport {
        self.events.closed()
    }

    /// Waits for `serve` to return, and says how long that took.
    pub(crate) fn wait_for_end(&self) -> Duration {
        let start = Instant::now();
        self.ended.recv_timeout(CEILING).expect("serve returns").expect("serve ends without an error");
        start.elapsed()
    }

    /// Shuts down, waits for the end, and gives all events that nobody has taken.
    pub(crate) fn stop(self) -> Vec<Event> {
        self.handle.shutdown();
        self.wait_for_end();
        self.events.rest()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.handle.shutdown();
        // A test that waited for the end itself has taken the result already.
        let hangs = self.ended.recv_timeout(CEILING).is_err_and(|error| error.is_timeout());
        assert!(!hangs || thread::panicking(), "the server does not end");
    }
}

/// The events of a server, to be waited for in any order.
pub(crate) struct Events {
    receiver: Receiver<Event>,
    /// Events that came while another one was waited for.
    passed_over: RefCell<VecDeque<Event>>,
}

impl Events {
    pub(crate) fn new(receiver: Receiver<Event>) -> Self {
        Self { receiver, passed_over: RefCell::default() }
    }

    /// Waits for the first event that `pick` takes; those before it are kept for later.
    pub(crate) fn wait_for<T>(&self, what: &str, mut pick: impl FnMut(&Event) -> Option<T>) -> T {
        let mut passed_over = self.passed_over.borrow_mut();
        for index in 0..passed_over.len() {
            if let Some(found) = pick(&passed_over[index]) {
                passed_over.remove(index);
                return found;
            }
        }
        let deadline = Instant::now() + CEILING;
        loop {
            match self.receiver.recv_deadline(deadline) {
                Ok(event) => match pick(&event) {
                    Some(found) => return found,
                    None => passed_over.push_back(event),
                },
                Err(why) => panic!("waiting for {what}: {why}; came: {passed_over:#?}"),
            }
        }
    }

    pub(crate) fn opened(&self) -> ConnectionId {
        self.wait_for("Opened", |event| match event {
            Event::Opened { id, .. } => Some(*id),
            _ => None,
        })
    }

    pub(crate) fn closed(&self) -> CloseReport {
        self.wait_for("Closed", |event| match event {
            Event::Closed(report) => Some(report.clone()),
            _ => None,
        })
    }

    pub(crate) fn closed_of(&self, wanted: ConnectionId) -> CloseReport {
        self.wait_for(&format!("Closed of #{wanted}"), |event| match event {
            Event::Closed(report) if report.id == wanted => Some(report.clone()),
            _ => None,
        })
    }

    /// Waits for the next miss: misses in a row so far, and how many make the peer dead.
    pub(crate) fn missed(&self) -> (u32, u32) {
        self.wait_for("Missed", |event| match event {
            Event::Missed { missed, max_missed, .. } => Some((*missed, *max_missed)),
            _ => None,
        })
    }

    pub(crate) fn handshake_failed(&self) -> (Option<u16>, String) {
        self.wait_for("HandshakeFailed", |event| match event {
            Event::HandshakeFailed { status, reason, .. } => Some((*status, reason.clone())),
            _ => None,
        })
    }

    /// What has come so far and nobody has taken, without waiting.
    pub(crate) fn so_far(&self) -> Vec<Event> {
        let mut passed_over = self.passed_over.borrow_mut();
        passed_over.extend(self.receiver.try_iter());
        passed_over.iter().cloned().collect()
    }

    /// Takes out what has come so far, and forgets it.
    pub(crate) fn forget(&self) {
        self.passed_over.borrow_mut().clear();
        self.receiver.try_iter().for_each(drop);
    }

    /// What nobody has taken, up to the end of the server.
    pub(crate) fn rest(&self) -> Vec<Event> {
        let mut events: Vec<Event> = self.passed_over.borrow_mut().drain(..).collect();
        let deadline = Instant::now() + CEILING;
        loop {
            match self.receiver.recv_deadline(deadline) {
                Ok(event) => events.push(event),
                Err(error) if error.is_disconnected() => return events,
                Err(error) => panic!("waiting for the end of events: {error}; came: {events:#?}"),
            }
        }
    }
}

/// Codes sent and received, as a report has them.
pub(crate) fn codes(report: &CloseReport) -> (Option<u16>, Option<u16>) {
    (report.sent.map(u16::from), report.received.map(u16::from))
}

/// Waits until a condition holds that no event tells of.
pub(crate) fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + CEILING;
    while !holds() {
        assert!(Instant::now() < deadline, "waiting in vain until {what}");
        thread::sleep(ms(2));
    }
}

/// Waits for what another thread sends.
pub(crate) fn receive<T>(what: &str, receiver: &Receiver<T>) -> T {
    receiver.recv_timeout(CEILING).unwrap_or_else(|why| panic!("waiting for {what}: {why}"))
}

/// A small generator of numbers that look random, the same for the same seed.
pub(crate) struct Dice(u64);

impl Dice {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    /// A number below `sides`.
    pub(crate) fn roll(&mut self, sides: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % sides
    }
}
