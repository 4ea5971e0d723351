//! The write half, model-checked: `shuttle` runs small races under thousands of schedules, and every promise must hold
//! in each.
//!
//!     RUSTFLAGS="--cfg shuttle" cargo test --lib write_half::model
//!
//! The check covers the whole write half, including its drainer. The rig below stands for the connection that owns it.
//!
//! Under the checker, waits with a timeout never time out, so a thread that depends on a timeout shows up as a
//! deadlock. A failure prints the schedule, and `shuttle::replay` runs it again.

use std::sync::Arc;

use shuttle::rand::{Rng, thread_rng};
use shuttle::thread::{self, JoinHandle};

use super::*;
use crate::message::Message;

/// The number of schedules for each race.
const SCHEDULES: usize = 2_000;

/// A queue limit that two frames reach.
const QUEUE: usize = 2 * (5 + Message::OVERHEAD);

/// A deadline that never comes.
const FAR: Duration = Duration::from_secs(3600);

/// Explores the race under random schedules, and under schedules with few preemptions, which find other defects.
fn explore(race: fn()) {
    let schedules = std::env::var("HEARTWIRE_SCHEDULES").ok().map(|count| count.parse().expect("a number"));
    let schedules = schedules.unwrap_or(SCHEDULES);
    shuttle::check_random(race, schedules);
    shuttle::check_pct(race, schedules, 3);
}

/// A socket with little room. The peer makes room.
#[derive(Debug, Default)]
struct Pipe {
    state: Mutex<PipeState>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct PipeState {
    room: usize,
    wire: Vec<u8>,
    is_shut: bool,
    /// Whether a thread is in `send_patiently`.
    has_drainer: bool,
    /// How often the socket was shut down.
    shut_downs: usize,
}

impl Pipe {
    fn make_room(&self, bytes: usize) {
        let mut state = self.state.lock().unwrap();
        state.room = state.room.saturating_add(bytes);
        self.changed.notify_all();
    }

    /// The peer resets the connection: from now on writes fail.
    fn reset(&self) {
        self.state.lock().unwrap().is_shut = true;
        self.changed.notify_all();
    }

    /// Plays a blocked read, which returns when the socket is shut down.
    fn wait_for_end(&self) {
        let mut state = self.state.lock().unwrap();
        while state.shut_downs == 0 {
            state = self.changed.wait(state).unwrap();
        }
    }
}

impl PipeState {
    fn take(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        assert!(!self.has_drainer, "two write at a time");
        if self.is_shut {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        let before = self.wire.len();
        for slice in slices {
            let part = slice.len().min(self.room);
            self.wire.extend_from_slice(&slice[..part]);
            self.room -= part;
        }
        let count = self.wire.len() - before;
        if count == 0 { Err(io::ErrorKind::WouldBlock.into()) } else { Ok(count) }
    }
}

impl Socket for Pipe {
    fn send_now(&self, slices: &[IoSlice<'_>]) -> io::Result<Taken> {
        self.state.lock().unwrap().take(slices).map(Taken::from)
    }

    fn send_patiently(&self, slices: &[IoSlice<'_>]) -> io::Result<Taken> {
        let mut state = self.state.lock().unwrap();
        assert!(!std::mem::replace(&mut state.has_drainer, true), "a second drainer");
        // The blocking write may time out at any point.
        while state.room == 0 && !state.is_shut && thread_rng().gen_range(0..4) > 0 {
            state = self.changed.wait(state).unwrap();
        }
        state.has_drainer = false;
        state.take(slices).map(Taken::from)
    }

    fn shut_down(&self) {
        let mut state = self.state.lock().unwrap();
        state.is_shut = true;
        state.shut_downs += 1;
        assert_eq!(state.shut_downs, 1, "the socket is shut down once");
        self.changed.notify_all();
    }
}

/// A connection: its write half, and a record of what happens to it.
struct Rig {
    write_half: WriteHalf<Self>,
    pipe: Arc<Pipe>,
    /// Whether starting a thread may fail.
    threads_are_scarce: bool,
    /// How many threads failed to start.
    without_thread: Mutex<usize>,
    /// Whether a failed write was reported.
    has_failed: Mutex<bool>,
    failed: Condvar,
    /// The reasons of all reported ends.
    reports: Mutex<Vec<CloseReason>>,
}

impl Owner for Rig {
    type Socket = Pipe;

    fn write_half(&self) -> &WriteHalf<Self> {
        &self.write_half
    }

    fn start_thread(&self, run: impl FnOnce() + Send + 'static) -> io::Result<()> {
        if self.threads_are_scarce && thread_rng().gen_range(0..2) == 0 {
            *self.without_thread.lock().unwrap() += 1;
            return Err(io::ErrorKind::OutOfMemory.into());
        }
        thread::spawn(run);
        Ok(())
    }

    fn write_failed(&self, _: &io::Error) {
        assert!(self.write_half.is_closing(), "told before nothing is accepted any more");
        let told_before = std::mem::replace(&mut *self.has_failed.lock().unwrap(), true);
        assert!(!told_before, "a write that fails is told once");
        self.failed.notify_all();
    }

    /// A drainer that panics comes here as well. That is a failed assertion of the test, not a race.
    fn abort(&self, reason: CloseReason) {
        assert!(!reason.to_string().contains("panicked"), "{reason}");
        self.end(reason);
    }
}

impl Rig {
    fn new(room: usize) -> Arc<Self> {
        Self::with(room, false)
    }

    fn with(room: usize, threads_are_scarce: bool) -> Arc<Self> {
        let pipe = Arc::new(Pipe::default());
        pipe.make_room(room);
        let total = Arc::new(MemoryBudget::new(usize::MAX));
        Arc::new(Self {
            write_half: WriteHalf::new(Role::Server, Arc::clone(&pipe), QUEUE, &total, FAR),
            pipe,
            threads_are_scarce,
            without_thread: Mutex::default(),
            has_failed: Mutex::default(),
            failed: Condvar::default(),
            reports: Mutex::default(),
        })
    }

    fn spawn<T: Send + 'static>(self: &Arc<Self>, run: impl FnOnce(&Arc<Self>) -> T + Send + 'static) -> JoinHandle<T> {
        let rig = Arc::clone(self);
        thread::spawn(move || run(&rig))
    }

    /// Sends frames that name their sender and number, in all ways there are, until one is refused. Returns how many
    /// were accepted.
    fn send_some(self: &Arc<Self>, sender: usize, count: usize) -> usize {
        (0..count).take_while(|n| self.send(sender, *n).is_ok()).count()
    }

    fn send(self: &Arc<Self>, sender: usize, n: usize) -> Result<Sent, Refused> {
        let frame = data(sender, n);
        match (sender + n) % 3 {
            0 => WriteHalf::feed(self, frame, Wait::Forever),
            _ => WriteHalf::send(self, frame, Wait::Forever),
        }
    }

    /// Sends a Ping and a Pong, unless the connection is closing.
    fn ping(self: &Arc<Self>) {
        for control in [Outgoing::ping("p"), Outgoing::pong("q")] {
            let _ = WriteHalf::send_control(self, control);
        }
    }

    fn flush(self: &Arc<Self>) {
        let _ = WriteHalf::flush(self);
    }

    /// Closes. Returns whether this call began to close.
    fn close(self: &Arc<Self>) -> bool {
        WriteHalf::close(self, CloseReason::shutdown(), Instant::now())
    }

    /// Plays the connection's thread: waits in a read, and ends the connection when the read returns.
    fn read_to_end(self: &Arc<Self>) {
        self.pipe.wait_for_end();
        self.abort();
    }

    /// Waits until a failed write was reported, which the drainer may still be about to do.
    fn wait_until_failed(&self) {
        let mut has_failed = self.has_failed.lock().unwrap();
        while !*has_failed {
            has_failed = self.failed.wait(has_failed).unwrap();
        }
    }

    /// Ends the connection, for this reason unless there is a better one. The socket is shut down and released.
    fn end(&self, reason: CloseReason) {
        let report = |figures: Figures| self.reports.lock().unwrap().push(figures.reason);
        self.write_half.end(reason, Instant::now(), <Pipe as Socket>::shut_down, report);
        assert_eq!(self.reports.lock().unwrap().len(), 1, "reported once, before anybody goes on");
    }

    /// Ends the connection without a reason of its own.
    fn abort(self: &Arc<Self>) {
        self.end(CloseReason::Disconnected);
    }

    fn is_behind(&self) -> bool {
        self.write_half.uptake().blocked_since.is_some()
    }

    /// Plays a peer that takes a few bytes at a time, and then everything.
    fn read_slowly(self: &Arc<Self>) {
        for _ in 0..4 {
            self.pipe.make_room(thread_rng().gen_range(1..8));
        }
        self.pipe.make_room(1 << 20);
    }

    fn wait_until_drained(self: &Arc<Self>) -> bool {
        self.write_half.wait_until_drained(Instant::now() + FAR)
    }

    /// The frames that arrived. `is_cut`: the wire may end in the middle of a frame.
    fn received(&self, is_cut: bool) -> Received {
        Received::parse(&self.pipe.state.lock().unwrap().wire, is_cut)
    }
}

fn data(sender: usize, n: usize) -> Outgoing {
    Outgoing::message(Message::text(format!("{sender}:{n}:x")))
}

#[derive(Debug, Default)]
struct Received {
    /// How many frames of each sender arrived, all in order.
    of: [usize; 2],
    is_closed: bool,
    /// How many frames of the first sender arrived before its Ping in line.
    at_ping_in_line: Option<usize>,
}

impl Received {
    fn parse(mut wire: &[u8], is_cut: bool) -> Self {
        let mut received = Self::default();
        while !wire.is_empty() {
            let frame = wire.split_at_checked(2).and_then(|(header, rest)| {
                let (payload, rest) = rest.split_at_checked(usize::from(header[1]))?;
                Some((header[0], payload, rest))
            });
            let Some((first, payload, rest)) = frame else {
                assert!(is_cut, "the last frame is torn");
                return received;
            };
            wire = rest;
            assert!(!received.is_closed, "something follows the Close frame");
            match first {
                0x81 => {
                    let text = std::str::from_utf8(payload).unwrap();
                    let parts: Vec<&str> = text.split(':').collect();
                    let [sender, n, "x"] = parts[..] else { panic!("a torn frame: {text:?}") };
                    let count = &mut received.of[sender.parse::<usize>().unwrap()];
                    assert_eq!(n.parse::<usize>().unwrap(), *count, "lost or out of order");
                    *count += 1;
                }
                0x89 if payload == b"l" => received.at_ping_in_line = Some(received.of[0]),
                0x89 => assert_eq!(payload, b"p"),
                0x8a => assert_eq!(payload, b"q"),
                0x88 => received.is_closed = true,
                other => panic!("a torn frame begins with {other:#x}"),
            }
        }
        received
    }
}

/// Two senders and a Ping, while the peer takes a few bytes at a time.
fn senders_race() {
    let rig = Rig::new(3);
    let senders = [rig.spawn(|rig| rig.send_some(0, 3)), rig.spawn(|rig| rig.send_some(1, 3))];
    let others = [rig.spawn(Rig::ping), rig.spawn(Rig::read_slowly)];
    assert_eq!(senders.map(|sender| sender.join().unwrap()), [3, 3], "a send failed for no reason");
    for other in others {
        other.join().unwrap();
    }
    rig.flush();
    assert!(rig.wait_until_drained());
    assert_eq!(rig.received(false).of, [3, 3]);
    assert_eq!((rig.write_half.queued(), rig.is_behind()), (0, false));
}

/// Two threads close while others send. One of them wins, and frames that were accepted before leave before the Close
/// frame.
fn a_close_races_with_senders() {
    let rig = Rig::new(3);
    let senders = [rig.spawn(|rig| rig.send_some(0, 3)), rig.spawn(|rig| rig.send_some(1, 3))];
    let closers = [rig.spawn(Rig::close), rig.spawn(Rig::close)];
    let others = [rig.spawn(Rig::ping), rig.spawn(Rig::read_slowly)];
    let taken = senders.map(|sender| sender.join().unwrap());
    let closes = closers.map(|closer| closer.join().unwrap());
    for other in others {
        other.join().unwrap();
    }
    assert_eq!(closes.iter().filter(|close| **close).count(), 1, "one closes");
    assert!(rig.wait_until_drained());
    let received = rig.received(false);
    assert!(received.is_closed && rig.write_half.figures().sent.is_some());
    assert_eq!(received.of, taken, "what was taken before the Close frame, and nothing else, arrives");
}

/// The peer takes nothing. A thread that waits for room is refused on the Close frame, and not only at the end.
fn a_close_reaches_those_who_wait_for_room() {
    let rig = Rig::new(3);
    let senders = [rig.spawn(|rig| rig.send_some(0, 5)), rig.spawn(|rig| rig.send_some(1, 5))];
    rig.close();
    for sender in senders {
        assert!(sender.join().unwrap() < 5, "more was taken than there is room for");
    }
    let waiter = rig.spawn(Rig::wait_until_drained);
    rig.abort();
    waiter.join().unwrap();
    rig.received(true);
    assert_eq!(*rig.reports.lock().unwrap(), [CloseReason::shutdown()], "the first cause");
}

/// The connection ends at any point. No thread waits any longer, and what arrived is in order up to the cut.
fn the_end_races_with_everything() {
    let rig = Rig::new(3);
    let senders = [rig.spawn(|rig| rig.send_some(0, 3)), rig.spawn(|rig| rig.send_some(1, 3))];
    let waiter = rig.spawn(|rig| {
        rig.close();
        rig.wait_until_drained()
    });
    let others = [rig.spawn(Rig::abort), rig.spawn(Rig::abort), rig.spawn(Rig::read_slowly)];
    let taken = senders.map(|sender| sender.join().unwrap());
    waiter.join().unwrap();
    for other in others {
        other.join().unwrap();
    }
    let received = rig.received(true);
    assert!(received.of.iter().zip(&taken).all(|(arrived, taken)| arrived <= taken), "{received:?} of {taken:?}");
    assert!(matches!(WriteHalf::send(&rig, data(0, 9), Wait::Forever), Err(Refused::Closed)));
    assert_eq!(rig.write_half.queued(), 0);
}

/// The peer is found stalled, at any point at which frames wait. That ends the connection, and no thread waits any
/// longer.
fn a_stall_ends_everything() {
    let rig = Rig::new(3);
    let judge = rig.spawn(|rig| {
        let stalled = (0..20).any(|_| {
            thread::yield_now();
            rig.is_behind()
        });
        if stalled {
            rig.end(CloseReason::WriteStalled { limit: FAR });
        }
        stalled
    });
    let senders = [rig.spawn(|rig| rig.send_some(0, 3)), rig.spawn(|rig| rig.send_some(1, 3))];
    let waiter = rig.spawn(|rig| {
        rig.close();
        rig.wait_until_drained()
    });
    rig.read_slowly();
    for sender in senders {
        sender.join().unwrap();
    }
    let is_drained = waiter.join().unwrap();
    if judge.join().unwrap() {
        let reports = rig.reports.lock().unwrap();
        assert!(
            matches!(reports[..], [CloseReason::WriteStalled { .. } | CloseReason::Shutdown { .. }]),
            "{reports:?}"
        );
        assert_eq!(rig.write_half.queued(), 0);
    } else {
        assert!(is_drained && rig.received(false).is_closed);
    }
    rig.received(true);
}

/// A sender waits for room with a deadline, and the peer takes everything. The outcome is as in [`senders_race`],
/// because no deadline comes here.
fn a_wait_with_a_deadline_is_woken() {
    let rig = Rig::new(3);
    let senders = [0, 1].map(|sender| {
        rig.spawn(move |rig| {
            let wait = Wait::Until(Instant::now() + FAR);
            (0..3).take_while(|n| WriteHalf::send(rig, data(sender, *n), wait).is_ok()).count()
        })
    });
    let reader = rig.spawn(Rig::read_slowly);
    assert_eq!(senders.map(|sender| sender.join().unwrap()), [3, 3]);
    reader.join().unwrap();
    assert!(rig.wait_until_drained());
    assert_eq!(rig.received(false).of, [3, 3]);
}

/// A Ping in line, between an ordinary Ping and data of other threads. What its sender sent before arrives before it.
fn a_ping_in_line_stays_in_line() {
    let rig = Rig::new(3);
    let confirming = rig.spawn(|rig| {
        rig.send_some(0, 2);
        WriteHalf::send_in_line(rig, Outgoing::ping_in_line("l"), Wait::Forever).is_ok()
    });
    let others = [rig.spawn(|rig| _ = rig.send_some(1, 2)), rig.spawn(Rig::ping), rig.spawn(Rig::read_slowly)];
    assert!(confirming.join().unwrap());
    for other in others {
        other.join().unwrap();
    }
    rig.flush();
    assert!(rig.wait_until_drained());
    let received = rig.received(false);
    assert_eq!((received.of, received.at_ping_in_line), ([2, 2], Some(2)));
}

/// The peer resets the connection at any point. Senders and waiting threads are refused. The thread that reads wakes
/// and ends the connection, with the failed write as the cause if there was one.
fn a_reset_races_with_senders() {
    let rig = Rig::new(3);
    let reader = rig.spawn(Rig::read_to_end);
    let senders = [rig.spawn(|rig| rig.send_some(0, 3)), rig.spawn(|rig| rig.send_some(1, 3))];
    let others = [rig.spawn(|rig| rig.pipe.reset()), rig.spawn(Rig::ping), rig.spawn(Rig::read_slowly)];
    let taken = senders.map(|sender| sender.join().unwrap());
    for other in others {
        other.join().unwrap();
    }
    // Fed frames or not, the next write fails.
    let _ = WriteHalf::send(&rig, data(0, 9), Wait::Forever);
    reader.join().unwrap();
    rig.wait_until_failed();
    let broken = CloseReason::io(&io::ErrorKind::BrokenPipe.into());
    assert_eq!(*rig.reports.lock().unwrap(), [broken]);
    let received = rig.received(true);
    assert!(received.of.iter().zip(&taken).all(|(arrived, taken)| arrived <= taken), "{received:?} of {taken:?}");
    assert!(rig.wait_until_drained() && rig.write_half.queued() == 0);
}

/// The thread of a needed drainer may fail to start. Then the connection ends at once with that reason, and no thread
/// waits any longer. Otherwise everything arrives.
fn threads_are_scarce() {
    let rig = Rig::with(3, true);
    let senders = [rig.spawn(|rig| rig.send_some(0, 3)), rig.spawn(|rig| rig.send_some(1, 3))];
    let others = [rig.spawn(Rig::ping), rig.spawn(Rig::read_slowly)];
    let taken = senders.map(|sender| sender.join().unwrap());
    for other in others {
        other.join().unwrap();
    }
    rig.flush();
    assert!(rig.wait_until_drained());
    if *rig.without_thread.lock().unwrap() == 0 {
        assert_eq!((taken, rig.received(false).of), ([3, 3], [3, 3]));
    } else {
        let no_thread = CloseReason::io(&io::ErrorKind::OutOfMemory.into());
        assert_eq!(*rig.reports.lock().unwrap(), [no_thread]);
        assert!(matches!(WriteHalf::send(&rig, data(0, 9), Wait::Forever), Err(Refused::Closed)));
        rig.received(true);
    }
    assert_eq!(rig.write_half.queued(), 0);
}

#[test]
fn frames_are_neither_lost_nor_torn_nor_reordered() {
    explore(senders_race);
}

#[test]
fn nothing_follows_a_close_frame_and_all_that_was_taken_precedes_it() {
    explore(a_close_races_with_senders);
}

#[test]
fn whoever_waits_for_room_learns_of_the_close_frame() {
    explore(a_close_reaches_those_who_wait_for_room);
}

#[test]
fn whoever_waits_learns_of_the_end() {
    explore(the_end_races_with_everything);
}

#[test]
fn whoever_waits_learns_of_a_stall() {
    explore(a_stall_ends_everything);
}

#[test]
fn whoever_waits_by_a_deadline_is_woken_before_it() {
    explore(a_wait_with_a_deadline_is_woken);
}

#[test]
fn whoever_waits_learns_of_a_write_that_failed() {
    explore(a_reset_races_with_senders);
}

#[test]
fn whoever_waits_learns_that_no_drainer_could_be_started() {
    explore(threads_are_scarce);
}

#[test]
fn a_ping_in_line_never_overtakes() {
    explore(a_ping_in_line_stays_in_line);
}
