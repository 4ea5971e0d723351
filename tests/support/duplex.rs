//! Both directions of a connection saturated at once, with new keys in both all the time. Every message says which one
//! it is, so that one that is torn, lost, repeated or overtaken is noticed.

use std::thread;
use std::time::{Duration, Instant};

use heartwire::{Connection, Error};

use super::{BINARY, CEILING, CLOSE, Client, Dice, PING, PONG};

/// How many messages have come and gone, at the client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Exchanged {
    pub(crate) sent: u64,
    pub(crate) received: u64,
    /// How often the client has taken new keys, and asked the server to do so.
    pub(crate) rekeyed: u64,
    pub(crate) bytes: u64,
}

/// The message of this number.
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

/// What the handler does: sends from one thread and receives on another, and says in the end what it counted.
pub(crate) fn serve(conn: &mut Connection, lasts: Duration) -> Result<(), Error> {
    let sender = conn.sender();
    let sending = thread::spawn(move || {
        let (began, mut sent) = (Instant::now(), 0);
        while began.elapsed() < lasts {
            sender.send(message(sent))?;
            sent += 1;
        }
        sender.send("the end")?;
        Ok::<u64, Error>(sent)
    });
    let mut received = 0;
    loop {
        let next = conn.recv()?;
        if next.as_text().is_some() {
            break;
        }
        assert!(next.as_bytes() == message(received), "message {received} is another at the server");
        received += 1;
    }
    let sent = sending.join().expect("it does not panic")?;
    conn.send(format!("{received} {sent}"))?;
    conn.recv().map(drop)
}

/// What the client does.
///
/// # Panics
/// If anything that comes is not what is due.
pub(crate) fn play(reading: &mut Client, lasts: Duration) -> Exchanged {
    let mut writing = reading.try_clone();
    let (pongs, due) = crossbeam_channel::unbounded::<Vec<u8>>();
    let tls = reading.wire().tls().clone();
    let writer = thread::spawn(move || {
        let (began, mut sent, mut rekeyed, mut bytes) = (Instant::now(), 0_u64, 0, 0);
        while began.elapsed() < lasts {
            // The server takes new keys as well, with its next record.
            if sent % 7 == 0 {
                tls.with(|connection| connection.refresh_traffic_keys()).expect("TLS 1.3");
                rekeyed += 1;
            }
            due.try_iter().for_each(|ping| writing.send(PONG, ping));
            let message = message(sent);
            bytes += message.len() as u64;
            writing.send(BINARY, message);
            sent += 1;
        }
        writing.send_text("the end");
        // A Ping that comes later may wait for its answer until the end, which is near.
        (sent, rekeyed, bytes)
    });
    let (mut received, mut bytes) = (0, 0);
    let deadline = Instant::now() + lasts + CEILING;
    loop {
        let frame = reading.frame();
        match frame.opcode {
            PING => _ = pongs.send(frame.payload),
            PONG => {}
            BINARY => {
                assert!(frame.payload == message(received), "message {received} is another at the client");
                bytes += frame.payload.len() as u64;
                received += 1;
            }
            CLOSE => panic!("closed: {:?}", frame.close()),
            _ => break assert_eq!(frame.text(), "the end"),
        }
        assert!(Instant::now() < deadline, "it does not end");
    }
    let (sent, rekeyed, sent_bytes) = writer.join().expect("it does not panic");
    assert_eq!(reading.text(), format!("{sent} {received}"));
    Exchanged { sent, received, rekeyed, bytes: bytes + sent_bytes }
}
