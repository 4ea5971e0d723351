//! The write half against a fake socket that takes exactly as many bytes as the test allows.

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
    shut_downs: usize,
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
    fn send_now(&self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        self.state.lock().unwrap().take(slices)
    }

    fn send_patiently(&self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        let mut state = self.state.lock().unwrap();
        let deadline = Instant::now() + PATIENCE;
        while state.room == 0 && !state.fails && Instant::now() < deadline {
            state = self.changed.wait_timeout(state, deadline - Instant::now()).unwrap().0;
        }
        if std::mem::take(&mut state.panics) {
            drop(state);
            panic!("a bug");
        }
        state.take(slices)
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
    CloseReason::Local { code: CloseCode::NORMAL, reason: String::new() }
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

#[test]
fn what_the_socket_takes_at_once_is_never_queued() {
    let (write_half, socket) = write_half(ENOUGH, 1000);
    assert_eq!(write_half.send(text("one"), Wait::Forever).unwrap(), Sent::Written);
    assert_eq!(write_half.send_control(Outgoing::ping("1")).unwrap(), Sent::Written);
    assert_eq!(socket.taken(), wire(&[text("one"), Outgoing::ping("1")]));
    assert_eq!((write_half.queued(), write_half.is_behind()), (0, false));
    let figures = write_half.figures();
    assert_eq!((figures.messages, figures.bytes, figures.queued, figures.unsent), (1, 8, 0, 0));
}

#[test]
fn a_frame_cut_anywhere_is_continued_before_anything_else() {
    let frames = [text("first"), text("second")];
    for cut in 0..wire(&frames).len() {
        let (write_half, socket) = write_half(ENOUGH, cut);
        write_half.send(frames[0].clone(), Wait::Forever).unwrap();
        write_half.send(frames[1].clone(), Wait::Forever).unwrap();
        write_half.send_control(Outgoing::ping("1")).unwrap();
        // Exactly one of the three threads finds the socket full.
        assert_eq!(write_half.drainers(), 1, "cut at {cut}");
        socket.allow(1000);
        write_half.drain();

        let expected = match cut {
            // No byte of either is written, so the Ping overtakes both.
            0 => wire(&[Outgoing::ping("1"), frames[0].clone(), frames[1].clone()]),
            1..=7 => wire(&[frames[0].clone(), Outgoing::ping("1"), frames[1].clone()]),
            _ => wire(&[frames[0].clone(), frames[1].clone(), Outgoing::ping("1")]),
        };
        assert_eq!(socket.taken(), expected, "cut at {cut}");
        assert_eq!((write_half.queued(), write_half.is_behind()), (0, false));
    }
}

#[test]
fn of_pings_and_of_pongs_only_the_newest_waits() {
    let (write_half, socket) = write_half(ENOUGH, 3);
    assert_eq!(write_half.send(text("data"), Wait::Forever).unwrap(), Sent::Queued);
    for n in 0..50 {
        write_half.send_control(Outgoing::ping(n.to_string())).unwrap();
        write_half.send_control(Outgoing::pong(n.to_string())).unwrap();
    }
    write_half.send(text("more"), Wait::Forever).unwrap();
    socket.allow(1000);
    write_half.drain();
    assert_eq!(socket.taken(), wire(&[text("data"), Outgoing::pong("49"), Outgoing::ping("49"), text("more")]));
}

#[test]
fn control_frames_get_in_however_full_the_queue_is() {
    let (write_half, _socket) = write_half(cost(&["0123456789"]), 0);
    write_half.send(text("0123456789"), Wait::No).unwrap();
    assert!(matches!(write_half.send(text("x"), Wait::No), Err(Refused::Full)));
    assert_eq!(write_half.send_control(Outgoing::ping("1")).unwrap(), Sent::Queued);
}

#[test]
fn the_queue_is_bounded_but_a_single_frame_may_be_larger() {
    let (write_half, socket) = write_half(cost(&["y", "z"]), 0);
    assert_eq!(write_half.send(text(&"x".repeat(50)), Wait::No).unwrap(), Sent::Queued);
    assert!(matches!(write_half.send(text(""), Wait::No), Err(Refused::Full)));
    socket.allow(52);
    write_half.drain();
    assert_eq!(write_half.send(text("y"), Wait::No).unwrap(), Sent::Queued);
    assert_eq!(write_half.send(text("z"), Wait::No).unwrap(), Sent::Queued, "room for two");
}

#[test]
fn a_send_that_waits_for_room_gets_it_when_the_peer_takes_something() {
    let (write_half, socket) = write_half(cost(&["01234567"]), 0);
    write_half.send(text("01234567"), Wait::Forever).unwrap();
    let sender = thread::spawn({
        let write_half = Arc::clone(&write_half);
        move || write_half.send(text("89"), Wait::Forever).unwrap()
    });
    let drainer = thread::spawn({
        let write_half = Arc::clone(&write_half);
        move || write_half.drain()
    });
    socket.allow(1000);
    // The frame was queued while the drainer ran, or written right after it had ended.
    sender.join().unwrap();
    drainer.join().unwrap();
    assert_eq!(socket.taken(), wire(&[text("01234567"), text("89")]));
}

#[test]
fn a_send_that_waits_for_room_learns_of_the_end() {
    let (write_half, _socket) = write_half(cost(&["01234567"]), 0);
    write_half.send(text("01234567"), Wait::Forever).unwrap();
    let sender = thread::spawn({
        let write_half = Arc::clone(&write_half);
        move || write_half.send(text("89"), Wait::Forever)
    });
    write_half.end_now();
    assert!(matches!(sender.join().unwrap(), Err(Refused::Closed)));
}

#[test]
fn a_frame_counts_with_what_it_costs_in_memory_until_the_peer_has_all_of_it() {
    let (write_half, socket) = write_half(10 * cost(&[""]), 0);
    for number in 0..10 {
        assert!(write_half.send(text(""), Wait::No).is_ok(), "{number}");
    }
    assert_eq!((write_half.queued(), write_half.held()), (2 * 10, 10 * cost(&[""])));
    assert!(matches!(write_half.send(text(""), Wait::No), Err(Refused::Full)), "20 bytes on the wire, but not here");
    let drainer = thread::spawn({
        let write_half = Arc::clone(&write_half);
        move || write_half.drain()
    });
    socket.allow(3);
    wait_for(|| write_half.figures().bytes == 3);
    assert_eq!(write_half.held(), 9 * cost(&[""]), "the second is not all there");
    socket.allow(1000);
    drainer.join().unwrap();
    assert_eq!(write_half.held(), 0);
}

/// Several threads wait: they get room in the order of their calls, whatever their sizes.
#[test]
fn a_large_send_that_waits_is_not_kept_out_by_small_ones() {
    let (small, large) = ("small", "l".repeat(100));
    let (write_half, socket) = write_half(cost(&[small, &large]), 0);
    for _ in 0..2 {
        write_half.send(text(small), Wait::No).unwrap();
    }
    let mut waiting = Vec::new();
    for (number, content) in [large.clone(), "first".into(), "second".into()].into_iter().enumerate() {
        let sender = Arc::clone(&write_half);
        waiting.push(thread::spawn(move || sender.send(text(&content), Wait::Forever).map(drop)));
        wait_for(|| write_half.waiting() == number + 1);
    }
    // There is room for a small frame, but not for the first in line.
    assert!(matches!(write_half.send(text(""), Wait::No), Err(Refused::Full)));
    let in_vain = Wait::Until(Instant::now() + 3 * PATIENCE);
    assert!(matches!(write_half.send(text(""), in_vain), Err(Refused::Full)));
    assert_eq!(write_half.waiting(), 3);

    socket.allow(1000);
    write_half.drain();
    waiting.into_iter().for_each(|sender| sender.join().unwrap().unwrap());
    // The last frame may have found the socket free, and the earlier ones may have needed a drainer.
    write_half.flush().unwrap();
    if write_half.drainers() > 0 {
        write_half.drain();
    }
    let expected = [text(small), text(small), text(&large), text("first"), text("second")];
    assert_eq!(socket.taken(), wire(&expected));
}

#[test]
fn of_all_queues_together_the_fattest_is_refused_first() {
    let total = Arc::new(MemoryBudget::new(20 * cost(&["x"])));
    let (fat, socket) = write_half_of(&total, ENOUGH, 0);
    let fill = |write_half: &Arc<Connection>| {
        let mut count = 0;
        while write_half.send(text("x"), Wait::No).is_ok() {
            count += 1;
        }
        count
    };
    assert_eq!(fill(&fat), 10, "half of what is there");
    let (thin, _) = write_half_of(&total, ENOUGH, 0);
    assert_eq!(fill(&thin), 5, "half of what is left");
    assert!(matches!(fat.send(text("x"), Wait::No), Err(Refused::Full)));
    // A connection that was never behind is not affected: what goes straight through costs nothing.
    let (quick, _) = write_half_of(&total, ENOUGH, 1000);
    for _ in 0..20 {
        assert_eq!(quick.send(text("x"), Wait::No).unwrap(), Sent::Written);
        quick.feed(text("fed"), Wait::No).unwrap();
    }
    assert_eq!(total.held(), 15 * cost(&["x"]));
    // What the largest queue frees is there for the others, and a connection that ends frees everything.
    socket.allow(1000);
    fat.drain();
    assert_eq!(total.held(), 5 * cost(&["x"]));
    assert_eq!(fill(&thin), 5);
    thin.end_now();
    assert_eq!(total.held(), 0);
}

#[test]
fn what_is_fed_leaves_with_the_flush_or_with_the_next_send() {
    let (write_half, socket) = write_half(ENOUGH, 1000);
    assert_eq!(write_half.feed(text("a"), Wait::Forever).unwrap(), Sent::Queued);
    assert_eq!(write_half.feed(text("b"), Wait::Forever).unwrap(), Sent::Queued);
    assert_eq!(socket.taken(), b"");
    assert!(!write_half.is_behind(), "the peer is not to blame");
    assert_eq!(write_half.send(text("c"), Wait::Forever).unwrap(), Sent::Written);
    assert_eq!(socket.taken(), wire(&[text("a"), text("b"), text("c")]));
    write_half.feed(text("d"), Wait::Forever).unwrap();
    assert_eq!(write_half.flush().unwrap(), Sent::Written);
    assert_eq!(socket.taken(), wire(&[text("a"), text("b"), text("c"), text("d")]));
    assert_eq!(write_half.flush().unwrap(), Sent::Written, "nothing to flush is no error");
}

#[test]
fn much_that_is_fed_does_not_wait_for_a_flush() {
    let (write_half, socket) = write_half(1 << 20, 1 << 20);
    for _ in 0..200 {
        write_half.feed(text(&"x".repeat(100)), Wait::Forever).unwrap();
    }
    assert!(socket.taken().len() >= 16 * 1024);
}

#[test]
fn a_close_frame_goes_behind_what_waits_and_nothing_goes_behind_it() {
    let (write_half, socket) = write_half(ENOUGH, 4);
    write_half.send(text("first"), Wait::Forever).unwrap();
    write_half.send(text("second"), Wait::Forever).unwrap();
    let now = Instant::now();
    assert!(write_half.close(normal(), now));
    assert!(write_half.is_closing());
    assert!(matches!(write_half.send(text("late"), Wait::Forever), Err(Refused::Closed)));
    assert!(matches!(write_half.feed(text("late"), Wait::Forever), Err(Refused::Closed)));
    assert!(matches!(write_half.send_control(Outgoing::pong("late")), Err(Refused::Closed)));
    assert!(!write_half.close(CloseReason::Shutdown, now));
    assert_eq!(write_half.figures().sent, None, "it waits");
    socket.allow(1000);
    write_half.drain();
    assert_eq!(socket.taken(), wire(&[text("first"), text("second"), close()]));
    assert!(write_half.wait_until_drained(Instant::now()));
    let figures = write_half.figures();
    assert_eq!((figures.sent, figures.received, figures.reason), (Some(CloseCode::NORMAL), None, normal()));
}

/// Judging a stalled peer is the heartbeat's task: the drainer waits without a limit.
#[test]
fn what_waits_is_blocked_since_the_peer_last_took_a_byte() {
    let (write_half, socket) = write_half(ENOUGH, 1);
    assert_eq!(write_half.uptake().blocked_since, None, "nothing waits");
    let before = Instant::now();
    assert_eq!(write_half.send(text("waits"), Wait::Forever).unwrap(), Sent::Queued);
    let mut blocked_since = write_half.uptake().blocked_since.expect("the socket took one byte, and no more");
    assert!((before..=Instant::now()).contains(&blocked_since));

    let drainer = thread::spawn({
        let write_half = Arc::clone(&write_half);
        move || write_half.drain()
    });
    for byte in 2..=6 {
        // The blocking write times out several times. A timeout is no progress.
        thread::sleep(3 * PATIENCE);
        assert_eq!(write_half.uptake().blocked_since, Some(blocked_since));
        let before = Instant::now();
        socket.allow(1);
        wait_for(|| write_half.uptake().blocked_since != Some(blocked_since));
        blocked_since = write_half.uptake().blocked_since.expect("one byte still waits");
        assert!((before..=Instant::now()).contains(&blocked_since));
        assert_eq!(write_half.figures().bytes, byte);
    }
    socket.allow(1);
    drainer.join().unwrap();
    assert_eq!(write_half.uptake().blocked_since, None, "it has caught up");
    assert_eq!(socket.taken(), wire(&[text("waits")]));
}

#[test]
fn what_was_fed_waits_for_us_and_not_for_the_peer() {
    let (write_half, _socket) = write_half(ENOUGH, 0);
    write_half.feed(text("fed"), Wait::Forever).unwrap();
    assert_eq!((write_half.queued(), write_half.uptake().blocked_since), (5, None));
    assert_eq!(write_half.flush().unwrap(), Sent::Queued);
    assert!(write_half.is_behind());
}

#[test]
fn a_ping_has_left_when_the_socket_has_all_of_it_and_what_follows_is_counted() {
    let (write_half, socket) = write_half(ENOUGH, 1000);
    let uptake = write_half.uptake();
    assert_eq!((uptake.ping_left, uptake.bytes), (None, 0), "there was none");

    // The Ping goes straight to the socket.
    write_half.send(text("before"), Wait::Forever).unwrap();
    let before = Instant::now();
    write_half.send_control(Outgoing::ping("1")).unwrap();
    let first = write_half.uptake().ping_left.expect("it has left");
    assert!((before..=Instant::now()).contains(&first.0));
    assert_eq!((first.1, write_half.uptake().bytes), (8, 8 + 3));
    write_half.send(text("12345678"), Wait::Forever).unwrap();
    write_half.send_control(Outgoing::pong("1")).unwrap();
    assert_eq!(write_half.uptake().bytes - first.1, 3 + 10 + 3);
    assert_eq!(write_half.uptake().ping_left, Some(first), "a Pong is no Ping");

    // The Ping is cut, and the drainer writes the rest.
    let room = 2 + 1000 - socket.taken().len() - 3;
    write_half.send(text(&"x".repeat(room - 4 - 1)), Wait::Forever).unwrap();
    assert_eq!(write_half.send_control(Outgoing::ping("2")).unwrap(), Sent::Queued);
    assert_eq!(socket.taken().len(), 1000, "the socket has the beginning of it");
    assert_eq!(write_half.uptake().ping_left, Some(first), "and the rest waits");
    write_half.send(text("behind"), Wait::Forever).unwrap();
    socket.allow(1);
    socket.allow(100);
    let before = Instant::now();
    write_half.drain();
    let second = write_half.uptake().ping_left.expect("the first had left already");
    assert!((before..=Instant::now()).contains(&second.0));
    // The socket takes data together with the Ping. The Ping then counts as having waited for that as well, which does
    // no harm.
    assert!([3, 3 + 8].contains(&(write_half.uptake().bytes - second.1)));
}

#[test]
fn a_ping_that_waits_has_not_left_and_of_two_that_wait_the_newest_does() {
    let (write_half, socket) = write_half(ENOUGH, 1);
    write_half.send(text("data"), Wait::Forever).unwrap();
    assert_eq!(write_half.send_control(Outgoing::ping("1")).unwrap(), Sent::Queued);
    assert_eq!(write_half.send_control(Outgoing::ping("2")).unwrap(), Sent::Queued);
    assert_eq!((write_half.uptake().ping_left, write_half.uptake().bytes), (None, 1));
    assert_eq!(write_half.queued(), 5 + 3, "the first Ping was replaced");
    socket.allow(1000);
    write_half.drain();
    assert!(write_half.uptake().ping_left.is_some());
    assert_eq!(socket.taken(), wire(&[text("data"), Outgoing::ping("2")]));
}

/// Confirmed delivery: the Pong proves that the peer has read everything before the Ping.
#[test]
fn a_ping_in_line_overtakes_no_data_wherever_the_socket_stops() {
    let sent = [text("first"), text("second"), Outgoing::ping_in_line("3"), text("third"), Outgoing::ping("4")];
    let everything = wire(&sent);
    for cut in 0..=everything.len() {
        for fed in [false, true] {
            let (write_half, socket) = write_half(ENOUGH, cut);
            for frame in &sent {
                let sent = match encoded(frame).kind() {
                    Kind::Ping => write_half.send_control(frame.clone()),
                    Kind::Data if encoded(frame).header()[0] == 0x89 => {
                        write_half.send_in_line(frame.clone(), Wait::No)
                    }
                    _ if fed => write_half.feed(frame.clone(), Wait::Forever),
                    _ => write_half.send(frame.clone(), Wait::Forever),
                };
                sent.unwrap();
            }
            write_half.flush().unwrap();
            assert_eq!(write_half.drainers(), usize::from(cut < everything.len()), "cut at {cut}");
            socket.allow(1000);
            if write_half.drainers() > 0 {
                write_half.drain();
            }
            let frames = frames(&socket.taken());
            let place = |frame: &Outgoing| {
                frames.iter().position(|other| *other == encoded(frame).to_bytes(0)).expect("it is there")
            };
            assert_eq!(frames.len(), sent.len(), "cut at {cut}, fed: {fed}");
            // The ordinary Ping may be anywhere. Pings in line and data are in the order of the calls.
            let in_line: Vec<_> = sent[..4].iter().map(place).collect();
            assert!(in_line.is_sorted(), "{in_line:?}, cut at {cut}, fed: {fed}");
        }
    }
}

#[test]
fn many_pings_in_line_wait_each_for_itself() {
    let (write_half, socket) = write_half(ENOUGH, 0);
    write_half.send(text("data"), Wait::Forever).unwrap();
    for n in 0..5 {
        assert_eq!(write_half.send_in_line(Outgoing::ping_in_line(n.to_string()), Wait::No).unwrap(), Sent::Queued);
    }
    socket.allow(1000);
    write_half.drain();
    let pings = (0..5).map(|n| Outgoing::ping_in_line(n.to_string()));
    assert_eq!(socket.taken(), wire(&[text("data")].into_iter().chain(pings).collect::<Vec<_>>()));
    assert_eq!(write_half.uptake().ping_left, None, "the heartbeat's are others");
}

/// Pings in line do not replace one another, so many of them may wait.
#[test]
fn pings_in_line_take_room_in_the_queue_like_data() {
    let (write_half, _socket) = write_half(3 * cost(&["1"]), 0);
    write_half.send(text("1"), Wait::No).unwrap();
    let send = |number: &str| write_half.send_in_line(Outgoing::ping_in_line(number.to_owned()), Wait::No);
    assert!(send("2").is_ok() && send("3").is_ok());
    assert!(matches!(send("4"), Err(Refused::Full)));
    assert_eq!(write_half.figures().messages, 1, "they are no messages");
}

#[test]
fn a_send_waits_until_its_deadline_and_no_longer() {
    let (write_half, socket) = write_half(cost(&["01234567"]), 0);
    write_half.send(text("01234567"), Wait::Forever).unwrap();
    for wait in [Duration::ZERO, 3 * PATIENCE] {
        let deadline = Instant::now() + wait;
        assert!(matches!(write_half.send(text("89"), Wait::Until(deadline)), Err(Refused::Full)));
        assert!(matches!(write_half.feed(text("89"), Wait::Until(deadline)), Err(Refused::Full)));
        assert!(Instant::now() >= deadline);
    }
    assert_eq!(write_half.figures().messages, 1, "what was refused does not count");

    // Room becomes free in time.
    let sender = thread::spawn({
        let write_half = Arc::clone(&write_half);
        move || write_half.send(text("89"), Wait::Until(Instant::now() + 60 * SECOND))
    });
    socket.allow(1000);
    write_half.drain();
    sender.join().unwrap().unwrap();
    assert_eq!(socket.taken(), wire(&[text("01234567"), text("89")]));
    // A deadline in the past refuses nothing while there is room.
    assert_eq!(write_half.send(text("x"), Wait::Until(Instant::now())).unwrap(), Sent::Written);
}

#[test]
fn a_send_with_a_deadline_learns_of_the_end() {
    let (write_half, _socket) = write_half(cost(&["01234567"]), 0);
    write_half.send(text("01234567"), Wait::Forever).unwrap();
    let sender = thread::spawn({
        let write_half = Arc::clone(&write_half);
        move || write_half.send(text("89"), Wait::Until(Instant::now() + 60 * SECOND))
    });
    write_half.end_now();
    assert!(matches!(sender.join().unwrap(), Err(Refused::Closed)));
}

#[test]
fn a_write_that_fails_is_told_once_whoever_writes() {
    let told = |write_half: &Arc<Connection>, socket: &FakeSocket| {
        assert_eq!((write_half.failures(), socket.shut_downs()), (vec![io::ErrorKind::BrokenPipe], 1));
        assert_eq!(write_half.figures().reason, CloseReason::io(&io::ErrorKind::BrokenPipe.into()));
        assert!(!write_half.is_open());
        assert_eq!(write_half.send(text("late"), Wait::Forever), Err(Refused::Closed));
        assert_eq!(write_half.reports(), [], "whoever reads ends the connection");
    };
    let (write_half, socket) = write_half(ENOUGH, 4);
    write_half.send(text("waits"), Wait::Forever).unwrap();
    socket.fail();
    write_half.drain();
    told(&write_half, &socket);

    for (is_fed, fail) in [(false, Wait::Forever), (true, Wait::Forever)] {
        let (write_half, socket) = super::tests::write_half(ENOUGH, 1000);
        socket.fail();
        if is_fed {
            write_half.feed(text("fed"), fail).unwrap();
            assert_eq!(write_half.flush(), Err(Refused::Closed));
            assert_eq!(write_half.figures().unsent, 5);
        } else {
            assert_eq!(write_half.send(text("direct"), fail), Err(Refused::Closed));
        }
        told(&write_half, &socket);
    }
}

#[test]
fn without_a_thread_for_the_drainer_the_connection_ends() {
    let (write_half, socket) = write_half(ENOUGH, 4);
    write_half.set_threads(Threads::None);
    assert_eq!(write_half.send(text("waits"), Wait::Forever), Err(Refused::Closed));
    assert_eq!(write_half.reports(), [CloseReason::io(&io::ErrorKind::OutOfMemory.into())]);
    assert_eq!((socket.shut_downs(), Arc::strong_count(&socket), write_half.queued()), (1, 1, 0));
    assert_eq!(socket.taken(), wire(&[text("waits")])[..4], "and no Close frame within a frame");
    // The same happens for a Close frame, which gives the reason.
    let (write_half, _socket) = super::tests::write_half(ENOUGH, 1);
    write_half.set_threads(Threads::None);
    assert!(!write_half.close(normal(), Instant::now()));
    assert_eq!(write_half.reports(), [normal()]);
}

#[test]
fn a_drainer_that_panics_ends_the_connection() {
    let (write_half, socket) = write_half(ENOUGH, 4);
    write_half.send(text("waits"), Wait::Forever).unwrap();
    socket.allow(1);
    socket.panic();
    write_half.drain();
    let panicked = CloseReason::io(&io::Error::other("a write panicked: a bug"));
    assert_eq!((write_half.reports(), socket.shut_downs()), (vec![panicked], 1));
    assert_eq!(write_half.send(text("late"), Wait::Forever), Err(Refused::Closed));
    assert!(write_half.wait_until_drained(Instant::now() + SECOND));
}

/// Lent memory. When it is given back, its owner looks at the connection.
struct Lent {
    connection: Arc<Connection>,
    returned: Arc<AtomicUsize>,
}

impl AsRef<[u8]> for Lent {
    fn as_ref(&self) -> &[u8] {
        &[7; 2000]
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        assert!(self.connection.try_lock().is_some(), "the lock is held while code of the application runs");
        self.returned.fetch_add(1, SeqCst);
    }
}

#[test]
fn lent_memory_is_given_back_without_the_lock() {
    let returned = Arc::new(AtomicUsize::new(0));
    let lend = |connection: &Arc<Connection>| {
        let lent = Lent { connection: Arc::clone(connection), returned: Arc::clone(&returned) };
        Outgoing::message(Message::binary(bytes::Bytes::from_owner(lent)))
    };
    let given_back = |count: usize| assert_eq!(returned.swap(0, SeqCst), count);
    // Frames that are written at once, fed and flushed, or refused.
    let (write_half, socket) = write_half(1 << 20, 1 << 20);
    write_half.send(lend(&write_half), Wait::Forever).unwrap();
    given_back(1);
    for _ in 0..3 {
        write_half.feed(lend(&write_half), Wait::Forever).unwrap();
    }
    // Fed frames are copies, because a thread of ours may flush them.
    given_back(3);
    write_half.flush().unwrap();
    // A write fails while other frames wait.
    write_half.feed(lend(&write_half), Wait::Forever).unwrap();
    socket.fail();
    assert!(write_half.send(lend(&write_half), Wait::Forever).is_err());
    assert!(write_half.send(lend(&write_half), Wait::Forever).is_err());
    given_back(3);
    // Frames that the drainer writes, or that are left at the end. A thread of ours may cause that end.
    for is_cut in [false, true] {
        let (write_half, socket) = super::tests::write_half(1 << 20, 1000);
        for _ in 0..3 {
            write_half.send(lend(&write_half), Wait::Forever).unwrap();
        }
        if is_cut {
            write_half.end_now();
        } else {
            socket.allow(1 << 20);
        }
        given_back(0);
        write_half.drain();
        given_back(3);
    }
    // The memory is given back, too, if no drainer can start.
    let (write_half, _socket) = super::tests::write_half(1 << 20, 1000);
    write_half.set_threads(Threads::None);
    assert!(write_half.send(lend(&write_half), Wait::Forever).is_err());
    given_back(1);
}

#[test]
fn the_end_lets_go_of_the_socket() {
    let (write_half, socket) = write_half(ENOUGH, 1000);
    write_half.send(text("x"), Wait::Forever).unwrap();
    write_half.end_now();
    assert_eq!(Arc::strong_count(&socket), 1);
    assert!(matches!(write_half.send(text("y"), Wait::Forever), Err(Refused::Closed)));
    assert!(write_half.wait_until_drained(Instant::now() + SECOND));

    let (write_half, socket) = super::tests::write_half(ENOUGH, 4);
    write_half.send(text("waits"), Wait::Forever).unwrap();
    write_half.end_now();
    write_half.drain();
    assert_eq!(
        (write_half.failures(), socket.taken().len()),
        (vec![], 4),
        "a drainer that comes late has nothing to do"
    );
}

#[test]
fn the_end_is_reported_once_and_with_all_figures_however_many_say_it() {
    let (write_half, socket) = write_half(ENOUGH, 3);
    write_half.send(text("waits"), Wait::Forever).unwrap();
    let figures = Mutex::new(Vec::new());
    let shut = AtomicUsize::new(0);
    let (first, second) = (CloseReason::HeartbeatLost { missed: 3 }, CloseReason::Disconnected);
    let end = |reason: CloseReason| {
        write_half.end(
            reason,
            Instant::now(),
            |_| _ = shut.fetch_add(1, SeqCst),
            |said| figures.lock().unwrap().push(said),
        );
        assert_eq!(figures.lock().unwrap().len(), 1, "reported before any of the calls returns");
    };
    end(first.clone());
    thread::scope(|scope| (0..4).for_each(|_| _ = scope.spawn(|| end(second.clone()))));
    assert_eq!(shut.into_inner(), 1, "the socket is shut down once");
    let figures = figures.into_inner().unwrap();
    let [figures] = &figures[..] else { panic!("{figures:?}") };
    assert_eq!(figures.reason, first, "the first cause");
    assert_eq!((figures.messages, figures.bytes, figures.queued, figures.unsent), (1, 3, 0, 4));
    assert_eq!(figures.sent, None, "behind what the peer does not take there was no room for a Close frame");
    assert_eq!(socket.taken(), wire(&[text("waits")])[..3]);
    assert_eq!(write_half.end_now(), 0);
}

#[test]
fn the_end_says_why_if_the_socket_takes_it_at_once() {
    let lost = CloseReason::HeartbeatLost { missed: 3 };
    let frame = Outgoing::close(close_payload(Some(CloseCode::INTERNAL_ERROR), "heartbeat lost"));
    for (room, is_sent) in [(1000, true), (4, false)] {
        let (write_half, socket) = write_half(ENOUGH, room);
        // Fed frames leave before the Close frame.
        write_half.feed(text("a"), Wait::Forever).unwrap();
        let mut reported = None;
        write_half.end(lost.clone(), Instant::now(), |_| (), |figures| reported = Some(figures));
        let figures = reported.expect("it is the first");
        assert_eq!(figures.sent, is_sent.then_some(CloseCode::INTERNAL_ERROR));
        assert_eq!(socket.taken(), wire(&[text("a"), frame.clone()])[..socket.taken().len()]);
        assert_eq!(figures.bytes as usize, socket.taken().len());
        assert_eq!(figures.unsent, wire(&[text("a"), frame.clone()]).len() - socket.taken().len());
    }
}

#[test]
fn a_write_that_failed_is_the_cause_unless_the_peer_had_said_another() {
    let broken = CloseReason::io(&io::ErrorKind::BrokenPipe.into());
    let word = PeerEnd::Close(Some(CloseCode::GOING_AWAY), "leaving".into());
    let peer = CloseReason::Peer { code: Some(CloseCode::GOING_AWAY), reason: "leaving".into() };
    for (peer_end, cause) in [(None, broken.clone()), (Some(word), peer)] {
        let (write_half, socket) = write_half(ENOUGH, 4);
        write_half.send(text("waits"), Wait::Forever).unwrap();
        socket.fail();
        write_half.drain();
        assert_eq!((socket.shut_downs(), Arc::strong_count(&socket)), (1, 1));
        assert!(matches!(write_half.send(text("late"), Wait::Forever), Err(Refused::Closed)));
        assert!(matches!(write_half.send_control(Outgoing::ping("1")), Err(Refused::Closed)));
        if let Some(word) = peer_end {
            write_half.close_state(|close_state| close_state.peer_ended(word, Instant::now()));
        }
        let mut reported = None;
        write_half
            .end(CloseReason::Disconnected, Instant::now(), FakeSocket::shut_down, |figures| reported = Some(figures));
        let figures = reported.expect("a write that fails is no end yet");
        assert_eq!((socket.shut_downs(), figures.reason), (1, cause));
        assert_eq!((figures.bytes, figures.unsent), (4, 3));
    }
}

#[test]
fn the_peers_last_word_is_answered_once_and_what_was_sent_until_then_goes_before() {
    let (write_half, socket) = write_half(ENOUGH, 1000);
    let now = Instant::now();
    write_half.answer_close(now);
    assert_eq!(socket.taken(), b"", "there is nothing to answer");
    let word = PeerEnd::Close(Some(CloseCode::GOING_AWAY), "leaving".into());
    write_half.close_state(|close_state| close_state.peer_ended(word, now));
    assert!(!write_half.is_closing());
    assert_eq!(write_half.send(text("still"), Wait::Forever).unwrap(), Sent::Written);
    write_half.answer_close(now);
    write_half.answer_close(now);
    assert!(!write_half.close(normal(), now));
    assert!(matches!(write_half.send(text("late"), Wait::Forever), Err(Refused::Closed)));
    let answer = Outgoing::close(close_payload(Some(CloseCode::GOING_AWAY), ""));
    assert_eq!(socket.taken(), wire(&[text("still"), answer]));
    let figures = write_half.figures();
    assert_eq!((figures.sent, figures.received), (Some(CloseCode::GOING_AWAY), Some(CloseCode::GOING_AWAY)));
}

#[test]
fn a_first_frame_waits_for_the_next_and_counts_as_no_message() {
    let (write_half, socket) = write_half(ENOUGH, 1000);
    write_half.feed_first(text("hello"));
    assert_eq!((socket.taken(), write_half.figures().messages), (vec![], 0));
    write_half.send(text("a"), Wait::Forever).unwrap();
    assert_eq!(socket.taken(), wire(&[text("hello"), text("a")]));
    write_half.end_now();
    write_half.feed_first(text("nobody is there"));
    assert_eq!(write_half.queued(), 0);
}

#[test]
fn many_senders_never_tear_or_reorder() {
    const SENDERS: usize = 4;
    const EACH: usize = 200;
    let (write_half, socket) = write_half(cost(&["x"; 4]), 0);
    write_half.set_threads(Threads::Started);
    let done = Arc::new(AtomicBool::new(false));
    thread::scope(|scope| {
        let feeder = scope.spawn(|| {
            while !done.load(SeqCst) {
                socket.allow(37);
                thread::yield_now();
            }
        });
        let senders: Vec<_> = (0..SENDERS)
            .map(|sender| {
                let write_half = &write_half;
                scope.spawn(move || {
                    for n in 0..EACH {
                        let frame = text(&format!("{sender}:{n}:{}", "x".repeat(n % 60)));
                        let sent = if n % 3 == 0 {
                            write_half.feed(frame, Wait::Forever)
                        } else {
                            write_half.send(frame, Wait::Forever)
                        };
                        sent.unwrap();
                        if n % 7 == 0 {
                            write_half.send_control(Outgoing::ping(n.to_string())).unwrap();
                        }
                    }
                })
            })
            .collect();
        for sender in senders {
            sender.join().unwrap();
        }
        write_half.flush().unwrap();
        assert!(write_half.wait_until_drained(Instant::now() + 20 * SECOND));
        done.store(true, SeqCst);
        feeder.join().unwrap();
    });

    let mut next = [0; SENDERS];
    for payload in text_payloads(&socket.taken()) {
        let mut parts = payload.split(':').map(|part| part.to_owned());
        let sender: usize = parts.next().unwrap().parse().unwrap();
        let n: usize = parts.next().unwrap().parse().unwrap();
        assert_eq!(n, next[sender], "in the order of the calls");
        assert_eq!(parts.next().unwrap().len(), n % 60);
        next[sender] += 1;
    }
    assert_eq!(next, [EACH; SENDERS]);
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
