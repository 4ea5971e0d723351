//! How it ends: failed writes, the drainer, lent memory, the closing state and the report.

use super::*;

impl Drop for Lent {
    fn drop(&mut self) {
        assert!(self.connection.try_lock().is_some(), "the lock is held while code of the application runs");
        self.returned.fetch_add(1, SeqCst);
    }
}

impl AsRef<[u8]> for Lent {
    fn as_ref(&self) -> &[u8] {
        &[7; 2000]
    }
}

/// Lent memory. When it is given back, its owner looks at the connection.
struct Lent {
    connection: Arc<Connection>,
    returned: Arc<AtomicUsize>,
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
fn the_socket_is_told_that_the_end_follows_our_last_word_and_only_then() {
    let said = || PeerEnd::Close(Some(CloseCode::NORMAL), String::new());
    let now = Instant::now();
    let end_follows = |socket: &FakeSocket| socket.state.lock().unwrap().end_follows;
    // The peer has closed first, and what was sent before is gone.
    let (connection, socket) = write_half(ENOUGH, ENOUGH);
    connection.send(text("before"), Wait::No).unwrap();
    let before = socket.taken().len();
    connection.close_state(|close_state| close_state.peer_ended(said(), now));
    connection.answer_close(now);
    assert_eq!(end_follows(&socket), Some(before));
    // We close first, and the peer may say more.
    let (connection, socket) = write_half(ENOUGH, ENOUGH);
    connection.close(CloseReason::normal(), now);
    connection.close_state(|close_state| close_state.peer_ended(said(), now));
    connection.answer_close(now);
    assert_eq!(end_follows(&socket), None);
    // Something waits before our answer.
    let (connection, socket) = write_half(ENOUGH, ENOUGH);
    connection.feed(text("before"), Wait::No).unwrap();
    connection.close_state(|close_state| close_state.peer_ended(said(), now));
    connection.answer_close(now);
    assert_eq!(end_follows(&socket), None);
}
