//! The write half against a socket whose appetite the test decides, byte by byte.

use std::sync::Arc;
use std::thread;

use super::*;
use crate::message::Message;

/// Takes as many bytes as it was allowed to, and remembers them.
#[derive(Debug, Default)]
struct FakeSocket {
    state: Mutex<FakeState>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct FakeState {
    room: usize,
    taken: Vec<u8>,
    patience: Duration,
    fails: bool,
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
        let deadline = Instant::now() + state.patience;
        while state.room == 0 && !state.fails && Instant::now() < deadline {
            state = self.changed.wait_timeout(state, deadline - Instant::now()).unwrap().0;
        }
        state.take(slices)
    }

    fn set_patience(&self, patience: Duration) -> io::Result<()> {
        self.state.lock().unwrap().patience = patience;
        Ok(())
    }
}

const SECOND: Duration = Duration::from_secs(1);

fn outbound(queue_limit: usize, room: usize) -> (Arc<Outbound<FakeSocket>>, Arc<FakeSocket>) {
    let socket = Arc::new(FakeSocket::default());
    socket.allow(room);
    (Arc::new(Outbound::new(Role::Server, Arc::clone(&socket), queue_limit, Some(10 * SECOND))), socket)
}

fn text(text: &str) -> Frame {
    Frame::message(Message::text(text))
}

fn close() -> Frame {
    Frame::close(close_payload(Some(CloseCode::NORMAL), ""))
}

fn wire(frames: &[Frame]) -> Vec<u8> {
    frames.iter().flat_map(|frame| frame.to_bytes(0)).collect()
}

#[test]
fn what_the_socket_takes_at_once_is_never_queued() {
    let (outbound, socket) = outbound(100, 1000);
    assert_eq!(outbound.send(text("one"), true).unwrap(), Sent::Written);
    assert_eq!(outbound.send_control(Frame::ping("1")).unwrap(), Sent::Written);
    assert_eq!(socket.taken(), wire(&[text("one"), Frame::ping("1")]));
    assert_eq!((outbound.queued(), outbound.is_behind()), (0, false));
    assert_eq!(outbound.totals(), (1, 8));
}

#[test]
fn a_frame_cut_anywhere_is_continued_before_anything_else() {
    let frames = [text("first"), text("second")];
    for cut in 0..wire(&frames).len() {
        let (outbound, socket) = outbound(100, cut);
        let first = outbound.send(frames[0].clone(), true).unwrap();
        let second = outbound.send(frames[1].clone(), true).unwrap();
        let ping = outbound.send_control(Frame::ping("1")).unwrap();
        // Exactly one of the three finds the socket full.
        let starters = [first, second, ping].iter().filter(|sent| **sent == Sent::StartDrainer).count();
        assert_eq!(starters, 1, "cut at {cut}");
        socket.allow(1000);
        outbound.drain().unwrap();

        let expected = match cut {
            // Nothing of either is written: the Ping overtakes both.
            0 => wire(&[Frame::ping("1"), frames[0].clone(), frames[1].clone()]),
            1..=7 => wire(&[frames[0].clone(), Frame::ping("1"), frames[1].clone()]),
            _ => wire(&[frames[0].clone(), frames[1].clone(), Frame::ping("1")]),
        };
        assert_eq!(socket.taken(), expected, "cut at {cut}");
        assert_eq!((outbound.queued(), outbound.is_behind()), (0, false));
    }
}

#[test]
fn of_pings_and_of_pongs_only_the_newest_waits() {
    let (outbound, socket) = outbound(10_000, 3);
    assert_eq!(outbound.send(text("data"), true).unwrap(), Sent::StartDrainer);
    for n in 0..50 {
        outbound.send_control(Frame::ping(n.to_string())).unwrap();
        outbound.send_control(Frame::pong(n.to_string())).unwrap();
    }
    outbound.send(text("more"), true).unwrap();
    socket.allow(1000);
    outbound.drain().unwrap();
    assert_eq!(socket.taken(), wire(&[text("data"), Frame::pong("49"), Frame::ping("49"), text("more")]));
}

#[test]
fn control_frames_get_in_however_full_the_queue_is() {
    let (outbound, _socket) = outbound(10, 0);
    outbound.send(text("0123456789"), false).unwrap();
    assert!(matches!(outbound.send(text("x"), false), Err(SendFailure::Full)));
    assert_eq!(outbound.send_control(Frame::ping("1")).unwrap(), Sent::Queued);
}

#[test]
fn the_queue_is_bounded_but_a_single_frame_may_be_larger() {
    let (outbound, socket) = outbound(10, 0);
    assert_eq!(outbound.send(text(&"x".repeat(50)), false).unwrap(), Sent::StartDrainer);
    assert!(matches!(outbound.send(text(""), false), Err(SendFailure::Full)));
    socket.allow(52);
    outbound.drain().unwrap();
    assert_eq!(outbound.send(text("y"), false).unwrap(), Sent::StartDrainer);
    assert_eq!(outbound.send(text("z"), false).unwrap(), Sent::Queued, "room for 10 bytes, 6 in use");
}

#[test]
fn a_send_that_waits_for_room_gets_it_when_the_peer_takes_something() {
    let (outbound, socket) = outbound(10, 0);
    outbound.send(text("01234567"), true).unwrap();
    let sender = thread::spawn({
        let outbound = Arc::clone(&outbound);
        move || outbound.send(text("89"), true).unwrap()
    });
    let drainer = thread::spawn({
        let outbound = Arc::clone(&outbound);
        move || outbound.drain()
    });
    socket.allow(1000);
    // Queued while the drainer was at work, or written right after it had ended.
    sender.join().unwrap();
    drainer.join().unwrap().unwrap();
    assert_eq!(socket.taken(), wire(&[text("01234567"), text("89")]));
}

#[test]
fn a_send_that_waits_for_room_learns_of_the_end() {
    let (outbound, _socket) = outbound(10, 0);
    outbound.send(text("01234567"), true).unwrap();
    let sender = thread::spawn({
        let outbound = Arc::clone(&outbound);
        move || outbound.send(text("89"), true)
    });
    outbound.end();
    assert!(matches!(sender.join().unwrap(), Err(SendFailure::Closed)));
}

#[test]
fn what_is_fed_leaves_with_the_flush_or_with_the_next_send() {
    let (outbound, socket) = outbound(1000, 1000);
    assert_eq!(outbound.feed(text("a"), true).unwrap(), Sent::Queued);
    assert_eq!(outbound.feed(text("b"), true).unwrap(), Sent::Queued);
    assert_eq!(socket.taken(), b"");
    assert!(!outbound.is_behind(), "the peer is not to blame");
    assert_eq!(outbound.send(text("c"), true).unwrap(), Sent::Written);
    assert_eq!(socket.taken(), wire(&[text("a"), text("b"), text("c")]));
    outbound.feed(text("d"), true).unwrap();
    assert_eq!(outbound.flush().unwrap(), Sent::Written);
    assert_eq!(socket.taken(), wire(&[text("a"), text("b"), text("c"), text("d")]));
    assert_eq!(outbound.flush().unwrap(), Sent::Written, "nothing to flush is no error");
}

#[test]
fn much_that_is_fed_does_not_wait_for_a_flush() {
    let (outbound, socket) = outbound(1 << 20, 1 << 20);
    for _ in 0..200 {
        outbound.feed(text(&"x".repeat(100)), true).unwrap();
    }
    assert!(socket.taken().len() >= 16 * 1024);
}

#[test]
fn a_close_frame_goes_behind_what_waits_and_nothing_goes_behind_it() {
    let (outbound, socket) = outbound(1000, 4);
    outbound.send(text("first"), true).unwrap();
    outbound.send(text("second"), true).unwrap();
    assert_eq!(outbound.close(Some(CloseCode::NORMAL), "").unwrap(), Sent::Queued);
    assert!(outbound.is_closing());
    assert!(matches!(outbound.send(text("late"), true), Err(SendFailure::Closed)));
    assert!(matches!(outbound.feed(text("late"), true), Err(SendFailure::Closed)));
    assert!(matches!(outbound.send_control(Frame::pong("late")), Err(SendFailure::Closed)));
    assert!(matches!(outbound.close(Some(CloseCode::NORMAL), ""), Err(SendFailure::Closed)));
    socket.allow(1000);
    outbound.drain().unwrap();
    assert_eq!(socket.taken(), wire(&[text("first"), text("second"), close()]));
    assert!(outbound.wait_until_drained(Instant::now()));
}

#[test]
fn a_peer_that_takes_nothing_is_found_after_the_limit_and_not_before() {
    let (outbound, socket) = outbound(1000, 1);
    let limit = Duration::from_millis(200);
    outbound.set_stall_limit(Some(limit));
    outbound.send(text("waits"), true).unwrap();
    let drainer = thread::spawn({
        let outbound = Arc::clone(&outbound);
        move || (outbound.drain(), Instant::now())
    });
    // As long as it takes a byte now and then, it is slow, not dead.
    let mut last = Instant::now();
    for _ in 0..4 {
        thread::sleep(limit / 2);
        last = Instant::now();
        socket.allow(1);
    }
    let (result, found) = drainer.join().unwrap();
    assert!(matches!(result, Err(DrainFailure::Stalled(l)) if l == limit), "{result:?}");
    assert!(found - last >= limit, "found {:?} after the last byte was taken", found - last);
    assert_eq!(socket.taken(), wire(&[text("waits")])[..5]);
}

#[test]
fn without_a_limit_a_stall_is_waited_out() {
    let (outbound, socket) = outbound(1000, 0);
    outbound.set_stall_limit(None);
    outbound.send(text("waits"), true).unwrap();
    let drainer = thread::spawn({
        let outbound = Arc::clone(&outbound);
        move || outbound.drain()
    });
    thread::sleep(Duration::from_millis(100));
    socket.allow(1000);
    drainer.join().unwrap().unwrap();
    assert_eq!(socket.taken(), wire(&[text("waits")]));
}

#[test]
fn a_socket_that_fails_says_so_to_whoever_writes() {
    let (outbound, socket) = outbound(1000, 4);
    outbound.send(text("waits"), true).unwrap();
    socket.fail();
    assert!(matches!(outbound.drain(), Err(DrainFailure::Io(error)) if error.kind() == io::ErrorKind::BrokenPipe));

    let (outbound, socket) = super::tests::outbound(1000, 1000);
    socket.fail();
    assert!(matches!(outbound.send(text("direct"), true), Err(SendFailure::Io(_))));
    outbound.feed(text("fed"), true).unwrap();
    assert!(matches!(outbound.flush(), Err(SendFailure::Io(_))));
}

#[test]
fn the_end_lets_go_of_the_socket() {
    let (outbound, socket) = outbound(1000, 1000);
    outbound.send(text("x"), true).unwrap();
    outbound.end();
    assert_eq!(Arc::strong_count(&socket), 1);
    assert!(matches!(outbound.send(text("y"), true), Err(SendFailure::Closed)));
    assert!(outbound.wait_until_drained(Instant::now() + SECOND));
    assert_eq!(outbound.drain().map_err(|_| ()), Ok(()), "a drainer that comes late has nothing to do");
}

#[test]
fn many_senders_never_tear_or_reorder() {
    const SENDERS: usize = 4;
    const EACH: usize = 200;
    let (outbound, socket) = outbound(256, 0);
    let done = Arc::new(std::sync::atomic::AtomicBool::new(false));
    thread::scope(|scope| {
        let feeder = scope.spawn(|| {
            while !done.load(std::sync::atomic::Ordering::SeqCst) {
                socket.allow(37);
                thread::yield_now();
            }
        });
        let senders: Vec<_> = (0..SENDERS)
            .map(|sender| {
                let outbound = &outbound;
                scope.spawn(move || {
                    for n in 0..EACH {
                        let frame = text(&format!("{sender}:{n}:{}", "x".repeat(n % 60)));
                        let sent = if n % 3 == 0 { outbound.feed(frame, true) } else { outbound.send(frame, true) };
                        if sent.unwrap() == Sent::StartDrainer {
                            let outbound = Arc::clone(outbound);
                            thread::spawn(move || outbound.drain().unwrap());
                        }
                        if n % 7 == 0 {
                            let sent = outbound.send_control(Frame::ping(n.to_string())).unwrap();
                            if sent == Sent::StartDrainer {
                                let outbound = Arc::clone(outbound);
                                thread::spawn(move || outbound.drain().unwrap());
                            }
                        }
                    }
                })
            })
            .collect();
        for sender in senders {
            sender.join().unwrap();
        }
        if outbound.flush().unwrap() == Sent::StartDrainer {
            outbound.drain().unwrap();
        }
        assert!(outbound.wait_until_drained(Instant::now() + 20 * SECOND));
        done.store(true, std::sync::atomic::Ordering::SeqCst);
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

/// The payloads of the text frames, all of which are short.
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
