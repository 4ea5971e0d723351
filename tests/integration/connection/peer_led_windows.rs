//! Heartbeats that the peer leads by Pings: windows of silence, announcements, and lies about them.

use std::thread;
use std::time::{Duration, Instant};

use heartwire::{HeartbeatPolicy, Liveness};

use super::{dies_after, led};
use crate::support::{
    CEILING, Client, End, HOUR, Incoming, PING, PONG, Running, SLACK, TEXT, client, echo, listen, live, lost, masked,
    ms, run, server, start,
};

fn start_led(policy: HeartbeatPolicy) -> Running {
    start(server().heartbeat(policy), echo)
}

#[test]
fn a_client_that_falls_silent_is_dead_after_max_missed_windows_and_gets_no_ping() {
    let policy = led(ms(200)).max_missed(3);
    let running = start_led(policy);
    let mut client = running.connect();
    let before_last_byte = Instant::now();
    client.expect_echo("my last words");
    let misses: Vec<_> = (0..3).map(|_| running.events.missed()).collect();
    let report = running.closed();
    let took = before_last_byte.elapsed();
    assert!(took >= 3 * ms(200) && took < policy.worst_case().unwrap() + SLACK, "{took:?}");
    assert_eq!((misses, lost(&report)), (vec![(1, 3), (2, 3), (3, 3)], 3));
    assert_eq!(client.frame().close(), (Some(1011), "heartbeat lost".to_owned()), "and no Ping before it");
}

#[test]
fn a_client_whose_interval_is_shorter_than_the_window_is_never_dropped() {
    let running = start_led(led(ms(400)));
    let client = client(running.address()).heartbeat(HeartbeatPolicy::keepalive(ms(40)));
    let client = run(client, listen);
    assert!(client.handle.wait_connected(CEILING));
    let id = running.events.opened();
    // Many windows.
    thread::sleep(ms(3000));
    assert!(client.handle.is_connected());
    let [open] = &running.handle.connections()[..] else { panic!("one connection") };
    assert_eq!((open.id, open.pings), (id, 0));
    client.stop();
    assert_eq!((client.closed().reason.name(), running.closed().reason.name()), ("local", "peer"));
}

#[test]
fn any_byte_of_a_message_that_is_never_complete_is_life_unless_only_the_peers_beat_counts() {
    for (liveness, lives) in [(Liveness::AnyByte, true), (Liveness::PongOnly, false)] {
        live(2 * ms(300), |pulse| {
            let running = start_led(led(ms(300)).liveness(liveness));
            // Before the first window begins, however late this thread runs again.
            let begun = Instant::now();
            let mut client = running.connect();
            client.write(&[0x82, 0xff, 0, 0, 0, 0, 0, 0x0f, 0, 0, 1, 2, 3, 4]);
            let mut is_open = true;
            while is_open && begun.elapsed() < ms(2000) {
                let taken = client.try_write(&[0]);
                pulse.beat();
                is_open = taken && client.next_within(ms(20)) == Incoming::Nothing;
            }
            assert_eq!(is_open, lives, "{liveness:?} after {:?}", begun.elapsed());
            assert!(lives || begun.elapsed() >= ms(600));
        });
    }
}

#[test]
fn with_pong_only_pings_and_pongs_are_life_and_data_is_not() {
    for (opcode, lives) in [(PING, true), (PONG, true), (TEXT, false)] {
        live(2 * ms(400), |pulse| {
            let running = start_led(led(ms(400)).liveness(Liveness::PongOnly));
            let mut client = running.connect();
            let begun = Instant::now();
            while begun.elapsed() < ms(2000) && running.handle.stats().closed_total() == 0 {
                let _ = client.try_write(&masked(opcode, b"x"));
                pulse.beat();
                client.drain_within(ms(20));
            }
            assert_eq!(running.handle.stats().closed_total(), u64::from(!lives), "opcode {opcode}");
            if !lives {
                assert_eq!(lost(&running.closed()), 2);
            }
        });
    }
}

// Announcements.

fn announce(client: &mut Client, payload: &str) -> Instant {
    let before = Instant::now();
    client.send(PING, payload);
    let pong = client.frame();
    assert_eq!((pong.opcode, pong.payload), (PONG, payload.as_bytes().to_vec()), "answered like any Ping");
    before
}

#[test]
fn announced_windows_hold_longer_shorter_clamped_or_not_at_all() {
    let far = led(ms(300)).announcements(ms(1), HOUR);
    let near = led(HOUR).announcements(ms(1), HOUR);
    for (name, policy, payload, window) in [
        ("longer than expected", far, "next=1000", ms(1100)),
        ("shorter than expected", near, "next=200 17", ms(300)),
        ("clamped to the longest", led(HOUR).announcements(ms(1), ms(250)), "next=99999999999999", ms(350)),
        ("clamped to the shortest", led(HOUR).announcements(ms(600), HOUR), "next=0", ms(700)),
        ("nonsense is an ordinary Ping", far, "next=soon", ms(300)),
        ("so is what was not meant so", far, "nextweek", ms(300)),
        ("not heeded unless allowed", led(ms(300)), "next=3600000", ms(300)),
    ] {
        let running = start_led(policy);
        let mut client = running.connect();
        let last_life = announce(&mut client, payload);
        println!("{name}");
        dies_after(&running, last_life, 2 * window);
    }
}

#[test]
fn an_announcement_holds_until_the_next_ping_and_no_longer() {
    let running = start_led(led(ms(300)).announcements(ms(1), HOUR));
    let mut client = running.connect();
    announce(&mut client, "next=3600000");
    client.expect_echo("data is no Ping, and leaves it as it is");
    assert_eq!(client.next_within(ms(1200)), Incoming::Nothing);
    let last_life = announce(&mut client, "an ordinary Ping");
    dies_after(&running, last_life, 2 * ms(300));
}

#[test]
fn a_real_client_announces_longer_intervals_than_the_server_expects_and_lives() {
    let running = start_led(led(ms(200)).announcements(ms(1), HOUR).timeout(ms(500)));
    let sleepy = |ms: u64| HeartbeatPolicy::keepalive(Duration::from_millis(ms)).announcing(true);
    let client = client(running.address()).heartbeat(sleepy(1000));
    let client = run(client, listen);
    assert!(client.handle.wait_connected(CEILING));
    // From the first moment on: its first scheduled Ping is long after the server's two windows of 200 ms.
    thread::sleep(ms(2500));
    client.handle.set_heartbeat(sleepy(1500)).unwrap();
    thread::sleep(ms(2500));
    client.handle.set_heartbeat(sleepy(50)).unwrap();
    thread::sleep(ms(500));
    assert!(client.handle.is_connected());
    assert_eq!(running.handle.stats().closed_total(), 0);
    client.stop();
    assert_eq!(running.closed().reason.name(), "peer");
}

#[test]
fn a_real_client_that_lies_is_found() {
    let running = start_led(led(HOUR).announcements(ms(1), HOUR).timeout(ms(100)));
    let mut client = running.connect();
    let last_life = announce(&mut client, "next=100");
    // It goes on reading, and its TCP acknowledges everything.
    let reads = thread::spawn(move || client.drain());
    dies_after(&running, last_life, 2 * ms(200));
    let _: End = reads.join().unwrap();
}

#[test]
fn a_handler_that_was_busy_for_many_windows_costs_the_peer_nothing() {
    live(ms(100), |pulse| {
        let running = start(server().heartbeat(led(ms(100)).max_missed(1)), |conn| {
            loop {
                let message = conn.recv()?;
                thread::sleep(ms(1000));
                conn.send(message)?;
            }
        });
        let mut client = running.connect();
        client.send_text("are you busy?");
        // All this time the client beats, and the handler does not read it.
        loop {
            client.send(PING, "");
            pulse.beat();
            match client.next_within(ms(20)) {
                Incoming::Nothing => {}
                Incoming::Frame(frame) if frame.opcode == PONG => {}
                Incoming::Frame(frame) => break assert_eq!(frame.text(), "are you busy?"),
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(running.handle.stats().missed, 0);
    });
}
