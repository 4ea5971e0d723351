//! The write half against a fake socket that takes exactly as many bytes as the test allows.

mod ends;
mod order;
mod room;
mod uptake;

use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::thread;

use super::*;
use crate::message::Message;
use crate::protocol::close::close_payload;
use crate::protocol::close_state::PeerEnd;
use crate::protocol::frame::Kind;

/// A socket that takes as many bytes as it is allowed, and records them.
#[derive(Debug, Default)]
struct FakeSocket {
    state: Mutex<FakeState>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct FakeState {
    room: usize,
    taken: Vec<u8>,
    fails: bool,
    panics: bool,
    /// A write that takes nothing says so by what it has taken, as over TLS.
    is_sealed: bool,
    shut_downs: usize,
    /// How much it had taken when it heard that the end follows the next frame.
    end_follows: Option<usize>,
}

impl FakeSocket {
    fn allow(&self, room: usize) {
        self.state.lock().unwrap().room += room;
        self.changed.notify_all();
    }

    fn fail(&self) {
        self.state.lock().unwrap().fails = true;
        self.changed.notify_all();
    }

    /// From now on it tells of writes that take nothing as TLS does.
    fn seal(&self) {
        self.state.lock().unwrap().is_sealed = true;
    }

    /// The next write panics, as a bug would.
    fn panic(&self) {
        self.state.lock().unwrap().panics = true;
    }

    fn shut_downs(&self) -> usize {
        self.state.lock().unwrap().shut_downs
    }

    fn taken(&self) -> Vec<u8> {
        self.state.lock().unwrap().taken.clone()
    }
}

impl FakeState {
    fn take(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        if self.fails {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        let mut count = 0;
        for slice in slices {
            let part = slice.len().min(self.room);
            self.taken.extend_from_slice(&slice[..part]);
            self.room -= part;
            count += part;
        }
        if count == 0 { Err(io::ErrorKind::WouldBlock.into()) } else { Ok(count) }
    }
}

impl Socket for FakeSocket {
    fn send_now(&self, slices: &[IoSlice<'_>]) -> io::Result<Taken> {
        self.state.lock().unwrap().take(slices).map(Taken::from)
    }

    fn send_patiently(&self, slices: &[IoSlice<'_>]) -> io::Result<Taken> {
        let mut state = self.state.lock().unwrap();
        let deadline = Instant::now() + PATIENCE;
        while state.room == 0 && !state.fails && Instant::now() < deadline {
            state = self.changed.wait_timeout(state, deadline - Instant::now()).unwrap().0;
        }
        if std::mem::take(&mut state.panics) {
            drop(state);
            panic!("a bug");
        }
        let is_sealed = state.is_sealed;
        match state.take(slices) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock && is_sealed => {
                Ok(Taken { is_pinned: true, ..Taken::default() })
            }
            taken => taken.map(Taken::from),
        }
    }

    fn end_follows(&self) {
        let mut state = self.state.lock().unwrap();
        assert_eq!(state.end_follows, None, "it is said once");
        state.end_follows = Some(state.taken.len());
    }

    fn shut_down(&self) {
        let mut state = self.state.lock().unwrap();
        state.fails = true;
        state.shut_downs += 1;
        self.changed.notify_all();
    }
}

/// How long a blocking write waits before it returns `WouldBlock`. The drainer must not mind.
const PATIENCE: Duration = Duration::from_millis(20);

/// A queue limit that no test reaches by accident.
const ENOUGH: usize = 100_000;

const SECOND: Duration = Duration::from_secs(1);

/// The owner of a write half. Its drainers wait until the test runs them.
struct Connection {
    write_half: WriteHalf<Self>,
    drainers: Mutex<Vec<Drainer>>,
    threads: Mutex<Threads>,
    /// The failed writes.
    failures: Mutex<Vec<io::ErrorKind>>,
    /// The reasons of all reported ends.
    reports: Mutex<Vec<CloseReason>>,
    /// How many threads waited for room each time that the queue was said to have emptied.
    emptied: Mutex<Vec<usize>>,
}

type Drainer = Box<dyn FnOnce() + Send>;

/// What happens to a requested thread.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Threads {
    Kept,
    Started,
    None,
}

impl Owner for Connection {
    type Socket = FakeSocket;

    fn write_half(&self) -> &WriteHalf<Self> {
        &self.write_half
    }

    fn start_thread(&self, run: impl FnOnce() + Send + 'static) -> io::Result<()> {
        assert!(self.write_half.try_lock().is_some() || self.threads() == Threads::Started, "the lock is held");
        match self.threads() {
            Threads::Kept => self.drainers.lock().unwrap().push(Box::new(run)),
            Threads::Started => _ = thread::spawn(run),
            Threads::None => return Err(io::ErrorKind::OutOfMemory.into()),
        }
        Ok(())
    }

    fn write_failed(&self, error: &io::Error) {
        self.failures.lock().unwrap().push(error.kind());
    }

    fn abort(&self, reason: CloseReason) {
        let report = |figures: Figures| self.reports.lock().unwrap().push(figures.reason);
        self.write_half.end(reason, Instant::now(), FakeSocket::shut_down, report);
    }

    fn queue_emptied(&self) {
        let waiting = self.waiting();
        self.emptied.lock().unwrap().push(waiting);
    }
}

impl Deref for Connection {
    type Target = WriteHalf<Self>;

    fn deref(&self) -> &Self::Target {
        &self.write_half
    }
}

/// Calls that take the owner, as methods.
impl Connection {
    fn send(self: &Arc<Self>, data: Outgoing, wait: Wait) -> Result<Sent, Refused> {
        WriteHalf::send(self, data, wait)
    }

    fn feed(self: &Arc<Self>, data: Outgoing, wait: Wait) -> Result<Sent, Refused> {
        WriteHalf::feed(self, data, wait)
    }

    fn send_in_line(self: &Arc<Self>, ping: Outgoing, wait: Wait) -> Result<Sent, Refused> {
        WriteHalf::send_in_line(self, ping, wait)
    }

    fn send_control(self: &Arc<Self>, control: Outgoing) -> Result<Sent, Refused> {
        WriteHalf::send_control(self, control)
    }

    fn flush(self: &Arc<Self>) -> Result<Sent, Refused> {
        WriteHalf::flush(self)
    }

    fn close(self: &Arc<Self>, reason: CloseReason, now: Instant) -> bool {
        WriteHalf::close(self, reason, now)
    }

    fn answer_close(self: &Arc<Self>, now: Instant) {
        WriteHalf::answer_close(self, now);
    }

    fn threads(&self) -> Threads {
        *self.threads.lock().unwrap()
    }

    fn set_threads(&self, threads: Threads) {
        *self.threads.lock().unwrap() = threads;
    }

    /// How many drainers wait to run. More than one is an error.
    fn drainers(&self) -> usize {
        self.drainers.lock().unwrap().len()
    }

    /// Runs the drainer that was requested.
    fn drain(&self) {
        let drainers = std::mem::take(&mut *self.drainers.lock().unwrap());
        let [drainer] = drainers.try_into().unwrap_or_else(|drainers: Vec<_>| panic!("{} drainers", drainers.len()));
        drainer();
    }

    fn failures(&self) -> Vec<io::ErrorKind> {
        self.failures.lock().unwrap().clone()
    }

    fn reports(&self) -> Vec<CloseReason> {
        self.reports.lock().unwrap().clone()
    }

    /// Ends the connection as an abort does. Returns how often the end was reported.
    fn end_now(&self) -> usize {
        let mut reports = 0;
        self.end(CloseReason::Disconnected, Instant::now(), FakeSocket::shut_down, |_| reports += 1);
        reports
    }

    fn is_behind(&self) -> bool {
        self.uptake().blocked_since.is_some()
    }

    /// How many threads wait for room.
    fn waiting(&self) -> usize {
        self.lock().waiting.len()
    }

    fn held(&self) -> usize {
        self.lock().queue.held()
    }
}

/// A write half with a queue of `queue_limit` bytes, and a socket that takes `room` bytes.
fn write_half(queue_limit: usize, room: usize) -> (Arc<Connection>, Arc<FakeSocket>) {
    write_half_of(&Arc::new(MemoryBudget::new(usize::MAX)), queue_limit, room)
}

/// The same, with its share of this total.
fn write_half_of(total: &Arc<MemoryBudget>, queue_limit: usize, room: usize) -> (Arc<Connection>, Arc<FakeSocket>) {
    let socket = Arc::new(FakeSocket::default());
    socket.allow(room);
    let connection = Connection {
        write_half: WriteHalf::new(Role::Server, Arc::clone(&socket), queue_limit, total, 10 * SECOND),
        drainers: Mutex::default(),
        threads: Mutex::new(Threads::Kept),
        failures: Mutex::default(),
        reports: Mutex::default(),
        emptied: Mutex::default(),
    };
    (Arc::new(connection), socket)
}

/// The memory cost of the frames of these texts.
fn cost(texts: &[&str]) -> usize {
    texts.iter().map(|content| encoded(&text(content)).cost()).sum()
}

fn text(text: &str) -> Outgoing {
    Outgoing::message(Message::text(text))
}

fn normal() -> CloseReason {
    CloseReason::normal()
}

/// The Close frame of [`normal`].
fn close() -> Outgoing {
    Outgoing::close(close_payload(Some(CloseCode::NORMAL), ""))
}

fn encoded(outgoing: &Outgoing) -> Frame {
    Frame::encode(outgoing.clone(), None)
}

fn wire(frames: &[Outgoing]) -> Vec<u8> {
    frames.iter().flat_map(|frame| encoded(frame).to_bytes(0)).collect()
}

/// The payloads of the text frames, all of them short.
fn text_payloads(mut wire: &[u8]) -> Vec<String> {
    let mut payloads = Vec::new();
    while let [first, len, rest @ ..] = wire {
        assert!(*len < 126 && matches!(first, 0x81 | 0x89), "a frame was torn");
        let (payload, rest) = rest.split_at(usize::from(*len));
        if *first == 0x81 {
            payloads.push(String::from_utf8(payload.to_vec()).unwrap());
        }
        wire = rest;
    }
    assert!(wire.is_empty());
    payloads
}

/// The frames on a wire, all of them short.
fn frames(mut wire: &[u8]) -> Vec<Vec<u8>> {
    let mut frames = Vec::new();
    while let [_, len, ..] = wire {
        assert!(*len < 126, "a frame was torn");
        let (frame, rest) = wire.split_at(2 + usize::from(*len));
        frames.push(frame.to_vec());
        wire = rest;
    }
    assert!(wire.is_empty());
    frames
}

/// Waits for another thread's action, under a generous ceiling.
fn wait_for(condition: impl Fn() -> bool) {
    let ceiling = Instant::now() + 60 * SECOND;
    while !condition() {
        assert!(Instant::now() < ceiling);
        thread::yield_now();
    }
}
