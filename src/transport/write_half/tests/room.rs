//! Who waits for room in the queue, and what counts against it.

use super::*;

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

/// Whoever may not wait is refused while others wait in line, also when the queue is empty. It is told afterwards.
#[test]
fn that_the_queue_has_emptied_is_told_after_those_who_wait_have_had_their_turn() {
    let (write_half, socket) = write_half(ENOUGH, 0);
    write_half.send(text("0"), Wait::No).unwrap();
    // A thread that waits for room, and that the system does not wake for a while.
    let ticket = write_half.lock().waiting.join();
    assert!(matches!(write_half.send(text("1"), Wait::No), Err(Refused::Full)));
    let drainer = thread::spawn({
        let write_half = Arc::clone(&write_half);
        move || write_half.drain()
    });
    socket.allow(1000);
    let emptied = || write_half.emptied.lock().unwrap().clone();
    wait_for(|| !write_half.is_behind() && (write_half.lock().sleepers > 0 || !emptied().is_empty()));
    assert!(matches!(write_half.send(text("1"), Wait::No), Err(Refused::Full)), "no drainer, but others wait");
    drop(write_half.end_wait(write_half.lock(), ticket));
    drainer.join().unwrap();
    assert_eq!(emptied(), [0]);
}
