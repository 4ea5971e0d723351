//! Too much of what is allowed: Pings, Pongs that nobody asked for, fragments; and a peer that hardly reads.

use std::time::{Duration, Instant};

use heartwire::{CloseReason, ConnectionInfo, Server};

use crate::rig::Rig;
use crate::support::{
    BINARY, CLOSE, CONTINUATION, Client, Dice, Incoming, PING, PONG, TEXT, fragment, masked, ms, over_tls,
};
use crate::{Checked, Control, Scenario, ensure, plain, scaled, seed, site};

/// What may wait for a peer that sends nothing but Pings: a Pong that is partly written and the newest. Over TLS one
/// more may be sealed before it is known that the socket has taken the first.
fn most_pongs() -> usize {
    (if over_tls::is_on() { 3 } else { 2 }) * 127
}

const QUEUE: usize = 256 * 1024;

pub(crate) fn scenarios() -> Vec<Scenario> {
    vec![
        Scenario {
            name: "Ping flood, Pongs not read",
            server: plain,
            check: |rig| ping_flood(rig, PING),
            control: Control {
                what: "they are not Pings but texts",
                server: |server| server.queue_size(1 << 30),
                check: |rig| ping_flood(rig, TEXT),
            },
            memory: 32,
        },
        Scenario {
            name: "Pong flood",
            server: plain,
            check: |rig| pong_flood(rig, PONG),
            control: Control {
                what: "they are not Pongs but texts",
                server: plain,
                check: |rig| pong_flood(rig, TEXT),
            },
            memory: 24,
        },
        Scenario {
            name: "Pongs with forged payloads",
            server: plain,
            check: |rig| forged_pongs(rig, false),
            control: Control { what: "one of them is true", server: plain, check: |rig| forged_pongs(rig, true) },
            memory: 16,
        },
        Scenario {
            name: "fragments of one byte",
            server: plain,
            check: fragment_flood,
            control: Control { what: "messages are limited to 1,000 bytes", server: small, check: fragment_flood },
            memory: 48,
        },
        Scenario {
            name: "reading a byte at a time",
            server: |server| server.queue_size(QUEUE),
            check: |rig| slow_reader(rig, 1),
            control: Control { what: "it reads all there is", server: plain, check: |rig| slow_reader(rig, 1 << 20) },
            memory: 24,
        },
    ]
}

fn small(server: Server) -> Server {
    server.max_message_size(1000)
}

fn info_of(rig: &Rig, client: &Client) -> Option<ConnectionInfo> {
    let peer = client.local_addr();
    rig.handle.connections().into_iter().find(|info| info.peer_addr == peer)
}

fn ping_flood(rig: &Rig, opcode: u8) -> Checked {
    let count = scaled(200_000, 60_000);
    // So that Pongs soon have to wait.
    let mut client = rig.connect_narrow("/pings");
    let (started, mut most) = (Instant::now(), 0);
    for first in (0..count).step_by(1000) {
        let frames = (first..first + 1000).flat_map(|number| masked(opcode, format!("{number:0>100}").as_bytes()));
        ensure!(client.try_write(&frames.collect::<Vec<u8>>()), "not taken after {first}");
        most = most.max(info_of(rig, &client).map_or(0, |info| info.queued));
        ensure!(most <= most_pongs(), "{most} bytes wait");
    }
    let took = started.elapsed();
    client.send_text("and now?");
    let (mut pongs, mut last, mut has_echo) = (0, None, false);
    let deadline = Instant::now() + rig.patience;
    while !has_echo || last != Some(count - 1) {
        match client.next_before(deadline) {
            Incoming::Frame(frame) if frame.opcode == PONG => {
                let number: usize = std::str::from_utf8(&frame.payload).unwrap().parse().unwrap();
                ensure!(last.is_none_or(|last| last < number), "{number} after {last:?}");
                (pongs, last) = (pongs + 1, Some(number));
            }
            Incoming::Frame(frame) if frame.opcode == PING => client.send(PONG, &frame.payload),
            Incoming::Frame(frame) => has_echo = frame.text() == "and now?",
            other => return Err(format!("{other:?} after {pongs} Pongs, the last to {last:?}")),
        }
    }
    client.close();
    Ok(format!("{count} Pings in {took:.1?}, {pongs} Pongs up to the last, {most} bytes waited at most"))
}

fn pong_flood(rig: &Rig, opcode: u8) -> Checked {
    let count = scaled(500_000, 50_000);
    let mut client = rig.connect("/pongs");
    let mut dice = Dice::new(seed());
    let started = Instant::now();
    for _ in (0..count).step_by(10_000) {
        let mut frames = Vec::new();
        for _ in 0..10_000 {
            // Never the number of a Ping that is under way.
            let number = 1_000_000 + dice.roll(1 << 40);
            frames.extend(masked(opcode, number.to_string().as_bytes()));
        }
        ensure!(client.try_write(&frames), "not taken");
        match client.next_within(Duration::ZERO) {
            Incoming::Nothing => {}
            Incoming::Frame(frame) if frame.opcode == PING => client.send(PONG, &frame.payload),
            other => return Err(format!("{other:?} in answer to Pongs")),
        }
    }
    client.send_text("and now?");
    let answer = client.message();
    ensure!(answer.text() == "and now?", "answered with {:?}", answer.text());
    let took = started.elapsed();
    client.close();
    Ok(format!("{count} Pongs in {took:.1?}, none answered"))
}

/// Pongs that are nearly the answer to a Ping, or nothing like it: none is an answer.
fn forged_pongs(rig: &Rig, is_one_true: bool) -> Checked {
    let mut client = rig.connect("/pinged");
    let ping = match client.next_within(rig.patience) {
        Incoming::Frame(frame) if frame.opcode == PING => frame.payload,
        other => return Err(format!("{other:?} instead of a Ping")),
    };
    let number = String::from_utf8(ping.clone()).unwrap();
    let mut forged: Vec<Vec<u8>> =
        ["", "0", "-1", "18446744073709551615", "18446744073709551616", "1e0", "x", "\0", "999999999", "0x1"]
            .map(|text| text.as_bytes().to_vec())
            .to_vec();
    forged.extend(
        [format!("+{number}"), format!("0{number}"), format!(" {number}"), format!("{number} ")].map(String::into),
    );
    forged.extend([vec![0xff; 125], vec![b'9'; 125], [&ping[..], b"\0"].concat()]);
    if is_one_true {
        forged.push(ping);
    }
    let count = forged.len();
    for payload in forged {
        client.send(PONG, payload);
    }
    client.send_text("done");
    loop {
        match client.next_within(rig.patience) {
            Incoming::Frame(frame) if frame.opcode == TEXT => break,
            Incoming::Frame(frame) if frame.opcode == PING => {}
            other => return Err(format!("{other:?} instead of the echo")),
        }
    }
    let info = info_of(rig, &client).ok_or("not in the registry")?;
    ensure!(info.pongs == 0 && info.round_trip.is_none(), "{} count as answers, {:?}", info.pongs, info.round_trip);
    client.close();
    Ok(format!("{count} kinds, none taken for an answer, no round-trip time"))
}

fn fragment_flood(rig: &Rig) -> Checked {
    let count = scaled(1_000_000, 100_000);
    let mut client = rig.connect("/fragments");
    let started = Instant::now();
    let middle = fragment(CONTINUATION, b"x").repeat(1000);
    client.write(&fragment(BINARY, b"x"));
    for _ in 0..count / 1000 {
        if !client.try_write(&middle) {
            break;
        }
    }
    client.try_write(&fragment(0x80 | CONTINUATION, b"x"));
    let echo = loop {
        match client.next_within(rig.patience) {
            Incoming::Frame(frame) if frame.opcode == BINARY => break frame.payload,
            Incoming::Frame(frame) if frame.opcode == PING => drop(client.try_write(&masked(PONG, &frame.payload))),
            other => return Err(format!("{other:?} instead of the echo")),
        }
    };
    let took = started.elapsed();
    ensure!(echo.len() == count + 2 && echo.iter().all(|byte| *byte == b'x'), "{} bytes came back", echo.len());
    // And without end: the limit holds for all fragments together.
    client.write(&fragment(BINARY, b"x"));
    let middle = fragment(CONTINUATION, &[b'x'; 1000]).repeat(100);
    while client.try_write(&middle) {
        ensure!(started.elapsed() < rig.patience, "fragments are taken without end");
        match client.next_within(Duration::ZERO) {
            Incoming::Nothing => {}
            Incoming::Frame(frame) if frame.opcode == PING => drop(client.try_write(&masked(PONG, &frame.payload))),
            Incoming::Frame(frame) if frame.opcode == CLOSE && frame.close().0 == Some(1009) => break,
            other => return Err(format!("{other:?} instead of 1009")),
        }
    }
    let report = rig.ledger.closed(client.local_addr(), rig.patience)?;
    ensure!(matches!(report.reason, CloseReason::TooBig { .. }), "reported as {}", report.reason);
    Ok(format!("a message of {count} in {took:.1?}; without end: 1009"))
}

/// The server sends without end to a peer that takes `sip` bytes every 20 ms (instead of every second).
fn slow_reader(rig: &Rig, sip: usize) -> Checked {
    let limit = site::quick().worst_case().unwrap() - ms(100);
    let mut client = rig.connect_narrow("/quick/firehose");
    let started = Instant::now();
    let mut most = 0;
    let report = loop {
        ensure!(started.elapsed() < rig.patience, "not given up within {:?}", rig.patience);
        if let Some(info) = info_of(rig, &client) {
            most = most.max(info.queued);
        }
        if let Ok(report) = rig.ledger.closed(client.local_addr(), Duration::ZERO) {
            break report;
        }
        client.sip(sip);
        std::thread::sleep(if sip > 1 { Duration::ZERO } else { ms(20) });
    };
    let is_stalled = matches!(report.reason, CloseReason::WriteStalled { limit: it, .. } if it == limit);
    ensure!(is_stalled, "reported as {}", report.reason);
    ensure!(report.age >= limit, "given up after {:?}", report.age);
    // A message that was let in when nothing else waited may come on top.
    ensure!(most <= QUEUE + 64 * 1024 + 10, "{most} bytes waited");
    Ok(format!(
        "given up after {:.1?} without a byte taken ({limit:?}), {} KiB waited at most",
        report.age,
        most / 1024
    ))
}
