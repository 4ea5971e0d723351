//! The write half model-checked: `shuttle` runs small races under thousands of schedules, and none may break a promise.
//!
//!     RUSTFLAGS="--cfg shuttle" cargo test --lib outbound::model
//!
//! Under the checker, waits with a timeout never time out: whoever would have to rely on one is found as a deadlock. A
//! failure prints the schedule; `shuttle::replay` runs it again.

use std::sync::Arc;

use shuttle::rand::{Rng, thread_rng};
use shuttle::thread::{self, JoinHandle};

use super::*;
use crate::message::Message;

/// How many schedules of each race are tried.
const SCHEDULES: usize = 2_000;

/// A limit on the queue that two frames reach.
const QUEUE: usize = 16;

/// Explores the race under random schedules, and under those that preempt rarely, which find other things.
fn explore(race: fn()) {
    let schedules = std::env::var("HEARTWIRE_SCHEDULES").ok().map(|count| count.parse().expect("a number"));
    let schedules = schedules.unwrap_or(SCHEDULES);
    shuttle::check_random(race, schedules);
    shuttle::check_pct(race, schedules, 3);
}

/// A socket with little room, which a peer makes.
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
    /// Somebody is in `send_patiently`.
    has_drainer: bool,
}

impl Pipe {
    fn make_room(&self, bytes: usize) {
        let mut state = self.state.lock().unwrap();
        state.room = state.room.saturating_add(bytes);
        self.changed.notify_all();
    }

    fn shut_down(&self) {
        self.state.lock().unwrap().is_shut = true;
        self.changed.notify_all();
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
    fn send_now(&self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        self.state.lock().unwrap().take(slices)
    }

    fn send_patiently(&self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        let mut state = self.state.lock().unwrap();
        assert!(!std::mem::replace(&mut state.has_drainer, true), "a second drainer");
        // Patience may end at any time.
        while state.room == 0 && !state.is_shut && thread_rng().gen_range(0..4) > 0 {
            state = self.changed.wait(state).unwrap();
        }
        state.has_drainer = false;
        state.take(slices)
    }

    fn set_patience(&self, _: Duration) -> io::Result<()> {
        Ok(())
    }
}

/// A write half, and what its owner would do for it.
#[derive(Clone)]
struct Rig {
    outbound: Arc<Outbound<Pipe>>,
    pipe: Arc<Pipe>,
}

impl Rig {
    fn new(room: usize, stall_limit: Option<Duration>) -> Self {
        let pipe = Arc::new(Pipe::default());
        pipe.make_room(room);
        let outbound = Arc::new(Outbound::new(Role::Server, Arc::clone(&pipe), QUEUE, stall_limit));
        Self { outbound, pipe }
    }

    fn spawn<T: 'static>(&self, run: impl FnOnce(&Self) -> T + Send + 'static) -> JoinHandle<T>
    where
        T: Send,
    {
        let rig = self.clone();
        thread::spawn(move || run(&rig))
    }

    /// What `Link` does with the result of a send. Whether the frame was taken.
    fn settle(&self, sent: Result<Sent, SendFailure>) -> bool {
        match sent {
            Ok(Sent::StartDrainer) => {
                self.spawn(|rig| {
                    if rig.outbound.drain().is_err() {
                        rig.abort();
                    }
                });
                true
            }
            Ok(Sent::Written | Sent::Queued) => true,
            Err(SendFailure::Io(_)) => {
                self.abort();
                false
            }
            Err(SendFailure::Closed | SendFailure::Full) => false,
        }
    }

    /// Sends frames that say who and which, in all ways there are, until one is not taken. How many were.
    fn send_some(&self, sender: usize, count: usize) -> usize {
        (0..count).take_while(|n| self.settle(self.send(sender, *n))).count()
    }

    fn send(&self, sender: usize, n: usize) -> Result<Sent, SendFailure> {
        let frame = data(sender, n);
        match (sender + n) % 3 {
            0 => self.outbound.feed(frame, true),
            _ => self.outbound.send(frame, true),
        }
    }

    fn ping(&self) {
        self.settle(self.outbound.send_control(Frame::ping("p")));
        self.settle(self.outbound.send_control(Frame::pong("q")));
    }

    fn close(&self) -> bool {
        self.settle(self.outbound.close(Some(CloseCode::NORMAL), ""))
    }

    /// The socket is shut down and let go of.
    fn abort(&self) {
        self.outbound.with_socket(Pipe::shut_down);
        self.outbound.end();
    }

    /// Takes a few bytes at a time, and then whatever comes.
    fn read_slowly(&self) {
        for _ in 0..4 {
            self.pipe.make_room(thread_rng().gen_range(1..8));
        }
        self.pipe.make_room(1 << 20);
    }

    fn wait_until_drained(&self) -> bool {
        // Far enough away never to come.
        self.outbound.wait_until_drained(Instant::now() + Duration::from_secs(3600))
    }

    /// What arrived. `is_cut`: the end of the wire may be in the middle of a frame.
    fn received(&self, is_cut: bool) -> Received {
        Received::parse(&self.pipe.state.lock().unwrap().wire, is_cut)
    }
}

fn data(sender: usize, n: usize) -> Frame {
    Frame::message(Message::text(format!("{sender}:{n}:x")))
}

#[derive(Debug, Default)]
struct Received {
    /// How many frames of each sender, which came in order.
    of: [usize; 2],
    is_closed: bool,
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
                0x89 => assert_eq!(payload, b"p"),
                0x8a => assert_eq!(payload, b"q"),
                0x88 => received.is_closed = true,
                other => panic!("a torn frame begins with {other:#x}"),
            }
        }
        received
    }
}

/// Two senders and a Ping, while the peer takes what comes bit by bit.
fn senders_race() {
    let rig = Rig::new(3, None);
    let senders = [rig.spawn(|rig| rig.send_some(0, 3)), rig.spawn(|rig| rig.send_some(1, 3))];
    let others = [rig.spawn(Rig::ping), rig.spawn(Rig::read_slowly)];
    assert_eq!(senders.map(|sender| sender.join().unwrap()), [3, 3], "a send failed for no reason");
    for other in others {
        other.join().unwrap();
    }
    rig.settle(rig.outbound.flush());
    assert!(rig.wait_until_drained());
    assert_eq!(rig.received(false).of, [3, 3]);
    assert_eq!((rig.outbound.queued(), rig.outbound.is_behind()), (0, false));
}

/// Two threads close while others send: one of them does, and what was taken before is sent before.
fn a_close_races_with_senders() {
    let rig = Rig::new(3, None);
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
    assert!(received.is_closed && rig.outbound.sent_close_code().is_some());
    assert_eq!(received.of, taken, "what was taken before the Close frame, and nothing else, arrives");
}

/// The peer takes nothing: whoever waits for room learns of the Close frame at once, and not by the end.
fn a_close_reaches_those_who_wait_for_room() {
    let rig = Rig::new(3, None);
    let senders = [rig.spawn(|rig| rig.send_some(0, 5)), rig.spawn(|rig| rig.send_some(1, 5))];
    rig.close();
    for sender in senders {
        assert!(sender.join().unwrap() < 5, "more was taken than there is room for");
    }
    let waiter = rig.spawn(Rig::wait_until_drained);
    rig.abort();
    waiter.join().unwrap();
    rig.received(true);
}

/// The socket is shut down at any time: nobody waits any longer, and what arrived is in order up to the cut.
fn the_end_races_with_everything() {
    let rig = Rig::new(3, None);
    let senders = [rig.spawn(|rig| rig.send_some(0, 3)), rig.spawn(|rig| rig.send_some(1, 3))];
    let waiter = rig.spawn(|rig| {
        rig.close();
        rig.wait_until_drained()
    });
    let others = [rig.spawn(Rig::abort), rig.spawn(Rig::read_slowly)];
    let taken = senders.map(|sender| sender.join().unwrap());
    waiter.join().unwrap();
    for other in others {
        other.join().unwrap();
    }
    let received = rig.received(true);
    assert!(received.of.iter().zip(&taken).all(|(arrived, taken)| arrived <= taken), "{received:?} of {taken:?}");
    assert!(matches!(rig.outbound.send(data(0, 9), true), Err(SendFailure::Closed)));
    assert_eq!(rig.outbound.queued(), 0);
}

/// The drainer loses its patience, at any point: that ends the connection, and nobody waits any longer.
fn a_stall_ends_everything() {
    let rig = Rig::new(3, Some(Duration::ZERO));
    let senders = [rig.spawn(|rig| rig.send_some(0, 3)), rig.spawn(|rig| rig.send_some(1, 3))];
    let waiter = rig.spawn(|rig| {
        rig.close();
        rig.wait_until_drained()
    });
    rig.read_slowly();
    for sender in senders {
        sender.join().unwrap();
    }
    waiter.join().unwrap();
    rig.received(true);
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
