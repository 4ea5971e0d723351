//! Both directions saturated at once, with new keys in both all the time: every byte arrives, once and in order.

use std::thread;
use std::time::{Duration, Instant};

use super::{connect, secure};
use crate::support::{BINARY, CEILING, CLOSE, Dice, start_as_it_is};

/// The message of this number: its length and its bytes tell which one it is.
fn message(number: u64) -> Vec<u8> {
    let mut dice = Dice::new(number + 1);
    let len = match dice.roll(10) {
        0 => dice.roll(200_000),
        1..4 => dice.roll(20_000),
        _ => dice.roll(300),
    };
    let mut bytes: Vec<u8> = number.to_be_bytes().into();
    bytes.extend((0..len).map(|at| (number.wrapping_mul(31).wrapping_add(at) % 251) as u8));
    bytes
}

#[test]
fn both_directions_at_once_with_new_keys_in_both_lose_nothing() {
    let lasts = Duration::from_secs(2);
    let running = start_as_it_is(secure(), move |conn| {
        let sender = conn.sender();
        let sending = thread::spawn(move || {
            let (began, mut sent) = (Instant::now(), 0);
            while began.elapsed() < lasts {
                sender.send(message(sent))?;
                sent += 1;
            }
            sender.send("the end")?;
            Ok::<u64, heartwire::Error>(sent)
        });
        let mut received = 0;
        loop {
            let next = conn.recv()?;
            if next.as_text().is_some() {
                break;
            }
            assert!(next.as_bytes() == message(received), "message {received} is another");
            received += 1;
        }
        let sent = sending.join().expect("it does not panic")?;
        conn.send(format!("{received} {sent}"))
    });
    let mut reading = connect(&running);
    let mut writing = reading.try_clone();
    let tls = reading.wire().tls().clone();
    let writer = thread::spawn(move || {
        let (began, mut sent) = (Instant::now(), 0_u64);
        while began.elapsed() < lasts {
            // The server is to take new keys as well, with its next record.
            if sent % 7 == 0 {
                tls.with(|connection| connection.refresh_traffic_keys()).expect("TLS 1.3");
            }
            writing.send(BINARY, message(sent));
            sent += 1;
        }
        writing.send_text("the end");
        sent
    });
    let mut received = 0;
    let deadline = Instant::now() + lasts + CEILING;
    loop {
        let frame = reading.frame();
        assert_ne!(frame.opcode, CLOSE, "{frame:?}");
        if frame.opcode != BINARY {
            assert_eq!(frame.text(), "the end");
            break;
        }
        assert!(frame.payload == message(received), "message {received} is another");
        received += 1;
        assert!(Instant::now() < deadline, "it does not end");
    }
    let sent = writer.join().expect("it does not panic");
    assert_eq!(reading.text(), format!("{sent} {received}"));
    println!("{sent} messages to the server, {received} from it, and {} times new keys", sent / 7);
    assert!(sent > 20 && received > 20, "{sent} and {received}: not at once");
    let report = {
        drop(reading);
        running.closed()
    };
    assert_eq!((report.traffic.messages_in, report.traffic.unsent), (sent + 1, 0), "{report:?}");
}
