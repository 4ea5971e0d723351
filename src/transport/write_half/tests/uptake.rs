//! What the write half knows of the peer's progress: when it last took something, and when a Ping left.

use super::*;

/// Judging a stalled peer is the heartbeat's task: the drainer waits without a limit.
#[test]
fn what_waits_is_blocked_since_the_peer_last_took_a_byte() {
    let (write_half, socket) = write_half(ENOUGH, 1);
    check_what_waits(&write_half, &socket);
    let (write_half, socket) = self::write_half(ENOUGH, 1);
    socket.seal();
    check_what_waits(&write_half, &socket);
}

fn check_what_waits(write_half: &Arc<Connection>, socket: &FakeSocket) {
    assert_eq!(write_half.uptake().blocked_since, None, "nothing waits");
    let before = Instant::now();
    assert_eq!(write_half.send(text("waits"), Wait::Forever).unwrap(), Sent::Queued);
    let mut blocked_since = write_half.uptake().blocked_since.expect("the socket took one byte, and no more");
    assert!((before..=Instant::now()).contains(&blocked_since));

    let drainer = thread::spawn({
        let write_half = Arc::clone(write_half);
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
