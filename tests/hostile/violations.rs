//! What breaks the protocol: each violation is answered with its close code, reported as what it is, and nothing behind
//! it is looked at.

use std::time::{Duration, Instant};

use heartwire::CloseCode;

use crate::rig::Rig;
use crate::support::{
    BINARY, CLOSE, CONTINUATION, Client, Incoming, PING, PONG, TEXT, close_payload, fragment, masked,
};
use crate::{Checked, Control, Scenario, ensure, plain};

/// Bytes and the close code that they must be answered with.
type Violation = (Vec<u8>, u16);

pub(crate) fn scenarios() -> Vec<Scenario> {
    vec![
        scenario("text that is no UTF-8", |rig| refused(rig, &no_utf8(TEXT)), |rig| refused(rig, &no_utf8(BINARY))),
        scenario("reserved bits and opcodes", |rig| refused(rig, &reserved(0x70)), |rig| refused(rig, &reserved(0))),
        scenario("unmasked frames", |rig| refused(rig, &unmasked(0)), |rig| refused(rig, &unmasked(0x80))),
        scenario(
            "frames out of place",
            |rig| refused(rig, &out_of_place(false)),
            |rig| refused(rig, &out_of_place(true)),
        ),
        scenario(
            "Close: bad codes and lengths",
            |rig| refused(rig, &bad_closes(0)),
            |rig| refused(rig, &bad_closes(3000)),
        ),
        Scenario {
            name: "header announcing 2^63 bytes",
            server: plain,
            check: |rig| refused(rig, &too_big()),
            control: Control {
                what: "there is no limit",
                server: |server| server.max_message_size(usize::MAX),
                check: |rig| refused(rig, &too_big()),
            },
            memory: 16,
        },
    ]
}

fn scenario(name: &'static str, check: fn(&Rig) -> Checked, control: fn(&Rig) -> Checked) -> Scenario {
    let control = Control { what: "what is sent is valid", server: plain, check: control };
    Scenario { name, server: plain, check, control, memory: 16 }
}

fn no_utf8(opcode: u8) -> Vec<Violation> {
    let bad: [&[u8]; 8] = [
        b"\xff",
        b"\x80",
        b"\xc0\xaf",
        b"\xe0\x80\xaf",
        b"\xed\xa0\x80",
        b"\xf4\x90\x80\x80",
        b"\xf8\x88\x80\x80\x80",
        b"cut \xe2\x82",
    ];
    let mut violations: Vec<Violation> = bad.iter().map(|bad| (masked(opcode, bad), 1007)).collect();
    // Also in a fragment that is not the last, and over the border of two.
    violations.push((fragment(opcode, b"good, then \xff"), 1007));
    violations.push(([fragment(opcode, b"\xe2"), fragment(0x80 | CONTINUATION, b"(")].concat(), 1007));
    violations
}

/// With these reserved bits allowed to be set.
fn reserved(bits: u8) -> Vec<Violation> {
    let mut violations = Vec::new();
    for first in [0x80 | TEXT, 0x80 | BINARY, 0x80 | PING] {
        for reserved in [0x40, 0x20, 0x10, 0x70] {
            violations.push((fragment(first | (reserved & bits), b"x"), 1002));
        }
    }
    for opcode in [3, 4, 5, 6, 7, 0xb, 0xc, 0xd, 0xe, 0xf] {
        let opcode = if bits == 0 { TEXT } else { opcode };
        violations.push((fragment(0x80 | opcode, b"x"), 1002));
    }
    violations
}

fn unmasked(mask_bit: u8) -> Vec<Violation> {
    let kinds = [TEXT, BINARY, PING, PONG, CLOSE];
    let header = |opcode: u8| vec![0x80 | opcode, mask_bit, 0, 0, 0, 0];
    kinds.iter().map(|opcode| (header(*opcode), 1002)).collect()
}

fn out_of_place(is_valid: bool) -> Vec<Violation> {
    let (first, ping) = (fragment(TEXT, b"a"), masked(PING, b""));
    let last = fragment(0x80 | CONTINUATION, b"b");
    if is_valid {
        return vec![([first, ping, last].concat(), 1002)];
    }
    vec![
        (last, 1002),
        (fragment(CONTINUATION, b""), 1002),
        ([first.clone(), masked(TEXT, b"b")].concat(), 1002),
        ([first, ping, fragment(BINARY, b"b")].concat(), 1002),
        (fragment(PING, b"in fragments"), 1002),
        (fragment(CLOSE, b"\x03\xe8"), 1002),
        (masked(PING, &[0; 126]), 1002),
        (masked(PONG, &[0; 70_000]), 1002),
    ]
}

/// `instead` of the codes that must not be there.
fn bad_closes(instead: u16) -> Vec<Violation> {
    let code = |bad: u16| if instead == 0 { bad } else { instead };
    let bad = [0, 1, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 65_535];
    let mut violations: Vec<Violation> =
        bad.iter().map(|bad| (masked(CLOSE, &close_payload(code(*bad), "reason")), 1002)).collect();
    if instead == 0 {
        violations.push((masked(CLOSE, b"\x03"), 1002));
        violations.push((masked(CLOSE, &[3; 126]), 1002));
        violations.push((masked(CLOSE, b"\x03\xe8no text \xff"), 1007));
    }
    violations
}

fn too_big() -> Vec<Violation> {
    let announce = |first: u8, len: u64| [&[first, 0xff][..], &len.to_be_bytes(), &[1, 2, 3, 4]].concat();
    let lens = [(1 << 20) + 1, 1 << 32, 1 << 62, 1 << 63, u64::MAX];
    let mut violations: Vec<Violation> =
        lens.iter().flat_map(|len| [(announce(0x81, *len), 1009), (announce(0x02, *len), 1009)]).collect();
    // A length of 64 bits with the highest set also adds up to too much.
    violations.push(([fragment(BINARY, &[0; 5000]), announce(0x80, u64::MAX)].concat(), 1009));
    violations
}

fn refused(rig: &Rig, violations: &[Violation]) -> Checked {
    let mut slowest = Duration::ZERO;
    for (bytes, code) in violations {
        let reason = match code {
            1002 => "protocol",
            1007 => "invalid_utf8",
            _ => "too_big",
        };
        slowest = slowest.max(refused_as(rig, rig.connect("/violation"), (bytes, usize::MAX), (*code, reason))?);
    }
    Ok(format!("{} violations, each answered and reported as what it is, in {slowest:.1?} at most", violations.len()))
}

/// Sends a violation after one message, in pieces of so many bytes, and expects this close code, and a report with a
/// reason of this name. Returns how long that took.
pub(crate) fn refused_as(
    rig: &Rig,
    mut client: Client,
    (bytes, piece): (&[u8], usize),
    (code, reason): (u16, &str),
) -> Result<Duration, String> {
    let what = format!("{:x?}...", &bytes[..bytes.len().min(20)]);
    client.expect_echo("hello");
    let sent = Instant::now();
    // It may be refused before all of it is here.
    let all = [bytes, &masked(TEXT, b"never looked at")].concat();
    let _ = all.chunks(piece).all(|piece| client.try_write(piece));
    let (answer, text) = loop {
        match client.next_within(rig.patience) {
            Incoming::Frame(frame) if frame.opcode == CLOSE => break frame.close(),
            // Asked for by the beginning of what is sent, or by the heartbeat.
            Incoming::Frame(frame) if [PING, PONG].contains(&frame.opcode) => {}
            other => return Err(format!("{} in answer to {what}", shortened(&other))),
        }
    };
    ensure!(answer == Some(code), "{answer:?} {text} in answer to {what}, not {code}");
    let end = client.expect_end();
    let took = sent.elapsed();
    let report = rig.ledger.closed(client.local_addr(), rig.patience)?;
    ensure!(report.reason.name() == reason, "{what} is reported as {}", report.reason);
    ensure!(report.sent == Some(CloseCode::from(code)), "sent is {:?}, end {end:?}", report.sent);
    ensure!(report.traffic.messages_in == 1, "{} messages before {what}", report.traffic.messages_in);
    Ok(took)
}

/// What came, without a payload that may have megabytes.
fn shortened(incoming: &Incoming) -> String {
    match incoming {
        Incoming::Frame(frame) => format!("a frame of {} bytes, opcode {}", frame.payload.len(), frame.opcode),
        other => format!("{other:?}"),
    }
}
