//! What leaves when: frames are whole, data keeps the order of the calls, control frames overtake it.

use super::*;

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
fn a_drainer_that_waits_for_long_gathers_no_pongs() {
    let (write_half, socket) = write_half(ENOUGH, 3);
    write_half.send(text("data"), Wait::Forever).unwrap();
    thread::scope(|scope| {
        scope.spawn(|| write_half.drain());
        let mut most = 0;
        // In each of its waits, which are all in vain, several come.
        for n in 10..60 {
            write_half.send_control(Outgoing::pong(n.to_string())).unwrap();
            thread::sleep(PATIENCE / 4);
            most = most.max(write_half.queued());
        }
        socket.allow(1000);
        let pong = wire(&[Outgoing::pong("10")]).len();
        assert!(most <= wire(&[text("data")]).len() - 3 + 2 * pong, "{most} bytes wait");
    });
}

#[test]
fn control_frames_get_in_however_full_the_queue_is() {
    let (write_half, _socket) = write_half(cost(&["0123456789"]), 0);
    write_half.send(text("0123456789"), Wait::No).unwrap();
    assert!(matches!(write_half.send(text("x"), Wait::No), Err(Refused::Full)));
    assert_eq!(write_half.send_control(Outgoing::ping("1")).unwrap(), Sent::Queued);
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
    assert!(!write_half.close(CloseReason::shutdown(), now));
    assert_eq!(write_half.figures().sent, None, "it waits");
    socket.allow(1000);
    write_half.drain();
    assert_eq!(socket.taken(), wire(&[text("first"), text("second"), close()]));
    assert!(write_half.wait_until_drained(Instant::now()));
    let figures = write_half.figures();
    assert_eq!((figures.sent, figures.received, figures.reason), (Some(CloseCode::NORMAL), None, normal()));
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
